"""Off-by-N counts: every code is counted once, narrow types do not wrap, unlike shapes are refused."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from accelsim.errors import InputError
from accelsim.explore.differences import count_differences


def test_counts_are_those_of_a_python_loop() -> None:
    random = np.random.default_rng(1)
    a, b = random.integers(-128, 128, (2, 3, 4, 5, 6), dtype=np.int8)
    (found,) = count_differences({"x": a}, {"x": b})
    expected = Counter(int(q) - int(p) for p, q in zip(a.ravel(), b.ravel(), strict=True))
    assert found.steps == dict(expected)
    assert list(found.steps) == sorted(expected)
    assert found.values == sum(expected.values()) == a.size
    assert found.differing == a.size - expected[0]
    assert found.off_by == tuple(
        sum(count for step, count in expected.items() if min(abs(step), 3) == n) for n in range(4)
    )


def test_int8_ends_are_255_apart_and_uint8_differences_are_signed() -> None:
    ends = np.array([-128, 127], dtype=np.int8)
    (found,) = count_differences({"x": ends}, {"x": ends[::-1]})
    assert (found.steps, found.largest) == ({-255: 1, 255: 1}, 255)
    (found,) = count_differences({"x": np.array([2], dtype=np.uint8)}, {"x": np.array([1], dtype=np.uint8)})
    assert found.steps == {-1: 1}


def test_first_difference_is_first_in_image_order() -> None:
    a = np.zeros((2, 2, 2, 3), dtype=np.int64)
    b = a.copy()
    b[1, 0, 0, 0], b[0, 1, 1, 2] = 7, -1
    (found,) = count_differences({"x": a}, {"x": b})
    assert found.first == ((0, 1, 1, 2), 0, -1)
    (same,) = count_differences({"x": a}, {"x": a})
    assert (same.first, same.differing, same.largest) == (None, 0, 0)


def test_only_shared_names_in_the_order_of_the_first() -> None:
    one = np.ones(1, dtype=np.int8)
    found = count_differences({"b": one, "c": one, "a": one}, {"a": one, "b": one, "d": one})
    assert [tensor.node for tensor in found] == ["b", "a"]


def test_refusals() -> None:
    with pytest.raises(InputError, match=r"^node x: has shape \(2,\) in one network and \(3,\) in the other$"):
        count_differences({"x": np.zeros(2, dtype=np.int8)}, {"x": np.zeros(3, dtype=np.int8)})
    with pytest.raises(TypeError, match="float64"):
        count_differences({"x": np.zeros(2)}, {"x": np.zeros(2)})
