// Codes that instructions and mode registers carry (docs/microarchitecture.md, section 5; docs/formats.md,
// section 1.1).
package accelsim_pkg;
    // Units: bit u of a wait or signal mask names unit u (section 3).
    localparam int LOAD = 0;
    localparam int COMPUTE = 1;
    localparam int POST = 2;
    localparam int STORE = 3;

    // LOAD's memories (section 5.1).
    localparam logic [1:0] MEMORY_ACTIVATION = 2'd0;
    localparam logic [1:0] MEMORY_WEIGHT = 2'd1;
    localparam logic [1:0] MEMORY_PARAMETER = 2'd2;
    localparam logic [1:0] MEMORY_TABLE = 2'd3;

    // COMPUTE's start values (section 5.2).
    localparam logic [1:0] START_ZERO = 2'd0;
    localparam logic [1:0] START_ACCUMULATE = 2'd1;
    localparam logic [1:0] START_BIAS = 2'd2;

    // POST's window reductions (section 5.3).
    localparam logic [1:0] REDUCE_NONE = 2'd0;
    localparam logic [1:0] REDUCE_MAX = 2'd1;
    localparam logic [1:0] REDUCE_SUM = 2'd2;

    // Roundings, byte 4 of the modes.
    localparam logic [2:0] FLOOR = 3'd0;
    localparam logic [2:0] HALF_UP = 3'd1;
    localparam logic [2:0] HALF_EVEN = 3'd2;
    localparam logic [2:0] HALF_AWAY = 3'd3;
    localparam logic [2:0] TOWARD_ZERO = 3'd4;
    localparam logic [2:0] TFLITE_DOUBLE = 3'd5;

    // Schemes, byte 3 of the modes; others are refused before a program reaches the RTL.
    localparam logic [7:0] SCHEME_POWER_OF_TWO = 8'd1;
endpackage
