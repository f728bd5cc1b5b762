// COMPUTE (docs/microarchitecture.md, sections 4.2 to 4.4 and 5.2): a whole K loop of one rectangle of output pixels.
//
// A loader brings what a tile needs before it streams: ws, R weight rows into the shadow registers; os, start values
// into the preload registers. A streamer follows it and sends waves into the array; `accumulate` takes what leaves.
// The loader works for the instruction at the head of the queue, the streamer for it or for the one before, so an
// instruction is copied into one of two slots when it issues.
module compute_unit
    import accelsim_config::*;
    import accelsim_pkg::*;
(
    input  logic                       clk,
    input  logic                       rst,
    input  logic                       subtract,        // mode: zero points are subtracted
    input  logic [511:0]               instruction,
    input  logic                       valid,
    output logic                       take,
    input  logic [3:0]                 available,
    output logic [3:0]                 taken,
    output logic [3:0]                 given,
    output logic [3:0]                 stalled,
    output logic                       issue,
    output logic                       done,
    output logic [23:0]                activation_address,
    output logic [ROWS-1:0]            activation_mask,
    input  logic [ROWS*8-1:0]          activation_data,
    output logic [23:0]                weight_address,
    output logic [8:0]                 weight_bytes,    // read in this cycle
    input  logic [COLUMNS*8-1:0]       weight_data,
    output logic [19:0]                bias_record,
    output logic [COLUMNS-1:0]         bias_lanes,      // read in this cycle
    input  logic [COLUMNS*32-1:0]      bias_data,
    output logic [23:0]                accumulator_address,
    output logic [COLUMNS-1:0]         accumulator_lanes,
    input  logic [COLUMNS*WIDTH-1:0]   accumulator_data,
    output logic [23:0]                write_address,
    output logic [COLUMNS-1:0]         write_mask,
    output logic [COLUMNS*WIDTH-1:0]   write_data,
    output logic [17:0]                macs             // products that the wave of this cycle makes
);
    localparam int WAVES = ROWS + COLUMNS;
    localparam int HOP_BITS = 9;

    // --- instructions and mode ---------------------------------------------------------------------------------

    logic [511:0] slot [2];
    logic load_slot, stream_slot;
    logic [9:0] outstanding;  // issued and not done
    logic mode;

    // A change of mode waits until the unit is idle (section 4.4).
    wire head_os = instruction[COMPUTE_OUTPUT_STATIONARY];
    wire os = outstanding == 10'd0 ? valid && head_os : mode;
    wire [1:0] head_start = instruction[COMPUTE_START +: 2];
    wire head_serial = instruction[COMPUTE_SERIAL];
    wire head_diagonal = instruction[COMPUTE_DIAGONAL];
    wire [7:0] head_lanes = instruction[COMPUTE_LANES +: 8];
    wire head_preloads = head_os && head_start != START_ZERO;

    wire direct_may_begin, direct;  // os without start values: the head issues with its first word
    wire [511:0] current = direct_may_begin ? instruction : slot[stream_slot];
    wire [1:0] start = current[COMPUTE_START +: 2];
    wire [7:0] lanes = current[COMPUTE_LANES +: 8];
    wire diagonal = current[COMPUTE_DIAGONAL];
    wire serial = current[COMPUTE_SERIAL];
    wire [7:0] width = current[COMPUTE_WIDTH +: 8];
    wire act_unsigned = current[COMPUTE_ACT_UNSIGNED];

    function automatic logic [23:0] word_count(input logic [511:0] i);
        word_count = i[COMPUTE_IMAGES +: 8] * i[COMPUTE_Y_COUNT +: 16] * i[COMPUTE_X_COUNT +: 16];
    endfunction

    // --- waves: what the PEs of an anti-diagonal must know ------------------------------------------------------

    wire live, first, last, preloaded;  // of the wave that starts in this cycle
    logic [WAVES-1:1] live_q, first_q, last_q, preloaded_q;
    wire [WAVES-1:0] wave_live = {live_q, live};
    wire [WAVES-1:0] wave_first = {first_q, first};
    wire [WAVES-1:0] wave_last = {last_q, last};
    wire [WAVES-1:0] wave_preloaded = {preloaded_q, preloaded};

    wire [7:0] psum_width = width < PSUM ? width : PSUM;
    wire [PSUM-1:0] limit = {PSUM{1'b1}} >> (PSUM + 1 - psum_width);
    wire [WIDTH-1:0] sum_limit = {WIDTH{1'b1}} >> (WIDTH + 1 - width);
    wire [WAVES*PSUM-1:0] wave_limit;
    logic [WAVES*PSUM-1:PSUM] limit_q;
    assign wave_limit = {limit_q, limit};

    always_ff @(posedge clk)
        if (rst) begin
            live_q <= '0;
            first_q <= '0;
            last_q <= '0;
            preloaded_q <= '0;
            limit_q <= '0;
        end else begin
            live_q <= wave_live[WAVES-2:0];
            first_q <= wave_first[WAVES-2:0];
            last_q <= wave_last[WAVES-2:0];
            preloaded_q <= wave_preloaded[WAVES-2:0];
            limit_q <= wave_limit[(WAVES-1)*PSUM-1:0];
        end

    // No PE holds a wave with a product of an earlier cycle.
    wire array_empty;
    // In R cycles the array will be empty: in row 0, at most the last product is still at the last PE.
    wire row_clear;
    wire continues;  // a wave starts in this cycle that is not a new instruction's first
    wire products_go, products_end;  // os: the piece has a product in this cycle; its last
    if (WAVES > 2) begin : several
        assign array_empty = wave_live[WAVES-2:1] == '0;
    end else begin : single
        assign array_empty = 1'b1;
    end
    if (COLUMNS > 1) begin : wide
        // In a tile's last slot products come without a gap, so one that has none behind it is the last.
        wire [COLUMNS-2:0] earlier = {live_q[COLUMNS-1:1], continues && products_go};
        assign row_clear = earlier == '0;
    end else begin : narrow
        assign row_clear = !(continues && products_go) || products_end;
    end

    // --- loader -------------------------------------------------------------------------------------------------

    logic [8:0] load_row;        // of the load that is under way; 0 where none is
    logic load_first;            // the next load is the head's first
    logic loaded;                // a tile has what it needs and does not stream yet
    logic previous_serial;       // of the tile before the next
    logic [23:0] load_words;     // os: words of the head's tiles that were preloaded

    logic stream_busy;           // a tile is under way
    logic stream_more;           // os without start values: the streaming instruction has more tiles
    wire stream_waits = stream_busy || loaded || stream_more;
    wire in_last_slot;

    // PE(0, 0) reads its shadow in the cycle of the switch, and takes a new weight at that cycle's end.
    wire weights_free = (!loaded || !stream_busy)
        && (!previous_serial || (!stream_busy && !loaded && array_empty));
    // Start values are read R cycles before the tile's first word may be; `accumulate` reads what earlier ones write.
    wire preload_free = (load_first
            ? !stream_waits && (head_start != START_ACCUMULATE || outstanding == 10'd0)
            : !stream_waits || in_last_slot) && (!previous_serial || row_clear);
    wire direct_free = !stream_waits && (!previous_serial || array_empty);

    wire load_may_begin = valid && load_row == 9'd0
        && (os ? head_preloads && preload_free : !head_os && weights_free);
    assign direct_may_begin = valid && os && head_os && !head_preloads && direct_free;

    wire ready = (load_may_begin && load_first) || direct_may_begin;
    token_gate gate (
        .ready, .wait_mask(instruction[COMPUTE_WAIT +: 4]), .available, .issue, .taken, .stalled
    );

    assign direct = direct_may_begin && issue;
    wire loading = load_row != 9'd0 || (load_may_begin && (!load_first || issue));
    wire load_done = loading && load_row == ROWS - 1;

    wire [23:0] unused_offset;
    wire signed [41:0] unused_position;
    wire signed [25:0] unused_line;
    wire [8:0] load_length;
    wire unused_first, load_tap_last;
    tap_walker #(.ROWS(ROWS)) load_taps (
        .clk, .rst, .r_count(instruction[COMPUTE_R_COUNT +: 8]), .s_count(instruction[COMPUTE_S_COUNT +: 8]),
        .run_bytes(instruction[COMPUTE_RUN_BYTES +: 24]), .r_step(24'd0), .s_step(24'd0), .dilation_y(8'd0),
        .advance(load_done && !os), .clear(take),
        .offset(unused_offset), .position(unused_position), .line(unused_line),
        .length(load_length), .first(unused_first), .last(load_tap_last)
    );

    wire [23:0] load_left = word_count(instruction) - load_words;
    wire load_ends = os ? load_left <= ROWS : load_tap_last;
    assign take = direct || (load_done && load_ends);

    // Weight rows: ws, the loader's; os, the streamer's, all of them for every tile.
    logic [23:0] weight_offset;
    wire weight_read;
    wire [3:0] weight_bits = os ? current[COMPUTE_WEIGHT_BITS +: 4] : instruction[COMPUTE_WEIGHT_BITS +: 4];
    wire weight_unsigned = os ? current[COMPUTE_WEIGHT_UNSIGNED] : instruction[COMPUTE_WEIGHT_UNSIGNED];
    wire [7:0] z_w = os ? current[COMPUTE_Z_W +: 8] : instruction[COMPUTE_Z_W +: 8];
    wire [7:0] z_w_off = subtract ? z_w : 8'd0;
    wire [23:0] weight_base = os ? current[COMPUTE_WEIGHT_BASE +: 24] : instruction[COMPUTE_WEIGHT_BASE +: 24];
    wire [7:0] weight_lanes = os ? lanes : head_lanes;
    wire [11:0] row_bits = ({4'd0, weight_lanes} + 12'd1) * weight_bits + 12'd7;
    wire [8:0] row_bytes = row_bits[11:3];
    wire [COLUMNS*9-1:0] unpacked;
    wire [COLUMNS*9-1:0] weight_row_lanes;

    assign weight_address = weight_base + weight_offset;
    assign weight_bytes = weight_read ? row_bytes : 9'd0;
    weight_unpack #(.COLUMNS(COLUMNS)) unpack (
        .row(weight_data), .bits(weight_bits), .is_unsigned(weight_unsigned),
        .zero_point(z_w_off), .lanes(unpacked)
    );
    for (genvar j = 0; j < COLUMNS; j++) begin : gated  // a PE without a weight gets 0
        assign weight_row_lanes[9*j +: 9] = weight_read && j <= weight_lanes ? unpacked[9*j +: 9] : 9'd0;
    end

    // --- streamer -----------------------------------------------------------------------------------------------

    logic [8:0] slot_byte;       // os: cycle of the piece's slot on the port
    logic [23:0] stream_words;   // os: words of the instruction's earlier tiles

    // A tile begins when what it needs is loaded and the port is free.
    wire more_may_begin = stream_more && (!previous_serial || array_empty);
    assign continues = stream_busy || loaded || more_may_begin;
    wire streaming = continues || direct;
    wire switching = streaming && !stream_busy;

    wire [23:0] word_offset, unused_to, tap_offset;
    wire signed [41:0] word_position, tap_position;
    wire signed [25:0] word_line, tap_line;
    wire word_last, tap_first, tap_last;
    wire [8:0] length;

    wire slot_ends = slot_byte == ROWS - 1;
    wire tile_ends = streaming && (os ? slot_ends && tap_last : word_last);
    wire [23:0] words = word_count(current);
    wire [23:0] words_left = words - stream_words;
    wire [23:0] tile_words = !os ? words : words_left < ROWS ? words_left : ROWS;
    wire stream_final = os ? words_left <= ROWS : tap_last;
    wire stream_ends = tile_ends && stream_final;
    wire tap_ends = streaming && (os ? slot_ends : word_last);
    wire row_has_word = !os || slot_byte < tile_words;
    assign in_last_slot = continues && tap_last;

    word_walker word_walk (
        .clk, .rst, .images(current[COMPUTE_IMAGES +: 8]), .y_count(current[COMPUTE_Y_COUNT +: 16]),
        .x_count(current[COMPUTE_X_COUNT +: 16]), .image_step(current[COMPUTE_IMAGE_STEP +: 24]),
        .y_step(current[COMPUTE_Y_STEP +: 24]), .x_step(current[COMPUTE_X_STEP +: 24]),
        .stride_y(current[COMPUTE_STRIDE_Y +: 8]),
        .to_image_step(24'd0), .to_y_step(24'd0), .to_x_step(24'd0),
        .advance(streaming && row_has_word), .clear(stream_ends),
        .restore(os && streaming && slot_ends && !tap_last), .mark(os && tile_ends),
        .offset(word_offset), .to_offset(unused_to), .position(word_position), .line(word_line), .last(word_last)
    );
    tap_walker #(.ROWS(ROWS)) tap_walk (
        .clk, .rst, .r_count(current[COMPUTE_R_COUNT +: 8]), .s_count(current[COMPUTE_S_COUNT +: 8]),
        .run_bytes(current[COMPUTE_RUN_BYTES +: 24]), .r_step(current[COMPUTE_R_STEP +: 24]),
        .s_step(current[COMPUTE_S_STEP +: 24]), .dilation_y(current[COMPUTE_DILATION_Y +: 8]),
        .advance(tap_ends), .clear(stream_ends),
        .offset(tap_offset), .position(tap_position), .line(tap_line),
        .length, .first(tap_first), .last(tap_last)
    );

    // The wave. os: after a piece of fewer than R bytes PEs idle; a tile of one piece keeps its sums for R cycles.
    wire one_piece = tap_first && tap_last;
    wire [8:0] wave_end = one_piece ? ROWS : length;
    assign products_go = !os || slot_byte < length;
    assign products_end = os && slot_byte == length - 9'd1;
    assign live = streaming && products_go;
    assign first = switching;
    assign last = streaming && os && tap_last && slot_byte == wave_end - 9'd1;
    assign preloaded = os && first && start != START_ZERO;

    // Activations.
    wire [ROWS-1:0] inside_lanes;
    wire [ROWS*9-1:0] operands;
    wire [ROWS-1:0] used_lanes;
    wire [ROWS-1:0] word_row;
    wire signed [23:0] x_first = $signed(current[COMPUTE_X_FIRST +: 24]);
    wire signed [15:0] y_first = $signed(current[COMPUTE_Y_FIRST +: 16]);
    wire signed [41:0] position = x_first + word_position + tap_position;
    wire signed [25:0] line = y_first + word_line + tap_line;
    lane_mask #(.LANES(ROWS)) mask (
        .position, .line, .in_row_bytes(current[COMPUTE_IN_ROW_BYTES +: 24]),
        .in_height(current[COMPUTE_IN_HEIGHT +: 16]), .inside_lanes
    );
    operand_edge #(.LANES(ROWS)) edge_ (
        .bytes(activation_data), .inside_lanes, .length, .is_unsigned(act_unsigned), .subtract,
        .zero_point(current[COMPUTE_Z_X +: 8]), .operands
    );
    assign activation_address = current[COMPUTE_ACT_BASE +: 24] + word_offset + tap_offset;
    for (genvar i = 0; i < ROWS; i++) begin : port
        assign activation_mask[i] = streaming && row_has_word && inside_lanes[i] && i < length;
        assign word_row[i] = os && streaming && slot_byte == i;
    end
    wire [17:0] products = diagonal ? {10'd0, lanes} + 18'd1
        : ({9'd0, os ? tile_words[8:0] : length}) * ({10'd0, lanes} + 18'd1);
    assign macs = live ? products : 18'd0;

    assign weight_read = os ? live : loading && (head_diagonal ? load_row == 9'd0 : load_row < load_length);

    // --- start values of os -------------------------------------------------------------------------------------

    wire [8:0] preload_row = ROWS - 9'd1 - load_row;  // bottom row first
    wire preload_reads = os && loading && preload_row < load_left;
    wire [23:0] preload_address = instruction[COMPUTE_ACC_BASE +: 24] + load_words + {15'd0, preload_row};
    wire [7:0] head_width = instruction[COMPUTE_WIDTH +: 8];
    wire [7:0] head_psum_width = head_width < PSUM ? head_width : PSUM;
    wire [PSUM-1:0] head_limit = {PSUM{1'b1}} >> (PSUM + 1 - head_psum_width);
    wire [COLUMNS*PSUM-1:0] start_values;
    localparam int START_EXACT = (WIDTH > 32 ? WIDTH : 32) + 1;

    for (genvar j = 0; j < COLUMNS; j++) begin : start_lane
        wire signed [START_EXACT-1:0] bias = $signed(bias_data[32*j +: 32]);
        wire signed [START_EXACT-1:0] stored = $signed(accumulator_data[WIDTH*j +: WIDTH]);
        wire signed [START_EXACT-1:0] exact = head_start == START_BIAS ? bias : stored;
        wire signed [PSUM-1:0] fitted;
        fit #(.IN(START_EXACT), .OUT(PSUM), .WRAP(WRAP)) fit_start (.exact, .limit(head_limit), .fitted);
        assign start_values[PSUM*j +: PSUM] = fitted;
    end

    // --- array and accumulators ---------------------------------------------------------------------------------

    wire [COLUMNS*PSUM-1:0] leaving;
    wire drained;
    wire [ROWS*9-1:0] activations = streaming ? operands : '0;
    wire diagonal_load = head_diagonal && !os;
    wire [COLUMNS*9-1:0] weights = diagonal_load ? '0 : weight_row_lanes;
    wire weight_load = loading && !os;
    systolic_array #(.ROWS(ROWS), .COLUMNS(COLUMNS), .PSUM(PSUM), .HOP_BITS(HOP_BITS), .WRAP(WRAP)) array (
        .clk, .rst, .output_stationary(os), .wave_live, .wave_first, .wave_last, .wave_preloaded, .wave_limit,
        .activations, .word_row, .weights, .weight_load, .weight_row(load_row), .weight_diagonal(diagonal_load),
        .diagonal_weights(weight_row_lanes),
        .start_comes(preload_reads), .start_hops(preload_row), .start_values, .leaving, .drained
    );

    wire [15:0] bias_param;
    wire [23:0] sum_address;
    wire [COLUMNS-1:0] sum_lanes, first_lanes;
    wire [23:0] tile_address = current[COMPUTE_ACC_BASE +: 24] + stream_words;
    wire arrives = os ? drained : wave_live[WAVES-1];
    wire [1:0] sums_start = tap_first ? start : START_ACCUMULATE;
    accumulate #(.ROWS(ROWS), .COLUMNS(COLUMNS), .PSUM(PSUM), .WIDTH(WIDTH), .WRAP(WRAP)) sums (
        .clk, .rst, .output_stationary(os), .tile_begins(switching),
        .tile_address, .tile_words, .tile_lanes(lanes),
        .tile_limit(sum_limit), .tile_start(sums_start),
        .tile_param(current[COMPUTE_PARAM +: 16]), .tile_final(stream_final),
        .tile_signal(current[COMPUTE_SIGNAL +: 4]),
        .arrives, .word(leaving),
        .bias_lanes(first_lanes), .bias_param, .bias_data, .read_address(sum_address), .read_lanes(sum_lanes),
        .read_data(accumulator_data), .write_address, .write_mask, .write_data, .done, .given
    );

    // One port each of accumulator memory and parameter buffer: the preload's in os, the adder's in ws.
    wire preload_bias = preload_reads && head_start == START_BIAS;
    wire preload_sums = preload_reads && head_start == START_ACCUMULATE;
    assign bias_record = {4'd0, os ? instruction[COMPUTE_PARAM +: 16] : bias_param};
    assign accumulator_address = os ? preload_address : sum_address;
    for (genvar j = 0; j < COLUMNS; j++) begin : reads
        assign bias_lanes[j] = os ? preload_bias && j <= head_lanes : first_lanes[j];
        assign accumulator_lanes[j] = os ? preload_sums && j <= head_lanes : sum_lanes[j];
    end

    // --- what happens at the end of the cycle -------------------------------------------------------------------

    always_ff @(posedge clk)
        if (rst) begin
            load_slot <= 1'b0;
            stream_slot <= 1'b0;
            outstanding <= 10'd0;
            mode <= 1'b0;
            load_row <= 9'd0;
            load_first <= 1'b1;
            loaded <= 1'b0;
            previous_serial <= 1'b0;
            load_words <= 24'd0;
            weight_offset <= 24'd0;
            stream_busy <= 1'b0;
            stream_more <= 1'b0;
            slot_byte <= 9'd0;
            stream_words <= 24'd0;
        end else begin
            if (issue) begin
                slot[load_slot] <= instruction;
                load_slot <= !load_slot;
            end
            if (issue != done) outstanding <= issue ? outstanding + 10'd1 : outstanding - 10'd1;
            mode <= os;

            // Loader.
            if (loading) load_row <= load_done ? 9'd0 : load_row + 9'd1;
            if (take) load_first <= 1'b1;
            else if (load_done) load_first <= 1'b0;
            if (load_done) loaded <= 1'b1;
            else if (switching) loaded <= 1'b0;
            if (load_done) previous_serial <= head_serial;
            else if (direct || (os && switching && !preloaded)) previous_serial <= serial;
            if (take) load_words <= 24'd0;
            else if (load_done && os) load_words <= load_words + ROWS;
            if (os ? tile_ends : take) weight_offset <= 24'd0;
            else if (weight_read) weight_offset <= weight_offset + {15'd0, row_bytes};

            // Streamer.
            stream_busy <= streaming && !tile_ends;
            if (stream_ends) stream_slot <= !stream_slot;
            if (os && streaming) begin
                slot_byte <= slot_ends ? 9'd0 : slot_byte + 9'd1;
                if (tile_ends) begin
                    stream_words <= stream_final ? 24'd0 : stream_words + ROWS;
                    stream_more <= !stream_final && start == START_ZERO;
                end
            end
        end
endmodule
