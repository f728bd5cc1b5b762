// Taps of a COMPUTE or POST in the order r, s, chunk (docs/microarchitecture.md, sections 4.2, 5.2 and 5.3).
//
// A chunk is a piece of at most ROWS positions of a run; POST has runs of one chunk. Keeps the offset of the source
// address, and the parts of the masks' positions that taps decide.
module tap_walker #(
    parameter int ROWS = 4
) (
    input  logic                clk,
    input  logic                rst,
    input  logic [7:0]          r_count,
    input  logic [7:0]          s_count,
    input  logic [23:0]         run_bytes,
    input  logic [23:0]         r_step,       // two's complement, as all steps
    input  logic [23:0]         s_step,
    input  logic [7:0]          dilation_y,
    input  logic                advance,
    input  logic                clear,        // to the first tap
    output logic [23:0]         offset,       // r * r_step + s * s_step + R * chunk
    output logic signed [41:0]  position,     // s * s_step + R * chunk
    output logic signed [25:0]  line,         // r * dilation_y
    output logic [8:0]          length,       // positions of this chunk, 1..ROWS
    output logic                first,
    output logic                last
);
    logic [7:0] r, s;
    logic [23:0] of_r, of_s, cut;
    logic signed [41:0] wide_s;

    wire [23:0] left = run_bytes - cut;
    wire run_ends = left <= ROWS;
    wire s_ends = s == s_count - 8'd1;
    wire r_ends = r == r_count - 8'd1;

    assign length = run_ends ? left[8:0] : ROWS;
    assign offset = of_r + of_s + cut;
    assign position = wide_s + $signed({18'd0, cut});
    assign first = r == 8'd0 && s == 8'd0 && cut == 24'd0;
    assign last = run_ends && s_ends && r_ends;

    always_ff @(posedge clk)
        if (rst || clear) begin
            r <= 8'd0;
            s <= 8'd0;
            of_r <= 24'd0;
            of_s <= 24'd0;
            cut <= 24'd0;
            wide_s <= 42'sd0;
            line <= 26'sd0;
        end else if (advance) begin
            cut <= run_ends ? 24'd0 : cut + ROWS;
            if (run_ends) begin
                s <= s_ends ? 8'd0 : s + 8'd1;
                of_s <= s_ends ? 24'd0 : of_s + s_step;
                wide_s <= s_ends ? 42'sd0 : wide_s + $signed({{18{s_step[23]}}, s_step});
                if (s_ends) begin
                    r <= r_ends ? 8'd0 : r + 8'd1;
                    of_r <= r_ends ? 24'd0 : of_r + r_step;
                    line <= r_ends ? 26'sd0 : line + $signed({18'd0, dilation_y});
                end
            end
        end
endmodule
