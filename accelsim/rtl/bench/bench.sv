// Runs one program on the accelerator: reads program.bin and dram.bin, feeds the four queues, writes what happened.
//
// +program=F +dram=F     the program directory's files; +dram_bytes=N, the size of the second
// +latency=N +jitter=N   the DRAM's latency; a seed other than 0 makes it refuse and delay beats at random
// +out=F +trace=F        the final DRAM image, a hexadecimal byte a line; every issue and done, then the counters
// +limit=N               gives up after so many cycles without an issue or done
// Cycle 0 is the first after reset (docs/microarchitecture.md, section 4).
module bench (
    input logic clk
);
    import accelsim_config::*;

    string program_file, dram_file, out_file, trace_file;
    int file, out, trace, got, limit, count, finished, quiet;
    logic [7:0] byte_read [1];
    logic [511:0] code [];
    logic [511:0] word;
    logic [63:0] modes;
    longint cycle, last_done;
    logic rst;
    int reset_left;

    logic [511:0] head [4];
    logic [3:0] valid;
    int next [4];
    wire [3:0] take, issue, done;
    wire [15:0] stalled;
    wire [13*64-1:0] totals;
    int stalls [16];

    wire dram_read_request, dram_read_accept, dram_read_valid, dram_write_request, dram_write_last, dram_write_ready;
    wire [31:0] dram_read_address, dram_write_address;
    wire [8:0] dram_read_size, dram_write_size;
    wire [BUS*8-1:0] dram_read_data, dram_write_data;

    accelerator dut (
        .clk, .rst, .modes,
        .load_instruction(head[0]), .load_valid(valid[0]), .load_take(take[0]),
        .compute_instruction(head[1]), .compute_valid(valid[1]), .compute_take(take[1]),
        .post_instruction(head[2]), .post_valid(valid[2]), .post_take(take[2]),
        .store_instruction(head[3]), .store_valid(valid[3]), .store_take(take[3]),
        .dram_read_request, .dram_read_address, .dram_read_size, .dram_read_accept, .dram_read_valid,
        .dram_read_data, .dram_write_request, .dram_write_last, .dram_write_address, .dram_write_size,
        .dram_write_data, .dram_write_ready, .issue, .done, .stalled, .totals
    );
    dram_model #(.BUS(BUS)) dram (
        .clk, .rst, .read_request(dram_read_request), .read_address(dram_read_address), .read_size(dram_read_size),
        .read_accept(dram_read_accept), .read_valid(dram_read_valid), .read_data(dram_read_data),
        .write_request(dram_write_request), .write_last(dram_write_last), .write_address(dram_write_address),
        .write_size(dram_write_size), .write_data(dram_write_data), .write_ready(dram_write_ready)
    );

    // Opcodes 1 LOAD, 2 COMPUTE, 3 POST, 4 STORE are units 0, 1, 2, 3.
    function automatic int find(input int from, input int unit);
        int n;
        logic [511:0] candidate;
        n = from;
        candidate = n < count ? code[n] : 512'd0;
        while (n < count && candidate[31:28] != unit + 1) begin
            n = n + 1;
            candidate = n < count ? code[n] : 512'd0;
        end
        find = n;
    endfunction

    initial begin
        if (!$value$plusargs("program=%s", program_file) || !$value$plusargs("dram=%s", dram_file)
            || !$value$plusargs("out=%s", out_file) || !$value$plusargs("trace=%s", trace_file)) begin
            $display("bench: +program, +dram, +out and +trace are needed");
            $finish;
        end
        if (!$value$plusargs("limit=%d", limit)) limit = 1000000;

        // The header: 192 bytes, little-endian; instructions at 12, modes at 16.
        file = $fopen(program_file, "rb");
        count = 0;
        modes = 64'd0;
        for (int i = 0; i < 192; i++) begin
            got = $fgetc(file);
            if (i >= 12 && i < 16) count = count | (got << (8 * (i - 12)));
            if (i >= 16 && i < 24) modes[8*(i-16) +: 8] = got[7:0];
        end
        code = new[count];
        for (int i = 0; i < count; i++) begin
            for (int b = 0; b < 64; b++) begin
                got = $fgetc(file);
                word[8*b +: 8] = got[7:0];
            end
            code[i] = word;
        end
        $fclose(file);

        file = $fopen(dram_file, "rb");
        if (!$value$plusargs("dram_bytes=%d", dram.size)) dram.size = 0;
        dram.bytes = new[dram.size];
        for (int i = 0; i < dram.size; i++) begin
            got = $fgetc(file);
            dram.bytes[i] = got[7:0];
        end
        $fclose(file);

        trace = $fopen(trace_file, "w");
        for (int u = 0; u < 4; u++) begin
            next[u] = find(0, u);
            valid[u] = next[u] < count;
            head[u] = next[u] < count ? code[next[u]] : 512'd0;
        end
        for (int p = 0; p < 16; p++) stalls[p] = 0;
        cycle = 0;
        last_done = -1;
        finished = 0;
        quiet = 0;
        rst = 1'b1;
        reset_left = 2;
    end

    always @(posedge clk) begin
        if (reset_left > 0) begin
            reset_left = reset_left - 1;
            if (reset_left == 0) rst <= 1'b0;
        end else begin
            quiet = quiet + 1;
            for (int u = 0; u < 4; u++) begin
                for (int v = 0; v < 4; v++) if (stalled[4*u+v]) stalls[4*u+v] = stalls[4*u+v] + 1;
                if (issue[u]) begin
                    $fwrite(trace, "issue %0d %0d %0d %0d %0d %0d\n", u, cycle,
                        stalls[4*u], stalls[4*u+1], stalls[4*u+2], stalls[4*u+3]);
                    for (int v = 0; v < 4; v++) stalls[4*u+v] = 0;
                    quiet = 0;
                end
                if (done[u]) begin
                    $fwrite(trace, "done %0d %0d\n", u, cycle);
                    last_done = cycle;
                    finished = finished + 1;
                    quiet = 0;
                end
                if (take[u]) begin
                    next[u] = find(next[u] + 1, u);
                    valid[u] <= next[u] < count;
                    head[u] <= next[u] < count ? code[next[u]] : 512'd0;
                end
            end
            cycle = cycle + 1;
        end
        if (quiet > limit) begin
            $fwrite(trace, "stuck %0d\n", cycle);
            $fclose(trace);
            $finish;
        end
    end

    // When the last instruction is done: its writes have been taken at the edge before.
    always @(negedge clk) if (!rst && finished == count) begin
        $fwrite(trace, "cycles %0d\n", last_done + 1);
        for (int n = 0; n < 13; n++) $fwrite(trace, "count %0d %0d\n", n, totals[64*n +: 64]);
        $fclose(trace);
        out = $fopen(out_file, "w");
        for (int i = 0; i < dram.size; i++) $fwrite(out, "%02x\n", dram.bytes[i]);
        $fclose(out);
        $finish;
    end
endmodule
