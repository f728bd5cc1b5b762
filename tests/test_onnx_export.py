"""Exported models in onnxruntime: every node, and every difference next to a tie."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
from graphs import GraphMaker, random_graph
from quotients import exact_quotients, float32_error, to_nearest_tie

from accelsim import quantize_input
from accelsim.cli import main
from accelsim.config import load_hardware, load_quantization
from accelsim.engine import execute
from accelsim.errors import InputError
from accelsim.explore.differences import count_differences
from accelsim.exporters import ExportWarning, export_onnx, to_onnx
from accelsim.exporters.onnx_qdq import differences, represented
from accelsim.importers import load_onnx
from accelsim.ir import Add, AvgPool2d, Clip, Conv2d, Input, Mac, MaxPool2d, Table, evaluate
from accelsim.ir.integer_graph import with_accumulator_widths
from accelsim.numerics import IntFormat, Requantization, Rounding, Scheme

onnxruntime = pytest.importorskip("onnxruntime")
HALF_EVEN = Requantization(scheme=Scheme.FIXED_POINT, rounding=Rounding.HALF_EVEN)
ARITHMETIC = load_hardware("default_16x16", ["accumulator.width_bits=40"]).arithmetic()
LEVELS = {
    "float": onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,  # operators as written
    "fused": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,  # QLinearConv and its like where there are any
}


def exported(graph, *, codes=True):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExportWarning)
        return to_onnx(graph, codes=codes)


def session(model, level):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = LEVELS[level]
    options.log_severity_level = 3
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    data = model if isinstance(model, str) else model.SerializeToString()
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def runtime_codes(model, images, level="float"):
    """Codes (N, H, W, C) by node, as onnxruntime has them."""
    ready = session(model, level)
    names = [output.name for output in ready.get_outputs()]
    found = ready.run(None, {ready.get_inputs()[0].name: images.astype(np.float32)})
    return {
        name.removesuffix("/codes"): np.moveaxis(array, 1, 3) if array.ndim == 4 else array[:, None, None]
        for name, array in zip(names, found, strict=True)
        if name.endswith("/codes")
    }


def alone(graph, node, codes, level):
    """One node on given input codes, in onnxruntime and in the reference; both operands of a sum are that input."""
    source = Input(name="x", inputs=(), output=graph.by_name[node.inputs[0]].output)
    one = replace(node, inputs=("x",) * len(node.inputs))
    small = replace(graph, nodes=(source, one), output=node.name, output_shape=(node.output.size,))
    images = np.moveaxis(source.output.scale * (codes - source.output.zero_point), 3, 1)
    model = exported(small)
    if len(model.graph.input[0].type.tensor_type.shape.dim) == 2:
        images = images.reshape(len(images), -1)
    return runtime_codes(model, images, level)[node.name], evaluate(small, codes, ARITHMETIC).tensors[node.name]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("seed", range(6))
def test_every_node_differs_from_onnxruntime_only_next_to_a_tie(seed, level):
    """Random graphs: paddings, dilations, groups, 2..8 bits, zero points, unsigned and 4-bit activations."""
    maker = random_graph(np.random.default_rng(seed + 100))
    maker.requantization = HALF_EVEN
    for index, node in enumerate(maker.nodes):  # multipliers of the scheme at hand
        if isinstance(node, Mac):
            maker.nodes[index] = replace(node, multiplier=maker.fixed(node.multiplier.real))
        elif isinstance(node, Add):
            first, second = (maker.fixed(m.real) for m in node.multipliers)
            maker.nodes[index] = replace(node, multipliers=(first, second))
    graph = maker.graph()
    graph = with_accumulator_widths(graph, {n.name: None for n in graph.nodes if isinstance(n, Mac)})
    codes = evaluate(graph, maker.codes(8), ARITHMETIC).tensors
    for node in graph.nodes[1:]:
        given = codes[node.inputs[0]]
        theirs, ours = alone(graph, node, given, level)
        if isinstance(node, Mac):
            quotients, magnitude = exact_quotients(graph, node, given)
            unlike = theirs != ours
            assert (to_nearest_tie(quotients)[unlike] <= float32_error(node, magnitude)[unlike]).all(), node.name
            assert np.abs(theirs.astype(int) - ours).max() <= 1
            assert unlike.mean() < 0.01
        elif isinstance(node, Add):
            m = sum(represented(graph, multiplier)[0] for multiplier in node.multipliers)
            once = (given - graph.by_name[node.inputs[0]].output.zero_point) * m
            far = to_nearest_tie(once) > 1e-4
            ideal = np.clip(np.rint(once) + node.output.zero_point, *node.clip)
            assert np.array_equal(theirs[far], ideal[far])
            assert np.abs(theirs.astype(int) - ours).max() <= 1
        elif isinstance(node, AvgPool2d):
            assert np.abs(theirs.astype(int) - ours).max() <= 1
            assert (theirs != ours).mean() < 0.05  # ties of small windows
        else:
            assert isinstance(node, MaxPool2d | Clip | Table)
            assert np.array_equal(theirs, ours), node.name


def test_random_graphs_above_hold_every_operation():
    made = {type(node) for seed in range(6) for node in random_graph(np.random.default_rng(seed + 100)).nodes}
    assert made >= {Input, Conv2d, MaxPool2d, AvgPool2d, Add, Clip, Table}


@pytest.fixture(scope="module")
def lenet():
    from accelsim.sources import find_workload, load_images

    source = find_workload("lenet5_digits", quantization=load_quantization("int8", []), data="digits")
    return source.graph, load_images(source, "digits", 30).images


@pytest.mark.parametrize("level", LEVELS)
def test_lenet5_is_the_same_network_in_onnxruntime(lenet, level):
    graph, images = lenet
    ours = evaluate(graph, quantize_input(graph, images), ARITHMETIC).tensors
    found = count_differences(ours, runtime_codes(exported(graph), images, level))
    assert [d.node for d in found] == [node.name for node in graph.nodes]
    assert all(d.largest <= 1 and d.differing <= d.values * 2e-4 for d in found), found
    ready = session(exported(graph, codes=False), level)  # nothing but logits: more may be fused
    (logits,) = ready.run(None, {graph.input.name: images.astype(np.float32)})
    tensor = graph.by_name[graph.output].output
    real = tensor.scale * (graph.to_pytorch(ours[graph.output]) - tensor.zero_point)
    assert logits.shape == (30, 10)
    assert np.abs(logits - real).max() <= 1.001 * tensor.scale
    assert np.array_equal(logits.argmax(axis=1), real.argmax(axis=1))


def test_tanh_tables_are_named_and_other_tables_looked_up():
    from accelsim.sources import find_workload, load_images

    source = find_workload("mlp_digits", quantization=load_quantization("int8", []), data="digits")
    graph = source.graph
    kinds = [node.op_type for node in exported(graph).graph.node]
    assert kinds.count("Tanh") == 2
    assert "Gather" not in kinds
    tables = [node for node in graph.nodes if isinstance(node, Table)]
    bent = replace(tables[0], entries=np.roll(tables[0].entries, 1))
    other = replace(graph, nodes=tuple(bent if node is tables[0] else node for node in graph.nodes))
    kinds = [node.op_type for node in exported(other).graph.node]
    assert (kinds.count("Tanh"), kinds.count("Gather")) == (1, 1)
    images = load_images(source, "digits", 20).images
    for one in (graph, other):
        ours = evaluate(one, quantize_input(one, images), ARITHMETIC).tensors
        found = {d.node: d for d in count_differences(ours, runtime_codes(exported(one), images))}
        assert found[tables[0].name].differing <= found[tables[0].name].values // 500


def test_a_coarse_multiplier_is_exported_as_it_is_stored(lenet):
    """M0 of 8 bits is off M by up to 0.4 %: the file's scales must follow M0, or codes near 100 change."""
    graph, images = lenet
    coarse = Requantization(scheme=Scheme.FIXED_POINT, rounding=Rounding.HALF_EVEN, multiplier_bits=8)
    maker = GraphMaker(np.random.default_rng(0), coarse)
    nodes = [
        replace(node, multiplier=maker.fixed(node.multiplier.real)) if isinstance(node, Mac) else node
        for node in graph.nodes
    ]
    graph = replace(graph, nodes=tuple(nodes), requantization=coarse)
    ours = evaluate(graph, quantize_input(graph, images), ARITHMETIC).tensors
    exact = evaluate(lenet[0], quantize_input(graph, images), ARITHMETIC).tensors
    assert (ours["c1"] != exact["c1"]).mean() > 0.002
    found = count_differences(ours, runtime_codes(exported(graph), images))
    assert all(d.differing <= d.values // 500 for d in found), found


@pytest.mark.parametrize("scheme", [s for s in Scheme if s is not Scheme.POWER_OF_TWO])
def test_represented_multipliers_are_those_applied(scheme):
    how = Requantization(scheme=scheme, rounding=Rounding.HALF_EVEN)
    maker = GraphMaker(np.random.default_rng(0), how)
    maker.linear(maker.input(1, 1, 4), 5)
    graph = maker.graph()
    layer = graph.nodes[1]
    tolerance = 2e-2 if scheme is Scheme.RECIPROCAL else 1e-7
    assert represented(graph, layer.multiplier) == pytest.approx(layer.multiplier.real, rel=tolerance)


def test_what_onnx_cannot_say_is_said():
    maker = GraphMaker(np.random.default_rng(0), replace(HALF_EVEN, rounding=Rounding.FLOOR, output_overflow="wrap"))
    first = maker.conv(maker.input(4, 4, 8), 8, (1, 1), width=12)
    maker.sum(first, maker.conv(first, 8, (1, 1), width=40))
    graph = maker.graph()
    notes = differences(graph)
    assert [note.split(" where ")[0].split(" that ")[0] for note in notes] == [
        "ONNX rounds once, half to even,",
        "ONNX saturates outputs",
        "ONNX sums exactly",
        "ONNX rounds a sum once, this graph each operand; codes may differ by one: add3",
    ]
    assert "floor; codes come out half a step higher on average" in notes[0]
    assert notes[2].endswith("conv1 (12)")
    with pytest.warns(ExportWarning) as caught:
        to_onnx(graph)
    assert [str(one.message) for one in caught] == [f"random: {note}" for note in notes]
    plain = GraphMaker(np.random.default_rng(0), HALF_EVEN, bias_at="accumulator")
    plain.conv(plain.input(4, 4, 8), 8, (1, 1), width=32)
    assert differences(plain.graph()) == []


def test_floor_comes_out_half_a_step_higher(lenet):
    graph, images = lenet
    floor = replace(graph, requantization=replace(graph.requantization, rounding=Rounding.FLOOR))
    ours = evaluate(floor, quantize_input(graph, images), ARITHMETIC).tensors["c1"]
    theirs = runtime_codes(exported(floor), images)["c1"]
    inside = (theirs > 0) & (theirs < 127)
    assert (theirs - ours)[inside].mean() == pytest.approx(0.5, abs=0.1)


def test_a_network_of_vectors_and_4_bit_codes_keeps_its_limits():
    """4-bit codes live in int8 with a Clip before each QuantizeLinear: values far out end at -8 and 7."""
    maker = GraphMaker(np.random.default_rng(3), HALF_EVEN, activation=IntFormat(4))
    maker.linear(maker.input(1, 1, 6), 5)
    graph = replace(maker.graph(), output_shape=(5,))
    images = np.array([[9.0, -9, 0.1, 0.2, -0.3, 0.36]])
    model = exported(graph)
    assert [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim][1:] == [6]
    theirs = runtime_codes(model, images)
    assert theirs["input"].reshape(-1).tolist() == [7, -8, 2, 4, -6, 7]
    ours = evaluate(graph, quantize_input(graph, images), ARITHMETIC).tensors
    assert np.array_equal(theirs["linear1"], ours["linear1"])


def test_command_writes_a_checked_file_and_refuses_other_names(tmp_path, capsys, lenet):
    onnx = pytest.importorskip("onnx")
    path = tmp_path / "lenet.onnx"
    words = ["export", "lenet5_digits", "--quantization-set", "requantization.rounding=floor", "-o"]
    assert main([*words, str(path)]) == 0
    out, err = capsys.readouterr()
    assert out == f"{path}: 8 nodes in QDQ form, {path.stat().st_size:,} bytes\n"
    assert err.count("accelsim: warning: lenet5_digits: ONNX rounds once, half to even") == 1
    onnx.checker.check_model(str(path), full_check=True)
    assert [output.name for output in session(str(path), "fused").get_outputs()] == ["output/output"]
    assert main([*words, str(path), "--codes"]) == 0
    assert len(session(str(path), "fused").get_outputs()) == 9
    capsys.readouterr()
    assert main([*words, str(tmp_path / "lenet.pb")]) == 2
    assert "an ONNX file's name ends in .onnx" in capsys.readouterr().err
    with pytest.raises(InputError, match="name ends in"):
        export_onnx(lenet[0], tmp_path / "x")


@pytest.mark.parametrize("scheme", ["int8", "affine", "uint8"])
def test_an_exported_network_comes_back_as_the_same_integers(scheme, tmp_path, capsys):
    """LeNet-5 out and in again: weights, biases, zero points and clips are equal, scales to float32."""
    from accelsim.importers import load_onnx
    from accelsim.sources import find_workload

    graph = find_workload("lenet5_digits", quantization=load_quantization(scheme, []), data="digits").graph
    export_onnx(graph, tmp_path / "net.onnx")
    back = load_onnx(tmp_path / "net.onnx", load_quantization("int8", []))
    ours = [node for node in graph.nodes if isinstance(node, Mac)]
    theirs = [node for node in back.nodes if isinstance(node, Mac)]
    assert len(ours) == len(theirs) == 5
    for one, other in zip(ours, theirs, strict=True):
        assert np.array_equal(one.weight, other.weight)
        assert np.array_equal(one.bias, other.bias)
        assert one.clip == other.clip
        assert one.output.zero_point == other.output.zero_point
        assert other.output.scale == np.float32(one.output.scale)
        assert other.multiplier.real == pytest.approx(one.multiplier.real, rel=2.0**-22)


def test_compare_matches_an_exported_file_with_its_workload(tmp_path, capsys):
    """Operators in the file carry the nodes' names, and scales that differ by float32's rounding are the same scale."""
    path = str(tmp_path / "mlp.onnx")
    assert main(["export", "mlp_digits", "-o", path]) == 0
    capsys.readouterr()
    assert main(["compare", "mlp_digits", path, "--data", "digits", "--images", "10"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[2:8]] == ["input", "fc1", "tanh1", "fc2", "tanh2", "output"]
    assert all(line.split()[2] == "0" and line.endswith("equal") for line in lines[2:8])
    assert lines[8:10] == ["", "predictions changed: 0 of 10"]


@pytest.mark.parametrize("seed", range(10))
def test_an_exported_graph_comes_back_as_it_was(tmp_path, seed):
    """Read again onto its own requantisation: every node, every code, on reference and engine."""
    maker = random_graph(np.random.default_rng(seed))
    graph, how = maker.graph(), maker.graph().requantization
    if how.output_overflow == "wrap" and graph.activation.bits < 8:
        pytest.skip("a file's codes have 8 bits, and wrapping keeps as many as the container has: the export warns")
    keys = ("scheme", "rounding", "multiplier_bits", "order", "guard_bits", "output_overflow")
    changes = [f"requantization.{key}={getattr(how, key)}" for key in keys]
    changes += [f"zero_points={graph.zero_points}", f"bias_at={graph.bias_at}"]
    layers = [node for node in graph.nodes if isinstance(node, Mac) and node.accumulator_width_bits is not None]
    changes += [f"accumulator_width_bits.{node.name}={node.accumulator_width_bits}" for node in layers]
    path = tmp_path / "again.onnx"
    path.write_bytes(exported(graph, codes=False).SerializeToString())
    again = load_onnx(path, load_quantization("int8", changes))
    given, inside = maker.codes(3), int(graph.activation.minimum == 0 and again.activation.signed) * 128
    expected = evaluate(graph, given, ARITHMETIC).tensors
    names = [node.name for node in again.nodes]
    for found in (
        evaluate(again, given.astype(np.int64) - inside, ARITHMETIC).tensors,
        execute(again, given.astype(np.int64) - inside, ARITHMETIC, nodes=names, threads=1),
    ):
        for node in graph.nodes:
            assert np.array_equal(found[node.name].astype(np.int64) + inside, expected[node.name]), node.name


def test_a_network_with_scales_of_its_own_sums_comes_back_into_onnxruntime_s_codes(tmp_path):
    """Operands of a sum on other scales than they are made on: read as ONNX rounds, zero codes differ."""
    maker = GraphMaker(np.random.default_rng(3), HALF_EVEN)
    left, right = (maker.conv(maker.input(6, 6, 2, 3) if not side else "input", 4, (1, 1)) for side in range(2))
    maker.sum(left, right)
    graph = maker.graph()
    model = exported(graph)
    path = tmp_path / "sum.onnx"
    path.write_bytes(exported(graph, codes=False).SerializeToString())
    again = load_onnx(path)
    source, codes = graph.input.output, maker.codes(4)
    images = np.moveaxis(source.scale * (codes - source.zero_point), 3, 1)
    theirs = runtime_codes(model, images)
    ours = evaluate(again, quantize_input(again, images), ARITHMETIC).tensors
    assert {name: int((ours[name] != theirs[name]).sum()) for name in theirs if name in ours} == dict.fromkeys(
        theirs, 0
    )
