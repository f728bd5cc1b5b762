// One lane of POST's datapath (docs/microarchitecture.md, section 6): the five cycles of D_post. `stage` k is set in
// the k-th cycle after a word's last source read.
module post_lane
    import accelsim_config::*;
    import accelsim_pkg::*;
(
    input  logic                     clk,
    input  logic                     rst,
    input  logic [63:0]              modes,
    // Fields of the instruction.
    input  logic                     from_activation,
    input  logic [1:0]               reduce,
    input  logic                     act_unsigned,
    input  logic                     count_padding,
    input  logic                     residual_on,
    input  logic                     table_on,
    input  logic [15:0]              window,
    input  logic [7:0]               z_src,
    input  logic [7:0]               z_residual,
    input  logic [7:0]               z_dst,
    input  logic [7:0]               qmin,
    input  logic [7:0]               qmax,
    // A source read.
    input  logic                     reads,
    input  logic                     first_read,     // of its window
    input  logic                     is_inside,
    input  logic [7:0]               code,
    input  logic signed [WIDTH-1:0]  sum,
    input  logic                     residual_reads,
    input  logic [7:0]               residual_code,
    // Records, needed in stage 2.
    input  logic signed [31:0]       bias,
    input  logic signed [7:0]        shift,
    input  logic [31:0]              multiplier,
    input  logic signed [7:0]        residual_shift,
    input  logic [31:0]              residual_multiplier,
    input  logic [5:1]               stage,
    output logic [7:0]               entry,          // of the table, in stage 5
    input  logic [7:0]               looked_up,
    output logic [7:0]               result          // in stage 5
);
    localparam int REDUCED = WIDTH > 26 ? WIDTH : 26;
    localparam int VALUE = (WIDTH > 32 ? WIDTH : 32) + 1;
    localparam int PRODUCT = VALUE + 33;
    localparam int RESULT = PRODUCT + 32;

    wire is_signed = modes[8];
    wire wraps = modes[57];

    // --- the read: source, less its zero point, into the window ---------------------------------------------------

    wire signed [9:0] centred = $signed({2'b00, code}) - $signed({2'b00, z_src});
    wire signed [9:0] centred_signed = $signed({{2{code[7]}}, code}) - $signed({{2{z_src[7]}}, z_src});
    wire signed [9:0] difference = act_unsigned ? centred : centred_signed;
    wire signed [REDUCED-1:0] outside = reduce == REDUCE_MAX ? -26'sd65536 : 26'sd0;
    wire signed [REDUCED-1:0] from_buffer = difference;
    wire signed [REDUCED-1:0] from_memory = sum;
    wire signed [REDUCED-1:0] word = !from_activation ? from_memory : is_inside ? from_buffer : outside;

    logic signed [REDUCED-1:0] window_value;
    logic [15:0] count;
    logic signed [8:0] residual;
    wire signed [REDUCED-1:0] so_far = reduce == REDUCE_MAX && window_value > word ? window_value
        : reduce == REDUCE_SUM ? window_value + word : word;

    wire [8:0] residual_byte = {!act_unsigned && residual_code[7], residual_code};
    wire [8:0] residual_zero = {!act_unsigned && z_residual[7], z_residual};

    // --- stage 1: reduce ------------------------------------------------------------------------------------------

    // An exact quotient of magnitudes, rounded once with the pool rounding.
    wire negative = window_value[REDUCED-1];
    wire [25:0] magnitude = negative ? -window_value[25:0] : window_value[25:0];
    wire [25:0] divisor = count_padding ? {10'd0, window} : count == 16'd0 ? 26'd1 : {10'd0, count};
    wire [25:0] quotient = magnitude / divisor;
    wire [25:0] remainder = magnitude % divisor;
    wire [26:0] twice = {remainder, 1'b0};
    wire tie = twice == {1'b0, divisor};
    wire more = twice > {1'b0, divisor};
    wire [2:0] rounding = modes[34:32];
    wire away =
        rounding == FLOOR ? negative && remainder != 26'd0 :
        rounding == HALF_UP ? more || (tie && !negative) :
        rounding == HALF_EVEN ? more || (tie && quotient[0]) :
        rounding == TOWARD_ZERO ? 1'b0 : more || tie;
    wire [25:0] rounded = quotient + {25'd0, away};
    wire signed [REDUCED-1:0] mean = $signed(negative ? -rounded : rounded);

    logic signed [REDUCED-1:0] value;
    logic signed [8:0] residual_value;

    // --- stage 2: bias and multiply -------------------------------------------------------------------------------

    wire signed [VALUE-1:0] biased = value + bias;
    wire signed [PRODUCT-1:0] product_now, residual_product_now;
    wire signed [8:0] amount_now, residual_amount_now;
    requantize_multiply #(.VALUE(VALUE), .PRODUCT(PRODUCT)) multiply (
        .modes, .value(biased), .multiplier, .shift, .product(product_now), .amount(amount_now)
    );
    wire signed [VALUE-1:0] residual_wide = residual_value;
    requantize_multiply #(.VALUE(VALUE), .PRODUCT(PRODUCT)) residual_multiply (
        .modes, .value(residual_wide), .multiplier(residual_multiplier), .shift(residual_shift),
        .product(residual_product_now), .amount(residual_amount_now)
    );
    logic signed [PRODUCT-1:0] product, residual_product;
    logic signed [8:0] amount, residual_amount;

    // --- stage 3: shift and residual ------------------------------------------------------------------------------

    wire signed [RESULT-1:0] scaled, residual_scaled;
    requantize_shift #(.PRODUCT(PRODUCT), .RESULT(RESULT)) shift_product (
        .modes, .product, .amount, .result(scaled)
    );
    requantize_shift #(.PRODUCT(PRODUCT), .RESULT(RESULT)) shift_residual (
        .modes, .product(residual_product), .amount(residual_amount), .result(residual_scaled)
    );
    wire signed [RESULT:0] total_now = residual_on ? scaled + residual_scaled : scaled;
    logic signed [RESULT:0] total;

    // --- stage 4: zero point and clip -----------------------------------------------------------------------------

    wire [3:0] bits = modes[3:0];
    wire signed [9:0] smallest = is_signed ? -(10'sd1 <<< (bits - 4'd1)) : 10'sd0;
    wire signed [9:0] largest = is_signed ? (10'sd1 <<< (bits - 4'd1)) - 10'sd1 : (10'sd1 <<< bits) - 10'sd1;
    wire signed [9:0] low = $signed({{2{!act_unsigned && qmin[7]}}, qmin});
    wire signed [9:0] high = $signed({{2{!act_unsigned && qmax[7]}}, qmax});
    wire signed [9:0] zero = $signed({{2{!act_unsigned && z_dst[7]}}, z_dst});
    wire signed [RESULT+1:0] exact = total + zero;
    // Where output overflow wraps, only limits of the activation's own apply; then the format's low bits are kept.
    wire cut_low = exact < low && (!wraps || low > smallest);
    wire cut_high = exact > high && (!wraps || high < largest);
    wire [7:0] clipped = cut_low ? low[7:0] : cut_high ? high[7:0] : exact[7:0];
    wire [7:0] mask = 8'hFF >> (4'd8 - bits);
    wire format_sign = is_signed && clipped[bits - 4'd1];
    wire [7:0] kept = format_sign ? clipped | ~mask : clipped & mask;
    logic [7:0] output_code;

    // --- stage 5: table and write ---------------------------------------------------------------------------------

    assign entry = output_code - smallest[7:0];
    assign result = table_on ? looked_up : output_code;

    always_ff @(posedge clk)
        if (rst) begin
            window_value <= '0;
            count <= 16'd0;
            residual <= 9'sd0;
            value <= '0;
            residual_value <= 9'sd0;
            product <= '0;
            residual_product <= '0;
            amount <= 9'sd0;
            residual_amount <= 9'sd0;
            total <= '0;
            output_code <= 8'd0;
        end else begin
            if (reads) begin
                window_value <= first_read ? word : so_far;
                count <= (first_read ? 16'd0 : count) + {15'd0, is_inside};
            end
            if (residual_reads) residual <= residual_byte - residual_zero;
            if (stage[1]) begin
                value <= reduce == REDUCE_SUM ? mean : window_value;
                residual_value <= residual;
            end
            if (stage[2]) begin
                product <= product_now;
                amount <= amount_now;
                residual_product <= residual_product_now;
                residual_amount <= residual_amount_now;
            end
            if (stage[3]) total <= total_now;
            if (stage[4]) output_code <= kept;
        end
endmodule
