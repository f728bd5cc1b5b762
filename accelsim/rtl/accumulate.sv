// Below the array (docs/microarchitecture.md, section 4.2, "Drain" and "First tile", and 4.3, "Drain"): a word
// arrives in cycle a, its accumulator word is read, and the sum is written in a + 1. A read of the word that is being
// written takes the written lanes (section 2). Output-stationary sums are complete and are written as they are.
//
// The sequencer pushes what there is to know of a tile when it begins to stream; words arrive tile by tile, in order.
module accumulate #(
    parameter int ROWS = 4,
    parameter int COLUMNS = 4,
    parameter int PSUM = 32,
    parameter int WIDTH = 32,
    parameter bit WRAP = 0
) (
    input  logic                      clk,
    input  logic                      rst,
    input  logic                      output_stationary,
    // A tile begins.
    input  logic                      tile_begins,
    input  logic [23:0]               tile_address,    // accumulator word of its word 0
    input  logic [23:0]               tile_words,      // os: at most R
    input  logic [7:0]                tile_lanes,      // less one
    input  logic [WIDTH-1:0]          tile_limit,
    input  logic [1:0]                tile_start,      // what its sums are added to
    input  logic [15:0]               tile_param,
    input  logic                      tile_final,      // of its instruction
    input  logic [3:0]                tile_signal,     // tokens its instruction gives when done
    // A word arrives.
    input  logic                      arrives,
    input  logic [COLUMNS*PSUM-1:0]   word,
    // Parameter buffer and accumulator memory.
    output logic [COLUMNS-1:0]        bias_lanes,      // read in this cycle
    output logic [15:0]               bias_param,
    input  logic [COLUMNS*32-1:0]     bias_data,
    output logic [23:0]               read_address,
    output logic [COLUMNS-1:0]        read_lanes,      // read in this cycle
    input  logic [COLUMNS*WIDTH-1:0]  read_data,
    output logic [23:0]               write_address,
    output logic [COLUMNS-1:0]        write_mask,
    output logic [COLUMNS*WIDTH-1:0]  write_data,
    output logic                      done,            // an instruction's last word is written in this cycle
    output logic [3:0]                given
);
    import accelsim_pkg::*;

    // Tiles under way begin at least R cycles apart, and a word is at most 2 R + C cycles behind its tile's last read.
    localparam int TILES = COLUMNS / ROWS + 6;
    localparam int ENTRY = 24 + 24 + 8 + WIDTH + 2 + 16 + 1 + 4;
    localparam int BIAS_EXACT = (WIDTH > 32 ? WIDTH : 32) + 1;

    logic [ENTRY-1:0] tiles [TILES];
    logic [8:0] put, get;
    logic [23:0] number;  // words of the leaving tile that have arrived

    wire [23:0] base, words;
    wire [7:0] lanes;
    wire [WIDTH-1:0] limit;
    wire [1:0] start;
    wire [15:0] param;
    wire is_final;
    wire [3:0] signal;
    wire [ENTRY-1:0] leaving_tile = tiles[get];
    assign {base, words, lanes, limit, start, param, is_final, signal} = leaving_tile;

    // First stage, cycle a. os: bottom row first, and rows without a word write nothing.
    wire [23:0] index = output_stationary ? ROWS - 1 - number : number;
    wire ends = arrives && number == (output_stationary ? ROWS - 1 : words - 24'd1);
    wire writes = arrives && index < words;
    wire takes_bias = !output_stationary && start == START_BIAS;
    wire takes_memory = !output_stationary && start == START_ACCUMULATE;

    wire bias_read = arrives && takes_bias && number == 24'd0;
    assign read_address = base + index;
    assign bias_param = param;

    logic pipe_writes, pipe_final;
    logic [3:0] pipe_signal;
    logic [23:0] pipe_address;
    logic [WIDTH-1:0] pipe_limit;
    logic [COLUMNS-1:0] pipe_lanes;

    for (genvar j = 0; j < COLUMNS; j++) begin : lane
        assign read_lanes[j] = writes && takes_memory && j <= lanes;
        assign bias_lanes[j] = bias_read && j <= lanes;

        wire signed [BIAS_EXACT-1:0] bias_exact = $signed(bias_data[32*j +: 32]);
        wire signed [WIDTH-1:0] bias_fitted;
        fit #(.IN(BIAS_EXACT), .OUT(WIDTH), .WRAP(WRAP)) fit_bias (
            .exact(bias_exact), .limit, .fitted(bias_fitted)
        );
        logic signed [WIDTH-1:0] bias;  // held from the first word on
        logic signed [WIDTH-1:0] operand;
        logic signed [PSUM-1:0] psum;

        wire signed [WIDTH-1:0] written;
        wire bypassed = pipe_writes && pipe_lanes[j] && pipe_address == read_address;
        wire signed [WIDTH-1:0] stored = bypassed ? written : $signed(read_data[WIDTH*j +: WIDTH]);
        wire signed [WIDTH-1:0] first_bias = bias_read ? bias_fitted : bias;

        always_ff @(posedge clk)
            if (rst) begin
                bias <= '0;
                operand <= '0;
                psum <= '0;
            end else if (arrives) begin
                bias <= first_bias;
                operand <= takes_memory ? stored : takes_bias ? first_bias : '0;
                psum <= $signed(word[PSUM*j +: PSUM]);
            end

        // Second stage, cycle a + 1.
        wire signed [WIDTH:0] exact = operand + psum;
        fit #(.IN(WIDTH + 1), .OUT(WIDTH), .WRAP(WRAP)) fit_sum (.exact, .limit(pipe_limit), .fitted(written));
        assign write_mask[j] = pipe_writes && pipe_lanes[j];
        assign write_data[WIDTH*j +: WIDTH] = written;

        always_ff @(posedge clk) if (arrives) pipe_lanes[j] <= j <= lanes;
    end
    assign write_address = pipe_address;
    assign done = pipe_writes && pipe_final;
    assign given = done ? pipe_signal : 4'd0;

    always_ff @(posedge clk)
        if (rst) begin
            put <= '0;
            get <= '0;
            number <= 24'd0;
            pipe_writes <= 1'b0;
            pipe_final <= 1'b0;
        end else begin
            if (tile_begins) begin
                tiles[put] <= {
                    tile_address, tile_words, tile_lanes, tile_limit, tile_start, tile_param, tile_final, tile_signal
                };
                put <= put == TILES - 1 ? '0 : put + 1'b1;
            end
            if (arrives) begin
                number <= ends ? 24'd0 : number + 24'd1;
                if (ends) get <= get == TILES - 1 ? '0 : get + 1'b1;
                pipe_address <= read_address;
                pipe_limit <= limit;
                pipe_signal <= signal;
            end
            pipe_writes <= writes;
            pipe_final <= ends && is_final;
        end
endmodule
