// LENGTH registers in a row: the skew and deskew lines at the array's edges; a line without registers is a wire.
module delay_line #(
    parameter int WIDTH = 8,
    parameter int LENGTH = 1
) (
    input  logic              clk,
    input  logic              rst,
    input  logic [WIDTH-1:0]  in,
    output logic [WIDTH-1:0]  out
);
    if (LENGTH == 0) begin : wire_only
        assign out = in;
    end else begin : line
        logic [LENGTH*WIDTH-1:0] registers;  // the newest lowest
        wire [(LENGTH+1)*WIDTH-1:0] shifted = {registers, in};
        assign out = registers[(LENGTH-1)*WIDTH +: WIDTH];
        always_ff @(posedge clk)
            if (rst) registers <= '0;
            else registers <= shifted[LENGTH*WIDTH-1:0];
    end
endmodule
