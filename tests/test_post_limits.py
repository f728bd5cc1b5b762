"""What a POST is given and its scheme cannot hold is one line, whoever wrote the program."""

from __future__ import annotations

import numpy as np
import pytest

from accelsim.config import load_hardware
from accelsim.errors import InputError
from accelsim.isa import Modes, Post, Source, pack_records
from accelsim.machine import post as post_unit
from accelsim.machine.memories import Memories
from accelsim.numerics import IntFormat, Requantization, Rounding, Scheme


@pytest.mark.parametrize(
    "how, record, message",
    [
        (
            Requantization(scheme=Scheme.RECIPROCAL, rounding=Rounding.FLOOR),
            (0, 0, 0),
            r"^POST: a record of 0..0 holds \(m0, shift\) = \(0, 0\): m0 of reciprocal is the divisor, 1..2\*\*62 - 1, "
            "and shift is 0$",
        ),
        (
            Requantization(scheme=Scheme.FIXED_POINT, rounding=Rounding.FLOOR),
            (0, 1 << 30, 100),
            r"^POST: a record of 0..0 holds \(m0, shift\) = \(1073741824, 100\): the total shift must be in -31..62$",
        ),
        (
            Requantization(scheme=Scheme.FIXED_POINT, rounding=Rounding.TFLITE_DOUBLE),
            (2**31 - 1, 1 << 30, 0),
            "^POST to activation byte 8: tflite_double takes int32 values; use an accumulator of at most 32 bits$",
        ),
    ],
)
def test_what_a_scheme_cannot_hold_is_refused(how, record, message):
    memories = Memories(load_hardware("edge_8x8"), np.zeros(64, np.uint8))
    memories.activation[0] = 5
    packed = pack_records(*(np.array([value]) for value in record))
    memories.parameter[:16] = packed.ravel()
    post = Post(
        source=Source.ACTIVATION,
        lanes=1,
        src_base=0,
        dst_base=8,
        param=0,
        qmin=-128,
        qmax=127,
        in_row_bytes=1,
        in_height=1,
    )
    modes = Modes(activation=IntFormat(8), zero_points="folded", requantization=how)
    with pytest.raises(InputError, match=message):
        post_unit.execute(post, memories, modes)
