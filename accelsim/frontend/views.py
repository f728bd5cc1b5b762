"""Views of a tensor: how the axes of an exported tensor run over the elements of the float node that computes it.

An axis is a nest of (size, stride) pairs, major first, with strides in elements of the node's tensor, batch left out;
so transposes only reorder axes, reshapes regroup pairs, and what an axis means is read off its strides: in an image
(C, H, W), tokens are (H * W, 1), channels (C, H * W), heads of d channels (C / d, d * H * W).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from accelsim.ir.float_graph import Shape

Axis = tuple[tuple[int, int], ...]
"""(size, stride) pairs, major first; sizes of 1 are left out, and pairs that one pair can stand for are merged."""
Axes = tuple[Axis, ...]


def contiguous(shape: Shape) -> Axes:
    """The axes of a tensor as the node computes it.

    >>> contiguous((3, 1, 4))
    (((3, 4),), (), ((4, 1),))
    """
    return tuple(_axis(((size, math.prod(shape[place + 1 :])),)) for place, size in enumerate(shape))


def merged(axes: Sequence[Axis]) -> Axis:
    """Several axes as one, the first the major.

    >>> merged((((2, 12),), ((3, 4),), ((4, 1),))), merged((((4, 1),), ((3, 4),)))
    (((24, 1),), ((4, 1), (3, 4)))
    """
    return _axis(tuple(pair for axis in axes for pair in axis))


def reshaped(axes: Axes, shape: Shape) -> Axes | None:
    """The axes after a reshape; None where an axis would have to take elements that no nest of strides tells.

    >>> reshaped(contiguous((6, 4)), (2, 3, 4))
    (((2, 12),), ((3, 4),), ((4, 1),))
    >>> reshaped((((4, 1),), ((6, 4),)), (8, 3)) is None
    False
    >>> reshaped((((4, 1),), ((6, 4),)), (3, 8)) is None
    True
    """
    left = [pair for axis in axes for pair in axis][::-1]
    made: list[Axis] = []
    for size in shape:
        taken: list[tuple[int, int]] = []
        while size > 1:
            if not left:
                return None
            have, stride = left.pop()
            part = math.gcd(have, size)
            if part == 1 or (part < have and part < size):
                return None
            taken.append((part, stride * (have // part)))
            if part < have:
                left.append((have // part, stride))
            size //= part
        made.append(_axis(tuple(taken)))
    return None if left else tuple(made)


def is_run(axis: Axis, size: int, stride: int) -> bool:
    """Whether an axis takes `size` elements, `stride` apart."""
    return axis == _axis(((size, stride),))


def _axis(pairs: Axis) -> Axis:
    made: list[tuple[int, int]] = []
    for size, stride in pairs:
        if size == 1:
            continue
        if made and made[-1][1] == size * stride:
            made[-1] = (made[-1][0] * size, stride)
        else:
            made.append((size, stride))
    return tuple(made)
