// Activation and weight buffer (docs/microarchitecture.md, section 2, "Banks").
//
// P byte banks: byte address A is in bank A mod P, row A / P. Any P consecutive bytes touch each bank once; reads are
// rotated by A mod P, writes are masked by byte. Reads are combinational, writes show from the next cycle on.
module byte_memory #(
    parameter int BANKS = 8,   // P, a power of two
    parameter int BYTES = 64,
    parameter int READS = 1,   // ports
    parameter int WRITES = 1
) (
    input  logic                       clk,
    input  logic [READS*24-1:0]        read_address,
    output logic [READS*BANKS*8-1:0]   read_data,     // byte l of a port is that of its address + l
    input  logic [WRITES*24-1:0]       write_address,
    input  logic [WRITES*BANKS-1:0]    write_mask,
    input  logic [WRITES*BANKS*8-1:0]  write_data
);
    localparam int ROWS = (BYTES + BANKS - 1) / BANKS;

    wire [BANKS*8-1:0] banks_read [READS];  // bank k's byte, not yet rotated

    for (genvar k = 0; k < BANKS; k++) begin : bank
        logic [7:0] memory [ROWS];
        initial for (int i = 0; i < ROWS; i++) memory[i] = 8'd0;

        for (genvar p = 0; p < READS; p++) begin : read
            wire [23:0] address = read_address[24*p +: 24];
            wire [23:0] reached = address + BANKS - 1 - k;  // modulo 2^24: a padded lane's address may be negative
            wire [23:0] row = reached / BANKS;  // banks below A mod P are a row further
            assign banks_read[p][8*k +: 8] = memory[row];
        end
        for (genvar p = 0; p < WRITES; p++) begin : write
            wire [23:0] address = write_address[24*p +: 24];
            wire [23:0] lane = (k - address) % BANKS;
            wire [23:0] reached = address + BANKS - 1 - k;
            wire [23:0] row = reached / BANKS;
            wire enable = write_mask[BANKS*p + lane];
            always_ff @(posedge clk) if (enable) memory[row] <= write_data[8*(BANKS*p + lane) +: 8];
        end
    end

    for (genvar p = 0; p < READS; p++) begin : rotate
        wire [23:0] offset = read_address[24*p +: 24] % BANKS;
        wire [2*BANKS*8-1:0] twice = {banks_read[p], banks_read[p]};
        wire [2*BANKS*8-1:0] moved = twice >> {offset, 3'd0};
        assign read_data[BANKS*8*p +: BANKS*8] = moved[BANKS*8-1:0];
    end
endmodule
