"""The static check: hand-made programs that race, deadlock or leave their memories, and neighbours that do not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from accelsim.config import Hardware, load_hardware
from accelsim.errors import InputError
from accelsim.isa import (
    Compute,
    Instruction,
    Load,
    Memory,
    Modes,
    Order,
    Post,
    Reduce,
    Source,
    Start,
    Store,
    Unit,
    check_program,
)
from accelsim.numerics import IntFormat, Requantization, Rounding, Scheme

HARDWARE = load_hardware("edge_8x8")  # 4 KiB of activations, weights, accumulators (128 words); 2 KiB, 512 B
HOW = Requantization(scheme=Scheme.FIXED_POINT, rounding=Rounding.HALF_EVEN)
MODES = Modes(activation=IntFormat(8), zero_points="folded", requantization=HOW)
DRAM = 4096
L, C, P, S = (1 << unit for unit in Unit)


def load(memory: Memory = Memory.WEIGHT, at: int = 0, size: int = 64, **change: int) -> Load:
    return Load(**{"memory": memory, "dram_address": 0, "buffer_address": at, "row_bytes": size, **change})


def store(at: int = 0, size: int = 64, **change: int) -> Store:
    return Store(**{"dram_address": 0, "buffer_address": at, "row_bytes": size, **change})


def compute(**change: int) -> Compute:
    """8 words of one 8-byte run each, at activations 0..63, weights 0..63, accumulators 0..7."""
    fields = {
        "act_base": 0, "weight_base": 0, "width": 32, "acc_base": 0, "lanes": 8, "run_bytes": 8, "x_count": 8,
        "x_step": 8, "in_row_bytes": 64,
    }  # fmt: skip
    return Compute(**{**fields, **change})


def post(**change: int) -> Post:
    """8 words of accumulators 0..7 to activations 512..575."""
    fields = {
        "lanes": 8, "src_base": 0, "dst_base": 512, "param": 0, "qmin": -128, "qmax": 127, "x_count": 8,
        "src_x_step": 1, "dst_x_step": 8,
    }  # fmt: skip
    return Post(**{**fields, **change})


def check(*instructions: Instruction, hardware: Hardware = HARDWARE, modes: Modes = MODES, dram: int = DRAM) -> Order:
    return check_program(instructions, hardware, modes, dram)


def refusal(*instructions: Instruction, **where: object) -> str:
    with pytest.raises(InputError) as caught:
        check(*instructions, **where)
    message = str(caught.value)
    assert "\n" not in message
    return message


def race(first: int, one: str, second: int, other: str, space: str, address: int) -> str:
    return (
        f"race: instructions {first} ({one}) and {second} ({other}) touch {space} address {address} unordered; "
        "let one signal and the other wait"
    )


# --- races and the tokens that order them -------------------------------------------------------------------------

RACES = {
    "weights, read after write": (load(), compute(), "weight", 0),
    "weights, write after read": (compute(), load(at=63), "weight", 63),
    "activations, read after write": (load(Memory.ACTIVATION, 56, 8), compute(), "activation", 56),
    "accumulators, read after write": (compute(), post(), "accumulator", 0),
    "accumulators, write after read": (post(src_base=7), compute(), "accumulator", 7),
    "results stored": (post(), store(512), "activation", 512),
    "results overwritten before they are stored": (store(575, 8), post(), "activation", 575),
    "results into what LOAD fills": (post(), load(Memory.ACTIVATION, 570), "activation", 570),
    "results into what COMPUTE reads": (compute(), post(dst_base=63), "activation", 63),
    "a residual that LOAD brings": (load(Memory.ACTIVATION, 900), post(residual_on=1, residual_base=900),
                                    "activation", 900),
    "a pool over what LOAD brings": (load(Memory.ACTIVATION, 0), post(source=Source.ACTIVATION, src_base=60, lanes=4,
                                     x_count=1, in_row_bytes=4, in_height=1), "activation", 60),
    "parameters of POST": (load(Memory.PARAMETER, 127, 1), post(), "parameter", 127),
    "parameters of a residual": (load(Memory.PARAMETER, 255, 1), post(residual_on=1, residual_base=900),
                                 "parameter", 255),
    "parameters by word": (load(Memory.PARAMETER, 127, 1), post(broadcast=1, lanes=1), "parameter", 127),
    "biases of COMPUTE": (load(Memory.PARAMETER, 16, 1), compute(start=Start.BIAS), "parameter", 16),
    "the table": (load(Memory.TABLE, 511, 1), post(table_on=1, table=1), "table", 511),
    "DRAM, load after store": (store(size=64, dram_address=100), load(dram_address=163), "dram", 163),
    "DRAM, store after load": (load(dram_address=0, size=64), store(dram_address=63), "dram", 63),
}  # fmt: skip


@pytest.mark.parametrize("name", RACES)
def test_an_unordered_overlap_is_a_race_at_its_lowest_address(name):
    first, second, space, address = RACES[name]
    one, other = (type(i).__name__.upper() for i in (first, second))
    assert refusal(first, second) == race(0, one, 1, other, space, address)


@pytest.mark.parametrize("name", RACES)
def test_a_token_from_the_first_to_the_second_orders_them(name):
    first, second, *_ = RACES[name]
    order = check(replace(first, signal=1 << second.UNIT), replace(second, wait=1 << first.UNIT))
    assert order.ordered(0, first.UNIT, 1)


@pytest.mark.parametrize("name", RACES)
def test_a_token_from_the_second_to_the_first_orders_them_too(name):
    first, second, *_ = RACES[name]
    order = check(replace(first, wait=1 << second.UNIT), replace(second, signal=1 << first.UNIT))
    assert order.sequence == [1, 0]


def test_two_readers_do_not_race():
    check(
        compute(),
        store(0, 64, dram_address=512),
        load(Memory.PARAMETER, 0, 64),
        post(src_base=64, dst_base=2000, param=4),
    )
    check(load(Memory.WEIGHT, 64, 8), store(dram_address=512), compute())


def test_a_unit_orders_its_own_instructions():
    check(load(), load(), load(Memory.WEIGHT, 32))
    check(compute(), compute(start=Start.ACCUMULATE))
    check(post(), post())
    check(store(), store())


def test_bytes_beside_one_another_do_not_overlap():
    check(load(at=64), compute())  # weights 64..127 and 0..63
    check(post(), store(576))
    check(post(), store(448))
    check(compute(), post(src_base=8))
    check(load(Memory.PARAMETER, 128, 1), post())
    check(load(Memory.TABLE, 0, 256), post(table_on=1, table=1))
    check(store(dram_address=100), load(dram_address=164))


def test_interleaved_channels_do_not_overlap_and_one_lane_more_does():
    # A tensor of 6 channels at 512: POST writes channels 0..3 of each pixel, LOAD brings channels 4 and 5.
    mine = post(lanes=4, dst_x_step=6)
    others = {"rows": 8, "buffer_step": 6, "dram_step": 2}
    check(mine, load(Memory.ACTIVATION, 516, 2, **others))
    assert refusal(mine, load(Memory.ACTIVATION, 515, 2, **others)) == race(0, "POST", 1, "LOAD", "activation", 515)
    # Only the third pixel's: rows that begin two bytes after pixel 1's channels.
    assert refusal(mine, load(Memory.ACTIVATION, 522, 3, rows=2, buffer_step=6)) == race(
        0, "POST", 1, "LOAD", "activation", 524
    )


def test_rows_of_a_strided_walk_leave_the_rows_between_them_alone():
    # COMPUTE reads rows 0, 2, 4 of 8 bytes; POST writes rows 1 and 3.
    reader = compute(x_count=1, y_count=3, y_step=16, stride_y=2, in_height=5, in_row_bytes=8)
    writer = {"x_count": 1, "y_count": 2, "src_y_step": 1, "src_base": 64, "dst_y_step": 16}
    check(reader, post(dst_base=8, **writer))
    assert refusal(reader, post(dst_base=9, **writer)) == race(0, "COMPUTE", 1, "POST", "activation", 16)


def test_padding_lanes_read_nothing():
    # A run of 8 bytes from x = -4 on: only bytes 0..3 of the row are read.
    reader = compute(x_count=1, act_base=-4, x_first=-4, in_row_bytes=16)
    check(load(Memory.ACTIVATION, 4, 64), reader)
    assert refusal(load(Memory.ACTIVATION, 3, 64), reader) == race(0, "LOAD", 1, "COMPUTE", "activation", 3)
    # Rows above the image, too: of 3 kernel rows from y = -2 on, only row 0 is there.
    above = compute(x_count=1, act_base=-16, r_count=3, r_step=8, y_first=-2, in_height=1, in_row_bytes=8)
    check(load(Memory.ACTIVATION, 8, 64), above)
    assert refusal(load(Memory.ACTIVATION, 7, 1), above) == race(0, "LOAD", 1, "COMPUTE", "activation", 7)


def test_order_is_transitive_through_other_units():
    # LOAD brings weights, COMPUTE sums, POST writes, STORE takes; then LOAD reads back the DRAM that STORE wrote.
    order = check(
        load(signal=C),
        compute(wait=L, signal=P),
        post(wait=C, signal=S),
        store(512, wait=P, signal=L, dram_address=1024),
        load(Memory.WEIGHT, dram_address=1024, wait=S),
    )
    # The last LOAD overwrites the weights of the COMPUTE, which is done before it by way of POST and STORE.
    assert order.ordered(1, Unit.COMPUTE, 4)
    assert order.done_before[4].tolist() == [1, 1, 1, 1]


def test_a_token_orders_everything_its_unit_did_before():
    # One token from the second LOAD vouches for the first: a unit finishes in order.
    check(load(at=0, size=32), load(at=32, size=32, signal=C), compute(wait=L))
    # One token of the first does not vouch for the second.
    assert refusal(load(at=0, size=32, signal=C), load(at=32, size=32), compute(wait=L)) == race(
        1, "LOAD", 2, "COMPUTE", "weight", 32
    )


def test_a_later_instruction_inherits_its_predecessors_waits():
    check(load(signal=C), compute(wait=L), compute())


def test_a_compute_that_follows_is_no_proof_that_the_previous_is_done():
    # COMPUTE 1 waits for a token that POST gives before it; COMPUTE 0 may still be draining when POST 3 runs.
    # If issue order meant done, LOAD -> COMPUTE 1 -> ... would order COMPUTE 0 before POST 2.
    order = check(compute(), compute(acc_base=64, signal=P), post(wait=C))
    assert order.done_before[1].tolist() == [0, 0, 0, 0]  # COMPUTE 0 is not done when COMPUTE 1 issues
    assert order.done_before[2].tolist() == [0, 2, 0, 0]  # both are when POST does: COMPUTE finishes in order
    order = check(load(), load(at=64, size=8))
    assert order.done_before[1].tolist() == [1, 0, 0, 0]  # while a LOAD is done before the next issues


def test_what_compute_waited_for_is_done_but_not_what_it_issued_after():
    # POST 2 waits for LOAD 3, which waited for COMPUTE 1: COMPUTE 0 and 1 are done. Without that token they are not.
    check(compute(), compute(acc_base=64, signal=L), load(Memory.PARAMETER, 0, 128, wait=C, signal=P), post(wait=L))
    assert refusal(compute(), compute(acc_base=64), load(Memory.PARAMETER, 0, 128, signal=P), post(wait=L)) == race(
        0, "COMPUTE", 3, "POST", "accumulator", 0
    )


def test_a_write_after_a_read_needs_a_token_whatever_the_program_order():
    writer = load(Memory.WEIGHT, 0, 64)
    assert refusal(load(signal=C), compute(wait=L), writer) == race(1, "COMPUTE", 2, "LOAD", "weight", 0)
    check(load(signal=C), compute(wait=L, signal=L), replace(writer, wait=C))


def test_a_post_may_not_write_what_it_reads():
    pool = {"source": Source.ACTIVATION, "src_x_step": 8, "in_row_bytes": 64, "in_height": 1}
    own = "instruction 0 (POST): reads and writes activation byte {}, so that its result would depend on its own timing"
    assert refusal(post(src_base=0, dst_base=63, **pool)) == own.format(63) + "; use another dst_base"
    assert refusal(post(dst_base=512, residual_on=1, residual_base=449)) == (own.format(512) + "; use another dst_base")
    check(post(src_base=0, dst_base=64, **pool))
    # Channels beside channels: 4 lanes of 8-byte pixels, the other 4 of the same pixels.
    check(post(src_base=0, dst_base=4, lanes=4, **pool))


# --- tokens -------------------------------------------------------------------------------------------------------


def test_a_wait_that_nobody_answers_is_a_deadlock():
    assert refusal(store(), compute(wait=P)) == (
        "deadlock: instruction 1 (COMPUTE wait=POST act_base=0 weight_base=0 width=32 acc_base=0 lanes=8 run_bytes=8 "
        "x_step=8 x_count=8 in_row_bytes=64) waits for ever for POST; every wait needs a signal that is given"
    )


def test_units_that_wait_for_one_another_in_a_circle_are_a_deadlock():
    message = refusal(load(wait=P, signal=C), compute(wait=L, signal=P), post(wait=C, signal=L))
    assert message == (
        "deadlock: instruction 0 (LOAD wait=POST signal=COMPUTE memory=WEIGHT dram_address=0 buffer_address=0 "
        "row_bytes=64) waits for ever for POST; every wait needs a signal that is given"
    )
    # The same circle with one token to begin with runs: a STORE gives it.
    check(store(2000, signal=L), load(wait=S, signal=C), compute(wait=L, signal=P), post(wait=C))


def test_a_signal_that_comes_later_in_its_own_unit_is_a_deadlock():
    assert refusal(load(wait=C, signal=C), compute(wait=L, signal=L)).startswith(
        "deadlock: instruction 0 (LOAD wait=COMPUTE"
    )


def test_tokens_left_over_are_refused():
    assert refusal(load(signal=C), compute(wait=L, signal=P), post(wait=C, signal=S)) == (
        "unbalanced tokens: 1 given by POST to STORE are never taken; remove the signal of instruction 2"
    )
    assert refusal(store(signal=L), store(signal=L), load(at=0, wait=S)) == (
        "unbalanced tokens: 1 given by STORE to LOAD are never taken; remove the signal of instruction 1"
    )


def test_tokens_of_different_pairs_do_not_stand_in_for_one_another():
    message = refusal(store(2000, signal=C), load(wait=C, at=64))
    assert message.startswith("deadlock: instruction 1 (LOAD wait=COMPUTE ")


@pytest.mark.parametrize("count", [254, 255])
def test_255_tokens_fit_a_counter(count):
    check(*[load(at=64, signal=S)] * count, *[store(wait=L, dram_address=1024)] * count)


@pytest.mark.parametrize("count", [256, 300])
def test_the_256th_token_before_one_is_taken_is_refused(count):
    assert refusal(*[load(at=64, signal=S)] * count, *[store(wait=L, dram_address=1024)] * count) == (
        "token overflow: LOAD may give STORE more than 255 tokens before any is taken, at instruction 255; "
        "let it wait for STORE in between"
    )


def test_a_counter_may_overflow_even_where_the_program_interleaves_them():
    # Program order is not time: LOADs and STOREs alternate, yet nothing holds LOAD back.
    pairs = [load(at=64, signal=S), store(wait=L, dram_address=1024)] * 256
    assert refusal(*pairs).startswith("token overflow: LOAD may give STORE more than 255 tokens before any is taken")


@pytest.mark.parametrize("gap, legal", [(255, True), (256, False)])
def test_more_than_255_tokens_are_accepted_where_the_giver_waits_in_between(gap, legal):
    # Every STORE answers; LOAD number n + gap waits for the answer of STORE number n: at most gap tokens wait.
    total = 600
    program: list[Instruction] = []
    for number in range(total):
        program.append(load(at=64, signal=S, wait=S if number >= gap else 0))
        program.append(store(wait=L, signal=L if number + gap < total else 0, dram_address=1024))
    if legal:
        assert len(check(*program).sequence) == 2 * total
    else:
        assert refusal(*program).startswith("token overflow: LOAD may give STORE more than 255 tokens")


# --- addresses ----------------------------------------------------------------------------------------------------

RANGES = [
    (load(at=4033), "LOAD", "writes weight bytes 4033..4096, outside 0..4095"),
    (load(Memory.ACTIVATION, 4095, 2), "LOAD", "writes activation bytes 4095..4096, outside 0..4095"),
    (load(Memory.PARAMETER, 2048, 1), "LOAD", "writes parameter bytes 2048..2048, outside 0..2047"),
    (load(Memory.TABLE, 500, 13), "LOAD", "writes table bytes 500..512, outside 0..511"),
    (load(dram_address=4033), "LOAD", "reads dram bytes 4033..4096, outside 0..4095"),
    (load(rows=2, dram_step=-1), "LOAD", "reads dram bytes -1..63, outside 0..4095"),
    (load(rows=2, buffer_step=-1), "LOAD", "writes weight bytes -1..63, outside 0..4095"),
    (store(4033), "STORE", "reads activation bytes 4033..4096, outside 0..4095"),
    (store(dram_address=2**32 - 64), "STORE", "writes dram bytes 4294967232..4294967295, outside 0..4095"),
    (compute(act_base=-1), "COMPUTE", "reads activation bytes -1..62, outside 0..4095"),
    (compute(act_base=4033), "COMPUTE", "reads activation bytes 4033..4096, outside 0..4095"),
    (compute(weight_base=4033), "COMPUTE", "reads weight bytes 4033..4096, outside 0..4095"),
    (compute(acc_base=121), "COMPUTE", "writes accumulator words 121..128, outside 0..127"),
    (compute(start=Start.BIAS, param=121), "COMPUTE", "reads parameter bytes 1936..2063, outside 0..2047"),
    (post(src_base=-1), "POST", "reads accumulator words -1..6, outside 0..127"),
    (post(src_base=121), "POST", "reads accumulator words 121..128, outside 0..127"),
    (post(dst_base=4033), "POST", "writes activation bytes 4033..4096, outside 0..4095"),
    (post(dst_base=0, dst_x_step=-8), "POST", "writes activation bytes -56..7, outside 0..4095"),
    (post(param=121), "POST", "reads parameter bytes 1936..2063, outside 0..2047"),
    (post(param=113, residual_on=1), "POST", "reads parameter bytes 1808..2063, outside 0..2047"),
    (post(residual_on=1, residual_base=-1), "POST", "reads activation bytes -1..62, outside 0..4095"),
    (post(table_on=1, table=2), "POST", "reads table bytes 512..767, outside 0..511"),
]


@pytest.mark.parametrize("instruction, unit, expected", RANGES)
def test_an_address_outside_its_memory_is_refused(instruction, unit, expected):
    assert refusal(instruction) == f"instruction 0 ({unit}): {expected}"


def test_the_last_byte_of_every_memory_may_be_used():
    check(load(at=4032, dram_address=4032))
    check(load(Memory.ACTIVATION, 4095, 1))
    check(load(Memory.PARAMETER, 2047, 1))
    check(load(Memory.TABLE, 511, 1))
    check(compute(act_base=4032, weight_base=4032, acc_base=120, start=Start.BIAS, param=120))
    check(post(src_base=120, dst_base=4032, param=120, table_on=1, table=1))


def test_padding_outside_the_buffer_is_never_addressed():
    # The image begins at byte 0 and ends at byte 4095; its padding lies at negative addresses and beyond the end.
    check(compute(act_base=-4, x_first=-4, x_count=2, in_row_bytes=12))
    check(compute(act_base=4092, x_first=0, in_row_bytes=4, x_count=1))
    check(compute(act_base=-64, y_first=-1, r_count=2, r_step=64, in_height=1))
    pool = post(source=Source.ACTIVATION, reduce=Reduce.MAX, s_count=2, s_step=8, src_x_step=8, src_base=-8,
                x_first=-8, in_row_bytes=64, in_height=1)  # fmt: skip
    check(pool)
    assert refusal(replace(pool, x_first=0)) == ("instruction 0 (POST): reads activation bytes -8..55, outside 0..4095")


def test_a_walk_that_is_padding_altogether_reads_nothing():
    check(compute(act_base=-8000, y_first=-1, in_height=1, r_count=1), load(Memory.ACTIVATION, 0, 4096))


def test_the_image_may_not_exceed_the_dram():
    small = load_hardware("edge_8x8", ["dram.memory_bytes=100"])
    assert refusal(hardware=small, dram=101) == (
        "the DRAM image of 101 bytes exceeds dram.memory_bytes = 100; use a larger DRAM or a smaller batch"
    )
    check(hardware=small, dram=100)


# --- rules within one instruction ---------------------------------------------------------------------------------

SUBTRACTED = replace(MODES, zero_points="subtracted")
FOUR_BITS = replace(MODES, activation=IntFormat(4))
RULES = [
    (store(memory=Memory.WEIGHT), MODES, "STORE", "memory must be ACTIVATION; only activations are stored"),
    (compute(lanes=9), MODES, "COMPUTE", "lanes = 9 exceeds array.columns = 8"),
    (compute(width=33), MODES, "COMPUTE", "width = 33 is outside 8..accumulator.width_bits = 32"),
    (compute(width=7), MODES, "COMPUTE", "width = 7 is outside 8..accumulator.width_bits = 32"),
    (compute(weight_bits=1), MODES, "COMPUTE", "weight_bits = 1 is outside 2..8"),
    (compute(weight_bits=9), MODES, "COMPUTE", "weight_bits = 9 is outside 2..8"),
    (compute(activation_bits=9), MODES, "COMPUTE", "activation_bits = 9 exceeds the 8 of the activation format"),
    (compute(diagonal=1, output_stationary=1), MODES, "COMPUTE",
     "diagonal tiles are weight-stationary; output_stationary must be 0"),
    (compute(diagonal=1, lanes=7), MODES, "COMPUTE",
     "a diagonal tile needs run_bytes = lanes <= array.rows, not 8 and 7"),
    (compute(z_w=1), MODES, "COMPUTE", "z_w = 1 needs zero_points = 'subtracted'"),
    (compute(start=3), MODES, "COMPUTE", "COMPUTE: start = 3 is outside 0..2, its 2-bit field"),
    (post(reduce=3), MODES, "POST", "POST: reduce = 3 is outside 0..2, its 2-bit field"),
    (post(lanes=9), MODES, "POST", "lanes = 9 exceeds array.columns = 8"),
    (post(qmin=1, qmax=0), MODES, "POST", "qmin = 1 is above qmax = 0"),
    (post(act_unsigned=1, qmin=0), MODES, "POST",
     "act_unsigned = 1 contradicts the program's activation format"),
    (post(qmin=-9, qmax=7), FOUR_BITS, "POST", "qmin..qmax = -9..7 leaves the activation format's -8..7"),
    (post(qmin=-8, qmax=8), FOUR_BITS, "POST", "qmin..qmax = -8..8 leaves the activation format's -8..7"),
    (post(r_count=2), MODES, "POST", "a window of 2 words needs reduce = MAX or SUM"),
    (post(reduce=Reduce.SUM), MODES, "POST", "accumulators can be reduced by MAX only"),
    (post(residual_on=1, reduce=Reduce.MAX, s_count=2), MODES, "POST", "a residual needs a window of one word"),
    (post(residual_on=1, broadcast=1), MODES, "POST",
     "a residual takes its own record for each lane; broadcast must be 0"),
]  # fmt: skip


@pytest.mark.parametrize("instruction, modes, unit, expected", RULES)
def test_a_rule_of_one_instruction_is_refused_by_name(instruction, modes, unit, expected):
    assert refusal(instruction, modes=modes) == f"instruction 0 ({unit}): {expected}"


def test_neighbours_of_the_rules_are_legal():
    check(compute(z_w=1), modes=SUBTRACTED)
    check(compute(width=8))
    check(compute(diagonal=1))
    check(post(qmin=-8, qmax=7), modes=FOUR_BITS)
    check(post(qmin=0, qmax=255, act_unsigned=1), modes=replace(MODES, activation=IntFormat(8, signed=False)))
