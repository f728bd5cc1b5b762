"""Synthesizable SystemVerilog of the machine (docs/rtl.md), and its simulation driver."""
