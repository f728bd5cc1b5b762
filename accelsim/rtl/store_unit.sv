// STORE (docs/microarchitecture.md, sections 4.1 and 5.1): copies rows of bytes from the activation buffer to DRAM.
//
// From the issue on it offers its next beat; a beat is read from the buffer and moves in a cycle in which the DRAM is
// ready, for the first time its latency after the first offer. The instruction stays at the head until it is done.
module store_unit
    import accelsim_config::*;
(
    input  logic              clk,
    input  logic              rst,
    input  logic [511:0]      instruction,
    input  logic              valid,
    output logic              take,
    input  logic [3:0]        available,
    output logic [3:0]        taken,
    output logic [3:0]        given,
    output logic [3:0]        stalled,
    output logic              issue,
    output logic              done,
    output logic [23:0]       buffer_address,
    input  logic [BUS*8-1:0]  buffer_data,
    output logic              write_request,
    output logic              write_last,     // the transfer's last beat
    output logic [31:0]       write_address,
    output logic [8:0]        write_size,
    output logic [BUS*8-1:0]  write_data,
    input  logic              write_ready
);
    wire [23:0] row_bytes = instruction[STORE_ROW_BYTES +: 24];
    wire [15:0] rows = instruction[STORE_ROWS +: 16];
    wire [23:0] buffer_step = instruction[STORE_BUFFER_STEP +: 24];
    wire [31:0] address;
    wire [8:0] unused_size;
    wire unused_last;

    logic busy;

    token_gate gate (
        .ready(valid && !busy), .wait_mask(instruction[STORE_WAIT +: 4]), .available,
        .issue, .taken, .stalled
    );

    assign write_request = busy || issue;
    wire moves = write_request && write_ready;

    transfer_walker #(.BUS(BUS)) outside (
        .clk, .rst, .base(instruction[STORE_DRAM_ADDRESS +: 32]), .step(instruction[STORE_DRAM_STEP +: 32]),
        .row_bytes, .rows, .advance(moves), .clear(done),
        .address(write_address), .size(write_size), .last(write_last)
    );
    transfer_walker #(.BUS(BUS)) inside_ (
        .clk, .rst, .base({8'd0, instruction[STORE_BUFFER_ADDRESS +: 24]}), .step({{8{buffer_step[23]}}, buffer_step}),
        .row_bytes, .rows, .advance(moves), .clear(done),
        .address, .size(unused_size), .last(unused_last)
    );

    assign buffer_address = address[23:0];
    assign write_data = buffer_data;
    assign done = moves && write_last;
    assign take = done;
    assign given = done ? instruction[STORE_SIGNAL +: 4] : 4'd0;

    always_ff @(posedge clk)
        if (rst || done) busy <= 1'b0;
        else if (issue) busy <= 1'b1;
endmodule
