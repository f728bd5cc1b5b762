// One lane of post-processing reduced to what decides its area: bias, a signed 32-bit multiplier, a rounding shift
// (half to even), zero point and clip, a register behind each. The bias has the accumulator's width; with one of 32
// bits, as in this repository's parameter records, a lane does not shrink below 32. Measured by benchmarks/area_curve.py.
module area_ppu_lane #(parameter WIDTH = 32, parameter BIAS = WIDTH) (
    input  wire                     clk,
    input  wire signed [WIDTH-1:0]  sum,
    input  wire signed [BIAS-1:0]   bias,
    input  wire [30:0]              m0,           // positive
    input  wire [5:0]               shift,        // total, 0..62
    input  wire signed [8:0]        zero_point,
    input  wire signed [8:0]        low, high,
    output reg  [7:0]               code
);
    localparam VALUE = (WIDTH > BIAS ? WIDTH : BIAS) + 1;
    localparam PRODUCT = VALUE + 32;
    reg signed [VALUE-1:0] value;
    reg signed [PRODUCT-1:0] product;
    reg signed [PRODUCT:0] rounded;

    wire signed [PRODUCT-1:0] down = product >>> shift;
    wire [PRODUCT-1:0] rest = product & ~({PRODUCT{1'b1}} << shift);
    wire [PRODUCT-1:0] half = ({{(PRODUCT-1){1'b0}}, 1'b1} << shift) >> 1;
    wire up = shift != 0 && (rest > half || (rest == half && down[0]));
    wire signed [PRODUCT+1:0] moved = rounded + zero_point;

    always @(posedge clk) begin
        value <= sum + bias;
        product <= value * $signed({1'b0, m0});
        rounded <= down + $signed({1'b0, up});
        code <= moved < low ? low[7:0] : moved > high ? high[7:0] : moved[7:0];
    end
endmodule
