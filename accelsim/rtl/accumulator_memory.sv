// Accumulator memory (docs/microarchitecture.md, section 2): words of C lanes, two reads and one masked write a cycle.
// The bypass of a word that is being written belongs to its only user, `accumulate`.
module accumulator_memory #(
    parameter int COLUMNS = 4,
    parameter int WIDTH = 32,
    parameter int DEPTH = 16
) (
    input  logic                      clk,
    input  logic [23:0]               compute_address,
    output logic [COLUMNS*WIDTH-1:0]  compute_data,
    input  logic [23:0]               post_address,
    output logic [COLUMNS*WIDTH-1:0]  post_data,
    input  logic [23:0]               write_address,
    input  logic [COLUMNS-1:0]        write_mask,
    input  logic [COLUMNS*WIDTH-1:0]  write_data
);
    for (genvar j = 0; j < COLUMNS; j++) begin : lane
        logic [WIDTH-1:0] memory [DEPTH];
        initial for (int i = 0; i < DEPTH; i++) memory[i] = '0;

        assign compute_data[WIDTH*j +: WIDTH] = memory[compute_address];
        assign post_data[WIDTH*j +: WIDTH] = memory[post_address];
        always_ff @(posedge clk) if (write_mask[j]) memory[write_address] <= write_data[WIDTH*j +: WIDTH];
    end
endmodule
