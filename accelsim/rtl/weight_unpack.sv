// One packed weight row into C lanes (docs/microarchitecture.md, section 2, "Packed weights"): lane 0 first, `bits`
// bits each, the first in the least significant bits; less the weights' zero point where it is subtracted.
module weight_unpack #(
    parameter int COLUMNS = 4
) (
    input  logic [COLUMNS*8-1:0]  row,
    input  logic [3:0]            bits,          // 2..8
    input  logic                  is_unsigned,
    input  logic [7:0]            zero_point,    // 0 where zero points are folded
    output logic [COLUMNS*9-1:0]  lanes
);
    wire [8:0] zero = {!is_unsigned && zero_point[7], zero_point};

    for (genvar j = 0; j < COLUMNS; j++) begin : lane
        wire [7:0] raw =
            bits == 4'd2 ? {6'd0, row[2*j +: 2]} :
            bits == 4'd3 ? {5'd0, row[3*j +: 3]} :
            bits == 4'd4 ? {4'd0, row[4*j +: 4]} :
            bits == 4'd5 ? {3'd0, row[5*j +: 5]} :
            bits == 4'd6 ? {2'd0, row[6*j +: 6]} :
            bits == 4'd7 ? {1'd0, row[7*j +: 7]} : row[8*j +: 8];
        wire [8:0] sign_bit = is_unsigned ? 9'd0 : 9'd1 << (bits - 4'd1);
        wire [8:0] value = ({1'b0, raw} ^ sign_bit) - sign_bit;
        assign lanes[9*j +: 9] = value - zero;
    end
endmodule
