// First half of a requantisation (docs/numerics.md, section 4): everything up to the product, and how far it must then
// be shifted. fixed_point: v * M0; shift_first: v shifted by n with guard bits, rounded, times M0; power_of_two: v.
module requantize_multiply #(
    parameter int VALUE = 33,
    parameter int PRODUCT = 66  // VALUE + 33
) (
    input  logic [63:0]                modes,
    input  logic signed [VALUE-1:0]    value,
    input  logic [31:0]                multiplier,   // M0, positive
    input  logic signed [7:0]          shift,        // n
    output logic signed [PRODUCT-1:0]  product,
    output logic signed [8:0]          amount        // right shift that is left to do; tflite_double: after the 31
);
    import accelsim_pkg::*;

    wire power_of_two = modes[31:24] == SCHEME_POWER_OF_TWO;
    wire [2:0] rounding = modes[34:32];
    wire signed [8:0] fraction = $signed({1'b0, modes[47:40]}) - 9'sd1;  // B - 1
    wire signed [8:0] guard = $signed({1'b0, modes[55:48]});
    wire shift_first = modes[56];
    wire twice = rounding == TFLITE_DOUBLE;

    // tflite_double: a = wrap32(v * 2^max(-n, 0)).
    wire [7:0] left_by = shift < 8'sd0 ? -shift : 8'd0;
    wire [31:0] wrapped = value[31:0] << left_by;

    // shift_first. A shift to the left is exact and then left to the second shift: the same quotient, rounded once.
    wire signed [8:0] first_amount = $signed({shift[7], shift}) - guard;
    wire early = shift_first && first_amount > 9'sd0;
    wire signed [8:0] early_amount = first_amount > 9'sd0 ? first_amount : 9'sd0;
    wire signed [VALUE:0] shifted;
    round_shift #(.IN(VALUE), .OUT(VALUE + 1)) first_shift (
        .value, .amount(early_amount), .rounding, .result(shifted)
    );

    wire signed [VALUE:0] operand = twice ? $signed(wrapped) : early ? shifted : value;
    wire signed [32:0] factor = power_of_two ? 33'sd1 : $signed({1'b0, multiplier});
    assign product = operand * factor;
    assign amount = twice ? (shift > 8'sd0 ? shift : 9'sd0)
        : power_of_two ? {shift[7], shift}
        : early ? fraction + guard
        : $signed({shift[7], shift}) + fraction;
endmodule
