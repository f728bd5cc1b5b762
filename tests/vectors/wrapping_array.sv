// A design that has nothing in common with accelsim's array but its purpose: 16-bit sums that wrap, weights that shift
// down the columns (so that row 0 ends at the bottom and products are added in reverse), no shadow registers.
module tile_adapter #(
    parameter ROWS = 1, COLUMNS = 1, WORDS = 1,
    parameter ACTIVATION_BITS = 8, ACTIVATION_SIGNED = 1, WEIGHT_BITS = 8, PSUM_BITS = 16, ACCUMULATOR_BITS = 16,
    parameter PSUM_WIDTH = 16, ACCUMULATOR_WIDTH = 16, SATURATE = 0, RUNNING = 0
) (
    input  wire clk, rst, first, last,
    input  wire [COLUMNS*ACCUMULATOR_BITS-1:0] start,
    input  wire weight_valid, output wire weight_ready,
    input  wire [31:0] weight_row, input wire [COLUMNS*WEIGHT_BITS-1:0] weight,
    input  wire word_valid, output wire word_ready,
    input  wire [31:0] word, input wire [ROWS*ACTIVATION_BITS-1:0] activation,
    output wire shows_psum, psum_valid, output wire [COLUMNS*PSUM_BITS-1:0] psum,
    output wire shows_accumulator, output reg accumulator_valid, output reg [COLUMNS*ACCUMULATOR_BITS-1:0] accumulator
);
    reg [1:0] phase = 0;  // takes words in two cycles of three, to show that the bench waits
    always @(posedge clk) phase <= phase == 2 ? 0 : phase + 1;
    assign weight_ready = 1'b1, word_ready = phase != 2, shows_psum = 1'b1, shows_accumulator = 1'b1;

    wrapping_array #(.R(ROWS), .C(COLUMNS)) grid (
        .clk(clk), .rst(rst), .shift(weight_valid), .w(weight), .x_valid(word_valid && word_ready), .x(activation),
        .y_valid(psum_valid), .y(psum)
    );

    reg [COLUMNS*16-1:0] memory [0:WORDS-1];
    reg [31:0] at = 0;
    wire [COLUMNS*16-1:0] carried = first ? start : memory[at];
    integer j;
    always @(posedge clk) begin
        accumulator_valid <= psum_valid && !rst;
        if (psum_valid) begin
            for (j = 0; j < COLUMNS; j = j + 1) begin
                accumulator[16*j +: 16] <= carried[16*j +: 16] + psum[16*j +: 16];
                memory[at][16*j +: 16] <= carried[16*j +: 16] + psum[16*j +: 16];
            end
            at <= at == WORDS - 1 ? 0 : at + 1;
        end
    end
endmodule

module wrapping_array #(parameter R = 1, C = 1) (
    input  wire clk, rst, shift,
    input  wire [C*8-1:0] w,
    input  wire x_valid, input wire [R*8-1:0] x,
    output wire y_valid, output wire [C*16-1:0] y
);
    reg [R+C-2:0] there = 0;
    always @(posedge clk) there <= rst ? 0 : {there, x_valid};
    assign y_valid = there[R+C-2];

    wire signed [7:0] xs [0:R*(C+1)-1];
    wire signed [7:0] ws [0:(R+1)*C-1];
    wire signed [15:0] ps [0:(R+1)*C-1];
    genvar i, j;
    generate
        for (i = 0; i < R; i = i + 1) begin : row
            reg [7:0] late [0:i];
            integer n;
            always @(posedge clk) begin
                late[0] <= x[8*(R-1-i) +: 8];
                for (n = 1; n <= i; n = n + 1) late[n] <= late[n-1];
            end
            if (i == 0) assign xs[0] = x[8*(R-1) +: 8];
            else assign xs[i*(C+1)] = late[i-1];
            for (j = 0; j < C; j = j + 1) begin : column
                reg signed [7:0] weight, held;
                reg signed [15:0] sum;
                always @(posedge clk) begin
                    if (shift) weight <= ws[i*C+j];
                    held <= xs[i*(C+1)+j];
                    sum <= ps[i*C+j] + xs[i*(C+1)+j] * weight;
                end
                assign ws[(i+1)*C+j] = weight, xs[i*(C+1)+j+1] = held, ps[(i+1)*C+j] = sum;
            end
        end
        for (j = 0; j < C; j = j + 1) begin : edge_
            assign ws[j] = w[8*j +: 8], ps[j] = 0;
            reg signed [15:0] wait_ [0:C-1-j];
            integer n;
            always @(posedge clk) begin
                wait_[0] <= ps[R*C+j];
                for (n = 1; n <= C-1-j; n = n + 1) wait_[n] <= wait_[n-1];
            end
            if (j == C-1) assign y[16*j +: 16] = ps[R*C+j];
            else assign y[16*j +: 16] = wait_[C-2-j];
        end
    endgenerate
endmodule
