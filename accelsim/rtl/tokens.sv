// Token counters (docs/microarchitecture.md, section 3): one of 8 bits for each ordered pair of different units.
// Bit 4 * giver + taker of each vector is a pair's. A token given in cycle d shows from d + 1 on.
module tokens (
    input  logic         clk,
    input  logic         rst,
    input  logic [15:0]  give,
    input  logic [15:0]  take,
    output logic [15:0]  available
);
    for (genvar p = 0; p < 16; p++) begin : pair
        if (p / 4 != p % 4) begin : counted
            logic [7:0] count;
            always_ff @(posedge clk)
                if (rst) count <= 8'd0;
                else if (give[p] != take[p]) count <= give[p] ? count + 8'd1 : count - 8'd1;
            assign available[p] = count != 8'd0;
        end else begin : own  // a unit keeps its own order
            assign available[p] = 1'b0;
        end
    end
endmodule
