// The clock where the simulator has no C++ around it (Icarus Verilog).
module clock;
    logic clk;
    bench the_bench (.clk);
    initial begin
        clk = 1'b0;
        forever #1 clk = !clk;
    end
endmodule
