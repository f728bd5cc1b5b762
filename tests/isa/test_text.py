"""Assembler text: what `disasm` prints assembles to the same instructions, and each mistake is named."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accelsim.errors import InputError
from accelsim.isa import Compute, Instruction, Load, Post, Store, assemble, from_text, to_text
from accelsim.isa.instructions import Kind


@st.composite
def instructions(draw: st.DrawFn) -> Instruction:
    kind = draw(st.sampled_from([Load, Store, Compute, Post]))
    values: dict[str, int] = {}
    signs: dict[str, bool] = {}
    for field in sorted(kind.LAYOUT, key=lambda f: f.kind in (Kind.ACTIVATION, Kind.WEIGHT)):
        low, high = field.limits(**signs)
        value = draw(st.sampled_from([low, high]) | st.integers(low, high))
        values[field.name] = value & ~(1 << kind.UNIT) if field.name in ("wait", "signal") else value
        if field.name in ("act_unsigned", "weight_unsigned"):
            signs[field.name] = bool(value)
    return kind(**values)


@given(instructions())
def test_text_round_trips(instruction):
    text = to_text(instruction)
    assert "\n" not in text
    assert from_text(text) == instruction


@given(st.lists(instructions(), max_size=4))
def test_a_listing_with_comments_and_blank_lines_assembles_to_the_same_program(program):
    listing = "".join(f"  {to_text(i)}  # {n} layer\n\n# a comment\n" for n, i in enumerate(program))
    assert assemble(listing) == tuple(program)


def test_masks_and_codes_are_written_by_name_and_defaults_are_left_out():
    post = Post(wait=0b1010, lanes=4, src_base=0, dst_base=8, param=0, qmin=-128, qmax=127, reduce=1, source=1)
    assert to_text(post) == (
        "POST    wait=COMPUTE,STORE source=ACTIVATION reduce=MAX lanes=4 src_base=0 dst_base=8 param=0 qmin=-128 "
        "qmax=127"
    )
    compute = Compute(act_base=0, weight_base=0, width=32, acc_base=0, lanes=1, run_bytes=1, in_row_bytes=1, start=2)
    assert to_text(compute) == (
        "COMPUTE start=BIAS act_base=0 weight_base=0 width=32 acc_base=0 lanes=1 run_bytes=1 in_row_bytes=1"
    )
    assert to_text(Store(dram_address=0, buffer_address=0, row_bytes=1)) == (
        "STORE   dram_address=0 buffer_address=0 row_bytes=1"
    )


def test_empty_masks_may_be_written():
    line = "STORE wait= signal= dram_address=0 buffer_address=0 row_bytes=1"
    assert from_text(line) == Store(dram_address=0, buffer_address=0, row_bytes=1)


@pytest.mark.parametrize(
    "line, expected",
    [
        ("", "'' is not an instruction"),
        ("COMPUT width=3", "'COMPUT' is not an instruction; did you mean 'COMPUTE'?"),
        ("NOP", "'NOP' is not an instruction"),
        ("LOAD rows", "LOAD: field 'rows' has no value; write rows=value"),
        ("LOAD row_byte=3", "LOAD: unknown field 'row_byte'; did you mean 'row_bytes'?"),
        ("LOAD width=3", "LOAD: unknown field 'width'; did you mean 'wait'?"),
        ("LOAD opcode=3", "LOAD: unknown field 'opcode'"),
        ("LOAD rows=3 rows=3", "LOAD: field 'rows' is given twice"),
        ("LOAD rows=x", "LOAD: rows = 'x' must be an integer"),
        ("LOAD rows=0x10", "LOAD: rows = '0x10' must be an integer"),
        ("LOAD rows=", "LOAD: rows = '' must be an integer"),
        ("LOAD rows=1=2", "LOAD: rows = '1=2' must be an integer"),
        ("LOAD wait=POST,DMA", "LOAD: wait = 'POST,DMA' must be LOAD, COMPUTE, POST, STORE"),
        ("LOAD wait=1", "LOAD: wait = '1' must be LOAD, COMPUTE, POST, STORE"),
        ("LOAD wait=POST,POST", "LOAD: wait = 'POST,POST' names a unit twice; a mask holds each once"),
        ("LOAD memory=weight", "LOAD: memory = 'weight' must be ACTIVATION, WEIGHT, PARAMETER, TABLE"),
        ("COMPUTE start=3", "COMPUTE: start = '3' must be ZERO, ACCUMULATE, BIAS"),
        ("POST source=DRAM", "POST: source = 'DRAM' must be ACCUMULATOR, ACTIVATION"),
        ("POST reduce=MIN", "POST: reduce = 'MIN' must be NONE, MAX, SUM"),
        ("LOAD memory=WEIGHT dram_address=0 row_bytes=1", "LOAD: field 'buffer_address' is missing"),
        ("STORE", "STORE: field 'buffer_address' is missing"),
        (
            "STORE dram_address=-1 buffer_address=0 row_bytes=1",
            "STORE: dram_address = -1 is outside 0..4294967295, its 32-bit field",
        ),
        (
            "STORE signal=STORE dram_address=1 buffer_address=0 row_bytes=1",
            "STORE: a unit keeps its own order; it can neither wait for nor signal itself",
        ),
    ],
)
def test_a_line_that_does_not_assemble_names_what_is_wrong(line, expected):
    with pytest.raises(InputError) as caught:
        from_text(line)
    assert str(caught.value) == expected


def test_the_line_number_of_a_mistake_counts_blank_lines_and_comments():
    with pytest.raises(InputError) as caught:
        assemble("# head\n\n  STORE dram_address=0 buffer_address=0 row_bytes=1 # fine\nSTORE rows=0 # not\n")
    assert str(caught.value) == "line 4: STORE: field 'buffer_address' is missing"
