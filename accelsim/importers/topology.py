"""SCALE-Sim's topology files: the layers of a network as CSV, read, written, and turned into matrix products.

A file lists layers that do not depend on one another. Convolutions have a row of eight columns, matrix products one of
four; docs/coming-from-scalesim.md says how real files differ and what is read of each.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from accelsim.errors import InputError
from accelsim.files import read_text
from accelsim.ir import Conv2d, IntegerGraph, Mac, MatMul, products_of

CONVOLUTION_COLUMNS = (
    *("Layer name", "IFMAP Height", "IFMAP Width", "Filter Height", "Filter Width"),
    *("Channels", "Num Filter", "Strides"),
)
PRODUCT_COLUMNS = ("Layer", "M", "N", "K")

LARGEST_NUMBER = 65535
LARGEST_TENSOR = 1 << 26
"""Elements of an input, output or set of weights: what a file can make the reader allocate."""
LARGEST_FILE = 1 << 20
MOST_LAYERS = 10_000


@dataclass(frozen=True, kw_only=True)
class Product:
    """M x K inputs times K x N weights."""

    name: str
    m: int
    k: int
    n: int

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Elements of input, weights and output."""
        return self.m * self.k, self.k * self.n, self.m * self.n


@dataclass(frozen=True, kw_only=True)
class Convolution:
    """A convolution, or, where `depthwise`, one of each channel by itself with `filters` filters a channel.

    Attributes:
        height, width: of the input, padding included: the files know none.
    """

    name: str
    height: int
    width: int
    kernel_height: int
    kernel_width: int
    channels: int
    filters: int
    stride: int
    depthwise: bool = False

    @property
    def output(self) -> tuple[int, int]:
        """(height, width): SCALE-Sim rounds up where the stride leaves a rest."""
        return (
            -(-(self.height - self.kernel_height) // self.stride) + 1,
            -(-(self.width - self.kernel_width) // self.stride) + 1,
        )

    @property
    def missing(self) -> tuple[int, int]:
        """Rows and columns of input that the last windows, rounded up, reach beyond the file's."""
        height, width = self.output
        return (
            (height - 1) * self.stride + self.kernel_height - self.height,
            (width - 1) * self.stride + self.kernel_width - self.width,
        )

    @property
    def out_channels(self) -> int:
        """Of the output."""
        return self.filters * (self.channels if self.depthwise else 1)

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Elements of input, weights and output."""
        height, width = self.output
        window = self.kernel_height * self.kernel_width
        return (
            self.height * self.width * self.channels,
            window * self.channels * self.filters,
            height * width * self.out_channels,
        )


Shape = Product | Convolution


def as_products(shape: Shape) -> list[Product]:
    """The matrix products that a layer is: im2col, M output pixels and K = filter window times channels.

    >>> as_products(Convolution(name="c1", height=32, width=32, kernel_height=5, kernel_width=5, channels=1, filters=6,
    ...                         stride=1))
    [Product(name='c1', m=784, k=25, n=6)]
    """
    if isinstance(shape, Product):
        return [shape]
    height, width = shape.output
    m, window = height * width, shape.kernel_height * shape.kernel_width
    if not shape.depthwise:
        return [Product(name=shape.name, m=m, k=window * shape.channels, n=shape.filters)]
    return [
        Product(name=f"{shape.name}Channel_{channel}", m=m, k=window, n=shape.filters)
        for channel in range(shape.channels)
    ]


# Reading ------------------------------------------------------------------------------------------------------


def read_topology(path: Path) -> list[Shape]:
    """Read a topology file, of convolutions or of matrix products as its header says.

    Raises:
        InputError: no such file; a header of neither kind; a row that breaks a rule. One line with file, line, column,
            value, rule and remedy.
    """
    text = read_text(path)
    if len(text) > LARGEST_FILE:
        raise InputError(f"{path}: {len(text)} bytes are no topology; at most {LARGEST_FILE} are read")
    lines = [[cell.strip() for cell in line.split(",")] for line in text.removeprefix("\ufeff").splitlines()]
    rows = [(number, cells) for number, cells in enumerate(lines, 1) if any(cells)]
    if not rows:
        raise InputError(f"{path}: is empty; its first line names the columns: {', '.join(CONVOLUTION_COLUMNS)}")
    (number, header), *rows = rows
    columns = _columns(f"{path}: line {number}", header)
    if not rows:
        raise InputError(f"{path}: has a header and no layer; add a row of {', '.join(columns)}")
    if len(rows) > MOST_LAYERS:
        raise InputError(f"{path}: {len(rows)} layers exceed {MOST_LAYERS}; split the file")
    shapes: list[Shape] = []
    names: set[str] = set()
    for number, cells in rows:
        where = f"{path}: line {number}"
        name = _unique(cells[0] or f"line{number}", names)
        numbers = _numbers(where, columns, header, cells)
        shape = _product(name, numbers) if columns is PRODUCT_COLUMNS else _convolution(where, name, numbers)
        if (most := max(shape.sizes)) > LARGEST_TENSOR:
            raise InputError(
                f"{where}: layer {name!r} has a tensor of {most} elements, which must be at most {LARGEST_TENSOR}; "
                "use smaller sizes"
            )
        shapes.append(shape)
    return shapes


def _columns(where: str, header: Sequence[str]) -> tuple[str, ...]:
    """Which of the two kinds of row follows; SCALE-Sim reads by position, so the order is checked."""
    found = [_letters(cell) for cell in header]
    for columns, first in ((PRODUCT_COLUMNS, 1), (CONVOLUTION_COLUMNS, 1)):
        if found[first : len(columns)] == [_letters(name) for name in columns[first:]]:
            return columns
    raise InputError(
        f"{where}: columns {', '.join(header)!r} are of neither kind of topology; write "
        f"'{', '.join(CONVOLUTION_COLUMNS)}' or '{', '.join(PRODUCT_COLUMNS)}'"
    )


def _letters(name: str) -> str:
    """A column's name as it is compared: 'Strides' and 'stride', 'Num Filters' and 'num_filter' are one."""
    return re.sub(r"[^a-z0-9]", "", name.lower()).removesuffix("s")


def _numbers(where: str, columns: tuple[str, ...], header: Sequence[str], cells: Sequence[str]) -> list[int]:
    if len(cells) < len(columns):
        raise InputError(
            f"{where}: {len(cells)} values are too few for {', '.join(columns)}; add {columns[len(cells)]!r}"
        )
    numbers = []
    for column, cell in zip(columns[1:], cells[1:], strict=False):
        if not re.fullmatch(r"\+?[0-9]{1,9}", cell) or not 1 <= int(cell) <= LARGEST_NUMBER:
            raise InputError(
                f"{where}: {column} = {cell!r} must be an integer in 1..{LARGEST_NUMBER}; correct the row, or leave "
                "it out"
            )
        numbers.append(int(cell))
    for position, cell in enumerate(cells[len(columns) :], len(columns)):
        column = header[position] if position < len(header) else ""
        _check_extra(where, column, cell)
    return numbers


def _check_extra(where: str, column: str, cell: str) -> None:
    """Columns behind the known ones are notes (a target, '#dw'), but for two that would change the layer."""
    ratio = re.fullmatch(r"([0-9]+):([0-9]+)", cell)
    if ratio and ratio[1] != ratio[2]:
        raise InputError(f"{where}: sparsity {cell} is not modelled, every layer here is dense; write 1:1")
    if _letters(column).startswith("batch") and cell != "1":
        raise InputError(f"{where}: {column} = {cell!r} must be 1; give the batch to the command, as --batch")


def _unique(name: str, names: set[str]) -> str:
    """A name no layer before has: 'conv', then 'conv_2'."""
    found, count = name, 1
    while found in names:
        count += 1
        found = f"{name}_{count}"
    names.add(found)
    return found


def _product(name: str, numbers: Sequence[int]) -> Product:
    m, n, k = numbers
    return Product(name=name, m=m, k=k, n=n)


def _convolution(where: str, name: str, numbers: Sequence[int]) -> Convolution:
    height, width, kernel_height, kernel_width, channels, filters, stride = numbers
    for side, kernel, size in (("Height", kernel_height, height), ("Width", kernel_width, width)):
        if kernel > size:
            raise InputError(
                f"{where}: Filter {side} = {kernel} must not exceed IFMAP {side} = {size}; the file has no padding, so "
                f"add it to IFMAP {side}"
            )
    return Convolution(
        name=name,
        height=height,
        width=width,
        kernel_height=kernel_height,
        kernel_width=kernel_width,
        channels=channels,
        filters=filters,
        stride=stride,
        depthwise="DP" in name,  # SCALE-Sim's own mark of a depthwise layer
    )


# Writing ------------------------------------------------------------------------------------------------------


def topology_of(graph: IntegerGraph, *, products: bool = False) -> list[Shape]:
    """The sums of products of a graph, in its order; pools, additions and tables have no row.

    A product of two activation tensors has a row a head: a convolution of M rows by a filter as wide as they are.

    Args:
        products: as matrix products; else as convolutions, whose inputs are as large as their windows reach.
    Raises:
        InputError: the graph has neither; or, as convolutions, one has different strides down and across.
    """
    shapes: list[Shape] = []
    for node in graph.nodes:
        if isinstance(node, Mac):
            shapes += _shapes_of(node, products=products)
        elif isinstance(node, MatMul):
            shapes += _heads_of(graph, node)
    if not shapes:
        raise InputError(f"{graph.name}: has no layer with sums of products, so its topology is empty")
    return [product for shape in shapes for product in as_products(shape)] if products else shapes


def _shapes_of(node: Mac, *, products: bool) -> list[Shape]:
    outputs, name = node.out_channels, re.sub(r"[,\s]+", "_", node.name)
    if not isinstance(node, Conv2d):
        return [_pixel(name, node.weight.size // outputs, outputs)]
    (down, across), (height, width) = node.stride, (node.output.height, node.output.width)
    if down != across and not products:
        raise InputError(
            f"layer {node.name}: strides {down} down and {across} across do not fit one column; write matrix products, "
            "with --gemm"
        )
    kernel_height, kernel_width = node.kernel
    per_group = int(node.weight.shape[3])
    # Depthwise rows are marked by their name, groups of more channels are layers of their own.
    depthwise = node.groups > 1 and per_group == 1
    groups = 1 if depthwise else node.groups
    return [
        Convolution(
            name=(f"{name}_DP" if depthwise else name) + (f"_{group}" if groups > 1 else ""),
            height=(height - 1) * down + kernel_height,
            width=(width - 1) * down + kernel_width,
            kernel_height=kernel_height,
            kernel_width=kernel_width,
            channels=node.groups if depthwise else per_group,
            filters=outputs // node.groups,
            stride=down,
            depthwise=depthwise,
        )
        for group in range(groups)
    ]


def _heads_of(graph: IntegerGraph, node: MatMul) -> list[Shape]:
    output, inner = node.output, products_of(graph, node)
    name = re.sub(r"[,\s]+", "_", node.name)
    return [
        Convolution(
            name=f"{name}_{head}" if node.heads > 1 else name,
            height=output.height * output.width,
            width=inner,
            kernel_height=1,
            kernel_width=inner,
            channels=1,
            filters=output.channels // node.heads,
            stride=1,
        )
        for head in range(node.heads)
    ]


def _pixel(name: str, inputs: int, outputs: int) -> Convolution:
    """A linear layer: a convolution of one pixel."""
    return Convolution(
        name=name, height=1, width=1, kernel_height=1, kernel_width=1, channels=inputs, filters=outputs, stride=1
    )


def topology_text(shapes: Sequence[Shape]) -> str:
    """A file of layers that are all of one kind, with the comma at each line's end that SCALE-Sim needs."""
    rows: list[Sequence[object]] = []
    for shape in shapes:
        if isinstance(shape, Product):
            rows.append((shape.name, shape.m, shape.n, shape.k))
        else:
            kernel = (shape.kernel_height, shape.kernel_width)
            rows.append((shape.name, shape.height, shape.width, *kernel, shape.channels, shape.filters, shape.stride))
    header = PRODUCT_COLUMNS if isinstance(shapes[0], Product) else CONVOLUTION_COLUMNS
    return "".join(",".join(map(str, row)) + ",\n" for row in [header, *rows])
