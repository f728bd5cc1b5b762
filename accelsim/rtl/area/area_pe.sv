// A weight-stationary PE reduced to what decides its area: int8 operands of 9 bits (zero points taken off), a shadow of
// the weight, one multiplier, one saturating adder of PSUM bits. Measured by benchmarks/area_curve.py.
module area_pe #(parameter PSUM = 32) (
    input  wire                     clk,
    input  wire                     live,         // a word is here in this cycle
    input  wire                     first,        // and it switches the shadow's weight in
    input  wire                     shadow_load,
    input  wire signed [8:0]        shadow_in,
    input  wire signed [8:0]        activation_in,
    input  wire signed [PSUM-1:0]   psum_in,
    output reg  signed [8:0]        activation,
    output reg  signed [PSUM-1:0]   psum
);
    localparam EXACT = (PSUM > 18 ? PSUM : 18) + 1;  // holds partial sum + product
    reg signed [8:0] weight, shadow;
    wire signed [8:0] used = first ? shadow : weight;
    wire signed [17:0] product = activation_in * used;
    wire signed [EXACT-1:0] exact = psum_in + product;
    // It fits where all bits from the sign of PSUM bits up are equal.
    wire fits = &exact[EXACT-1:PSUM-1] || !(|exact[EXACT-1:PSUM-1]);
    wire [PSUM-1:0] limit = {exact[EXACT-1], {(PSUM-1){!exact[EXACT-1]}}};

    always @(posedge clk) begin
        if (shadow_load) shadow <= shadow_in;
        if (live) begin
            activation <= activation_in;
            weight <= used;
            psum <= fits ? exact[PSUM-1:0] : limit;
        end
    end
endmodule
