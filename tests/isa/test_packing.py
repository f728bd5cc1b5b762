"""Bytes of weights and records, by hand and there and back at every width."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from accelsim.isa import pack_records, pack_rows, unpack_records, unpack_rows
from accelsim.numerics import IntFormat


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("bits", range(2, 9))
def test_rows_of_every_lane_count_round_trip_at_every_width(bits, signed):
    form = IntFormat(bits, signed=signed)
    rng = np.random.default_rng(bits)
    for lanes in range(1, 33):
        values = rng.integers(form.minimum, form.maximum + 1, (3, lanes))
        values[0, :] = form.minimum
        values[1, :] = form.maximum
        packed = pack_rows(values, bits)
        assert packed.dtype == np.uint8
        assert packed.shape == (3, -(-lanes * bits // 8))
        back = unpack_rows(packed, lanes, bits, signed=signed)
        assert back.dtype == np.int64
        assert back.tolist() == values.tolist()


@pytest.mark.parametrize("bits", range(2, 9))
def test_lane_0_is_in_the_low_bits_of_the_first_byte(bits):
    lanes = 19
    values = np.random.default_rng(bits).integers(-(1 << (bits - 1)), 1 << (bits - 1), (1, lanes))
    # One little-endian integer: lane l in bits [l * bits + bits - 1 : l * bits].
    whole = sum((int(v) & ((1 << bits) - 1)) << (lane * bits) for lane, v in enumerate(values[0]))
    assert pack_rows(values, bits).tobytes() == whole.to_bytes(-(-lanes * bits // 8), "little")


@pytest.mark.parametrize(
    "bits, values, expected",
    [
        (2, [1, -2, -1, 0, 1], [0b00_11_10_01, 0b01]),
        (3, [1, 2, 3], [0b11_010_001, 0b0]),  # 3 is 011: its low bits 11 end byte 0, its 0 begins byte 1
        (3, [-4, -1, -4], [0b00_111_100, 0b1]),  # -4 is 100: bits 00, then 1
        (5, [-16, 15], [0b111_10000, 0b01]),
        (7, [-64, 1], [0b1_1000000, 0]),
        (8, [-128, 127, -1], [128, 127, 255]),
    ],
)
def test_rows_by_hand(bits, values, expected):
    assert pack_rows(np.array([values]), bits).tolist() == [expected]


def test_each_row_begins_at_a_whole_byte():
    assert pack_rows(np.array([[1], [2], [3]]), 2).tolist() == [[1], [2], [3]]


def test_a_view_of_a_larger_buffer_unpacks():
    memory = np.arange(64, dtype=np.uint8)
    assert unpack_rows(memory[8:14].reshape(2, 3), 2, 8, signed=True).tolist() == [[8, 9], [11, 12]]


INT32 = st.sampled_from([-(2**31), 2**31 - 1, 0, -1]) | st.integers(-(2**31), 2**31 - 1)
INT64 = st.sampled_from([-(2**63), 2**63 - 1, 0, 0x7FEFFFFFFFFFFFFF]) | st.integers(-(2**63), 2**63 - 1)


@given(st.lists(st.tuples(INT32, INT64, st.integers(-128, 127)), min_size=1, max_size=9))
def test_records_round_trip_over_their_whole_range(records):
    bias, m0, shift = (np.array(column, dtype=np.int64) for column in zip(*records, strict=True))
    packed = pack_records(bias, m0, shift)
    assert packed.shape == (len(records), 16)
    assert [column.tolist() for column in unpack_records(packed)] == [bias.tolist(), m0.tolist(), shift.tolist()]
    assert [column.dtype for column in unpack_records(packed)] == [np.int64] * 3


def test_a_record_by_hand():
    # bias int32, shift int8, three zero bytes, multiplier int64, all little-endian
    packed = pack_records(np.array([-2]), np.array([0x0102030405060708]), np.array([-31]))
    assert packed.tobytes() == bytes.fromhex("feffffff e1 000000 0807060504030201")
    ends = pack_records(np.array([-(2**31)]), np.array([-(2**63)]), np.array([62]))
    assert ends.tobytes() == bytes.fromhex("00000080 3e 000000 0000000000000080")
