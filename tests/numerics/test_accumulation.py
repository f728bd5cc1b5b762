"""Accumulation: K order, and saturating or wrapping sums in exactly that order."""

from __future__ import annotations

import itertools
import random
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numerics import oracle

from accelsim.numerics import Arithmetic, PsumStatistics, accumulate, accumulate_lanes, accumulation, chunks, fit

UNHURRIED = settings(deadline=None)  # other tests may hold the core


def arithmetic(width: int, psum: int | None = None, **changes) -> Arithmetic:
    """Weight stationary, saturating at every add, four rows, unless told."""
    usual = dict(overflow="saturate", saturate_at="every_add", rows=4, dataflow="ws")
    return Arithmetic(width_bits=width, psum_bits=width if psum is None else psum, **(usual | changes))


def in_a_row(size: int, how: Arithmetic) -> list[range]:
    """The chunks of a linear layer with K = size."""
    return chunks((1, 1), size, rows=how.rows, dataflow=how.dataflow, packed_row=True) if size else []


def figures(seen: PsumStatistics) -> tuple[int, int | None, int | None]:
    return seen.overflows, seen.minimum, seen.maximum


def one_at_a_time(
    x, w, cuts, how: Arithmetic, start=None
) -> tuple[list[list[int]], tuple[int, int | None, int | None]]:
    """Sums and figures by the oracle, from arrays; x is (M, K), or (M, K, N) where each lane has its own."""
    x, w = x.tolist(), w.tolist()
    columns = len(w[0]) if w else np.shape(start)[-1]
    starts = None if start is None else np.broadcast_to(start, (len(x), columns)).tolist()
    seen = oracle.Seen()
    sums = []
    for m, row in enumerate(x):
        sums.append([])
        for n in range(columns):
            values = [v[n] if isinstance(v, list) else v for v in row]
            total = oracle.accumulate(
                [v * w[k][n] for k, v in enumerate(values)],
                cuts,
                psum_bits=how.psum_bits,
                width_bits=how.width_bits,
                overflow=how.overflow,
                saturate_at=how.saturate_at,
                dataflow=how.dataflow,
                start=None if starts is None else starts[m][n],
                seen=seen,
            )
            sums[m].append(total)
    return sums, seen.figures


def check(x, w, cuts, how: Arithmetic, start=None) -> None:
    """Both ways of asking give the oracle's bits, and the figures are its too."""
    sums, seen = one_at_a_time(x, w, cuts, how, start)
    statistics = PsumStatistics()
    with_figures = accumulate(x, w, cuts, how, start=start, statistics=statistics)
    assert with_figures.tolist() == sums
    assert figures(statistics) == seen
    without = accumulate(x, w, cuts, how, start=start)
    assert without.tolist() == sums
    assert with_figures.dtype == without.dtype == np.int64


# --- chunks -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("dataflow", ["ws", "is", "os"])
def test_chunks_cut_each_run_from_its_start_for_every_small_kernel(dataflow, packed):
    for kernel in itertools.product(range(1, 5), repeat=2):
        for channels, rows in itertools.product(range(1, 9), (1, 2, 3, 4, 5, 8, 16, 100)):
            cut = chunks(kernel, channels, rows=rows, dataflow=dataflow, packed_row=packed)
            assert [list(c) for c in cut] == oracle.chunks(kernel, channels, rows, dataflow, packed)
            assert [k for c in cut for k in c] == list(range(kernel[0] * kernel[1] * channels))
            assert dataflow == "os" or max(map(len, cut)) <= rows


def test_lenet_c1_has_runs_of_5_so_16_rows_take_5_tiles_where_a_packed_k_would_take_2():
    assert [len(c) for c in chunks((5, 5), 1, rows=16, dataflow="ws", packed_row=True)] == [5] * 5
    assert [len(c) for c in chunks((1, 1), 25, rows=16, dataflow="ws", packed_row=True)] == [16, 9]
    # C3: runs of 5 * 6 = 30. Depthwise 3 x 3: nine runs of 1.
    assert [len(c) for c in chunks((5, 5), 6, rows=16, dataflow="is", packed_row=True)] == [16, 14] * 5
    assert [len(c) for c in chunks((3, 3), 1, rows=16, dataflow="ws", packed_row=False)] == [1] * 9


# --- worked by hand -----------------------------------------------------------------------------------


def test_os_and_ws_differ_at_8_bits_because_they_clamp_different_sums():
    x, w = np.array([[10, 10, 10, -10]]), np.array([[10], [5], [-10], [4]])  # products 100, 50, -100, -40
    ws = arithmetic(8, rows=2)
    # Chunk 1: 0 + 100 = 100; 100 + 50 = 150, clamped to 127. Memory: 0 + 127 = 127.
    # Chunk 2: 0 - 100 = -100; -100 - 40 = -140, clamped to -128. Memory: 127 - 128 = -1.
    seen = PsumStatistics()
    assert accumulate(x, w, in_a_row(4, ws), ws, statistics=seen).tolist() == [[-1]]
    assert figures(seen) == (2, -140, 150)
    os = replace(ws, dataflow="os")
    # One register: 100; 150, clamped to 127; 127 - 100 = 27; 27 - 40 = -13.
    seen = PsumStatistics()
    assert accumulate(x, w, in_a_row(4, os), os, statistics=seen).tolist() == [[-13]]
    assert figures(seen) == (1, -13, 150)
    # The exact sum is 100 + 50 - 100 - 40 = 10, which fits: "end" clamps nothing, and counts nothing.
    end = replace(ws, saturate_at="end")
    seen = PsumStatistics()
    assert accumulate(x, w, in_a_row(4, end), end, statistics=seen).tolist() == [[10]]
    assert figures(seen) == (0, -140, 150)  # -100 - 40 = -140; 100 + 50 = 150


def test_wrapping_at_8_bits_comes_back_to_the_exact_sum_in_either_order():
    x, w = np.array([[10, 10, 10, -10]]), np.array([[10], [5], [-10], [4]])  # products 100, 50, -100, -40
    ws = arithmetic(8, rows=2, overflow="wrap")
    # Chunk 1: 100; 150 - 256 = -106. Memory: 0 - 106 = -106.
    # Chunk 2: -100; -140 + 256 = 116. Memory: -106 + 116 = 10.
    seen = PsumStatistics()
    assert accumulate(x, w, in_a_row(4, ws), ws, statistics=seen).tolist() == [[10]]
    assert figures(seen) == (2, -140, 150)
    os = replace(ws, dataflow="os")
    # One register: 100; 150 - 256 = -106; -106 - 100 = -206 + 256 = 50; 50 - 40 = 10.
    seen = PsumStatistics()
    assert accumulate(x, w, in_a_row(4, os), os, statistics=seen).tolist() == [[10]]
    assert figures(seen) == (2, -206, 150)


def test_psum_narrower_than_the_memory_clamps_inside_a_chunk_only():
    x, w = np.array([[10, 10, 10, 10]]), np.array([[10], [5], [10], [5]])  # products 100, 50, 100, 50
    ws = arithmetic(10, psum=8, rows=2)
    # Each chunk: 100; 150, clamped to 127. Memory, 10 bits: 127; 254.
    seen = PsumStatistics()
    assert accumulate(x, w, in_a_row(4, ws), ws, statistics=seen).tolist() == [[254]]
    assert figures(seen) == (2, 0 + 100, 254)
    os = replace(ws, dataflow="os")
    # All in the 8-bit register: 100; 150 -> 127; 227 -> 127; 177 -> 127.
    seen = PsumStatistics()
    assert accumulate(x, w, in_a_row(4, os), os, statistics=seen).tolist() == [[127]]
    assert figures(seen) == (3, 100, 227)


def test_start_value_is_fitted_to_the_adder_it_enters_and_counts_as_seen_but_not_as_an_addition():
    x, w, start = np.array([[1]]), np.array([[-7]]), np.array([300])
    ws = arithmetic(9, psum=8)
    # Memory of 9 bits: 300 becomes 255. Chunk: 0 - 7 = -7. Memory: 255 - 7 = 248.
    seen = PsumStatistics()
    assert accumulate(x, w, [range(1)], ws, start=start, statistics=seen).tolist() == [[248]]
    assert figures(seen) == (0, -7, 255)
    # os: the register of 8 bits: 300 becomes 127; 127 - 7 = 120.
    seen = PsumStatistics()
    os = replace(ws, dataflow="os")
    assert accumulate(x, w, [range(1)], os, start=start, statistics=seen).tolist() == [[120]]
    assert figures(seen) == (0, 120, 127)
    # At the end: 300 as it is; 293, clamped to 255 once.
    seen = PsumStatistics()
    end = replace(ws, saturate_at="end")
    assert accumulate(x, w, [range(1)], end, start=start, statistics=seen).tolist() == [[255]]
    assert figures(seen) == (1, -7, 300)


def test_int32_accumulator_first_overflows_at_k_131072():
    # (-128) * (-128) = 2**14, and 2**31 / 2**14 = 131072.
    x = np.full((1, 131071), -128, dtype=np.int8)
    for overflow, wanted in (("saturate", 2**31 - 1), ("wrap", -(2**31))):
        how, seen = arithmetic(32, dataflow="os", overflow=overflow), PsumStatistics()
        total = accumulate(x, x.T, [range(131071)], how, statistics=seen)
        assert total.tolist() == accumulate(x, x.T, [range(131071)], how).tolist() == [[131071 * 2**14]]
        assert figures(seen) == (0, 2**14, 131071 * 2**14)
        one_more = x[:, :1]
        total = accumulate(one_more, one_more.T, [range(1)], how, start=total, resumed=True, statistics=seen)
        assert total.tolist() == [[wanted]]
        assert figures(seen) == (1, 2**14, 2**31)


# --- exhaustive at 8 bits -----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.int64, object])
@pytest.mark.parametrize("overflow", ["saturate", "wrap"])
@pytest.mark.parametrize("dataflow", ["ws", "os"])
def test_every_pair_of_8_bit_sum_and_product(dataflow, overflow, dtype):
    values = np.arange(-128, 128)
    how = arithmetic(8, dataflow=dataflow, overflow=overflow)
    exact = [[s + p for s in range(-128, 128)] for p in range(-128, 128)]
    seen = PsumStatistics()
    result = accumulate(
        values[:, None], np.ones((1, 256), np.int8), [range(1)], how, start=values.astype(dtype), statistics=seen
    )
    assert result.tolist() == [[oracle.fit(e, 8, overflow) for e in row] for row in exact]
    # 1 + 2 + ... + 127 pairs above 127, one more row of them below -128.
    assert figures(seen) == (127 * 128 // 2 + 128 * 129 // 2, -256, 254)
    assert fit(np.array(exact), 8, overflow).tolist() == result.tolist()


PRODUCTS = (-100, -30, 1, 50, 127)


@pytest.mark.parametrize("saturate_at", ["every_add", "end"])
@pytest.mark.parametrize("overflow", ["saturate", "wrap"])
@pytest.mark.parametrize("dataflow, rows", [("os", 2), ("ws", 1), ("ws", 2), ("ws", 3)])
def test_every_sequence_of_3_to_5_products(dataflow, rows, overflow, saturate_at):
    for length, (psum, width), start in (
        *itertools.product((3, 4), ((8, 8), (8, 9), (9, 12)), (None, 0, 90, -1000)),
        (5, (8, 8), None),
        (5, (8, 9), -70),
    ):
        how = arithmetic(width, psum, dataflow=dataflow, rows=rows, overflow=overflow, saturate_at=saturate_at)
        x = np.array(list(itertools.product(PRODUCTS, repeat=length)), dtype=np.int8)
        w = np.ones((length, 1), dtype=np.int8)
        check(x, w, in_a_row(length, how), how, None if start is None else np.array([start]))


def test_order_changes_saturated_sums_but_not_wrapped_ones():
    x = np.array(list(itertools.product(PRODUCTS, repeat=4)))
    w = np.ones((4, 1), dtype=np.int64)
    swapped = x[:, [0, 2, 1, 3]]  # the middle two, which weight-stationary chunks of two keep apart
    for dataflow in ("ws", "os"):
        how = arithmetic(8, dataflow=dataflow, rows=2)
        cuts = in_a_row(4, how)
        assert (accumulate(x, w, cuts, how) != accumulate(swapped, w, cuts, how)).any()
        wrapping = replace(how, overflow="wrap")
        assert (accumulate(x, w, cuts, wrapping) == accumulate(swapped, w, cuts, wrapping)).all()


# --- any size -----------------------------------------------------------------------------------------


@st.composite
def sums(draw, largest_width=64):
    """Operands of up to 9 bits, chunks, an arithmetic, and start values up to both ends of it."""
    width = draw(st.integers(8, largest_width), label="width")
    how = arithmetic(
        width,
        draw(st.integers(8, width) | st.just(width), label="psum"),
        overflow=draw(st.sampled_from(["saturate", "wrap"])),
        saturate_at=draw(st.sampled_from(["every_add", "end"])),
        dataflow=draw(st.sampled_from(["ws", "os", "is"])),
        rows=draw(st.integers(1, 9), label="rows"),
    )
    m, k, n = (draw(st.integers(1, most)) for most in (3, 20, 3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1), label="seed"))
    largest = draw(st.sampled_from([1, 11, 128, 255]), label="largest operand")
    x, w = rng.integers(-largest, largest + 1, (m, k)), rng.integers(-largest, largest + 1, (k, n))
    low, high = oracle.limits(width)
    ends = [low, low + 1, high - 1, high, low // 2, high // 2, 0]
    values = st.sampled_from(ends) | st.integers(low, high) | st.integers(-(2**66), 2**66)
    start = draw(st.none() | st.lists(values, min_size=n, max_size=n), label="start")
    if start is not None:
        start = np.array(start, dtype=object)
        if draw(st.booleans()) and all(-(2**63) <= v < 2**63 for v in start):
            start = start.astype(np.int64)
    return x, w, in_a_row(k, how), how, start


@settings(UNHURRIED, max_examples=400)
@given(sums())
def test_any_width_order_and_start_gives_the_bits_and_figures_of_one_addition_at_a_time(case):
    check(*case)


@settings(UNHURRIED, max_examples=200)
@given(sums(), st.randoms(use_true_random=False))
def test_wrapping_with_equal_widths_is_the_exact_sum_modulo_2_to_the_width_in_any_order(case, shuffler: random.Random):
    x, w, _, how, start = case
    how = replace(how, psum_bits=how.width_bits, overflow="wrap", saturate_at="every_add")
    order = list(range(x.shape[1]))
    shuffler.shuffle(order)
    exact = x.astype(object) @ w.astype(object) + (0 if start is None else start.astype(object))
    expected = [[oracle.fit(v, how.width_bits, "wrap") for v in row] for row in exact.tolist()]
    for dataflow, rows in (("ws", how.rows), ("ws", 1), ("os", 1)):
        how = replace(how, dataflow=dataflow, rows=rows)
        assert accumulate(x[:, order], w[order], in_a_row(len(order), how), how, start=start).tolist() == expected


@settings(UNHURRIED, max_examples=200)
@given(sums())
def test_where_no_sum_can_leave_the_psum_s_range_every_arithmetic_is_exact(case):
    x, w, _, how, _ = case
    exact = x @ w
    needed = int((np.abs(x).max() * np.abs(w).sum(axis=0)).max()).bit_length() + 1
    psum = max(8, needed)
    for dataflow, overflow in itertools.product(("ws", "os"), ("saturate", "wrap")):
        wide = replace(how, psum_bits=psum, width_bits=psum, dataflow=dataflow, overflow=overflow)
        seen = PsumStatistics()
        assert accumulate(x, w, in_a_row(len(w), wide), wide, statistics=seen).tolist() == exact.tolist()
        assert seen.overflows == 0


@settings(UNHURRIED, max_examples=200)
@given(sums(largest_width=40), st.data())
def test_sum_split_over_calls_is_the_sum_of_one_call(case, data):
    x, w, cuts, how, start = case
    whole, split = PsumStatistics(), PsumStatistics()
    expected = accumulate(x, w, cuts, how, start=start, statistics=whole)
    # os may stop anywhere; ws between chunks.
    stops = range(1, len(w)) if how.dataflow == "os" else [cut.stop for cut in cuts[:-1]]
    at = data.draw(st.sampled_from([*stops, len(w)]), label="split at")
    if at == len(w):
        return
    early = [range(at)] if how.dataflow == "os" else [cut for cut in cuts if cut.stop <= at]
    late = (
        [range(len(w) - at)]
        if how.dataflow == "os"
        else [range(cut.start - at, cut.stop - at) for cut in cuts if cut.start >= at]
    )
    stored = accumulate(x[:, :at], w[:at], early, how, start=start, final=False, statistics=split)
    result = accumulate(x[:, at:], w[at:], late, how, start=stored, resumed=True, statistics=split)
    assert result.tolist() == expected.tolist()
    assert split == whole
    stored = accumulate(x[:, :at], w[:at], early, how, start=start, final=False)
    assert accumulate(x[:, at:], w[at:], late, how, start=stored, resumed=True).tolist() == expected.tolist()


def test_resumed_sum_s_stored_value_is_not_seen_again():
    # 100 + 30 = 130 wraps to -126; -126 + 50 = -76. No exact sum is below -76, though -126 was stored.
    x, w, how = np.array([[100, 30, 50]]), np.ones((3, 1), dtype=int), arithmetic(8, dataflow="os", overflow="wrap")
    whole, split = PsumStatistics(), PsumStatistics()
    accumulate(x, w, [range(3)], how, statistics=whole)
    stored = accumulate(x[:, :2], w[:2], [range(2)], how, final=False, statistics=split)
    assert stored.tolist() == [[-126]]
    accumulate(x[:, 2:], w[2:], [range(1)], how, start=stored, resumed=True, statistics=split)
    assert split == whole == PsumStatistics(overflows=1, minimum=-76, maximum=130)


@pytest.mark.parametrize("statistics", [False, True])
def test_resumed_sum_stored_at_a_larger_width_enters_the_memory_s_adder_as_it_is(statistics):
    x, w, stored = np.array([[-100]]), np.array([[1]]), np.array([[300]])
    # ws: 300 - 100 = 200, an addition that overflows 8 bits. Fitted first, 127 - 100 = 27 would not.
    how, seen = arithmetic(8), PsumStatistics() if statistics else None
    assert accumulate(x, w, [range(1)], how, start=stored, resumed=True, statistics=seen).tolist() == [[127]]
    assert seen is None or figures(seen) == (1, -100, 200)
    # os: the PE's register has 8 bits, so 300 enters as 127; 127 - 100 = 27.
    how, seen = arithmetic(8, dataflow="os"), PsumStatistics() if statistics else None
    assert accumulate(x, w, [range(1)], how, start=stored, resumed=True, statistics=seen).tolist() == [[27]]
    assert seen is None or figures(seen) == (0, 27, 27)


@pytest.mark.parametrize("dataflow", ["ws", "os"])
def test_64_bit_sums_saturate_and_wrap_at_their_ends(dataflow):
    top, bottom = 2**63 - 1, -(2**63)
    x, w = np.array([[255], [-255], [0]]), np.array([[255, -255, 1, 0]])
    start = np.array([top, bottom, top - 65025, bottom + 254], dtype=np.int64)
    for overflow in ("saturate", "wrap"):
        how = arithmetic(64, dataflow=dataflow, overflow=overflow)
        check(x, w, [range(1)], how, start)
        check(x, w, [range(1)], how, start.astype(object) * 4)
    how = arithmetic(64, dataflow=dataflow)
    result = accumulate(x, w, [range(1)], how, start=start)
    assert result[0].tolist() == [top, bottom, top - 65025 + 255, bottom + 254]
    assert result[1].tolist() == [top - 65025, bottom + 65025, top - 65025 - 255, bottom + 254]


# --- the ways inside ----------------------------------------------------------------------------------


@pytest.fixture
def ways(monkeypatch):
    """Record which way a sum took: "product", "stretches", "running" or "adds", and the dtype."""
    taken = set()

    def spy(name, way):
        inner = getattr(accumulation, name)

        def recorded(first, *rest):
            taken.add(f"{way} {first.dtype}")
            return inner(first, *rest)

        monkeypatch.setattr(accumulation, name, recorded)

    spy("_exact_product", "product")
    spy("_add_stretches", "stretches")
    spy("_add_chunk", "running")
    spy("_add", "adds")
    return taken


@pytest.mark.parametrize("overflow", ["saturate", "wrap"])
@pytest.mark.parametrize("width", [8, 12, 32, 64])
def test_every_way_gives_the_same_bits_and_figures(ways, monkeypatch, width, overflow):
    rng = np.random.default_rng(width)
    x, w, start = rng.integers(-128, 128, (40, 30)), rng.integers(-128, 128, (30, 7)), rng.integers(-99, 99, 7)
    how = arithmetic(width, dataflow="os", overflow=overflow)
    cuts = in_a_row(30, how)
    expected, seen = one_at_a_time(x, w, cuts, how, start)
    overflows = seen[0] > 0
    assert overflows == (width <= 12)

    assert accumulate(x, w, cuts, how, start=start).tolist() == expected
    small = (
        {"stretches int64", "running int64", "adds int64"}
        if overflow == "saturate"
        else {"stretches int64", "product int64"}
    )
    assert ways == (small if overflows else {"product int64"})
    monkeypatch.setattr(accumulation, "_SMALL", 0)
    ways.clear()
    assert accumulate(x, w, cuts, how, start=start).tolist() == expected
    assert ways == ({"stretches int64", "product int64"} if overflows else {"product int64"})
    for size in (1, 7, 30):
        monkeypatch.setattr(accumulation, "_STRETCH", size)
        assert accumulate(x, w, cuts, how, start=start).tolist() == expected

    # A slice of one row: rows that stay in range are summed in one go beside rows added one product at a time.
    for size in (1, 500, 1 << 18):
        monkeypatch.setattr(accumulation, "_SLICE", size)
        ways.clear()
        statistics = PsumStatistics()
        assert accumulate(x, w, cuts, how, start=start, statistics=statistics).tolist() == expected
        assert figures(statistics) == seen
        assert ways == ({"running int64", "adds int64"} if overflows else {"running int64"})

    monkeypatch.setattr(accumulation, "_magnitude_bound", lambda x, w: 1 << 62)
    ways.clear()
    statistics = PsumStatistics()
    result = accumulate(x, w, cuts, how, start=start, statistics=statistics)
    assert (result.tolist(), figures(statistics)) == (expected, seen)
    assert result.dtype == np.int64
    assert ways == ({"running object", "adds object"} if overflows else {"running object"})
    assert accumulate(x, w, cuts, how, start=start).tolist() == expected


@pytest.mark.parametrize("small", [0, 1 << 16])
def test_sums_without_figures_are_those_with(monkeypatch, small):
    """Any widths, cuts and starts: matrix products of stretches against one addition at a time."""
    monkeypatch.setattr(accumulation, "_SMALL", small)
    rng = np.random.default_rng(small)
    for _ in range(400):
        words, inner, lanes = (int(v) for v in rng.integers(1, [8, 150, 6]))
        largest, diagonal = int(rng.choice([2, 20, 128])), bool(rng.random() < 0.3)
        x = rng.integers(-largest, largest, (words, inner, lanes) if diagonal else (words, inner))
        x = np.abs(x) if rng.random() < 0.3 else x
        w = rng.integers(-128, 128, (inner, lanes))
        width, rows, dataflow = int(rng.integers(8, 26)), int(rng.integers(1, 70)), str(rng.choice(["ws", "os"]))
        how = Arithmetic(
            psum_bits=int(rng.integers(8, width + 1)),
            width_bits=width,
            overflow=str(rng.choice(["saturate", "wrap"])),
            saturate_at="every_add",
            rows=rows,
            dataflow=dataflow,
        )
        whole = dataflow == "os" and not diagonal
        cuts = [range(inner)] if whole else [range(k, min(k + rows, inner)) for k in range(0, inner, rows)]
        start = rng.integers(-5000, 5000, (words, lanes)) if rng.random() < 0.5 else None
        add = accumulate_lanes if diagonal else accumulate
        found = add(x, w, cuts, how, start=start)
        assert np.array_equal(found, add(x, w, cuts, how, start=start, statistics=PsumStatistics()))


@pytest.mark.parametrize("dataflow", ["ws", "os"])
def test_one_overflowing_output_does_not_change_its_neighbours(ways, monkeypatch, dataflow):
    monkeypatch.setattr(accumulation, "_SMALL", 0)
    rng = np.random.default_rng(3)
    x, w = rng.integers(-9, 10, (30, 20)), rng.integers(-9, 10, (20, 5))
    how = arithmetic(14, dataflow=dataflow)
    cuts = in_a_row(20, how)
    quiet = accumulate(x, w, cuts, how)
    assert ways == {"product int64"}
    # One more column that overflows in every row takes none of them with it.
    loud = np.column_stack([w, np.full(20, 4000)])
    x = np.abs(x) + 1
    ways.clear()
    result = accumulate(x, loud, cuts, how)
    assert "stretches int64" in ways
    assert (result[:, 5] == 2**13 - 1).all()
    ways.clear()
    assert result[:, :5].tolist() == accumulate(x, w, cuts, how).tolist() == (x @ w).tolist()
    assert ways == {"product int64"}
    assert quiet.shape == (30, 5)


@pytest.mark.parametrize("width", [45, 46, 47, 62, 63, 64])
def test_psum_of_8_bits_beside_a_wide_memory_stays_in_int64(ways, width):
    rng = np.random.default_rng(width)
    x, w = rng.integers(-128, 128, (4, 40)), rng.integers(-128, 128, (40, 3))
    how = arithmetic(width, psum=8)
    check(x, w, in_a_row(40, how), how)
    assert ways >= {"running int64", "adds int64"}


def test_exact_product_is_exact_up_to_2_to_the_53_and_not_used_beyond(ways):
    how = arithmetic(64, saturate_at="end")
    w = np.ones((3, 1), dtype=np.int64)
    start = np.array([2**53 - 4])
    assert accumulate(np.array([[1, 1, 1]]), w, [range(3)], how, start=start).tolist() == [[2**53 - 1]]
    assert ways == {"product int64"}
    ways.clear()
    assert accumulate(np.array([[1, 1, 1]]), w, [range(3)], how, start=start + 1).tolist() == [[2**53]]
    assert accumulate(np.array([[1, 1, 1]]), w, [range(3)], how, start=start + 2).tolist() == [[2**53 + 1]]
    assert ways == {"running int64", "adds int64"}


# --- dtypes and shapes --------------------------------------------------------------------------------


@pytest.mark.parametrize("saturate_at", ["every_add", "end"])
@pytest.mark.parametrize("overflow", ["saturate", "wrap"])
@pytest.mark.parametrize("width", [8, 16, 32, 64])
def test_operands_and_start_of_any_integer_dtype_give_the_same_bits(width, overflow, saturate_at):
    how = arithmetic(width, overflow=overflow, saturate_at=saturate_at)
    x, w, start = np.array([[100, 127, 3], [1, 2, 3]]), np.array([[100, 0], [127, 5], [9, 1]]), np.array([100, 7])
    cuts = in_a_row(3, how)
    expected, seen = one_at_a_time(x, w, cuts, how, start)
    for operand, begin in itertools.product(
        (np.int8, np.uint8, np.int16, np.int32, np.int64, np.uint64),
        (np.int8, np.uint8, np.int32, np.int64, np.uint64, object),
    ):
        for first in (start.astype(begin), np.broadcast_to(start, (2, 2)).astype(begin)):
            statistics = PsumStatistics()
            args = x.astype(operand), w.astype(operand), cuts, how
            assert accumulate(*args, start=first, statistics=statistics).tolist() == expected
            assert figures(statistics) == seen
            assert accumulate(*args, start=first).tolist() == expected


def test_smallest_operands_do_not_overflow_their_dtype():
    x, w = np.full((2, 3), -128, dtype=np.int8), np.full((3, 2), -128, dtype=np.int8)
    for how in (arithmetic(8), arithmetic(32), arithmetic(64, dataflow="os")):
        check(x, w, in_a_row(3, how), how)
    unsigned = np.full((2, 3), 255, dtype=np.uint8)
    check(unsigned, w, in_a_row(3, arithmetic(32)), arithmetic(32))


@pytest.mark.parametrize("statistics", [None, PsumStatistics()])
@pytest.mark.parametrize("saturate_at", ["every_add", "end"])
@pytest.mark.parametrize("dataflow", ["ws", "os"])
def test_no_outputs_and_no_products_are_sums_too(dataflow, saturate_at, statistics):
    how = arithmetic(16, dataflow=dataflow, saturate_at=saturate_at)
    for m, k, n in ((0, 5, 3), (2, 5, 0), (0, 0, 0)):
        x, w = np.zeros((m, k), dtype=np.int8), np.zeros((k, n), dtype=np.int8)
        result = accumulate(x, w, in_a_row(k, how), how, start=np.zeros(n, dtype=int), statistics=statistics)
        assert (result.shape, result.dtype) == ((m, n), np.int64)
    empty = np.zeros((2, 0), dtype=np.int8), np.zeros((0, 3), dtype=np.int8)
    for cuts in ([], [range(0)]):
        assert accumulate(*empty, cuts, how, statistics=statistics).tolist() == [[0] * 3] * 2
        start = np.array([1, 2, 40000])
        assert accumulate(*empty, cuts, how, start=start, statistics=statistics).tolist() == [[1, 2, 32767]] * 2


def test_operands_are_read_and_never_written():
    rng = np.random.default_rng(5)
    x, w, start = rng.integers(-128, 128, (4, 9)), rng.integers(-128, 128, (9, 3)), rng.integers(-128, 128, (4, 3))
    for array in (x, w, start):
        array.flags.writeable = False
    for width, saturate_at, dataflow in itertools.product((8, 32, 64), ("every_add", "end"), ("ws", "os")):
        how = arithmetic(width, saturate_at=saturate_at, dataflow=dataflow)
        check(x, w, in_a_row(9, how), how, start)
        result = accumulate(x, w, in_a_row(9, how), how, start=start)
        result += 1  # the caller's own


# --- lanes --------------------------------------------------------------------------------------------


@settings(UNHURRIED, max_examples=100)
@given(sums(), st.integers(0, 2**32 - 1))
def test_lanes_with_activations_of_their_own_add_in_the_same_order_and_always_weight_stationary(case, seed):
    x, w, _, how, start = case
    x = np.random.default_rng(seed).integers(-128, 128, (*x.shape, w.shape[1]))
    cuts = [range(k, k + 1) for k in range(len(w))]
    ws = replace(how, dataflow="ws")
    expected, seen = one_at_a_time(x, w, cuts, ws, start)
    statistics = PsumStatistics()
    assert accumulate_lanes(x, w, cuts, how, start=start, statistics=statistics).tolist() == expected
    assert figures(statistics) == seen
    assert accumulate_lanes(x, w, cuts, how, start=start).tolist() == expected


def test_lanes_exact_product_matches_at_32_bits(ways):
    rng = np.random.default_rng(11)
    x, w = rng.integers(-128, 128, (50, 9, 16), dtype=np.int8), rng.integers(-128, 128, (9, 16), dtype=np.int8)
    how, cuts = arithmetic(32), [range(k, k + 1) for k in range(9)]
    result = accumulate_lanes(x, w, cuts, how)
    assert ways == {"product int64"}
    assert result.tolist() == accumulate_lanes(x, w, cuts, how, statistics=PsumStatistics()).tolist()
    assert result.tolist() == (x.astype(int) * w).sum(axis=1).tolist()


# --- statistics and errors ----------------------------------------------------------------------------


def test_statistics_merge_to_those_of_all_additions():
    first, second, none = PsumStatistics(2, -5, 7), PsumStatistics(1, -3, 90), PsumStatistics()
    none.merge(PsumStatistics())
    assert none == PsumStatistics(0, None, None)
    none.merge(first)
    assert none == first
    first.merge(second)
    assert first == PsumStatistics(3, -5, 90)
    first.merge(PsumStatistics())
    assert first == PsumStatistics(3, -5, 90)


def test_layer_s_width_narrows_the_accumulator_and_caps_the_psum():
    how = arithmetic(32, psum=20)
    assert how.at_width(None) == how
    assert how.at_width(24) == replace(how, width_bits=24)
    assert how.at_width(16) == replace(how, width_bits=16, psum_bits=16)
    with pytest.raises(ValueError, match=r"^accumulator_width_bits = 33 exceeds the hardware's 32$"):
        how.at_width(33)
    with pytest.raises(ValueError, match=r"^width_bits = 7 is outside 8\.\.64$"):
        how.at_width(7)


@pytest.mark.parametrize(
    "wrong, message",
    [
        (dict(width_bits=7, psum_bits=7), "width_bits = 7 is outside 8..64"),
        (dict(width_bits=65), "width_bits = 65 is outside 8..64"),
        (dict(psum_bits=7), "psum_bits = 7 is outside 8..width_bits = 16"),
        (dict(psum_bits=17), "psum_bits = 17 is outside 8..width_bits = 16"),
        (dict(rows=0), "rows = 0 must be at least 1"),
        (dict(overflow="clamp"), "overflow = 'clamp' is not one of saturate, wrap"),
        (dict(saturate_at="never"), "saturate_at = 'never' is not one of every_add, end"),
        (dict(dataflow="OS"), "dataflow = 'OS' is not one of ws, os, is"),
    ],
)
def test_arithmetic_without_meaning_is_refused(wrong, message):
    usual = dict(width_bits=16, psum_bits=16, overflow="saturate", saturate_at="every_add", rows=4, dataflow="ws")
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Arithmetic(**(usual | wrong))


@pytest.mark.parametrize("cuts", [[], [range(3)], [range(5)], [range(2), range(3, 4)], [range(2, 4), range(2)]])
def test_chunks_that_do_not_partition_k_in_order_are_refused(cuts):
    # The product ignores chunks, so a wrong list would be right or wrong by accident.
    message = f"^{re.escape(f'cuts = {cuts} do not partition K = 4 (w has 4 rows)')}$"
    for statistics in (None, PsumStatistics()):
        with pytest.raises(ValueError, match=message):
            accumulate(np.zeros((2, 4), int), np.zeros((4, 1), int), cuts, arithmetic(16), statistics=statistics)
    with pytest.raises(ValueError, match=r"do not partition K = 4 \(w has 3 rows\)$"):
        accumulate(np.zeros((2, 4), int), np.zeros((3, 1), int), [range(4)], arithmetic(16))


@pytest.mark.parametrize("dataflow, splits", [("ws", True), ("is", True), ("os", False)])
def test_ws_and_is_split_chunks_and_os_does_not(dataflow, splits):
    assert arithmetic(8, dataflow=dataflow).splits_chunks is splits
