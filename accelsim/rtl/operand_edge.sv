// The array's activation edge (docs/microarchitecture.md, section 5.2, "Lanes" and "Operands"): bytes into operands of
// nine bits. Tail lanes are 0; padding is Z_x where zero points are folded, and 0 where they are subtracted.
module operand_edge #(
    parameter int LANES = 4
) (
    input  logic [LANES*8-1:0]  bytes,
    input  logic [LANES-1:0]    inside_lanes,
    input  logic [8:0]          length,       // lanes in use
    input  logic                is_unsigned,
    input  logic                subtract,
    input  logic [7:0]          zero_point,
    output logic [LANES*9-1:0]  operands
);
    wire [8:0] zero = {!is_unsigned && zero_point[7], zero_point};

    for (genvar l = 0; l < LANES; l++) begin : lane
        wire [7:0] code = bytes[8*l +: 8];
        wire [8:0] value = inside_lanes[l] ? {!is_unsigned && code[7], code} : zero;
        assign operands[9*l +: 9] = l >= length ? 9'd0 : subtract ? value - zero : value;
    end
endmodule
