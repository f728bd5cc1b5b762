// Second half of a requantisation (docs/numerics.md, section 4): the product's shift, rounded. tflite_double rounds
// twice: a shift by 31, ties up, then by max(n, 0), ties away from zero.
module requantize_shift #(
    parameter int PRODUCT = 66,
    parameter int RESULT = 98  // PRODUCT + 32
) (
    input  logic [63:0]                modes,
    input  logic signed [PRODUCT-1:0]  product,
    input  logic signed [8:0]          amount,
    output logic signed [RESULT-1:0]   result
);
    import accelsim_pkg::*;

    wire [2:0] rounding = modes[34:32];
    wire twice = rounding == TFLITE_DOUBLE;
    wire signed [PRODUCT-1:0] high = (product + $signed({1'b0, 31'h40000000})) >>> 31;
    wire signed [PRODUCT-1:0] value = twice ? high : product;

    round_shift #(.IN(PRODUCT), .OUT(RESULT)) shift (
        .value, .amount, .rounding, .result
    );
endmodule
