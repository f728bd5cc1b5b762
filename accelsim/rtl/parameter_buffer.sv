// Parameter buffer (docs/microarchitecture.md, section 2, "Parameter records").
//
// Records of 16 bytes: bias 0..3, shift 4, multiplier 8..15. POST reads one record a cycle, COMPUTE the biases of C
// consecutive records, LOAD writes up to BUS bytes at any byte address.
module parameter_buffer #(
    parameter int BYTES = 64,
    parameter int COLUMNS = 4,
    parameter int BUS = 4
) (
    input  logic                   clk,
    input  logic [23:0]            write_address,
    input  logic [BUS-1:0]         write_mask,
    input  logic [BUS*8-1:0]       write_data,
    input  logic [19:0]            post_record,
    output logic [127:0]           post_data,
    input  logic [19:0]            bias_record,   // lane l reads record bias_record + l
    output logic [COLUMNS*32-1:0]  bias_data
);
    logic [7:0] memory [BYTES];
    initial for (int i = 0; i < BYTES; i++) memory[i] = 8'd0;

    always_ff @(posedge clk)
        for (int b = 0; b < BUS; b++)
            if (write_mask[b]) memory[write_address + b] <= write_data[8*b +: 8];

    for (genvar b = 0; b < 16; b++) begin : record
        wire [23:0] address = {post_record, 4'd0} + b;
        assign post_data[8*b +: 8] = memory[address];
    end
    for (genvar j = 0; j < COLUMNS; j++) begin : lane
        for (genvar b = 0; b < 4; b++) begin : bias
            wire [23:0] address = {bias_record, 4'd0} + 16 * j + b;
            assign bias_data[32*j + 8*b +: 8] = memory[address];
        end
    end
endmodule
