// Table memory (docs/microarchitecture.md, section 2, "Tables"): POST reads one byte a lane, LOAD writes BUS bytes.
module table_memory #(
    parameter int BYTES = 256,
    parameter int COLUMNS = 4,
    parameter int BUS = 4
) (
    input  logic                   clk,
    input  logic [23:0]            write_address,
    input  logic [BUS-1:0]         write_mask,
    input  logic [BUS*8-1:0]       write_data,
    input  logic [COLUMNS*16-1:0]  read_address,  // slot * 256 + entry, of each lane
    output logic [COLUMNS*8-1:0]   read_data
);
    logic [7:0] memory [BYTES];
    initial for (int i = 0; i < BYTES; i++) memory[i] = 8'd0;

    always_ff @(posedge clk)
        for (int b = 0; b < BUS; b++)
            if (write_mask[b]) memory[write_address + b] <= write_data[8*b +: 8];

    for (genvar j = 0; j < COLUMNS; j++) begin : lane
        wire [15:0] address = read_address[16*j +: 16];
        assign read_data[8*j +: 8] = memory[address];
    end
endmodule
