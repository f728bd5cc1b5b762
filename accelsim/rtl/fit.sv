// An exact sum into a width known at run time (docs/numerics.md, section 2.2): saturated, or its low bits.
// `limit` is the largest value of that width, 2^(width-1) - 1, so the smallest is its complement.
module fit #(
    parameter int IN = 33,
    parameter int OUT = 32,  // < IN; the width is at most this
    parameter bit WRAP = 0
) (
    input  logic signed [IN-1:0]   exact,
    input  logic [OUT-1:0]         limit,
    output logic signed [OUT-1:0]  fitted
);
    wire signed [IN-1:0] high = $signed({{(IN-OUT){1'b0}}, limit});

    if (WRAP) begin : wraps
        wire [OUT-1:0] sign_bit = {limit[OUT-2:0], 1'b1} & ~limit;
        wire [OUT-1:0] low = exact[OUT-1:0];
        assign fitted = (low & sign_bit) != '0 ? low | ~limit : low & limit;
    end else begin : saturates
        assign fitted = exact > high ? limit : exact < ~high ? ~limit : exact[OUT-1:0];
    end
endmodule
