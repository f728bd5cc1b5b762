// The accelerator (docs/microarchitecture.md, section 1): four units, their memories and the tokens between them.
//
// Instructions come from four streams, each a unit's queue: `*_valid` and `*_instruction` show its head, `*_take`
// removes it. DRAM has a read channel (a beat is asked for, and comes back in order after the DRAM's latency) and a
// write channel (a beat is offered until the DRAM is ready). `modes` are bytes 16..23 of program.bin.
// `*_issue`, `*_done` and `*_stalled` show what the units do in each cycle; `totals` are operation counters.
module accelerator
    import accelsim_config::*;
    import accelsim_pkg::*;
(
    input  logic              clk,
    input  logic              rst,
    input  logic [63:0]       modes,
    input  logic [511:0]      load_instruction,
    input  logic              load_valid,
    output logic              load_take,
    input  logic [511:0]      compute_instruction,
    input  logic              compute_valid,
    output logic              compute_take,
    input  logic [511:0]      post_instruction,
    input  logic              post_valid,
    output logic              post_take,
    input  logic [511:0]      store_instruction,
    input  logic              store_valid,
    output logic              store_take,
    output logic              dram_read_request,
    output logic [31:0]       dram_read_address,
    output logic [8:0]        dram_read_size,
    input  logic              dram_read_accept,
    input  logic              dram_read_valid,
    input  logic [BUS*8-1:0]  dram_read_data,
    output logic              dram_write_request,
    output logic              dram_write_last,
    output logic [31:0]       dram_write_address,
    output logic [8:0]        dram_write_size,
    output logic [BUS*8-1:0]  dram_write_data,
    input  logic              dram_write_ready,
    output logic [3:0]        issue,
    output logic [3:0]        done,
    output logic [15:0]       stalled,      // unit u's four bits, one for each unit waited for, from bit 4 u on
    output logic [13*64-1:0]  totals
);
    // --- tokens (section 3) -------------------------------------------------------------------------------------

    wire [3:0] given [4], taken [4], from [4];
    wire [15:0] give, take, available;
    tokens token_counters (.clk, .rst, .give, .take, .available);
    for (genvar u = 0; u < 4; u++) begin : unit
        for (genvar v = 0; v < 4; v++) begin : pair
            assign give[4*u+v] = given[u][v];
            assign take[4*v+u] = taken[u][v];
            assign from[u][v] = available[4*v+u];
        end
    end

    // --- memories (section 2) -----------------------------------------------------------------------------------

    wire [23:0] compute_activation_address, post_activation_address, store_activation_address;
    wire [3*BANKS*8-1:0] activation_data;
    wire [ROWS-1:0] compute_activation_mask;
    wire [COLUMNS-1:0] post_activation_mask, post_write_mask;
    wire [23:0] post_write_address, load_address;
    wire [COLUMNS*8-1:0] post_write_data;
    wire [BUS-1:0] load_mask;
    wire [BUS*8-1:0] load_data;
    wire [1:0] load_memory;

    wire [BANKS-1:0] post_bank_mask = {{BANKS{1'b0}}, post_write_mask};
    wire [BANKS*8-1:0] post_bank_data = {{BANKS*8{1'b0}}, post_write_data};
    wire [BANKS-1:0] load_bank_mask = {{BANKS{1'b0}}, load_mask};
    wire [BANKS-1:0] to_activation = load_memory == MEMORY_ACTIVATION ? load_bank_mask : '0;
    wire [BANKS-1:0] to_weight = load_memory == MEMORY_WEIGHT ? load_bank_mask : '0;
    wire [BUS-1:0] to_parameter = load_memory == MEMORY_PARAMETER ? load_mask : '0;
    wire [BUS-1:0] to_table = load_memory == MEMORY_TABLE ? load_mask : '0;
    wire [BANKS*8-1:0] load_bank_data = {{BANKS*8{1'b0}}, load_data};

    byte_memory #(.BANKS(BANKS), .BYTES(ACTIVATION_BYTES), .READS(3), .WRITES(2)) activation_buffer (
        .clk, .read_address({store_activation_address, post_activation_address, compute_activation_address}),
        .read_data(activation_data), .write_address({load_address, post_write_address}),
        .write_mask({to_activation, post_bank_mask}),
        .write_data({load_bank_data, post_bank_data})
    );

    wire [23:0] weight_address;
    wire [8:0] weight_bytes;
    wire [BANKS*8-1:0] weight_data;
    byte_memory #(.BANKS(BANKS), .BYTES(WEIGHT_BYTES), .READS(1), .WRITES(1)) weight_buffer (
        .clk, .read_address(weight_address), .read_data(weight_data), .write_address(load_address),
        .write_mask(to_weight), .write_data(load_bank_data)
    );

    wire [19:0] post_record, bias_record;
    wire record_read;
    wire [127:0] record_data;
    wire [COLUMNS-1:0] bias_lanes;
    wire [COLUMNS*32-1:0] bias_data;
    parameter_buffer #(.BYTES(PARAMETER_BYTES), .COLUMNS(COLUMNS), .BUS(BUS)) parameters (
        .clk, .write_address(load_address),
        .write_mask(to_parameter), .write_data(load_data),
        .post_record, .post_data(record_data), .bias_record, .bias_data
    );

    wire [COLUMNS*16-1:0] table_address;
    wire [COLUMNS-1:0] table_lanes;
    wire [COLUMNS*8-1:0] table_data;
    table_memory #(.BYTES(TABLE_BYTES), .COLUMNS(COLUMNS), .BUS(BUS)) tables (
        .clk, .write_address(load_address), .write_mask(to_table),
        .write_data(load_data), .read_address(table_address), .read_data(table_data)
    );

    wire [23:0] compute_sum_address, post_sum_address, sum_write_address;
    wire [COLUMNS*WIDTH-1:0] compute_sum_data, post_sum_data, sum_write_data;
    wire [COLUMNS-1:0] compute_sum_lanes, post_sum_lanes, sum_write_mask;
    accumulator_memory #(.COLUMNS(COLUMNS), .WIDTH(WIDTH), .DEPTH(DEPTH)) accumulators (
        .clk, .compute_address(compute_sum_address), .compute_data(compute_sum_data),
        .post_address(post_sum_address), .post_data(post_sum_data),
        .write_address(sum_write_address), .write_mask(sum_write_mask), .write_data(sum_write_data)
    );

    // --- units (section 4) --------------------------------------------------------------------------------------

    load_unit load (
        .clk, .rst, .instruction(load_instruction), .valid(load_valid), .take(load_take),
        .available(from[LOAD]), .taken(taken[LOAD]), .given(given[LOAD]), .stalled(stalled[4*LOAD +: 4]),
        .issue(issue[LOAD]), .done(done[LOAD]),
        .read_request(dram_read_request), .read_address(dram_read_address), .read_size(dram_read_size),
        .read_accept(dram_read_accept), .read_valid(dram_read_valid), .read_data(dram_read_data),
        .write_memory(load_memory), .write_address(load_address), .write_mask(load_mask), .write_data(load_data)
    );

    wire [17:0] macs;
    compute_unit compute (
        .clk, .rst, .subtract(modes[16]), .instruction(compute_instruction), .valid(compute_valid),
        .take(compute_take), .available(from[COMPUTE]), .taken(taken[COMPUTE]), .given(given[COMPUTE]),
        .stalled(stalled[4*COMPUTE +: 4]), .issue(issue[COMPUTE]), .done(done[COMPUTE]),
        .activation_address(compute_activation_address), .activation_mask(compute_activation_mask),
        .activation_data(activation_data[0 +: ROWS*8]),
        .weight_address, .weight_bytes, .weight_data(weight_data[0 +: COLUMNS*8]),
        .bias_record, .bias_lanes, .bias_data,
        .accumulator_address(compute_sum_address), .accumulator_lanes(compute_sum_lanes),
        .accumulator_data(compute_sum_data),
        .write_address(sum_write_address), .write_mask(sum_write_mask), .write_data(sum_write_data), .macs
    );

    post_unit post (
        .clk, .rst, .modes, .instruction(post_instruction), .valid(post_valid), .take(post_take),
        .available(from[POST]), .taken(taken[POST]), .given(given[POST]), .stalled(stalled[4*POST +: 4]),
        .issue(issue[POST]), .done(done[POST]),
        .record_read, .record(post_record), .record_data,
        .accumulator_address(post_sum_address), .accumulator_lanes(post_sum_lanes), .accumulator_data(post_sum_data),
        .activation_address(post_activation_address), .activation_mask(post_activation_mask),
        .activation_data(activation_data[BANKS*8 +: COLUMNS*8]),
        .table_address, .table_lanes, .table_data,
        .write_address(post_write_address), .write_mask(post_write_mask), .write_data(post_write_data)
    );

    store_unit store (
        .clk, .rst, .instruction(store_instruction), .valid(store_valid), .take(store_take),
        .available(from[STORE]), .taken(taken[STORE]), .given(given[STORE]), .stalled(stalled[4*STORE +: 4]),
        .issue(issue[STORE]), .done(done[STORE]),
        .buffer_address(store_activation_address), .buffer_data(activation_data[2*BANKS*8 +: BUS*8]),
        .write_request(dram_write_request), .write_last(dram_write_last), .write_address(dram_write_address),
        .write_size(dram_write_size), .write_data(dram_write_data), .write_ready(dram_write_ready)
    );

    wire store_moves = dram_write_request && dram_write_ready;
    wire [8:0] store_bytes = store_moves ? dram_write_size : 9'd0;
    counters count (
        .clk, .rst, .compute_activation(compute_activation_mask), .post_activation(post_activation_mask),
        .store_bytes, .post_write(post_write_mask), .load_mask, .load_memory,
        .compute_weight(weight_bytes), .compute_bias(bias_lanes), .post_record(record_read), .post_table(table_lanes),
        .compute_sum(compute_sum_lanes), .post_sum(post_sum_lanes), .write_sum(sum_write_mask), .macs, .totals
    );
endmodule
