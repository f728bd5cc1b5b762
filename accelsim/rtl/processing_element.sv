// PE(i, j) (docs/microarchitecture.md, sections 4.2 and 4.3): one multiplier, one fitted addition, in either dataflow.
//
// Weight-stationary: the weight stays, the partial sum comes from above and goes down. Output-stationary: the weight
// comes from above, the sum stays until the tile's last wave hands it to the drain register.
module processing_element #(
    parameter int PSUM = 32,
    parameter int HOP_BITS = 3,
    parameter bit WRAP = 0
) (
    input  logic                    clk,
    input  logic                    rst,
    input  logic                    output_stationary,
    // The wave that is here in this cycle.
    input  logic                    live,
    input  logic                    first,         // a tile begins: ws, switch to the shadow; os, start a new sum
    input  logic                    last,          // os: the tile ends
    input  logic                    preloaded,     // os: the tile's sums start from preloaded values
    input  logic [PSUM-1:0]         limit,         // the largest partial sum
    // Operands.
    input  logic signed [8:0]       activation_in,
    output logic signed [8:0]       activation,
    input  logic signed [8:0]       weight_in,     // os: from above
    output logic signed [8:0]       weight,
    input  logic                    shadow_load,   // ws
    input  logic signed [8:0]       shadow_in,
    // Sums.
    input  logic signed [PSUM-1:0]  psum_in,       // ws: from above
    output logic signed [PSUM-1:0]  psum,
    // os: a start value and the rows it still has to go down.
    input  logic                    preload_comes,
    input  logic [HOP_BITS-1:0]     hops_in,
    input  logic signed [PSUM-1:0]  preload_in,
    output logic [HOP_BITS-1:0]     hops,
    output logic signed [PSUM-1:0]  preload,
    // os: the drain chain.
    input  logic                    release_column,  // the bottom PE has just given its sum
    input  logic                    drain_comes,
    input  logic signed [PSUM-1:0]  drain_in,
    output logic                    drain_goes,
    output logic signed [PSUM-1:0]  drain
);
    localparam int EXACT = (PSUM > 18 ? PSUM : 18) + 1;  // holds any sum of partial sum and product

    logic signed [8:0] shadow;
    logic drain_moves;  // what the drain register holds is on its way

    wire signed [8:0] used = output_stationary ? weight_in : first ? shadow : weight;
    wire signed [17:0] product = activation_in * used;
    wire signed [PSUM-1:0] start = preloaded ? preload : '0;
    wire signed [PSUM-1:0] added_to = !output_stationary ? psum_in : first ? start : psum;
    wire signed [EXACT-1:0] exact = added_to + product;
    wire signed [PSUM-1:0] sum;

    fit #(.IN(EXACT), .OUT(PSUM), .WRAP(WRAP)) fit_sum (.exact, .limit, .fitted(sum));

    assign drain_goes = drain_moves || release_column;

    always_ff @(posedge clk)
        if (rst) begin
            activation <= 9'sd0;
            weight <= 9'sd0;
            shadow <= 9'sd0;
            psum <= '0;
            hops <= '0;
            preload <= '0;
            drain <= '0;
            drain_moves <= 1'b0;
        end else begin
            if (live) begin
                activation <= activation_in;
                weight <= used;
                psum <= sum;
            end
            if (shadow_load) shadow <= shadow_in;
            hops <= preload_comes ? hops_in : '0;
            if (preload_comes) preload <= preload_in;
            if (last) drain <= live ? sum : psum;
            else if (drain_comes) drain <= drain_in;
            drain_moves <= drain_comes;
        end
endmodule
