// value / 2^amount, rounded once (docs/numerics.md, section 4, "Rounding"); an exact left shift where amount < 0.
module round_shift #(
    parameter int IN = 33,
    parameter int OUT = 98  // holds the value shifted left as far as it may be
) (
    input  logic signed [IN-1:0]   value,
    input  logic signed [8:0]      amount,    // -62..62
    input  logic [2:0]             rounding,
    output logic signed [OUT-1:0]  result
);
    import accelsim_pkg::*;

    wire signed [OUT-1:0] wide = value;
    wire left = amount <= 9'sd0;
    wire [8:0] left_by = -amount;
    wire [8:0] right_by = amount;

    wire signed [OUT-1:0] floored = wide >>> right_by;
    wire signed [OUT-1:0] doubled = wide >>> (right_by - 9'd1);  // its lowest bit is worth one half
    wire half = doubled[0];
    wire below = (wide & ~({OUT{1'b1}} << (right_by - 9'd1))) != '0;
    wire negative = value[IN-1];
    wire up =
        rounding == HALF_UP ? half :
        rounding == HALF_EVEN ? half && (below || floored[0]) :
        rounding == HALF_AWAY || rounding == TFLITE_DOUBLE ? half && (below || !negative) :
        rounding == TOWARD_ZERO ? negative && (half || below) : 1'b0;

    assign result = left ? wide << left_by : floored + $signed({1'b0, up});
endmodule
