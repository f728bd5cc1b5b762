// A unit's issue (docs/microarchitecture.md, sections 3 and 4, "Stalls"): in the first cycle in which the unit is ready
// for its next instruction and every token it waits for is there. Until then a stalled cycle counts for the first unit,
// in the order LOAD, COMPUTE, POST, STORE, whose token is missing.
module token_gate (
    input  logic        ready,      // but for tokens, the instruction at the head could issue
    input  logic [3:0]  wait_mask,
    input  logic [3:0]  available,  // tokens from each unit
    output logic        issue,
    output logic [3:0]  taken,
    output logic [3:0]  stalled
);
    wire [3:0] missing = wait_mask & ~available;

    assign issue = ready && missing == 4'd0;
    assign taken = issue ? wait_mask : 4'd0;
    assign stalled = ready ? missing & (~missing + 4'd1) : 4'd0;
endmodule
