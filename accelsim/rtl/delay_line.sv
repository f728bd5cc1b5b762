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
        logic [WIDTH-1:0] register [LENGTH];
        assign out = register[LENGTH-1];
        always_ff @(posedge clk)
            for (int i = 0; i < LENGTH; i++)
                if (rst) register[i] <= '0;
                else register[i] <= i == 0 ? in : register[i == 0 ? 0 : i-1];
    end
endmodule
