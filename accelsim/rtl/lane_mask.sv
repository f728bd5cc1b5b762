// Which lanes of a word are inside the image (docs/microarchitecture.md, section 5.2, "Lanes"): by position, not by
// address.
module lane_mask #(
    parameter int LANES = 4
) (
    input  logic signed [41:0]  position,      // of lane 0 in its row
    input  logic signed [25:0]  line,          // its row
    input  logic [23:0]         in_row_bytes,
    input  logic [15:0]         in_height,
    output logic [LANES-1:0]    inside_lanes
);
    wire line_inside = line >= 26'sd0 && line < $signed({10'd0, in_height});
    wire signed [41:0] limit = $signed({18'd0, in_row_bytes});

    for (genvar l = 0; l < LANES; l++) begin : lane
        wire signed [41:0] at = position + l;
        assign inside_lanes[l] = line_inside && at >= 42'sd0 && at < limit;
    end
endmodule
