"""What an ONNX tensor stands for while a graph is read, and where its elements lie in the integer graph's tensors."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from accelsim.importers.onnx_file import Operator

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]
Shape = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Layout:
    """Where the elements of an ONNX tensor of one image lie in a node's tensor.

    Attributes:
        shape: ONNX's dimensions, without the batch.
        stored: (H, W, C).
        order: int32 (elements,), the stored place of each element in ONNX's order; None for the usual one, see `usual`.
    """

    shape: Shape
    stored: tuple[int, int, int]
    order: npt.NDArray[np.int32] | None = None

    @property
    def is_usual(self) -> bool:
        """Whether rank and order are those of `usual`."""
        return self.order is None

    def places(self) -> npt.NDArray[np.int32]:
        """`order`, spelt out."""
        if self.order is not None:
            return self.order
        flat = np.arange(math.prod(self.stored), dtype=np.int32)
        if len(self.shape) == 3:
            return np.ascontiguousarray(np.moveaxis(flat.reshape(self.stored), 2, 0)).ravel()
        return flat

    def reordered(self, shape: Shape, order: npt.NDArray[np.int32]) -> Layout:
        """The same stored tensor seen in another shape and order."""
        if len(shape) <= 3:
            plain = usual(shape)
            if plain.stored == self.stored and np.array_equal(plain.places(), order):
                return plain
        return Layout(shape, self.stored, order)

    def to_stored(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """(N, *shape) to (N, H, W, C)."""
        flat = values.reshape(len(values), -1)
        stored = np.empty_like(flat)
        stored[:, self.places()] = flat
        return stored.reshape(len(values), *self.stored)

    def from_stored(self, tensor: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """(N, H, W, C) to (N, *shape)."""
        return tensor.reshape(len(tensor), -1)[:, self.places()].reshape(len(tensor), *self.shape)


def usual(shape: Shape) -> Layout:
    """(C, H, W) is stored (H, W, C); (K,) is (1, 1, K); rows (M, K) are the width of an image, (1, M, K).

    >>> usual((3, 8, 9)).stored, usual((10,)).stored, usual((4, 6)).stored
    ((8, 9, 3), (1, 1, 10), (1, 4, 6))
    """
    if len(shape) == 3:
        return Layout(shape, (shape[1], shape[2], shape[0]))
    height, width, channels = (1, 1, 1, *shape)[-3:]
    return Layout(shape, (height, width, channels))


@dataclass(frozen=True)
class Scale:
    """S and Z of a whole tensor as the file has them, and the type of its codes: int8 or uint8."""

    scale: np.float32
    zero_point: int
    dtype: np.dtype[Any]

    def __str__(self) -> str:
        return f"S = {self.scale:g}, Z = {self.zero_point} ({self.dtype})"


@dataclass(frozen=True, eq=False)
class Codes:
    """A tensor of codes that a node of the integer graph computes."""

    node: str
    layout: Layout
    scale: Scale


@dataclass(frozen=True, eq=False)
class Chain:
    """Codes made real, and a chain of element-wise float32 functions of them (the identity at first).

    Attributes:
        codes: on the scale that its DequantizeLinear states.
        restated: whether that is another than the codes were made on.
    """

    codes: Codes
    functions: tuple[tuple[str, Callable[[Float32], Float32]], ...] = ()
    restated: bool = False


@dataclass(frozen=True, eq=False)
class Index:
    """Codes as integers that look up a table: code - offset, codes as the file has them."""

    codes: Codes
    offset: int = 0


@dataclass(frozen=True, eq=False)
class LookedUp:
    """A table's entries at codes, int8 or uint8, whose scale a DequantizeLinear behind it states.

    Attributes:
        operator: the Gather.
        index: what is looked up.
        entries: (n,) as the file has them.
    """

    operator: Operator
    index: Index
    entries: npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class HostTensor:
    """A tensor that the host alone holds: int32 sums, float32 reals, or codes with a scale for each channel."""

    node: str
    layout: Layout
    dtype: np.dtype[Any]
    channels: bool = False


@dataclass(frozen=True, eq=False)
class QuantizedConstant:
    """A constant made real: integers, S and Z of shape (1,) or along `axis`."""

    values: npt.NDArray[Any]
    scales: Float32
    zero_points: Int64
    axis: int


@dataclass(frozen=True, eq=False)
class Awaiting:
    """A float result whose scale a QuantizeLinear behind it states.

    Attributes:
        operator: that computes it.
        layout: of the result.
        low, high: what ReLU and Clip have cut it to.
        finish: makes the node, of the output's scale and clip limits in codes of the file.
        with_bias: the same with a bias added, for a MatMul that has none yet.
    """

    operator: Operator
    layout: Layout
    finish: Callable[[Scale, tuple[int, int]], Codes]
    low: float = -math.inf
    high: float = math.inf
    with_bias: Callable[[Any], Awaiting] | None = None


@dataclass(frozen=True, eq=False)
class GraphInput:
    """The file's input before its first reader has said on which scale it is."""

    dtype: np.dtype[Any]
    shape: Shape


Constant = npt.NDArray[Any]
Value = Codes | Chain | Index | LookedUp | HostTensor | QuantizedConstant | Awaiting | GraphInput | Constant
