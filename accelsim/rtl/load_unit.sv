// LOAD (docs/microarchitecture.md, sections 4.1 and 5.1): copies rows of bytes from DRAM into a buffer.
//
// From the issue on it asks for a beat in every cycle in which the DRAM accepts; the beats come back in order, each
// written in the cycle it comes. So its time is the DRAM's latency, and one cycle a beat. The instruction stays at the
// head of the queue until it is done.
module load_unit
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
    output logic              read_request,   // DRAM: a beat is asked for
    output logic [31:0]       read_address,
    output logic [8:0]        read_size,
    input  logic              read_accept,
    input  logic              read_valid,     // DRAM: a beat comes
    input  logic [BUS*8-1:0]  read_data,
    output logic [1:0]        write_memory,
    output logic [23:0]       write_address,
    output logic [BUS-1:0]    write_mask,
    output logic [BUS*8-1:0]  write_data
);
    wire [23:0] row_bytes = instruction[LOAD_ROW_BYTES +: 24];
    wire [15:0] rows = instruction[LOAD_ROWS +: 16];
    wire [23:0] buffer_step = instruction[LOAD_BUFFER_STEP +: 24];

    logic busy, asked;  // `asked`: every beat has been asked for
    wire ask_last, write_last;
    wire [31:0] buffer_address;
    wire [8:0] write_size;

    token_gate gate (
        .ready(valid && !busy), .wait_mask(instruction[LOAD_WAIT +: 4]), .available,
        .issue, .taken, .stalled
    );

    assign read_request = (busy || issue) && !asked;

    transfer_walker #(.BUS(BUS)) asking (
        .clk, .rst, .base(instruction[LOAD_DRAM_ADDRESS +: 32]), .step(instruction[LOAD_DRAM_STEP +: 32]),
        .row_bytes, .rows, .advance(read_request && read_accept), .clear(done),
        .address(read_address), .size(read_size), .last(ask_last)
    );
    transfer_walker #(.BUS(BUS)) writing (
        .clk, .rst, .base({8'd0, instruction[LOAD_BUFFER_ADDRESS +: 24]}), .step({{8{buffer_step[23]}}, buffer_step}),
        .row_bytes, .rows, .advance(read_valid), .clear(done),
        .address(buffer_address), .size(write_size), .last(write_last)
    );

    assign write_memory = instruction[LOAD_MEMORY +: 2];
    assign write_address = buffer_address[23:0];
    assign write_data = read_data;
    for (genvar b = 0; b < BUS; b++) begin : mask
        assign write_mask[b] = read_valid && b < write_size;
    end

    assign done = read_valid && write_last;
    assign take = done;
    assign given = done ? instruction[LOAD_SIGNAL +: 4] : 4'd0;

    always_ff @(posedge clk)
        if (rst || done) begin
            busy <= 1'b0;
            asked <= 1'b0;
        end else begin
            if (issue) busy <= 1'b1;
            if (read_request && read_accept && ask_last) asked <= 1'b1;
        end
endmodule
