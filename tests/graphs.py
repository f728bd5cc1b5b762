"""Random legal integer graphs, made without PyTorch: shapes, strides, groups, zero points, schemes, all of it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from accelsim.config import Hardware, load_hardware
from accelsim.ir import (
    Add,
    AvgPool2d,
    Clip,
    Conv2d,
    Input,
    IntegerGraph,
    Linear,
    MatMul,
    MaxPool2d,
    Multiplier,
    Node,
    Table,
    TensorType,
)
from accelsim.numerics import IntFormat, Requantization, Rounding, Scheme

INT8 = IntFormat(8)


@dataclass
class GraphMaker:
    """Builds a graph node by node; the last node is the output."""

    rng: np.random.Generator
    requantization: Requantization
    activation: IntFormat = INT8
    zero_points: str = "folded"
    bias_at: str = "ppu"
    affine_weights: bool = False

    def __post_init__(self) -> None:
        self.nodes: list[Node] = []

    def zero_point(self) -> int:
        return int(self.rng.integers(self.activation.minimum, self.activation.maximum + 1))

    def last(self) -> Node:
        return self.nodes[-1]

    def add(self, node: Node) -> str:
        self.nodes.append(node)
        return node.name

    def name(self, op: str) -> str:
        return f"{op}{len(self.nodes)}"

    def input(self, height: int, width: int, channels: int, zero_point: int = 0) -> str:
        tensor = TensorType(height=height, width=width, channels=channels, scale=0.05, zero_point=zero_point)
        return self.add(Input(name="input", inputs=(), output=tensor))

    def multiplier(self, channels: int, fan_in: int) -> Multiplier:
        real = self.rng.uniform(0.3, 3.0, channels) / (64 * np.sqrt(fan_in))
        if self.requantization.scheme is Scheme.POWER_OF_TWO:
            real = 2.0 ** np.round(np.log2(real))
        return self.fixed(real)

    def fixed(self, real: np.ndarray) -> Multiplier:
        pairs = [self.requantization.derive(float(value)) for value in real]
        m0, shift = (np.array(column, dtype=np.int64) for column in zip(*pairs, strict=True))
        return Multiplier(m0=m0, shift=shift, real=real)

    def _clip(self, zero_point: int) -> tuple[int, int]:
        return self.activation.limits if self.rng.random() < 0.5 else (zero_point, self.activation.maximum)

    def conv(
        self,
        source: str,
        channels: int,
        kernel: tuple[int, int],
        *,
        stride: tuple[int, int] = (1, 1),
        padding: tuple[int, int, int, int] = (0, 0, 0, 0),
        dilation: tuple[int, int] = (1, 1),
        groups: int = 1,
        weight_bits: int = 8,
        width: int | None = None,
    ) -> str:
        taken = next(node for node in self.nodes if node.name == source).output
        per_group = taken.channels // groups
        form = IntFormat(weight_bits)
        weight = self.rng.integers(form.minimum, form.maximum + 1, (channels, *kernel, per_group))
        height = (taken.height + padding[0] + padding[1] - dilation[0] * (kernel[0] - 1) - 1) // stride[0] + 1
        wide = (taken.width + padding[2] + padding[3] - dilation[1] * (kernel[1] - 1) - 1) // stride[1] + 1
        zero = self.zero_point()
        return self.add(
            Conv2d(
                name=self.name("conv"),
                inputs=(source,),
                output=TensorType(height=height, width=wide, channels=channels, scale=0.1, zero_point=zero),
                weight=weight,
                weight_bits=weight_bits,
                weight_zero_point=int(self.rng.integers(-2, 2)) if self.affine_weights else 0,
                bias=self.rng.integers(-20000, 20000, channels),
                multiplier=self.multiplier(channels, weight[0].size * (1 << weight_bits) // 256 + 1),
                clip=self._clip(zero),
                accumulator_width_bits=width,
                stride=stride,
                padding=padding,
                dilation=dilation,
                groups=groups,
            )
        )

    def linear(self, source: str, channels: int, *, weight_bits: int = 8, width: int | None = None) -> str:
        taken = next(node for node in self.nodes if node.name == source).output
        form = IntFormat(weight_bits)
        zero = self.zero_point()
        return self.add(
            Linear(
                name=self.name("linear"),
                inputs=(source,),
                output=TensorType(height=1, width=1, channels=channels, scale=0.1, zero_point=zero),
                weight=self.rng.integers(form.minimum, form.maximum + 1, (channels, taken.size)),
                weight_bits=weight_bits,
                weight_zero_point=int(self.rng.integers(-2, 2)) if self.affine_weights else 0,
                bias=self.rng.integers(-20000, 20000, channels),
                multiplier=self.multiplier(channels, taken.size),
                clip=self._clip(zero),
                accumulator_width_bits=width,
            )
        )

    def matmul(self, first: str, second: str, heads: int, over: str, *, width: int | None = None) -> str:
        a, b = (next(node for node in self.nodes if node.name == name).output for name in (first, second))
        channels = b.channels if over == "tokens" else heads * b.height * b.width
        zero = self.zero_point() if self.zero_points == "subtracted" else 0
        return self.add(
            MatMul(
                name=self.name("matmul"),
                inputs=(first, second),
                output=TensorType(height=a.height, width=a.width, channels=channels, scale=0.1, zero_point=zero),
                heads=heads,
                second=over,
                multiplier=self.multiplier(1, a.channels // heads),
                clip=self._clip(zero),
                accumulator_width_bits=width,
            )
        )

    def pool(
        self,
        source: str,
        kind: str,
        kernel: tuple[int, int],
        stride: tuple[int, int],
        padding: tuple[int, int, int, int] = (0, 0, 0, 0),
        count_include_pad: bool = True,
    ) -> str:
        taken = next(node for node in self.nodes if node.name == source).output
        height = (taken.height + padding[0] + padding[1] - kernel[0]) // stride[0] + 1
        width = (taken.width + padding[2] + padding[3] - kernel[1]) // stride[1] + 1
        tensor = TensorType(
            height=height, width=width, channels=taken.channels, scale=taken.scale, zero_point=taken.zero_point
        )
        common = {"name": self.name(kind), "inputs": (source,), "output": tensor, "kernel": kernel, "stride": stride}
        if kind == "max":
            return self.add(MaxPool2d(**common, padding=padding))
        return self.add(AvgPool2d(**common, padding=padding, count_include_pad=count_include_pad))

    def sum(self, first: str, second: str) -> str:
        taken = next(node for node in self.nodes if node.name == first).output
        zero = self.zero_point()
        real = self.rng.uniform(0.2, 1.2, 2)
        if self.requantization.scheme is Scheme.POWER_OF_TWO:
            real = np.array([0.5, 1.0])
        tensor = TensorType(**{**vars(taken), "scale": 0.2, "zero_point": zero})
        return self.add(
            Add(
                name=self.name("add"),
                inputs=(first, second),
                output=tensor,
                multipliers=(self.fixed(real[:1]), self.fixed(real[1:])),
                clip=self._clip(zero),
            )
        )

    def table(self, source: str, *, monotone: bool = True) -> str:
        taken = next(node for node in self.nodes if node.name == source).output
        form = self.activation
        entries = self.rng.integers(form.minimum, form.maximum + 1, 1 << form.bits)
        return self.add(
            Table(
                name=self.name("table"),
                inputs=(source,),
                output=TensorType(**{**vars(taken), "scale": 1 / 128, "zero_point": 0}),
                entries=np.sort(entries) if monotone else entries,
                function="random",
            )
        )

    def clip(self, source: str) -> str:
        taken = next(node for node in self.nodes if node.name == source).output
        limits = (taken.zero_point, self.activation.maximum)
        return self.add(Clip(name=self.name("clip"), inputs=(source,), output=taken, clip=limits))

    def graph(self) -> IntegerGraph:
        tensor = self.nodes[-1].output
        return IntegerGraph(
            name="random",
            nodes=tuple(self.nodes),
            output=self.nodes[-1].name,
            output_shape=(tensor.channels, tensor.height, tensor.width),
            activation=self.activation,
            requantization=self.requantization,
            zero_points=self.zero_points,
            bias_at=self.bias_at,
        )

    def codes(self, batch: int) -> np.ndarray:
        low, high = self.nodes[0].output.limits_in(self.activation)
        return self.rng.integers(low, high + 1, (batch, *self.nodes[0].output.shape))

    def limit(self) -> None:
        """Give tensors limits of their own: fewer bits, signed or unsigned, restricted, or any interval."""
        limits: dict[str, tuple[int, int]] = {}
        zeros: dict[str, int] = {}
        for number, node in enumerate(self.nodes):
            keeps = isinstance(node, MaxPool2d | AvgPool2d | Clip)
            low, high = limits[node.inputs[0]] if keeps else self._limits()
            zero = zeros[node.inputs[0]] if keeps else int(np.clip(node.output.zero_point, low, high))
            limits[node.name], zeros[node.name] = (low, high), zero
            own: tuple[int, int] | None = (low, high)
            if own == self.activation.limits and self.rng.random() < 0.5:
                own = None  # which says the same
            changes: dict[str, object] = {"output": replace(node.output, zero_point=zero, limits=own)}
            if isinstance(node, Conv2d | Linear | Add | Clip):
                relu = node.clip[0] == node.output.zero_point
                changes["clip"] = (zero, high) if relu else (low, high)
            if isinstance(node, Table):
                changes["entries"] = np.clip(node.entries, low, high)
            self.nodes[number] = replace(node, **changes)

    def _limits(self) -> tuple[int, int]:
        least, most = self.activation.limits
        draw = self.rng.random()
        if draw < 0.3:
            return least, most
        if draw < 0.4:
            return least + 1, most
        if draw < 0.5:
            low, high = sorted(int(value) for value in self.rng.integers(least, most + 1, 2))
            return low, high
        bits = int(self.rng.integers(1, self.activation.bits + 1))
        form = IntFormat(bits, signed=self.activation.signed and self.rng.random() < 0.5)
        return (form.minimum, form.maximum) if form.maximum <= most else (least, most)


def random_requantization(rng: np.random.Generator) -> Requantization:
    """Any legal scheme with any rounding."""
    scheme = Scheme(rng.choice([scheme.value for scheme in Scheme]))
    roundings = [mode for mode in Rounding if mode is not Rounding.TFLITE_DOUBLE or scheme is Scheme.FIXED_POINT]
    rounding = Rounding(rng.choice([mode.value for mode in roundings]))
    if scheme is not Scheme.FIXED_POINT or rounding is Rounding.TFLITE_DOUBLE:
        return Requantization(scheme=scheme, rounding=rounding, output_overflow=str(rng.choice(["saturate", "wrap"])))
    order = str(rng.choice(["multiply_first", "shift_first"]))
    return Requantization(
        scheme=scheme,
        rounding=rounding,
        multiplier_bits=int(rng.integers(8, 33)),
        order=order,
        guard_bits=int(rng.integers(0, 9)) if order == "shift_first" else 0,
        output_overflow=str(rng.choice(["saturate", "wrap"])),
    )


def random_graph(rng: np.random.Generator, *, max_channels: int = 7, limits: bool = False) -> GraphMaker:
    """A chain with a branch: convolutions of every kind, pools, an addition, tables, a linear end.

    With `limits`, tensors have codes of their own inside the container, which the output then saturates to.
    """
    activation = IntFormat(int(rng.choice([4, 8, 8, 8])), signed=bool(rng.random() < 0.7))
    subtracted = bool(rng.random() < 0.4)
    maker = GraphMaker(
        rng,
        random_requantization(rng),
        activation=activation,
        zero_points="subtracted" if subtracted else "folded",
        bias_at=str(rng.choice(["ppu", "accumulator"])),
        affine_weights=subtracted and bool(rng.random() < 0.5),
    )
    if limits:
        maker.requantization = replace(maker.requantization, output_overflow="saturate")
    channels = int(rng.integers(1, max_channels))
    node = maker.input(int(rng.integers(5, 10)), int(rng.integers(5, 10)), channels, maker.zero_point())

    def width() -> int | None:
        return int(rng.integers(10, 20)) if rng.random() < 0.3 else None

    def bits() -> int:
        return int(rng.integers(2, 9)) if rng.random() < 0.5 else 8

    pads = tuple(int(v) for v in rng.integers(0, 2, 4))
    channels = int(rng.integers(1, max_channels))
    node = maker.conv(node, channels, (3, int(rng.integers(1, 4))), padding=pads, weight_bits=bits(), width=width())
    if rng.random() < 0.3:
        node = maker.table(node, monotone=bool(rng.random() < 0.7))
    if rng.random() < 0.5:
        node = maker.pool(node, "max", (2, 2), (2, 2))
    if rng.random() < 0.4:
        node = maker.conv(
            node, channels, (3, 3), padding=(1, 1, 1, 1), groups=channels, weight_bits=bits(), width=width()
        )
    if rng.random() < 0.4:
        node = maker.conv(
            node, channels, (2, 2), padding=(1, 1, 1, 1), dilation=(2, 2), weight_bits=bits(), width=width()
        )
    if rng.random() < 0.4:
        other = maker.conv(node, channels, (1, 1), width=width())
        node = maker.sum(node, other)
    if channels % 2 == 0 and rng.random() < 0.6:
        node = maker.conv(node, 2 * channels, (3, 3), stride=(2, 1), padding=(1, 1, 1, 1), groups=2, weight_bits=bits())
    if rng.random() < 0.4:
        node = maker.pool(node, str(rng.choice(["max", "avg"])), (3, 2), (2, 1), (1, 1, 1, 0), bool(rng.random() < 0.5))
    if rng.random() < 0.3:
        node = maker.clip(node)
    if rng.random() < 0.7:
        node = maker.linear(node, int(rng.integers(1, 12)), weight_bits=bits(), width=width())
        if rng.random() < 0.3:
            maker.table(node)
    if limits:
        maker.limit()
    return maker


def random_attention(rng: np.random.Generator) -> GraphMaker:
    """Queries by keys by values, with tokens and heads that divide no array; sometimes a table or a layer behind."""
    activation = IntFormat(int(rng.choice([4, 8, 8])), signed=bool(rng.random() < 0.7))
    subtracted = bool(rng.random() < 0.5)
    maker = GraphMaker(
        rng,
        random_requantization(rng),
        activation=activation,
        zero_points="subtracted" if subtracted else "folded",
        bias_at=str(rng.choice(["ppu", "accumulator"])),
    )
    heads, depth = int(rng.integers(1, 4)), int(rng.integers(1, 8))
    height, wide = int(rng.integers(1, 4)), int(rng.integers(1, 6))
    source = maker.input(height, wide, int(rng.integers(1, 5)), maker.zero_point() if subtracted else 0)

    def layer(channels: int) -> str:
        name = maker.conv(source, channels, (1, 1))
        if not subtracted:
            tensor = replace(maker.last().output, zero_point=0)
            maker.nodes[-1] = replace(maker.last(), output=tensor, clip=activation.limits)
        return name

    def width() -> int | None:
        return int(rng.integers(10, 18)) if rng.random() < 0.4 else None

    queries, keys, values = layer(heads * depth), layer(heads * depth), layer(heads * int(rng.integers(1, 8)))
    scores = maker.matmul(queries, keys, heads, "channels", width=width())
    if rng.random() < 0.3:
        scores = maker.table(scores)
    mixed = maker.matmul(scores, values, heads, "tokens", width=width())
    if rng.random() < 0.3:
        maker.linear(mixed, int(rng.integers(1, 9)))
    return maker


def random_hardware(rng: np.random.Generator, graph: IntegerGraph, dataflow: str) -> Hardware:
    """Any small machine on which `graph` is legal."""
    narrowest = max([10, *(getattr(node, "accumulator_width_bits", None) or 0 for node in graph.nodes)])
    width = max(narrowest, int(rng.choice([12, 16, 20, 32, 64])))
    overrides = [
        f"array.rows={rng.integers(1, 9)}",
        f"array.columns={rng.integers(1, 9)}",
        f"array.dataflow={dataflow}",
        f"accumulator.width_bits={width}",
        f"accumulator.overflow={rng.choice(['saturate', 'wrap'])}",
        f"accumulator.saturate_at={rng.choice(['every_add', 'end'])}",
        f"dram.bandwidth_bytes_per_cycle={rng.integers(1, 17)}",
        f"dram.latency_cycles={rng.integers(0, 50)}",
    ]
    if rng.random() < 0.4:
        overrides.append(f"array.psum_bits={rng.integers(8, 11)}")
    if rng.random() < 0.5:
        overrides.append(f"accumulator.memory_bytes={rng.integers(400, 2000)}")
        overrides.append(f"weight.memory_bytes={rng.integers(130, 600)}")
    return load_hardware("edge_8x8", overrides)


def pipelined(rng: np.random.Generator, hardware: Hardware) -> Hardware:
    """The same machine with a multiply-add of up to five cycles; nothing that the RTL has."""
    latency = int(rng.integers(2, 6))
    interval, add = (int(n) for n in rng.integers(1, latency + 1, 2))
    changes = {"mac_latency_cycles": latency, "mac_interval_cycles": interval, "add_latency_cycles": add}
    return hardware.model_copy(update={"array": hardware.array.model_copy(update=changes)})


def open_rows(rng: np.random.Generator, hardware: Hardware) -> Hardware:
    """The same machine with a DRAM of small rows, and refresh two times in three; nothing that the RTL has."""
    rcd, rp, cas = (int(n) for n in rng.integers(0, 9, 3))
    changes = {
        "model": "open_rows",
        "row_bytes": int(rng.choice([1, 16, 50, 64, 256])),
        "banks": int(rng.integers(1, 6)),
        "t_rcd_cycles": rcd,
        "t_rp_cycles": rp,
        "t_cas_cycles": cas,
    }
    if rng.random() < 0.67:
        duration = int(rng.integers(1, 12))
        interval = duration + rcd + cas + int(rng.integers(1, 60))
        changes |= {"refresh_interval_cycles": interval, "refresh_cycles": duration}
    dram = hardware.dram.model_copy(update=changes)
    dram.check()
    return hardware.model_copy(update={"dram": dram})
