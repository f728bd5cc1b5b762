// Operation counters (docs/microarchitecture.md, section 7): enabled bytes and elements of every memory port, beats'
// bytes of DRAM, and products. Each is a sum of what its ports do in a cycle; nothing else counts on them.
module counters
    import accelsim_config::*;
(
    input  logic                clk,
    input  logic                rst,
    input  logic [ROWS-1:0]     compute_activation,
    input  logic [COLUMNS-1:0]  post_activation,
    input  logic [8:0]          store_bytes,
    input  logic [COLUMNS-1:0]  post_write,
    input  logic [BUS-1:0]      load_mask,
    input  logic [1:0]          load_memory,
    input  logic [8:0]          compute_weight,
    input  logic [COLUMNS-1:0]  compute_bias,
    input  logic                post_record,
    input  logic [COLUMNS-1:0]  post_table,
    input  logic [COLUMNS-1:0]  compute_sum,
    input  logic [COLUMNS-1:0]  post_sum,
    input  logic [COLUMNS-1:0]  write_sum,
    input  logic [17:0]         macs,
    output logic [13*64-1:0]    totals
);
    import accelsim_pkg::*;

    function automatic logic [63:0] ones(input logic [255:0] bits);
        ones = 64'd0;
        for (int i = 0; i < 256; i++) if (bits[i]) ones = ones + 64'd1;
    endfunction

    wire [63:0] loaded = ones(load_mask);
    wire [63:0] now [13];  // in the order of accelsim.rtl.simulation.COUNTERS
    assign now[0] = ones(compute_activation) + ones(post_activation) + {55'd0, store_bytes};  // read.activation
    assign now[1] = ones(post_write) + (load_memory == MEMORY_ACTIVATION ? loaded : 64'd0);   // write.activation
    assign now[2] = {55'd0, compute_weight};                                                  // read.weight
    assign now[3] = load_memory == MEMORY_WEIGHT ? loaded : 64'd0;                            // write.weight
    assign now[4] = 64'd4 * ones(compute_bias) + (post_record ? 64'd16 : 64'd0);              // read.parameter
    assign now[5] = load_memory == MEMORY_PARAMETER ? loaded : 64'd0;                         // write.parameter
    assign now[6] = ones(post_table);                                                         // read.table
    assign now[7] = load_memory == MEMORY_TABLE ? loaded : 64'd0;                             // write.table
    assign now[8] = ones(compute_sum) + ones(post_sum);                                       // read.accumulator
    assign now[9] = ones(write_sum);                                                          // write.accumulator
    assign now[10] = loaded;                                                                  // dram.read
    assign now[11] = {55'd0, store_bytes};                                                    // dram.write
    assign now[12] = {46'd0, macs};                                                           // mul

    for (genvar n = 0; n < 13; n++) begin : total
        logic [63:0] value;
        always_ff @(posedge clk)
            if (rst) value <= 64'd0;
            else value <= value + now[n];
        assign totals[64*n +: 64] = value;
    end
endmodule
