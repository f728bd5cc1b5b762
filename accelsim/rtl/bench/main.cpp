// The clock around the Verilated bench: two evaluations a cycle until the bench calls $finish.
#include <memory>

#include "Vbench.h"
#include "verilated.h"

int main(int argc, char** argv) {
    const auto context = std::make_unique<VerilatedContext>();
    context->commandArgs(argc, argv);
    const auto bench = std::make_unique<Vbench>(context.get());
    bench->clk = 0;
    while (!context->gotFinish()) {
        bench->eval();
        bench->clk = !bench->clk;
    }
    bench->final();
    return 0;
}
