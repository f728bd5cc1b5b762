// POST (docs/microarchitecture.md, sections 4.5, 5.3 and 6): accumulator words or activations into activations.
//
// Parameter records come first, one a cycle; then source words, one read a cycle; each lane's pipeline does the rest.
// The instruction stays at the head of the queue until its last result is written.
module post_unit
    import accelsim_config::*;
    import accelsim_pkg::*;
(
    input  logic                      clk,
    input  logic                      rst,
    input  logic [63:0]               modes,
    input  logic [511:0]              instruction,
    input  logic                      valid,
    output logic                      take,
    input  logic [3:0]                available,
    output logic [3:0]                taken,
    output logic [3:0]                given,
    output logic [3:0]                stalled,
    output logic                      issue,
    output logic                      done,
    output logic                      record_read,
    output logic [19:0]               record,
    input  logic [127:0]              record_data,
    output logic [23:0]               accumulator_address,
    output logic [COLUMNS-1:0]        accumulator_lanes,   // read in this cycle
    input  logic [COLUMNS*WIDTH-1:0]  accumulator_data,
    output logic [23:0]               activation_address,
    output logic [COLUMNS-1:0]        activation_mask,
    input  logic [COLUMNS*8-1:0]      activation_data,
    output logic [COLUMNS*16-1:0]     table_address,
    output logic [COLUMNS-1:0]        table_lanes,
    input  logic [COLUMNS*8-1:0]      table_data,
    output logic [23:0]               write_address,
    output logic [COLUMNS-1:0]        write_mask,
    output logic [COLUMNS*8-1:0]      write_data
);
    wire from_activation = instruction[POST_SOURCE];
    wire [1:0] reduce = instruction[POST_REDUCE +: 2];
    wire broadcast = instruction[POST_BROADCAST];
    wire residual_on = instruction[POST_RESIDUAL_ON];
    wire table_on = instruction[POST_TABLE_ON];
    wire act_unsigned = instruction[POST_ACT_UNSIGNED];
    wire [7:0] last_lane = instruction[POST_LANES +: 8];
    wire [8:0] lane_count = {1'b0, last_lane} + 9'd1;
    wire [7:0] r_count = instruction[POST_R_COUNT +: 8];
    wire [7:0] s_count = instruction[POST_S_COUNT +: 8];
    wire [15:0] window = r_count * s_count;

    logic busy;
    token_gate gate (
        .ready(valid && !busy), .wait_mask(instruction[POST_WAIT +: 4]), .available, .issue, .taken, .stalled
    );
    wire active = busy || issue;

    // --- parameter records --------------------------------------------------------------------------------------

    logic recorded;            // all that come first have been read
    logic [9:0] record_count;  // read so far of those
    logic [19:0] word_number;
    wire [9:0] records = broadcast ? 10'd1 : residual_on ? {lane_count, 1'b0} : {1'b0, lane_count};
    wire recording = active && !recorded;
    wire word_ends;            // the last read of an output word
    wire word_last;
    wire record_next = broadcast && word_ends && !word_last;  // the next word's record

    assign record_read = recording || record_next;
    assign record = {4'd0, instruction[POST_PARAM +: 16]}
        + (recorded ? word_number + 20'd1 : {10'd0, record_count});

    wire [71:0] record_fields = {record_data[31:0], record_data[39:32], record_data[95:64]};  // bias, shift, multiplier
    logic [71:0] word_record;  // broadcast: of the word that is read
    wire [71:0] stage_record;  // and of stage 2
    delay_line #(.WIDTH(72), .LENGTH(2)) later_records (.clk, .rst, .in(word_record), .out(stage_record));

    // --- source words -------------------------------------------------------------------------------------------

    logic all_read;
    logic second;  // of two reads of a word: the residual's
    wire reading = active && recorded && !all_read;
    wire two_reads = residual_on && from_activation;
    wire word_read = reading && !second;
    wire residual_read = reading && residual_on && (second || !two_reads);
    wire tap_first, tap_last;
    wire [23:0] word_offset, to_offset, tap_offset;
    wire signed [41:0] word_position, tap_position;
    wire signed [25:0] word_line, tap_line;
    wire [8:0] unused_length;
    wire read_ends = reading && (second || !two_reads);
    assign word_ends = read_ends && tap_last;

    wire signed [15:0] dst_x_step = $signed(instruction[POST_DST_X_STEP +: 16]);
    wire [23:0] to_x_step = {{8{dst_x_step[15]}}, dst_x_step};
    word_walker words (
        .clk, .rst, .images(instruction[POST_IMAGES +: 8]), .y_count(instruction[POST_Y_COUNT +: 16]),
        .x_count(instruction[POST_X_COUNT +: 16]), .image_step(instruction[POST_SRC_IMAGE_STEP +: 24]),
        .y_step(instruction[POST_SRC_Y_STEP +: 24]), .x_step(instruction[POST_SRC_X_STEP +: 24]),
        .stride_y(instruction[POST_STRIDE_Y +: 8]), .to_image_step(instruction[POST_DST_IMAGE_STEP +: 24]),
        .to_y_step(instruction[POST_DST_Y_STEP +: 24]), .to_x_step,
        .advance(word_ends), .clear(done), .restore(1'b0), .mark(1'b0),
        .offset(word_offset), .to_offset, .position(word_position), .line(word_line), .last(word_last)
    );
    tap_walker #(.ROWS(1)) taps (
        .clk, .rst, .r_count, .s_count, .run_bytes(24'd1), .r_step(instruction[POST_R_STEP +: 24]),
        .s_step(instruction[POST_S_STEP +: 24]), .dilation_y(8'd1), .advance(read_ends), .clear(done),
        .offset(tap_offset), .position(tap_position), .line(tap_line),
        .length(unused_length), .first(tap_first), .last(tap_last)
    );

    wire [23:0] source_address = instruction[POST_SRC_BASE +: 24] + word_offset + tap_offset;
    wire [23:0] residual_address = instruction[POST_RESIDUAL_BASE +: 24] + to_offset;
    wire [COLUMNS-1:0] inside_lanes;
    wire signed [23:0] x_first = $signed(instruction[POST_X_FIRST +: 24]);
    wire signed [15:0] y_first = $signed(instruction[POST_Y_FIRST +: 16]);
    wire signed [41:0] position = x_first + word_position + tap_position;
    wire signed [25:0] line = y_first + word_line + tap_line;
    lane_mask #(.LANES(COLUMNS)) mask (
        .position, .line, .in_row_bytes(instruction[POST_IN_ROW_BYTES +: 24]),
        .in_height(instruction[POST_IN_HEIGHT +: 16]), .inside_lanes
    );
    assign accumulator_address = source_address;
    assign activation_address = residual_read ? residual_address : source_address;

    // --- pipeline -----------------------------------------------------------------------------------------------

    logic [5:1] stage, stage_last;
    wire [23:0] destination = instruction[POST_DST_BASE +: 24] + to_offset;
    delay_line #(.WIDTH(24), .LENGTH(5)) destinations (.clk, .rst, .in(destination), .out(write_address));

    for (genvar j = 0; j < COLUMNS; j++) begin : lane
        wire used = j <= last_lane;
        logic [71:0] lane_record, residual_record;
        always_ff @(posedge clk)
            if (recording) begin
                if (record_count == j) lane_record <= record_fields;
                if (record_count == j + lane_count) residual_record <= record_fields;
            end
        wire [71:0] own = broadcast ? stage_record : lane_record;
        wire [7:0] entry;

        assign accumulator_lanes[j] = word_read && !from_activation && used;
        assign activation_mask[j] = used && (residual_read || (word_read && from_activation && inside_lanes[j]));
        assign table_address[16*j +: 16] = {instruction[POST_TABLE +: 8], entry};
        assign table_lanes[j] = write_mask[j] && table_on;
        assign write_mask[j] = stage[5] && used;

        post_lane datapath (
            .clk, .rst, .modes, .from_activation, .reduce, .act_unsigned,
            .count_padding(instruction[POST_COUNT_PADDING]), .residual_on, .table_on, .window,
            .z_src(instruction[POST_Z_SRC +: 8]), .z_residual(instruction[POST_Z_RESIDUAL +: 8]),
            .z_dst(instruction[POST_Z_DST +: 8]), .qmin(instruction[POST_QMIN +: 8]),
            .qmax(instruction[POST_QMAX +: 8]),
            .reads(word_read), .first_read(tap_first), .is_inside(inside_lanes[j]),
            .code(activation_data[8*j +: 8]), .sum($signed(accumulator_data[WIDTH*j +: WIDTH])),
            .residual_reads(residual_read), .residual_code(activation_data[8*j +: 8]),
            .bias($signed(own[71:40])), .shift($signed(own[39:32])), .multiplier(own[31:0]),
            .residual_shift($signed(residual_record[39:32])), .residual_multiplier(residual_record[31:0]),
            .stage, .entry, .looked_up(table_data[8*j +: 8]), .result(write_data[8*j +: 8])
        );
    end

    assign done = stage[5] && stage_last[5];
    assign take = done;
    assign given = done ? instruction[POST_SIGNAL +: 4] : 4'd0;

    always_ff @(posedge clk) begin
        if (rst) begin
            stage <= '0;
            stage_last <= '0;
        end else begin
            stage <= {stage[4:1], word_ends};
            stage_last <= {stage_last[4:1], word_last};
        end
        if (rst || done) begin
            busy <= 1'b0;
            recorded <= 1'b0;
            record_count <= 10'd0;
            word_number <= 20'd0;
            all_read <= 1'b0;
            second <= 1'b0;
        end else begin
            if (issue) busy <= 1'b1;
            if (recording) begin
                record_count <= record_count + 10'd1;
                if (record_count == records - 10'd1) recorded <= 1'b1;
            end
            if (reading && two_reads) second <= !second;
            if (word_ends) begin
                word_number <= word_number + 20'd1;
                if (word_last) all_read <= 1'b1;
            end
        end
        if (record_read) word_record <= record_fields;
    end
endmodule
