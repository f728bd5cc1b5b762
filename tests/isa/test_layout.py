"""Every field's place, against a table written by hand from docs/microarchitecture.md, and 64 bytes there and back."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accelsim.errors import InputError
from accelsim.isa import (
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
    decode,
    decode_all,
    encode,
    encode_all,
)
from accelsim.isa.instructions import OPCODES

# word: fields from bit 31 down, "name bits"; "-" is unused. Word 0 is op 4, wait 4, signal 4, flags 8, label 12, the
# flags listed from their lowest bit, bit 12, up.
TRANSFER = {
    1: "dram_address 32",
    2: "- 8, buffer_address 24",
    3: "- 8, row_bytes 24",
    4: "- 16, rows 16",
    5: "dram_step 32",
    6: "- 8, buffer_step 24",
}
TABLES = {
    Load: (["memory 2"], TRANSFER),
    Store: (["memory 2"], TRANSFER),
    Compute: (
        ["start 2", "diagonal 1", "serial 1", "output_stationary 1", "act_unsigned 1", "weight_unsigned 1", "last 1"],
        {
            1: "z_x 8, act_base 24",
            2: "z_w 8, weight_base 24",
            3: "width 8, acc_base 24",
            4: "lanes 8, run_bytes 24",
            5: "x_count 16, y_count 16",
            6: "r_count 8, x_step 24",
            7: "s_count 8, y_step 24",
            8: "images 8, image_step 24",
            9: "stride_y 8, r_step 24",
            10: "dilation_y 8, s_step 24",
            11: "- 8, activation_bits 4, weight_bits 4, param 16",
            12: "- 8, in_row_bytes 24",
            13: "- 8, x_first 24",
            14: "y_first 16, in_height 16",
        },
    ),
    Post: (
        [
            "source 1",
            "reduce 2",
            "table_on 1",
            "residual_on 1",
            "broadcast 1",
            "act_unsigned 1",
            "count_padding 1",
        ],
        {
            1: "lanes 8, src_base 24",
            2: "z_src 8, dst_base 24",
            3: "z_dst 8, residual_base 24",
            4: "param 16, dst_x_step 16",
            5: "x_count 16, y_count 16",
            6: "r_count 8, src_x_step 24",
            7: "s_count 8, src_y_step 24",
            8: "images 8, src_image_step 24",
            9: "stride_y 8, r_step 24",
            10: "z_residual 8, s_step 24",
            11: "qmin 8, dst_y_step 24",
            12: "qmax 8, in_row_bytes 24",
            13: "table 8, x_first 24",
            14: "y_first 16, in_height 16",
            15: "- 8, dst_image_step 24",
        },
    ),
}
OPS = {Load: 1, Compute: 2, Post: 3, Store: 4}
SIGNED = {
    "dram_step buffer_step act_base x_step y_step image_step r_step s_step x_first y_first src_base dst_base "
    "residual_base dst_x_step src_image_step src_x_step src_y_step dst_y_step dst_image_step": "signed",
    "z_x z_src z_dst z_residual qmin qmax": "act_unsigned",
    "z_w": "weight_unsigned",
    "row_bytes rows run_bytes x_count y_count r_count s_count images": "from one",
    "lanes": "minus one",
    "start reduce": "three",
}
RULES = {name: rule for names, rule in SIGNED.items() for name in names.split()}
KINDS = [Load, Store, Compute, Post]


def places(kind: type[Instruction]) -> dict[str, tuple[int, int, int]]:
    """name -> (word, low bit, bits), from the table above."""
    flags, words = TABLES[kind]
    found = {"wait": (0, 24, 4), "signal": (0, 20, 4), "label": (0, 0, 12)}
    low = 12
    for flag in flags:
        name, bits = flag.split()
        found[name] = (0, low, int(bits))
        low += int(bits)
    assert low <= 20, "flags 8"
    for word, text in words.items():
        low = 32
        for part in text.split(", "):
            name, bits = part.split()
            low -= int(bits)
            if name != "-":
                found[name] = (word, low, int(bits))
        assert low == 0, (kind, word)
    return found


def limits(name: str, bits: int, *, act_unsigned: int = 0, weight_unsigned: int = 0) -> tuple[int, int]:
    top = 1 << bits
    rule = RULES.get(name, "unsigned")
    unsigned = {"act_unsigned": act_unsigned, "weight_unsigned": weight_unsigned}.get(rule, rule != "signed")
    if rule == "from one":
        return 1, top - 1
    if rule == "minus one":
        return 1, top
    if rule == "three":
        return 0, 2
    return (0, top - 1) if unsigned else (-top // 2, top // 2 - 1)


@st.composite
def instructions(draw: st.DrawFn, kind: type[Instruction] | None = None) -> Instruction:
    """Any instruction that encodes: every field over its whole range, its ends often."""
    kind = kind or draw(st.sampled_from(KINDS))
    chosen: dict[str, int] = {}
    signs = {name: draw(st.integers(0, 1)) for name in ("act_unsigned", "weight_unsigned") if name in places(kind)}
    for name, (_, _, bits) in places(kind).items():
        low, high = limits(name, bits, **signs)
        chosen[name] = signs.get(name, draw(st.sampled_from([low, high]) | st.integers(low, high)))
    for mask in ("wait", "signal"):
        chosen[mask] &= ~(1 << kind.UNIT)
    return kind(**chosen)


def example(kind: type[Instruction], **change: int) -> Instruction:
    """A valid instruction with every field at its default, or as small as it can be."""
    chosen = {
        name: limits(name, bits)[0] if name not in ("wait", "signal", "label") else 0
        for name, (_, _, bits) in places(kind).items()
    }
    return kind(**{**chosen, **change})


@pytest.mark.parametrize("kind", KINDS)
def test_every_field_is_where_the_table_says(kind):
    assert {field.name: (field.word, field.low, field.bits) for field in kind.LAYOUT} == places(kind)
    assert OPS[kind] == kind.OPCODE
    assert OPCODES[OPS[kind]] is kind


@pytest.mark.parametrize("kind", KINDS)
def test_no_two_fields_share_a_bit_and_none_crosses_a_word(kind):
    taken = [set(range(28, 32))] + [set() for _ in range(15)]  # op
    for name, (word, low, bits) in places(kind).items():
        mine = set(range(low, low + bits))
        assert low + bits <= 32, name
        assert not taken[word] & mine, name
        taken[word] |= mine
    # 4 + 4 + 4 + 12 bits of word 0 are common; LOAD uses 2 flag bits, COMPUTE and POST all 8.
    assert len(taken[0]) == (26 if kind in (Load, Store) else 32)


@pytest.mark.parametrize("kind", KINDS)
def test_each_field_alone_sets_its_own_bits_of_a_little_endian_word(kind):
    base = example(kind)
    blank = int.from_bytes(encode(base), "little")
    for name, (word, low, bits) in places(kind).items():
        lowest, highest = limits(name, bits)
        if name in ("wait", "signal"):
            highest = 15 & ~(1 << kind.UNIT)
        if name in ("act_unsigned", "weight_unsigned"):
            continue  # it changes what other fields may hold; the round trip covers it
        data = int.from_bytes(encode(example(kind, **{name: highest})), "little")
        stored = [value - (RULES.get(name) == "minus one") for value in (highest, lowest)]
        if name in ("wait", "signal", "label"):
            stored[1] = 0
        mask = (1 << bits) - 1
        assert data ^ blank == ((stored[0] & mask) ^ (stored[1] & mask)) << (32 * word + low), name


def test_a_load_by_hand():
    # op 1, wait for POST (bit 2), signal COMPUTE (bit 1), memory WEIGHT (1), label 5; then the words of the table.
    load = Load(
        wait=4, signal=2, label=5, memory=Memory.WEIGHT, dram_address=0xFFFFFFC0, buffer_address=0x123456,
        row_bytes=96, rows=7, dram_step=-1, buffer_step=-2,
    )  # fmt: skip
    words = [0x14201005, 0xFFFFFFC0, 0x00123456, 96, 7, 0xFFFFFFFF, 0x00FFFFFE] + [0] * 9
    assert encode(load) == struct.pack("<16I", *words)
    assert decode(struct.pack("<16I", *words)) == load


def test_a_store_by_hand():
    store = Store(wait=4, label=1, dram_address=64, buffer_address=0, row_bytes=10)
    words = [0x44000001, 64, 0, 10, 1, 0, 0] + [0] * 9
    assert encode(store) == struct.pack("<16I", *words)


def test_a_compute_by_hand():
    # LeNet-5 C1 on 16x16: 5 runs of 5 bytes, padded by 2 on each side of 28 bytes, 6 channels.
    compute = Compute(
        wait=1, signal=4, z_x=-3, act_base=-58, weight_base=16, width=32, acc_base=128, lanes=6, run_bytes=5,
        x_count=28, y_count=4, r_count=5, x_step=1, y_step=28, r_step=28, s_step=1, in_row_bytes=28, x_first=-2,
        y_first=-2, in_height=28,
    )  # fmt: skip
    words = [
        0x21480000,  # op 2, wait LOAD, signal POST, flags: only `last`, bit 19
        0xFDFFFFC6,  # -3 and -58
        0x00000010,
        0x20000080,  # 32 bits, word 128
        0x05000005,  # lanes - 1
        0x001C0004,
        0x05000001,
        0x0100001C,
        0x01000000,  # images 1
        0x0100001C,  # stride_y 1
        0x01000001,  # dilation_y 1
        0x00080000,  # weight_bits 8
        0x0000001C,
        0x00FFFFFE,
        0xFFFE001C,
        0,
    ]
    assert encode(compute) == struct.pack("<16I", *words)
    assert decode(encode(compute)) == compute


def test_a_post_by_hand():
    post = Post(
        signal=8, label=4095, source=Source.ACCUMULATOR, reduce=Reduce.MAX, act_unsigned=1, lanes=256, src_base=0,
        dst_base=-1, z_dst=128, param=1, dst_x_step=-6, x_count=2, y_count=3, images=255, r_count=2, s_count=2,
        qmin=128, qmax=255, table=3, table_on=1,
    )  # fmt: skip
    flags = 1 << 1 | 1 << 3 | 1 << 6  # reduce MAX in bits 1..2 of the flags, table_on in 3, act_unsigned in 6
    words = [0] * 16
    words[0] = 3 << 28 | 8 << 20 | flags << 12 | 4095
    words[1] = 255 << 24
    words[2] = 0x00FFFFFF
    words[3] = 128 << 24
    words[4] = 1 << 16 | 0xFFFA
    words[5] = 2 << 16 | 3
    words[6] = words[7] = 2 << 24
    words[8] = 255 << 24
    words[11] = 128 << 24
    words[12] = 255 << 24
    words[13] = 3 << 24
    assert encode(post) == struct.pack("<16I", *words)
    assert decode(encode(post)) == post


@given(instructions())
def test_encode_then_decode_gives_the_same_instruction(instruction):
    data = encode(instruction)
    assert len(data) == 64
    assert decode(data) == instruction


@given(st.binary(min_size=64, max_size=64))
def test_any_64_bytes_are_refused_or_are_the_only_encoding_of_what_they_decode_to(data):
    try:
        instruction = decode(data)
    except InputError:
        return
    assert encode(instruction) == data


@given(st.lists(instructions(), max_size=5))
def test_a_sequence_round_trips_64_bytes_an_instruction(sequence):
    data = encode_all(sequence)
    assert len(data) == 64 * len(sequence)
    assert decode_all(data) == tuple(sequence)


@pytest.mark.parametrize("kind", KINDS)
def test_a_set_unused_bit_is_refused_whichever_it_is(kind):
    used = {(0, bit) for bit in range(28, 32)}
    used |= {(word, bit) for word, low, bits in places(kind).values() for bit in range(low, low + bits)}
    unused = [(word, bit) for word in range(16) for bit in range(32) if (word, bit) not in used]
    # By hand: LOAD 6 flags, 8+8+16+8 and words 7..15; COMPUTE 8+8+8 and word 15; POST 8.
    assert len(unused) == {Load: 6 + 40 + 9 * 32, Store: 6 + 40 + 9 * 32, Compute: 24 + 32, Post: 8}[kind]
    good = int.from_bytes(encode(example(kind)), "little")
    for word, bit in unused:
        with pytest.raises(InputError, match=f"^{kind.__name__.upper()}: an unused bit is set$"):
            decode((good | 1 << (32 * word + bit)).to_bytes(64, "little"))


@pytest.mark.parametrize("opcode", [0, *range(5, 16)])
def test_an_unknown_opcode_is_refused(opcode):
    data = struct.pack("<16I", opcode << 28, *[0] * 15)
    with pytest.raises(InputError, match=rf"^opcode {opcode} is not an instruction; known: 1, 2, 3, 4$"):
        decode(data)


@pytest.mark.parametrize("kind", KINDS)
def test_every_field_refuses_the_value_beyond_each_end(kind):
    name_of_kind = kind.__name__.upper()
    for name, (_, _, bits) in places(kind).items():
        for unsigned in (0, 1) if name in RULES and "unsigned" in RULES[name] else (0,):
            change = {"act_unsigned": unsigned} if "act_unsigned" in places(kind) else {}
            if "weight_unsigned" in places(kind):
                change["weight_unsigned"] = unsigned
            if unsigned:  # every field that takes its sign from there must be legal
                change |= {n: 0 for n in places(kind) if "unsigned" in RULES.get(n, "")}
            low, high = limits(name, bits, act_unsigned=unsigned, weight_unsigned=unsigned)
            for value in (low - 1, high + 1):
                with pytest.raises(InputError) as caught:
                    encode(example(kind, **{**change, name: value}))
                assert str(caught.value) == (
                    f"{name_of_kind}: {name} = {value} is outside {low}..{high}, its {bits}-bit field"
                )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mask", ["wait", "signal"])
def test_a_unit_neither_waits_for_nor_signals_itself(kind, mask):
    own = example(kind, **{mask: 1 << kind.UNIT})
    expected = f"^{kind.__name__.upper()}: a unit keeps its own order; it can neither wait for nor signal itself$"
    with pytest.raises(InputError, match=expected):
        encode(own)
    assert own.waits() + own.signals() == (kind.UNIT,)


@pytest.mark.parametrize(
    "kind, word, mask, expected",
    [
        (Compute, 0, 3 << 12, "COMPUTE: start = 3 is outside 0..2, its 2-bit field"),
        (Post, 0, 3 << 13, "POST: reduce = 3 is outside 0..2, its 2-bit field"),
        (Compute, 5, 0, "COMPUTE: x_count = 0 is outside 1..65535, its 16-bit field"),
        (Load, 3, 0, "LOAD: row_bytes = 0 is outside 1..16777215, its 24-bit field"),
    ],
)
def test_a_code_without_a_meaning_is_refused_when_read(kind, word, mask, expected):
    words = list(struct.unpack("<16I", encode(example(kind))))
    words[word] = words[word] | mask if mask else 0
    with pytest.raises(InputError) as caught:
        decode(struct.pack("<16I", *words))
    assert str(caught.value) == expected


def test_errors_name_the_instruction_in_a_sequence_and_lengths_must_be_whole():
    good = encode(example(Load))
    with pytest.raises(InputError, match=r"^instruction 2: opcode 0 is not an instruction; known: 1, 2, 3, 4$"):
        decode_all(good + good + bytes(64))
    with pytest.raises(InputError, match=r"^65 bytes are not a whole number of 64-byte instructions$"):
        decode_all(good + b"\0")
    with pytest.raises(InputError, match=r"^63 bytes are not an instruction of 64$"):
        decode(good[:63])
    assert decode_all(b"") == ()


def test_masks_name_units_by_their_number():
    load = example(Load, wait=0b1010, signal=0b0100)
    assert load.waits() == (Unit.COMPUTE, Unit.STORE)
    assert load.signals() == (Unit.POST,)
    assert [int(unit) for unit in (Unit.LOAD, Unit.COMPUTE, Unit.POST, Unit.STORE)] == [0, 1, 2, 3]
    assert [int(s) for s in (Start.ZERO, Start.ACCUMULATE, Start.BIAS)] == [0, 1, 2]
