// The R x C array with its skew and deskew lines (docs/microarchitecture.md, sections 4.2 and 4.3).
//
// A wave is what the streamer reads in one cycle; PE(i, j) sees it i + j cycles later, so what PEs must know of it is
// kept once for each anti-diagonal, in the caller's `wave_*` vectors: bit k is the wave at i + j = k.
module systolic_array #(
    parameter int ROWS = 4,
    parameter int COLUMNS = 4,
    parameter int PSUM = 32,
    parameter int HOP_BITS = 3,
    parameter bit WRAP = 0
) (
    input  logic                          clk,
    input  logic                          rst,
    input  logic                          output_stationary,
    input  logic [ROWS+COLUMNS-1:0]       wave_live,
    input  logic [ROWS+COLUMNS-1:0]       wave_first,
    input  logic [ROWS+COLUMNS-1:0]       wave_last,
    input  logic [ROWS+COLUMNS-1:0]       wave_preloaded,
    input  logic [(ROWS+COLUMNS)*PSUM-1:0] wave_limit,
    // Activations: a word of R lanes; ws, lane i for row i; os, the whole word for the row that `word_row` names.
    input  logic [ROWS*9-1:0]             activations,
    input  logic [ROWS-1:0]               word_row,
    // Weights: a row of C lanes; ws, for the shadows of row `weight_row`; diagonal, lane i for PE(i, i).
    input  logic [COLUMNS*9-1:0]          weights,
    input  logic                          weight_load,
    input  logic [8:0]                    weight_row,
    input  logic                          weight_diagonal,
    input  logic [COLUMNS*9-1:0]          diagonal_weights,
    // os: a word of start values, for row `start_hops`.
    input  logic                          start_comes,
    input  logic [HOP_BITS-1:0]           start_hops,
    input  logic [COLUMNS*PSUM-1:0]       start_values,
    // A whole word below the array; os tells when one leaves.
    output logic [COLUMNS*PSUM-1:0]       leaving,
    output logic                          drained
);
    wire signed [8:0] a [ROWS*(COLUMNS+1)];  // in front of PE(i, j), at i * (C + 1) + j
    wire signed [8:0] w [(ROWS+1)*COLUMNS];  // these above PE(i, j), at i * C + j
    wire signed [PSUM-1:0] p [(ROWS+1)*COLUMNS];
    wire [HOP_BITS-1:0] hops [(ROWS+1)*COLUMNS];
    wire signed [PSUM-1:0] preload [(ROWS+1)*COLUMNS];
    wire preload_comes [(ROWS+1)*COLUMNS];
    wire drain_goes [(ROWS+1)*COLUMNS];
    wire signed [PSUM-1:0] drain [(ROWS+1)*COLUMNS];
    wire shadow_load [COLUMNS];
    wire [8:0] shadow_row [COLUMNS];

    // Row i: ws, lane i passes i registers; os, byte b of the row's word is used b cycles after it is read.
    for (genvar i = 0; i < ROWS; i++) begin : row_edge
        wire [8:0] skewed;
        delay_line #(.WIDTH(9), .LENGTH(i)) skew (.clk, .rst, .in(activations[9*i +: 9]), .out(skewed));

        logic [ROWS*9-1:0] word;  // the bytes still to come, the next one lowest
        wire [ROWS*9-1:0] current = word_row[i] ? activations : word;
        always_ff @(posedge clk)
            if (rst) word <= '0;
            else word <= current >> 9;

        assign a[i*(COLUMNS+1)] = output_stationary ? $signed(current[8:0]) : $signed(skewed);
    end

    // Column j: weights and start values pass j registers. In a diagonal tile lane j has passed j more, so that it
    // meets the load of row j, and every other PE of the row takes 0.
    for (genvar j = 0; j < COLUMNS; j++) begin : column_edge
        wire [8:0] late;
        delay_line #(.WIDTH(9), .LENGTH(j)) diagonal_skew (
            .clk, .rst, .in(diagonal_weights[9*j +: 9]), .out(late)
        );
        wire [8:0] chosen = !weight_diagonal ? weights[9*j +: 9] : weight_row == j ? late : 9'd0;
        wire [18:0] weight_entry = {chosen, weight_load, weight_row};
        wire [18:0] weight_leaves;
        delay_line #(.WIDTH(19), .LENGTH(j)) weight_skew (.clk, .rst, .in(weight_entry), .out(weight_leaves));
        assign w[j] = $signed(weight_leaves[18:10]);
        assign shadow_load[j] = weight_leaves[9];
        assign shadow_row[j] = weight_leaves[8:0];

        wire [PSUM+HOP_BITS:0] start_entry = {start_values[PSUM*j +: PSUM], start_comes, start_hops};
        wire [PSUM+HOP_BITS:0] start_leaves;
        delay_line #(.WIDTH(PSUM + 1 + HOP_BITS), .LENGTH(j)) start_skew (
            .clk, .rst, .in(start_entry), .out(start_leaves)
        );
        assign preload[j] = $signed(start_leaves[PSUM+HOP_BITS:HOP_BITS+1]);
        assign preload_comes[j] = start_leaves[HOP_BITS];
        assign hops[j] = start_leaves[HOP_BITS-1:0];
        assign p[j] = '0;
        assign drain[j] = '0;
        assign drain_goes[j] = 1'b0;

        wire [PSUM-1:0] bottom = output_stationary ? drain[ROWS*COLUMNS + j] : p[ROWS*COLUMNS + j];
        delay_line #(.WIDTH(PSUM), .LENGTH(COLUMNS - 1 - j)) deskew (
            .clk, .rst, .in(bottom), .out(leaving[PSUM*j +: PSUM])
        );
    end
    assign drained = output_stationary && drain_goes[(ROWS+1)*COLUMNS - 1];

    for (genvar i = 0; i < ROWS; i++) begin : row
        for (genvar j = 0; j < COLUMNS; j++) begin : column
            localparam int HERE = i * COLUMNS + j;
            localparam int BELOW = HERE + COLUMNS;
            localparam int LEFT = i * (COLUMNS + 1) + j;
            localparam int RIGHT = LEFT + 1;
            localparam int WAVE = i + j;
            wire [HOP_BITS-1:0] hops_out;
            wire for_shadow = shadow_load[j] && shadow_row[j] == i;
            processing_element #(.PSUM(PSUM), .HOP_BITS(HOP_BITS), .WRAP(WRAP)) pe (
                .clk, .rst, .output_stationary,
                .live(wave_live[WAVE]), .first(wave_first[WAVE]), .last(wave_last[WAVE]),
                .preloaded(wave_preloaded[WAVE]), .limit(wave_limit[PSUM*WAVE +: PSUM]),
                .activation_in(a[LEFT]), .activation(a[RIGHT]),
                .weight_in(w[HERE]), .weight(w[BELOW]),
                .shadow_load(for_shadow), .shadow_in(w[j]),
                .psum_in(p[HERE]), .psum(p[BELOW]),
                .preload_comes(preload_comes[HERE]), .hops_in(hops[HERE]), .preload_in(preload[HERE]),
                .hops(hops_out), .preload(preload[BELOW]),
                .release_column(wave_last[ROWS+j]),
                .drain_comes(drain_goes[HERE]), .drain_in(drain[HERE]),
                .drain_goes(drain_goes[BELOW]), .drain(drain[BELOW])
            );
            assign preload_comes[BELOW] = hops_out != '0;
            assign hops[BELOW] = hops_out - 1'b1;
        end
    end
endmodule
