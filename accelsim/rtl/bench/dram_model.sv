// The DRAM of docs/microarchitecture.md, section 4.1, as a simulation model: a latency, then a beat a cycle each way.
//
// It answers at the falling edge, when the units' outputs of a cycle have settled, so that a latency of 0 is a beat in
// the cycle it is asked for. With `jitter` it refuses and delays beats at random: cycles change, and no bit may.
module dram_model #(
    parameter int BUS = 4
) (
    input  logic              clk,
    input  logic              rst,
    input  logic              read_request,
    input  logic [31:0]       read_address,
    input  logic [8:0]        read_size,
    output logic              read_accept,
    output logic              read_valid,
    output logic [BUS*8-1:0]  read_data,
    input  logic              write_request,
    input  logic              write_last,
    input  logic [31:0]       write_address,
    input  logic [8:0]        write_size,
    input  logic [BUS*8-1:0]  write_data,
    output logic              write_ready
);
    logic [7:0] bytes [];
    int size, latency, jitter;
    logic [31:0] random;

    // Beats asked for: a ring, since at most one is asked for in a cycle and each waits `latency` cycles or, with
    // jitter, until the ring is full.
    logic [31:0] asked_address [];
    longint asked_due [];
    int ring, put, get, waiting;
    longint cycle, opened;  // `opened`: cycles for which the write channel's transfer has been offered

    function automatic logic [31:0] xorshift(input logic [31:0] x);
        logic [31:0] y;
        y = x ^ (x << 13);
        y = y ^ (y >> 17);
        xorshift = y ^ (y << 5);
    endfunction

    initial begin
        if (!$value$plusargs("latency=%d", latency)) latency = 0;
        if (!$value$plusargs("jitter=%d", jitter)) jitter = 0;
        random = jitter;
        ring = latency + 2;
        asked_address = new[ring];
        asked_due = new[ring];
        put = 0;
        get = 0;
        waiting = 0;
        cycle = 0;
        opened = 0;
        read_accept = 1'b0;
        read_valid = 1'b0;
        read_data = '0;
        write_ready = 1'b0;
    end

    always @(negedge clk) if (!rst) begin
        random = xorshift(random);
        read_accept = read_request && waiting < ring - 1 && (jitter == 0 || random[1:0] != 2'd0);
        if (read_accept) begin
            asked_address[put] = read_address;
            asked_due[put] = cycle + latency;
            put = put == ring - 1 ? 0 : put + 1;
            waiting = waiting + 1;
        end
        read_valid = waiting > 0 && asked_due[get] <= cycle && (jitter == 0 || random[4:3] != 2'd0);
        read_data = '0;
        if (read_valid) begin
            for (int b = 0; b < BUS; b++)
                if (asked_address[get] + b < size) read_data[8*b +: 8] = bytes[asked_address[get] + b];
            get = get == ring - 1 ? 0 : get + 1;
            waiting = waiting - 1;
        end

        write_ready = write_request && opened >= latency && (jitter == 0 || random[7:6] != 2'd0);
        if (write_ready)
            for (int b = 0; b < BUS; b++)
                if (b < write_size) bytes[write_address + b] = write_data[8*b +: 8];
        if (write_request) opened = write_ready && write_last ? 0 : opened + 1;
        cycle = cycle + 1;
    end
endmodule
