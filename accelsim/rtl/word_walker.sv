// Words of a COMPUTE or POST in the order image, y, x (docs/microarchitecture.md, sections 5.2 and 5.3, "Loops").
//
// Keeps offsets of the source and of the destination address, and the parts of the masks' positions that words decide.
// A mark lets an output-stationary tile walk its words once for every piece.
module word_walker (
    input  logic                clk,
    input  logic                rst,
    input  logic [7:0]          images,
    input  logic [15:0]         y_count,
    input  logic [15:0]         x_count,
    input  logic [23:0]         image_step,      // two's complement, as all steps
    input  logic [23:0]         y_step,
    input  logic [23:0]         x_step,
    input  logic [7:0]          stride_y,
    input  logic [23:0]         to_image_step,   // of the destination
    input  logic [23:0]         to_y_step,
    input  logic [23:0]         to_x_step,
    input  logic                advance,
    input  logic                clear,           // to the first word, which is marked too
    input  logic                restore,         // to the marked word
    input  logic                mark,            // marks the word that comes next
    output logic [23:0]         offset,          // image * image_step + y * y_step + x * x_step
    output logic [23:0]         to_offset,
    output logic signed [41:0]  position,        // x * x_step
    output logic signed [25:0]  line,            // y * stride_y
    output logic                last
);
    // The state of a walk: counters and the offsets that belong to them.
    localparam int STATE = 8 + 16 + 16 + 3 * 24 + 3 * 24 + 42 + 26;
    logic [STATE-1:0] now, marked;
    wire [STATE-1:0] next;

    wire [7:0] image, next_image;
    wire [15:0] y, x, next_y, next_x;
    wire [23:0] of_image, of_y, of_x, to_image, to_y, to_x;
    wire [23:0] next_of_image, next_of_y, next_of_x, next_to_image, next_to_y, next_to_x;
    wire signed [41:0] next_position;
    wire signed [25:0] next_line;

    assign {image, y, x, of_image, of_y, of_x, to_image, to_y, to_x, position, line} = now;
    assign next = {
        next_image, next_y, next_x, next_of_image, next_of_y, next_of_x, next_to_image, next_to_y, next_to_x,
        next_position, next_line
    };

    wire x_ends = x == x_count - 16'd1;
    wire y_ends = y == y_count - 16'd1;
    wire image_ends = image == images - 8'd1;
    wire signed [41:0] wide_step = {{18{x_step[23]}}, x_step};

    assign next_x = x_ends ? 16'd0 : x + 16'd1;
    assign next_of_x = x_ends ? 24'd0 : of_x + x_step;
    assign next_to_x = x_ends ? 24'd0 : to_x + to_x_step;
    assign next_position = x_ends ? 42'sd0 : position + wide_step;
    assign next_y = !x_ends ? y : y_ends ? 16'd0 : y + 16'd1;
    assign next_of_y = !x_ends ? of_y : y_ends ? 24'd0 : of_y + y_step;
    assign next_to_y = !x_ends ? to_y : y_ends ? 24'd0 : to_y + to_y_step;
    assign next_line = !x_ends ? line : y_ends ? 26'sd0 : line + $signed({18'd0, stride_y});
    assign next_image = !(x_ends && y_ends) ? image : image_ends ? 8'd0 : image + 8'd1;
    assign next_of_image = !(x_ends && y_ends) ? of_image : image_ends ? 24'd0 : of_image + image_step;
    assign next_to_image = !(x_ends && y_ends) ? to_image : image_ends ? 24'd0 : to_image + to_image_step;

    assign offset = of_image + of_y + of_x;
    assign to_offset = to_image + to_y + to_x;
    assign last = x_ends && y_ends && image_ends;

    always_ff @(posedge clk)
        if (rst || clear) begin
            now <= '0;
            marked <= '0;
        end else begin
            if (restore) now <= marked;
            else if (advance) now <= next;
            if (mark) marked <= advance ? next : now;
        end
endmodule
