// One side of a LOAD or STORE (docs/microarchitecture.md, sections 4.1 and 5.1): rows of bytes, each cut from its start
// into beats of at most BUS bytes.
module transfer_walker #(
    parameter int BUS = 4
) (
    input  logic         clk,
    input  logic         rst,
    input  logic [31:0]  base,
    input  logic [31:0]  step,       // two's complement, from one row to the next
    input  logic [23:0]  row_bytes,
    input  logic [15:0]  rows,
    input  logic         advance,    // this beat moves
    input  logic         clear,      // the transfer is done
    output logic [31:0]  address,
    output logic [8:0]   size,       // bytes of this beat
    output logic         last
);
    logic [15:0] row;
    logic [31:0] row_offset;
    logic [23:0] position;

    wire [23:0] left = row_bytes - position;
    wire row_ends = left <= BUS;

    assign address = base + row_offset + {8'd0, position};
    assign size = row_ends ? left[8:0] : BUS;
    assign last = row_ends && row == rows - 16'd1;

    always_ff @(posedge clk)
        if (rst || clear) begin
            row <= 16'd0;
            row_offset <= 32'd0;
            position <= 24'd0;
        end else if (advance) begin
            position <= row_ends ? 24'd0 : position + BUS;
            if (row_ends) begin
                row <= row + 16'd1;
                row_offset <= row_offset + step;
            end
        end
endmodule
