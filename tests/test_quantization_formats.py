"""Number formats of schemes, against a second evaluation written from docs/numerics.md in PyTorch and rationals."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
import pytest
from refusals import refusal

from accelsim.compiler import compile_graph
from accelsim.config import load_hardware, load_quantization
from accelsim.ir import IntegerGraph, Mac, quantize_input
from accelsim.isa import Load, Memory
from accelsim.numerics import FixedPointFormat, IntFormat
from accelsim.pipeline import run_checked
from accelsim.timing import OpKey, instruction_counts

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from accelsim.frontend import capture  # noqa: E402
from accelsim.quantization import CalibrationWarning, quantize  # noqa: E402


@dataclass(frozen=True)
class A:
    """Codes of a tensor: bits, and what the scheme says of them."""

    bits: int = 8
    signed: bool = True
    affine: bool = False
    restricted: bool = False
    power: bool = False
    fraction: int | None = None

    @property
    def limits(self) -> tuple[int, int]:
        if not self.signed:
            return 0, 2**self.bits - 1
        return -(2 ** (self.bits - 1)) + self.restricted, 2 ** (self.bits - 1) - 1

    def scale(self, low: float, high: float) -> tuple[float, int]:
        least, most = self.limits
        low, high = min(low, 0.0), max(high, 0.0)
        if self.fraction is not None:
            return 2.0**-self.fraction, 0
        s = (high - low) / (most - least) if self.affine else max(-low, high) / most
        s = 2.0 ** math.ceil(math.log2(s)) if self.power else s
        return s, min(max(round(least - low / s), least), most) if self.affine else 0


@dataclass(frozen=True)
class W:
    """Codes of weights."""

    bits: int = 8
    channel: bool = True
    full: bool = False
    power: bool = False
    fraction: int | None = None

    def codes(self, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(codes, S of each output channel)."""
        most = 2 ** (self.bits - 1) - 1
        rows = np.abs(weight.reshape(len(weight), -1))
        largest = rows.max(axis=1) if self.channel else np.full(len(weight), rows.max())
        s, least = largest / (most + 0.5 if self.full else most or 1), -most - self.full
        if self.power:
            s = 2.0 ** np.ceil(np.log2(s))
        if self.fraction is not None:
            s, least = np.full(len(weight), 2.0**-self.fraction), -most - 1
        return np.clip(np.round(weight / s.reshape(-1, *[1] * (weight.ndim - 1))), least, most), s


class Net(nn.Module):
    """conv, ReLU, max pool, conv, ReLU, flatten, linear."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.one, self.two, self.end = nn.Conv2d(2, 6, 3, padding=1), nn.Conv2d(6, 8, 3), nn.Linear(8 * 16, 10)
        self.relu, self.pool = nn.ReLU(), nn.MaxPool2d(2)

    def forward(self, x):
        x = self.pool(self.relu(self.one(x)))
        return self.end(torch.flatten(torch.relu(self.two(x)), 1))


INT8 = IntFormat(8)
LAYERS = ("one", "two", "end")


@dataclass(frozen=True)
class Case:
    """A scheme as a user writes it, and what it must come to."""

    overrides: list[str]
    activations: dict[str, A] = field(default_factory=dict)
    weights: dict[str, W] = field(default_factory=dict)
    bias_bits: int = 32
    every: A = A()
    weight: W = W()
    container: IntFormat = INT8


def second(net: Net, case: Case, calibration: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Real outputs (N, 10) of the integer network: torch for the sums, rationals for the rescaling."""

    def layer(name: str, x):
        module = getattr(net, name)
        weight = torch.tensor(case.weights.get(name, case.weight).codes(module.weight.detach().double().numpy())[0])
        return nn.functional.conv2d(x, weight, padding=module.padding) if weight.ndim == 4 else x.flatten(1) @ weight.T

    def observed() -> dict[str, tuple[float, float]]:
        double = Net().double()
        x = torch.tensor(calibration).double()
        one = torch.relu(double.one(x))
        two = torch.relu(double.two(double.pool(one)))
        tensors = {"x": x, "one": one, "two": two, "end": double.end(two.flatten(1))}
        return {
            name: (float(np.float32(t.min().item())), float(np.float32(t.max().item()))) for name, t in tensors.items()
        }

    ranges = observed()
    kinds = {name: case.activations.get(name, case.every) for name in ("x", *LAYERS)}
    scales = {name: kind.scale(*ranges[name]) for name, kind in kinds.items()}
    (s, z), (low, high) = scales["x"], kinds["x"].limits
    q = torch.tensor(np.clip(np.round(images.astype(np.float64) / s) + z, low, high)) - z
    for name in LAYERS:
        module = getattr(net, name)
        _, s_w = case.weights.get(name, case.weight).codes(module.weight.detach().double().numpy())
        most = 2 ** (case.bias_bits - 1) - 1
        bias = np.clip(np.round(module.bias.detach().double().numpy() / (s * s_w)), -most - 1, most)
        sums = layer(name, q)
        (s_y, z_y), (low, high) = scales[name], kinds[name].limits
        total = (sums + torch.tensor(bias).reshape(1, -1, *[1] * (sums.ndim - 2))).numpy()
        out = np.empty_like(total)
        for n, one in enumerate((s * s_w / s_y).tolist()):
            m, exponent = math.frexp(one)
            m0 = math.floor(Fraction(m) * 2**31 + Fraction(1, 2))
            for index in np.ndindex(total[:, n].shape):
                at = (index[0], n, *index[1:])
                out[at] = round(Fraction(int(total[at]) * m0) * Fraction(2) ** (exponent - 31))
        bottom = z_y if name != "end" else low
        q = torch.tensor(np.clip(out + z_y, bottom, high)) - z_y
        q = nn.functional.max_pool2d(q, 2) if name == "one" else q
        s = s_y
    return s * q.numpy()


UNSIGNED_4 = A(4, signed=False)
CASES = {
    "W8A8": Case([]),
    "W4A8": Case(["weight.bits=4"], weight=W(4)),
    "W4A4": Case(["weight.bits=4", "activation.bits=4"], every=A(4), weight=W(4), container=IntFormat(4)),
    "W2A8 per tensor": Case(["weight.bits=2", "weight.granularity=tensor"], weight=W(2, channel=False)),
    "W3A5 full range": Case(
        ["weight.bits=3", "weight.full_range=true", "activation.bits=5"],
        every=A(5),
        weight=W(3, full=True),
        container=IntFormat(5),
    ),
    "restricted": Case(["activation.full_range=false"], every=A(restricted=True)),
    "restricted 4": Case(
        ["activation.full_range=false", "activation.bits=4"], every=A(4, restricted=True), container=IntFormat(4)
    ),
    "mixed per layer": Case(
        [
            "layers.one.activation_bits=6",
            "layers.two.weight_bits=4",
            "layers.two.activation_bits=4",
            "layers.end.weight_granularity=tensor",
            "layers.x.activation_bits=7",
        ],
        activations={"one": A(6), "two": A(4), "x": A(7)},
        weights={"two": W(4), "end": W(channel=False)},
    ),
    "unsigned 4-bit codes behind ReLU": Case(
        [f"layers.{name}.activation_{key}" for name in ("one", "two") for key in ("bits=4", "signed=false")],
        activations={"one": UNSIGNED_4, "two": UNSIGNED_4},
    ),
    "unsigned and signed 4 bits": Case(
        ["activation.bits=4", "layers.one.activation_signed=false"],
        activations={"one": UNSIGNED_4},
        every=A(4),
        container=IntFormat(5),
    ),
    "unsigned 8 bits among signed": Case(
        ["layers.one.activation_signed=false"], activations={"one": A(8, signed=False)}
    ),
    "unsigned 8 bits among signed, subtracted": Case(
        ["layers.one.activation_signed=false", "zero_points=subtracted"], activations={"one": A(8, signed=False)}
    ),
    "affine mix": Case(
        ["activation.symmetric=false", "layers.one.activation_signed=false", "layers.two.activation_bits=3"],
        activations={"one": A(8, signed=False, affine=True), "two": A(3, affine=True)},
        every=A(affine=True),
    ),
    "unsigned affine of mixed width": Case(
        ["activation.symmetric=false", "activation.signed=false", "layers.two.activation_bits=4"],
        activations={"two": A(4, signed=False, affine=True)},
        every=A(signed=False, affine=True),
        container=IntFormat(8, signed=False),
    ),
    "fixed (8, 4) and (8, 6)": Case(
        ["activation.fraction_bits=4", "weight.fraction_bits=6"], every=A(fraction=4), weight=W(fraction=6)
    ),
    "fixed, a length by layer": Case(
        [
            "activation.fraction_bits=4",
            "layers.two.activation_fraction_bits=5",
            "layers.two.activation_bits=6",
            "layers.two.weight_fraction_bits=3",
            "layers.two.weight_bits=4",
        ],
        activations={"two": A(6, fraction=5)},
        weights={"two": W(4, fraction=3)},
        every=A(fraction=4),
    ),
    "one bit": Case(
        [
            *("activation.bits=1", "activation.fraction_bits=0", "weight.bits=1", "weight.fraction_bits=2"),
            *("layers.one.activation_signed=false", "layers.two.activation_signed=false"),
            *("layers.two.weight_bits=4", "layers.end.weight_bits=4"),
            *("layers.two.weight_fraction_bits=5", "layers.end.weight_fraction_bits=5"),
            *("layers.end.activation_bits=8", "layers.end.activation_fraction_bits=4"),
        ],
        activations={
            "one": A(1, signed=False, fraction=0),
            "two": A(1, signed=False, fraction=0),
            "end": A(8, fraction=4),
        },
        every=A(1, fraction=0),
        weights={"two": W(4, fraction=5), "end": W(4, fraction=5)},
        weight=W(1, fraction=2),
    ),
    "activation scales of 2^k": Case(["activation.power_of_two=true"], every=A(power=True)),
    "weight scales of 2^k": Case(["weight.power_of_two=true"], weight=W(power=True)),
    "12-bit biases": Case(["bias.bits=12"], bias_bits=12),
    "8-bit biases, folded": Case(
        ["bias.bits=8", "activation.symmetric=false"], bias_bits=8, every=A(affine=True)
    ),
}  # fmt: skip


def data(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(0.1, 1, (count, 2, 12, 12)).astype(np.float32)


def lowered(overrides: list[str], calibration: np.ndarray) -> IntegerGraph:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CalibrationWarning)  # of biases that saturate
        graph = capture(Net(), torch.zeros(1, 2, 12, 12), "net")
        return quantize(graph, calibration, load_quantization("int8", [_named(one) for one in overrides]))


def _named(override: str) -> str:
    """The input's node is called `input`."""
    return override.replace("layers.x.", "layers.input.")


@pytest.mark.parametrize("name", CASES)
def test_the_machine_computes_what_the_formats_mean(name):
    case, calibration, images = CASES[name], data(32, 1), 1.5 * data(2, 2)  # some values beyond the ranges
    graph = lowered(case.overrides, calibration)
    assert graph.activation == case.container
    outcome = run_checked(compile_graph(graph, load_hardware("default_16x16"), 2), graph, quantize_input(graph, images))
    assert outcome.mismatch is None
    output = graph.by_name[graph.output].output
    real = output.scale * (outcome.outputs - output.zero_point)
    np.testing.assert_array_equal(real, second(Net(), case, calibration, images))
    assert len(np.unique(real)) > 1


def test_fixed_point_is_arithmetic_on_multiples_of_a_power_of_two():
    """No scale, zero point or multiplier: each layer rounds to multiples of 2^-fl and saturates, in float64."""
    calibration, images = data(4, 1), data(3, 2)
    graph = lowered(["activation.fraction_bits=4", "weight.fraction_bits=6"], calibration)
    codes, weights = FixedPointFormat(8, 4), FixedPointFormat(8, 6)
    x = torch.tensor(codes.quantize(images) * codes.scale)
    net = Net().double()
    with torch.no_grad():
        for name in LAYERS:
            module = getattr(net, name)
            module.weight.copy_(torch.tensor(weights.quantize(module.weight.numpy()) * weights.scale))
            module.bias.copy_(torch.round(module.bias * 2**10) / 2**10)  # in steps of 2^-(4 + 6)
            y = module(x if name != "end" else x.flatten(1))
            x = torch.tensor(codes.quantize((torch.relu(y) if name != "end" else y).numpy()) * codes.scale)
            x = net.pool(x) if name == "one" else x
    program = compile_graph(graph, load_hardware("default_16x16"), 3)
    outcome = run_checked(program, graph, quantize_input(graph, images))
    np.testing.assert_array_equal(outcome.outputs * codes.scale, x.numpy())


# --- storage and traffic ----------------------------------------------------------------------------------------------


def weight_bytes(graph: IntegerGraph) -> tuple[int, int]:
    """Bytes of weights that one image's run reads from DRAM, and all its DRAM reads."""
    hardware = load_hardware("default_16x16")
    program = compile_graph(graph, hardware)
    loads = [one for one in program.instructions if isinstance(one, Load)]
    weights = sum(one.rows * one.row_bytes for one in loads if one.memory == Memory.WEIGHT)
    counts = [instruction_counts(one, hardware, program.modes) for one in program.instructions]
    return weights, sum(count[OpKey("dram.read", 8)] for count in counts)


def test_fewer_weight_bits_are_fewer_dram_bytes_byte_for_byte():
    calibration = data(8, 1)
    plain, total = weight_bytes(lowered([], calibration))
    # K rows of one weight a channel, each row padded to whole bytes: 6, 8 and 10 channels.
    assert plain == 18 * 6 + 54 * 8 + 128 * 10
    for bits in (2, 3, 4, 7):
        packed, read = weight_bytes(lowered([f"weight.bits={bits}"], calibration))
        assert packed == 18 * -(-6 * bits // 8) + 54 * bits + 128 * -(-10 * bits // 8)
        assert total - read == plain - packed  # and nothing else changed
    mixed, _ = weight_bytes(lowered(["layers.end.weight_bits=2"], calibration))
    assert mixed == 18 * 6 + 54 * 8 + 128 * 3


def test_one_bit_weights_are_stored_in_two():
    graph = lowered(["weight.bits=1", "weight.fraction_bits=2"], data(4, 1))
    layers = [node for node in graph.nodes if isinstance(node, Mac)]
    assert {node.weight_bits for node in layers} == {2}
    assert {value for node in layers for value in np.unique(node.weight)} == {-1, 0}


# --- where a format cannot be -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["layers.ones.weight_bits=4"], "layers names 'ones', which is no node; did you mean 'one'?"),
        (
            ["layers.pool.activation_bits=4"],
            "layers names 'pool', which keeps the codes of 'one'; set activation_bits there",
        ),
        (["layers.pool.weight_bits=4"], "layers names 'pool', which has no weights; leave weight_bits out"),
        (["layers.relu.activation_bits=4"], "layers names 'relu', which is computed as part of 'one'; name that"),
    ],
)
def test_an_override_that_names_nothing_is_refused(overrides, message):
    assert refusal(lowered, overrides, data(2, 1)) == f"net: {message}"


def test_unsigned_symmetric_codes_of_values_below_0_are_refused():
    said = refusal(lowered, ["layers.end.activation_signed=false"], data(8, 1))
    assert said.startswith(
        "net: end (aten.linear): unsigned symmetric codes hold nothing below 0, and its values reach -"
    )
    assert said.endswith("; use layers.end.activation_signed = true, or activation.symmetric = false")


def test_narrow_biases_say_how_many_saturate():
    graph = capture(Net(), torch.zeros(1, 2, 12, 12), "net")
    with pytest.warns(CalibrationWarning) as caught:  # one, though AdaRound lowers twice
        quantize(
            graph,
            data(8, 1),
            load_quantization("int8", ["bias.bits=10", "weight.rounding=adaround", "weight.adaround_iterations=1"]),
        )
    assert len(caught) == 1
    with pytest.warns(CalibrationWarning) as caught:
        narrow = quantize(graph, data(8, 1), load_quantization("int8", ["bias.bits=10"]))
    wide = quantize(graph, data(8, 1), load_quantization("int8"))
    counts = []
    for name in LAYERS:
        bias = wide.by_name[name].bias
        counts.append(f"{name} ({((bias < -512) | (bias > 511)).sum()} of {bias.size})")
        np.testing.assert_array_equal(narrow.by_name[name].bias, np.clip(bias, -512, 511))
    said = f"net: biases saturate in 10 bits: {', '.join(counts)}; use a larger bias.bits"
    assert [str(warning.message) for warning in caught] == [said]
