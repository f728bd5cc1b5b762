"""Instruction set: fields, binary encoding, assembler text, programs and their static check."""

from accelsim.isa.check import MAX_TOKENS, Order, check_program
from accelsim.isa.encoding import assemble, decode, decode_all, encode, encode_all, from_text, to_text
from accelsim.isa.instructions import (
    INSTRUCTION_BYTES,
    Compute,
    Instruction,
    Load,
    Memory,
    Post,
    Reduce,
    Source,
    Start,
    Store,
    Unit,
)
from accelsim.isa.modes import Modes
from accelsim.isa.packing import pack_records, pack_rows, unpack_records, unpack_rows
from accelsim.isa.program import Layer, Layout, Piece, Program, TensorRegion, load_program
from accelsim.isa.walker import Window, accesses, accumulator_words, destination_offsets, window_of

__all__ = [
    "INSTRUCTION_BYTES",
    "MAX_TOKENS",
    "Compute",
    "Instruction",
    "Layer",
    "Layout",
    "Load",
    "Memory",
    "Modes",
    "Order",
    "Piece",
    "Post",
    "Program",
    "Reduce",
    "Source",
    "Start",
    "Store",
    "TensorRegion",
    "Unit",
    "Window",
    "accesses",
    "accumulator_words",
    "assemble",
    "check_program",
    "decode",
    "decode_all",
    "destination_offsets",
    "encode",
    "encode_all",
    "from_text",
    "load_program",
    "pack_records",
    "pack_rows",
    "to_text",
    "unpack_records",
    "unpack_rows",
    "window_of",
]
