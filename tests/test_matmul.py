"""Products of two activation tensors, from PyTorch's matmul to the RTL."""

from __future__ import annotations

import itertools
import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
from graphs import GraphMaker, random_attention, random_hardware
from simulators import need

from accelsim.accounting import cost
from accelsim.cli import main
from accelsim.compiler import compile_graph
from accelsim.config import load_hardware
from accelsim.energy import load_energy
from accelsim.engine import execute
from accelsim.errors import InputError
from accelsim.ir import IntegerGraph, MatMul, evaluate, load_graph, with_accumulator_widths
from accelsim.isa import Compute, Load, Memory, Store
from accelsim.machine import Accelerator
from accelsim.numerics import Arithmetic, Requantization, Rounding, Scheme, chunks, requantize, to_output
from accelsim.pipeline import run_checked
from accelsim.rtl import cosimulate
from accelsim.timing import longest_path

FLOWS = ("ws", "os")
POWER = Requantization(scheme=Scheme.POWER_OF_TWO, rounding=Rounding.FLOOR)


def maker_of(seed: int) -> GraphMaker:
    return random_attention(np.random.default_rng(seed))


def small(zero_points: str = "folded", *, heads: int = 2, depth: int = 3, wide: int = 5) -> IntegerGraph:
    """Queries, keys and values straight from the input: scores, then values mixed by them."""
    maker = GraphMaker(np.random.default_rng(5), POWER, zero_points=zero_points)
    source = maker.input(1, wide, heads * depth, 3 if zero_points == "subtracted" else 0)
    scores = maker.matmul(source, source, heads, "channels")
    maker.matmul(scores, source, heads, "tokens")
    return maker.graph()


# --- bits ----------------------------------------------------------------------------------------------------------


def by_hand(graph: IntegerGraph, node: MatMul, a: np.ndarray, b: np.ndarray, arithmetic: Arithmetic) -> np.ndarray:
    """One image in plain Python integers, from numerics.md: tokens, heads, chunks, and every addition fitted."""
    zeros = [graph.by_name[name].output.zero_point for name in node.inputs]
    if graph.zero_points == "folded":
        zeros = [0, 0]
    one = arithmetic.at_width(node.accumulator_width_bits)

    def fit(value: int, bits: int) -> int:
        limit = 1 << (bits - 1)
        if arithmetic.saturate_at == "end":
            return value
        if arithmetic.overflow == "saturate":
            return max(-limit, min(value, limit - 1))
        return (value + limit) % (2 * limit) - limit

    height, wide, channels = node.output.shape
    n, k = channels // node.heads, a.shape[2] // node.heads
    cuts = chunks((1, 1), k, rows=one.rows, dataflow=one.dataflow, packed_row=True)
    width_b = b.shape[1]
    sums = np.zeros(node.output.shape, dtype=np.int64)
    for y, x, head, column in itertools.product(range(height), range(wide), range(node.heads), range(n)):
        total = 0
        for cut in cuts:
            part = total if one.dataflow == "os" else 0
            for i in cut:
                if node.second == "tokens":
                    other = b[i // width_b, i % width_b, head * n + column]
                else:
                    other = b[column // width_b, column % width_b, head * k + i]
                part = fit(part + int(a[y, x, head * k + i] - zeros[0]) * int(other - zeros[1]), one.psum_bits)
            total = part if one.dataflow == "os" else fit(total + part, one.width_bits)
        if arithmetic.saturate_at == "end":
            limit = 1 << (one.width_bits - 1)
            saturated = max(-limit, min(total, limit - 1))
            total = saturated if arithmetic.overflow == "saturate" else (total + limit) % (2 * limit) - limit
        sums[y, x, head * n + column] = total
    how = graph.requantization
    scaled = requantize(sums, node.multiplier.m0, node.multiplier.shift, how)
    return to_output(scaled, node.output.zero_point, node.clip, graph.activation, how.output_overflow)


@pytest.mark.parametrize("overflow, at", [("saturate", "every_add"), ("wrap", "every_add"), ("saturate", "end")])
@pytest.mark.parametrize("flow", FLOWS)
@pytest.mark.parametrize("zero_points", ["folded", "subtracted"])
def test_reference_equals_plain_integers(flow, zero_points, overflow, at):
    graph = small(zero_points)
    arithmetic = Arithmetic(psum_bits=13, width_bits=14, overflow=overflow, saturate_at=at, rows=2, dataflow=flow)
    codes = np.random.default_rng(1).integers(-128, 128, (2, *graph.input.output.shape))
    found = evaluate(graph, codes, arithmetic)
    assert any(sums.overflows for sums in found.partial_sums.values())  # or nothing is tested
    for node in graph.nodes[1:]:
        for image in range(2):
            a, b = (found.tensors[name][image] for name in node.inputs)
            assert (found.tensors[node.name][image] == by_hand(graph, node, a, b, arithmetic)).all()


@pytest.mark.parametrize("seed", range(24))
def test_engine_and_machine_equal_the_reference(seed):
    """Random attention on random machines: narrow sums, small buffers, tokens in DRAM, both dataflows."""
    rng = np.random.default_rng([seed, 7])
    maker = random_attention(rng)
    graph = maker.graph()
    hardware = random_hardware(rng, graph, FLOWS[seed % 2])
    codes = maker.codes(3)
    arithmetic = hardware.arithmetic()
    expected = evaluate(graph, codes, arithmetic)
    found = execute(graph, codes, arithmetic, nodes=[node.name for node in graph.nodes], threads=1)
    for name, tensor in expected.tensors.items():
        assert (found[name] == tensor).all(), name
    program = compile_graph(graph, hardware, batch=3)
    outcome = run_checked(program, graph, codes)
    assert outcome.mismatch is None
    for label, layer in enumerate(program.layers):
        seen = outcome.timed.statistics.get(label)
        if layer.op == "matmul":
            sums = expected.partial_sums[layer.name]
            assert (seen.minimum, seen.maximum, seen.overflows) == (sums.minimum, sums.maximum, sums.overflows)
            assert layer.macs == 3 * graph.macs(graph.by_name[layer.name])


@pytest.mark.parametrize("activation, weight, accumulator", [(220, 64, 256), (220, 4096, 2048), (600, 64, 2048)])
@pytest.mark.parametrize("flow", FLOWS)
def test_tensors_and_weights_that_do_not_fit_are_cut(flow, activation, weight, accumulator):
    graph = small("subtracted", heads=3, depth=4, wide=9)  # 108 codes, and 243 scores
    hardware = load_hardware(
        "rtl_4x4",
        [
            f"array.dataflow={flow}",
            f"activation.memory_bytes={activation}",
            f"weight.memory_bytes={weight}",
            f"accumulator.memory_bytes={accumulator}",
        ],
    )
    program = compile_graph(graph, hardware, batch=2)
    codes = np.random.default_rng(2).integers(-128, 128, (4, *graph.input.output.shape))
    assert run_checked(program, graph, codes).mismatch is None
    assert longest_path(program.instructions, hardware).cycles == Accelerator(program).run(values=False).cycles


# --- instructions and cycles --------------------------------------------------------------------------------------


def test_second_operand_goes_to_dram_once_and_comes_back_by_tokens_or_by_channels():
    graph = small()  # 5 tokens, 2 heads of 3 channels
    program = compile_graph(graph, load_hardware("rtl_4x4"), batch=1)
    scores, mixed = (
        [i for i in program.instructions if i.label == label and isinstance(i, Load) and i.memory == Memory.WEIGHT]
        for label in (0, 1)
    )
    stores = [i for i in program.instructions if type(i) is Store]
    # Keys: 5 tokens, each to a column of the transposed copy; values: the input is in DRAM; the result.
    assert [(store.row_bytes, store.rows, store.dram_step) for store in stores] == [(1, 6, 5)] * 5 + [(30, 1, 0)]
    # A row of 4 tokens, and of the fifth, for each of 3 channels of a head.
    assert [(load.row_bytes, load.rows, load.dram_step) for load in scores] == [(4, 3, 5), (1, 3, 5)] * 2
    # Values: a row of 3 channels for each of 5 tokens.
    assert [(load.row_bytes, load.rows, load.dram_step) for load in mixed] == [(3, 5, 6)] * 2
    computes = [i for i in program.instructions if isinstance(i, Compute)]
    assert [(i.label, i.lanes, i.run_bytes, i.words) for i in computes] == [
        *[(0, 4, 3, 5), (0, 1, 3, 5)] * 2,
        *[(1, 3, 5, 5)] * 2,
    ]


def test_every_product_is_counted_and_paid_for():
    graph = small()
    hardware = load_hardware("rtl_4x4")
    program = compile_graph(graph, hardware)
    machine = Accelerator(program)
    machine.run(values=False)
    for label, layer in enumerate(program.layers):
        # 5 x 5 x 3 products a head, whichever way
        assert layer.macs == 2 * 75
        counts = machine.counts()[label]
        assert sum(n for key, n in counts.items() if key.op == "mul") == 150
        assert {(key.bits, key.by_bits) for key in counts if key.op == "mul"} == {(8, 8)}
        assert sum(n for key, n in counts.items() if key.op == "write.weight") == 30
    priced = cost(graph, hardware, load_energy("horowitz_45nm"))
    assert priced.cycles == sum(priced.layers.values())
    assert min(priced.layers.values()) > 0


@pytest.mark.parametrize("unsigned", [False, True])
@pytest.mark.parametrize("flow", FLOWS)
def test_rtl_equals_the_machine(flow, unsigned):
    """Attention of 7 tokens and 2 heads on the 4x4 RTL; codes without a sign are weights without one."""
    need("verilator")
    from accelsim.numerics import IntFormat

    maker = GraphMaker(
        np.random.default_rng(8), POWER, activation=IntFormat(8, signed=not unsigned), zero_points="subtracted"
    )
    source = maker.input(1, 7, 6, 5)
    other = maker.conv(source, 6, (1, 1))
    scores = maker.matmul(source, other, 2, "channels", width=18)
    maker.matmul(scores, other, 2, "tokens")
    program = compile_graph(maker.graph(), load_hardware("rtl_4x4", [f"array.dataflow={flow}"]), batch=2)
    region = program.input
    codes = maker.codes(2)
    program.dram[region.address : region.address + codes.size] = (codes & 0xFF).astype(np.uint8).ravel()
    computes = [i for i in program.instructions if isinstance(i, Compute)]
    assert {i.weight_unsigned for i in computes if i.label > 0} == {int(unsigned)}
    # The second operand of both images for each product, the first time by channel, then the result.
    stores = [(i.row_bytes, i.rows) for i in program.instructions if type(i) is Store]
    assert stores == [(1, 7)] * 12 + [(2 * 7 * 6, 1)] * 2
    result = cosimulate(program)
    assert result.difference is None, str(result.difference)


# --- files and legality -------------------------------------------------------------------------------------------


def test_graph_directory_keeps_a_product(tmp_path):
    graph = with_accumulator_widths(small("subtracted"), {"matmul1": 17})
    graph.save(tmp_path / "g")
    read = load_graph(tmp_path / "g")
    for one, other in zip(graph.nodes[1:], read.nodes[1:], strict=True):
        assert isinstance(other, MatMul)
        for key in ("inputs", "heads", "second", "clip", "accumulator_width_bits", "output"):
            assert getattr(one, key) == getattr(other, key)
        assert (one.multiplier.m0 == other.multiplier.m0).all()
    stored = json.loads((tmp_path / "g" / "graph.json").read_text())["nodes"][1]
    assert (stored["op"], stored["heads"], stored["second"]) == ("matmul", 2, "channels")


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"heads": 4}, "heads = 4 must divide 6 and 6 channels"),
        ({"second": "rows"}, "second = 'rows' is not one of tokens, channels"),
        ({"second": "tokens"}, "sums 3 products a head, and its second operand has 5 tokens"),
        ({"accumulator_width_bits": 7}, "accumulator_width_bits = 7 is outside 8..64"),
        ({"inputs": ("input",)}, "has 1 inputs; 2 are needed"),
    ],
)
def test_illegal_product_is_refused(change, reason):
    graph = small()
    nodes = (graph.nodes[0], replace(graph.nodes[1], **change), graph.nodes[2])
    with pytest.raises(InputError, match=re.escape(f"integer graph random: node matmul1: {reason}")):
        replace(graph, nodes=nodes)


def test_zero_points_of_two_tensors_are_not_folded():
    graph = small("subtracted")
    with pytest.raises(InputError, match="zero points 3 and 3 of two activation tensors cannot be folded into a bias"):
        replace(graph, zero_points="folded")


# --- from PyTorch ---------------------------------------------------------------------------------------------------

torch = pytest.importorskip("torch", reason="torch is not installed")

import accelsim  # noqa: E402
from accelsim.ir import FloatConv2d, FloatMatMul  # noqa: E402
from accelsim.quantization.observe import evaluate as evaluate_float  # noqa: E402


class Attention(torch.nn.Module):
    """As libraries write it: tokens (N, T, C), a linear layer each, heads by reshape and transpose."""

    def __init__(self, channels: int = 12, heads: int = 3):
        super().__init__()
        self.heads = heads
        self.patch = torch.nn.Conv2d(3, channels, 4, 4)
        self.query, self.key, self.value, self.out = (torch.nn.Linear(channels, channels) for _ in range(4))
        self.norm = torch.nn.BatchNorm1d(channels)
        self.relu = torch.nn.ReLU()

    def forward(self, images):
        x = self.patch(images).flatten(2).transpose(1, 2)
        count, tokens, channels = x.shape
        shape = (count, tokens, self.heads, channels // self.heads)
        q, k, v = (layer(x).reshape(shape).transpose(1, 2) for layer in (self.query, self.key, self.value))
        scores = self.relu(q * shape[-1] ** -0.5 @ k.transpose(-2, -1)) / tokens
        mixed = (scores @ v).transpose(1, 2).reshape(count, tokens, channels)
        x = x + self.norm(self.out(mixed).transpose(1, 2)).transpose(1, 2)
        return x.mean(dim=1)


def test_attention_of_tokens_is_captured_as_pytorch_computes_it():
    torch.manual_seed(0)
    model = Attention().double().eval()
    model.norm.running_mean.uniform_(-1, 1)
    images = torch.rand(3, 3, 16, 20, dtype=torch.float64)
    graph = accelsim.capture(model, images, "attention")
    products = [node for node in graph.nodes if isinstance(node, FloatMatMul)]
    assert [(node.heads, node.second, node.shape) for node in products] == [
        (3, "channels", (60, 4, 5)),
        (3, "tokens", (12, 4, 5)),
    ]
    assert products[0].scale == pytest.approx(1 / 20)  # the other factor went into the queries' layer
    assert isinstance(graph.by_name["query"], FloatConv2d)
    found = evaluate_float(graph, images.numpy())[graph.output]
    assert np.abs(found - model(images).detach().numpy()).max() < 1e-14


@pytest.mark.parametrize("scheme", ["int8", "affine_subtracted"])
def test_quantised_attention_follows_the_float_model_and_is_exact_on_the_machine(scheme):
    torch.manual_seed(0)
    model = Attention().eval()
    images = np.random.default_rng(0).uniform(0, 1, (8, 3, 16, 20)).astype(np.float32)
    graph = accelsim.quantize(
        accelsim.capture(model, torch.from_numpy(images[:1]), "attention"), images, accelsim.load_quantization(scheme)
    )
    # The ReLU behind the scores is their clip, and their constant factor part of M.
    assert [node.op for node in graph.nodes if isinstance(node, MatMul)] == ["matmul", "matmul"]
    assert "clip" not in {node.op for node in graph.nodes}
    codes = accelsim.quantize_input(graph, images)
    for flow in FLOWS:
        hardware = load_hardware("edge_8x8", [f"array.dataflow={flow}", "accumulator.width_bits=20"])
        outcome = run_checked(compile_graph(graph, hardware, batch=2), graph, codes[:4])
        assert outcome.mismatch is None
    tensor = graph.by_name[graph.output].output
    real = tensor.scale * (execute(graph, codes, hardware.arithmetic())[graph.output] - tensor.zero_point)
    expected = model(torch.from_numpy(images)).detach().numpy()
    # Twelve tensors are rounded to steps of 1/255 of their range or finer; they add up to a few.
    assert np.abs(real.reshape(expected.shape) - expected).max() < 0.04 * np.ptp(expected)


def refusal(forward) -> str:
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 8, 1)
            self.linear = torch.nn.Linear(8, 24)
            self.weight = torch.nn.Parameter(torch.ones(8, 8))

        def forward(self, x):
            return forward(self, x)

    with pytest.raises(InputError) as caught:
        accelsim.capture(Model(), torch.rand(2, 3, 4, 4), "net")
    return str(caught.value)


def tokens_of(self, x):
    return self.conv(x).flatten(2).transpose(1, 2)


@pytest.mark.parametrize(
    "forward, reason",
    [
        (
            lambda self, x: tokens_of(self, x) @ self.weight,
            "(aten.matmul): multiplies by a parameter; use nn.Linear",
        ),
        (
            lambda self, x: tokens_of(self, x).transpose(1, 2) @ tokens_of(self, x),  # channels by channels
            "(aten.matmul): multiplies (8, 16) and (16, 8); supported are (batch, heads, tokens, channels) by (batch, "
            "heads, channels, tokens), as in queries and keys, or by (batch, heads, tokens, channels), as in values",
        ),
        (
            lambda self, x: self.conv(x) @ self.conv(x),
            "(aten.matmul): multiplies (8, 4, 4) and (8, 4, 4); supported are",
        ),
        (
            lambda self, x: self.linear(tokens_of(self, x)).chunk(3, dim=-1)[0],
            "(aten.chunk): operator is not supported; compute queries, keys and values with a layer each",
        ),
        (
            lambda self, x: torch.softmax(tokens_of(self, x), -1),
            "(aten.softmax): operator is not supported; return the logits: softmax does not change which is largest; "
            "in attention, use ReLU divided by the number of tokens",
        ),
        (
            lambda self, x: torch.nn.functional.layer_norm(tokens_of(self, x), (8,)),
            "(aten.layer_norm): operator is not supported; use batch norm, which becomes part of the layer before it",
        ),
        (
            lambda self, x: torch.nn.functional.scaled_dot_product_attention(*[tokens_of(self, x)] * 3),
            "(aten.scaled_dot_product_attention): operator is not supported; use relu(q @ k.transpose(-2, -1)) / ",
        ),
        (lambda self, x: tokens_of(self, x).permute(1, 0, 2), "(aten.permute): moves the batch from the first axis"),
        (
            lambda self, x: tokens_of(self, x).flatten(1),
            "(aten.flatten): flattens shape (8, 4, 4) in another order than (C, H, W); undo the transpose first",
        ),
        (
            lambda self, x: tokens_of(self, x).reshape(2, 32, 4).transpose(1, 2).reshape(2, 8, 4, 4),
            "the model itself (aten.add)",
        ),
        (lambda self, x: self.conv(x) * -2, "(aten.mul): multiplies by -2; only positive constants are supported"),
        (lambda self, x: self.conv(x) / x.mean(), "(aten.mean): "),
    ],
)
def test_what_is_no_product_head_by_head_is_refused(forward, reason):
    if "aten.add" in reason:  # tokens and channels mixed: legal as a view, and readable by nothing
        assert "only flattening to a vector is supported" in refusal(forward)
    else:
        assert reason in refusal(forward)


def test_what_knows_weights_only_refuses_a_product_by_name(tmp_path, capsys):
    from accelsim.engine import execute_scenarios, uniform
    from accelsim.exporters import to_onnx

    graph, hardware = small(), load_hardware("edge_8x8")
    codes = np.zeros((1, 1, 5, 6), dtype=np.int64)
    arithmetic = hardware.arithmetic()
    why = "node matmul1: products of two activation tensors are not supported there"
    for what, call in (
        ("cannot be exported as ONNX", lambda: to_onnx(graph)),
        ("cannot be trained", lambda: accelsim.EngineModule(graph, hardware)),
        (
            "cannot be evaluated under many widths at once",
            lambda: execute_scenarios(graph, codes, [uniform(graph, arithmetic)]),
        ),
    ):
        with pytest.raises(InputError, match=f"^random: {what}: {why}"):
            call()
    graph.save(tmp_path / "graph")
    np.save(tmp_path / "x.npy", np.zeros((1, 6, 1, 5), dtype=np.float32))
    given = [str(tmp_path / "graph"), "--input", str(tmp_path / "x.npy"), "-o", str(tmp_path / "pack")]
    assert main(["vectors", "export", *given]) == 2
    assert f"random: cannot be exported as vectors: {why}" in capsys.readouterr().err


def test_workload_of_one_encoder_block_is_exact(tmp_path):
    """Bits on both dataflows, at 32 bits and at 20; every layer has cycles, and the products their MACs."""
    for flow, width in (("ws", 20), ("os", 32)):
        out = tmp_path / f"{flow}.json"
        given = ["run", "transformer_block", "--data", "digits", "--images", "1", "--hardware", "tpu_like_32x32"]
        sets = ["--set", f"array.dataflow={flow}", "--set", f"accumulator.width_bits={width}"]
        assert main([*given, *sets, "--json", str(out)]) == 0
        report = json.loads(out.read_text())
        assert report["bit_exact"] is True
        products = [layer for layer in report["layers"] if layer["op"] == "matmul"]
        assert [layer["macs"] for layer in products] == [4 * 64 * 64 * 32] * 2
        assert min(layer["cycles"] for layer in report["layers"]) > 0


def test_views_are_named_by_their_strides():
    from accelsim.frontend.views import contiguous, is_run, merged, reshaped

    axes = contiguous((12, 4, 5))
    heads = reshaped(axes, (3, 4, 20))
    assert heads == (((3, 80),), ((4, 20),), ((20, 1),))
    tokens_first = (heads[2], heads[0], heads[1])
    assert is_run(merged(tokens_first[1:]), 12, 20)
    assert reshaped(tokens_first, (20, 12)) == (((20, 1),), ((12, 20),))
    # Against PyTorch's own strides, which know one stride an axis.
    plain = torch.arange(math.prod((12, 4, 5))).view(12, 4, 5)
    assert plain.view(3, 4, 20).stride() == tuple(axis[0][1] for axis in heads)
