"""What single operators become: layouts, weight zero points, clips, tables, biases, names; and what is refused."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from refusals import refusal

from accelsim.cli import main
from accelsim.engine import execute
from accelsim.importers import import_onnx
from accelsim.importers.onnx_lowering import module_path
from accelsim.ir import AvgPool2d, Clip, Conv2d, Mac, Table, evaluate
from accelsim.numerics import Arithmetic

HARDWARE = Arithmetic(psum_bits=32, width_bits=32, overflow="saturate", saturate_at="every_add", rows=4, dataflow="ws")
RNG = np.random.default_rng(5)
node = helper.make_node


def numbers(*shape, kind=np.int8):
    limits = np.iinfo(kind)
    return RNG.integers(limits.min, limits.max + 1, shape).astype(kind)


def written(tmp_path, nodes, constants, *, x, output="y", kind=None, opset=17):
    """A model of these nodes with one input `x` (shape without the batch, type) and one output."""
    shape, dtype = x
    graph = helper.make_graph(
        nodes,
        "model",
        [helper.make_tensor_value_info("x", helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), ["N", *shape])],
        [helper.make_tensor_value_info(output, helper.np_dtype_to_tensor_dtype(np.dtype(kind or dtype)), None)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path


def check(path, data):
    """Our output, which is onnxruntime's, on reference and engine; the import."""
    imported = import_onnx(path)
    codes = imported.encode(data)
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.x64quantprecision", "1")
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {"x": data})
    nodes = [one.name for one in imported.graph.nodes]
    for tensors in (
        evaluate(imported.graph, codes, HARDWARE).tensors,
        execute(imported.graph, codes, HARDWARE, nodes=nodes, threads=1),
    ):
        found = imported.decode(imported.output, tensors)
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)
    return imported


SCALES = {"s": np.float32(0.05), "z": np.uint8(120), "ys": np.float32(2.5), "yz": np.uint8(90)}


@pytest.mark.parametrize("layers", ["flatten", "reshape", "reshape_batch", "transposed", "squeeze", "shapes"])
def test_a_matrix_reads_a_flattened_image_whatever_flattens_it(tmp_path, layers):
    """ONNX flattens in the order (C, H, W), the graph stores (H, W, C): the weights are permuted."""
    constants = {**SCALES, "m": numbers(24, 5), "ms": np.float32(0.02), "mz": np.int8(0)}
    constants |= {"whole": np.array([-1, 24]), "batch": np.array([0, -1]), "axis": np.array([1]), "one": np.array(0)}
    constants |= {"minus": np.array([-1])}
    middle = {
        "flatten": [node("Flatten", ["x"], ["f"])],
        "reshape": [node("Reshape", ["x", "whole"], ["f"])],
        "reshape_batch": [node("Reshape", ["x", "batch"], ["f"])],
        "transposed": [node("Transpose", ["x"], ["t"], perm=[0, 3, 1, 2]), node("Flatten", ["t"], ["f"])],
        "squeeze": [
            node("Flatten", ["x"], ["a"]),
            node("Unsqueeze", ["a", "axis"], ["b"]),
            node("Squeeze", ["b", "axis"], ["f"]),
        ],
        "shapes": [  # x.view(x.size(0), -1), as PyTorch's older exporter writes it
            node("Shape", ["x"], ["sh"]),
            node("Gather", ["sh", "one"], ["g"]),
            node("Unsqueeze", ["g", "zero"], ["u"]),
            node("Concat", ["u", "minus"], ["c"], axis=0),
            node("Reshape", ["x", "c"], ["f"]),
        ],
    }[layers]
    constants["zero"] = np.array([0])
    # A pool first, because codes have a scale only when an operator with one has made or read them.
    first = node("QLinearConv", ["i", "s", "z", "w", "ws", "wz", "s", "z"], ["x0"])
    constants |= {"w": numbers(2, 2, 1, 1), "ws": np.float32(0.01), "wz": np.int8(0)}
    renamed = [onnx.NodeProto.FromString(one.SerializeToString()) for one in middle]
    for one in renamed:
        one.input[:] = ["x0" if name == "x" else name for name in one.input]
    first.input[0] = "x"
    last = node("QLinearMatMul", ["f", "s", "z", "m", "ms", "mz", "ys", "yz"], ["y"])
    path = written(tmp_path, [first, *renamed, last], constants, x=((2, 3, 4), np.uint8))
    if layers == "shapes":
        model = onnx.load(path)
        model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 3
        onnx.save(model, path)
    imported = check(path, numbers(3, 2, 3, 4, kind=np.uint8))
    assert [one.op for one in imported.graph.nodes] == ["input", "conv2d", "linear"]


@pytest.mark.parametrize("kind", [np.int8, np.uint8])
@pytest.mark.parametrize("zero", [0, 128, 100])
def test_weight_zero_points_fold_where_the_weights_fit(tmp_path, kind, zero):
    zero = zero if kind == np.uint8 else zero - 128 if zero else 0
    weight = numbers(4, 3, 3, 3, kind=kind)
    constants = {**SCALES, "w": weight, "ws": np.full(4, 0.01, np.float32), "wz": np.full(4, zero, kind)}
    constants["b"] = np.array([10, -2000, 0, 70000], np.int32)
    operator = node("QLinearConv", ["x", "s", "z", "w", "ws", "wz", "ys", "yz", "b"], ["y"], pads=[1, 0, 0, 1])
    path = written(tmp_path, [operator], constants, x=((3, 7, 6), np.uint8))
    imported = check(path, numbers(2, 3, 7, 6, kind=np.uint8))
    steps = weight.astype(int) - zero
    fits = steps.min() >= -128 and steps.max() <= 127
    assert imported.graph.zero_points == ("folded" if fits else "subtracted")
    assert fits == (zero in (0, 128) and (kind == np.int8) == (zero == 0))


@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER", "VALID"])
def test_strides_dilations_groups_and_automatic_padding(tmp_path, auto_pad):
    constants = {**SCALES, "w": numbers(6, 2, 3, 2), "ws": np.float32(0.01), "wz": np.int8(0)}
    more = {"strides": [2, 1]} if auto_pad != "VALID" else {"dilations": [2, 1]}
    operator = node(
        "QLinearConv", ["x", "s", "z", "w", "ws", "wz", "ys", "yz"], ["y"], auto_pad=auto_pad, group=2, **more
    )
    path = written(tmp_path, [operator], constants, x=((4, 9, 6), np.uint8))
    check(path, numbers(2, 4, 9, 6, kind=np.uint8))


def test_rows_of_vectors_are_multiplied_as_an_image_of_one_row(tmp_path):
    constants = {**SCALES, "m": numbers(6, 5), "ms": np.full(5, 0.02, np.float32), "mz": np.zeros(5, np.int8)}
    operator = node("QLinearMatMul", ["x", "s", "z", "m", "ms", "mz", "ys", "yz"], ["y"])
    path = written(tmp_path, [operator], constants, x=((4, 6), np.uint8))
    check(path, numbers(3, 4, 6, kind=np.uint8))


def test_int32_sums_are_made_real_and_quantised_again(tmp_path):
    constants = {**SCALES, "w": numbers(4, 3, 2, 2), "ds": np.float32(0.001)}
    nodes = [
        node("ConvInteger", ["x", "w", "z"], ["i"]),
        node("DequantizeLinear", ["i", "ds"], ["r"]),
        node("QuantizeLinear", ["r", "ys", "yz"], ["y"]),
    ]
    path = written(tmp_path, nodes, constants, x=((3, 5, 5), np.uint8))
    imported = check(path, numbers(2, 3, 5, 5, kind=np.uint8))
    assert [one.op for one in imported.graph.nodes] == ["input", "conv2d", "dequantize", "quantize"]


QDQ = [node("QuantizeLinear", ["x", "s", "z"], ["q"]), node("DequantizeLinear", ["q", "s", "z"], ["r"])]


@pytest.mark.parametrize(
    "operators, kind",
    [
        ([node("Relu", ["r"], ["f"])], Clip),
        ([node("Clip", ["r", "low", "high"], ["f"])], Clip),
        ([node("Identity", ["r"], ["f"])], None),
        ([node("Tanh", ["r"], ["f"])], Table),
        ([node("Relu", ["r"], ["g"]), node("Sigmoid", ["g"], ["f"])], Table),
    ],
    ids=["relu", "clip", "identity", "tanh", "relu+sigmoid"],
)
def test_functions_of_codes_are_nothing_limits_or_tables(tmp_path, operators, kind):
    same = kind in (Clip, None)
    scale = {"ys": SCALES["s"], "yz": SCALES["z"]} if same else {"ys": np.float32(1 / 128), "yz": np.uint8(128)}
    constants = {**SCALES, **scale, "low": np.float32(-1), "high": np.float32(1.5)}
    path = written(
        tmp_path, [*QDQ, *operators, node("QuantizeLinear", ["f", "ys", "yz"], ["y"])], constants,
        x=((3, 8, 8), np.float32), kind=np.uint8,
    )  # fmt: skip
    data = RNG.uniform(-8, 8, (2, 3, 8, 8)).astype(np.float32)
    imported = import_onnx(path)
    found = imported.decode("y", evaluate(imported.graph, imported.encode(data), HARDWARE).tensors)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {"x": data})
    assert np.abs(found.astype(int) - expected).max() <= (0 if same else 1)  # its exp and tanh are approximations
    assert [type(one) for one in imported.graph.nodes[1:]] == ([] if kind is None else [kind])


def test_a_matmul_takes_its_bias_from_an_addition_and_its_relu_as_a_clip(tmp_path):
    constants = {**SCALES, "m": numbers(6, 5), "ms": np.float32(0.02), "b": RNG.normal(0, 3, 5).astype(np.float32)}
    nodes = [
        *QDQ,
        node("DequantizeLinear", ["m", "ms"], ["mr"]),
        node("MatMul", ["r", "mr"], ["p"], "/fc/MatMul"),
        node("Add", ["b", "p"], ["a"], "/fc/Add"),
        node("Relu", ["a"], ["f"]),
        node("QuantizeLinear", ["f", "ys", "yz"], ["y"]),
    ]
    graph = import_onnx(written(tmp_path, nodes, constants, x=((6,), np.float32), kind=np.uint8)).graph
    (layer,) = (one for one in graph.nodes if isinstance(one, Mac))
    assert (layer.name, layer.clip) == ("fc", (90, 255))
    per_step = np.float64(SCALES["s"]) * np.float64(np.float32(0.02))
    folded = layer.bias + 120 * layer.weight.sum(axis=1)
    np.testing.assert_array_equal(folded, np.rint(constants["b"].astype(np.float64) / per_step))


def test_weights_quantised_and_clipped_in_the_file(tmp_path):
    """As Brevitas writes them: float weights, QuantizeLinear, Clip to fewer bits, DequantizeLinear; codes likewise."""
    weight = RNG.normal(0, 0.3, (4, 3, 3, 3)).astype(np.float32)
    constants = {**SCALES, "w": weight, "ws": np.full(4, 0.1, np.float32), "wz": np.zeros(4, np.int8)}
    constants |= {"low": np.int8(-7), "high": np.int8(7), "ylow": np.uint8(80), "yhigh": np.uint8(95)}
    nodes = [
        *QDQ,
        node("QuantizeLinear", ["w", "ws", "wz"], ["wq"], axis=0),
        node("Clip", ["wq", "low", "high"], ["wc"]),
        node("DequantizeLinear", ["wc", "ws", "wz"], ["wr"], axis=0),
        node("Conv", ["r", "wr"], ["c"]),
        node("QuantizeLinear", ["c", "ys", "yz"], ["cq"]),
        node("Clip", ["cq", "ylow", "yhigh"], ["y"]),
    ]
    graph = import_onnx(written(tmp_path, nodes, constants, x=((3, 5, 5), np.float32), kind=np.uint8)).graph
    (layer,) = graph.nodes[1:]
    assert isinstance(layer, Conv2d)
    expected = np.clip(np.rint(weight / np.float32(0.1)), -7, 7)
    np.testing.assert_array_equal(layer.weight, np.moveaxis(expected, 1, 3))
    assert layer.clip == (80, 95)


def test_both_types_of_codes_meet_in_a_graph_of_int8(tmp_path):
    constants = {**SCALES, "w": numbers(4, 3, 1, 1), "ws": np.float32(0.01), "is": np.float32(1.5), "iz": np.int8(-7)}
    nodes = [
        *QDQ,
        node("DequantizeLinear", ["w", "ws"], ["wr"]),
        node("Conv", ["r", "wr"], ["c"]),
        node("QuantizeLinear", ["c", "is", "iz"], ["y"]),
    ]
    path = written(tmp_path, nodes, constants, x=((3, 5, 5), np.float32), kind=np.int8)
    imported = import_onnx(path)
    source, layer = imported.graph.nodes
    assert imported.graph.activation.signed
    assert (source.output.zero_point, layer.output.zero_point) == (120 - 128, -7)
    data = RNG.uniform(-6, 6, (2, 3, 5, 5)).astype(np.float32)
    tensors = evaluate(imported.graph, imported.encode(data), HARDWARE).tensors
    codes = np.clip(np.rint(data / SCALES["s"]) + 120, 0, 255)
    np.testing.assert_array_equal(imported.decode("q", tensors), codes)
    sums = np.einsum("nchw,oc->nohw", codes - 120, constants["w"][:, :, 0, 0].astype(np.int64))
    scaled = sums.astype(np.float32) * (SCALES["s"] * np.float32(0.01) / np.float32(1.5))
    np.testing.assert_array_equal(imported.decode("y", tensors), np.clip(np.rint(scaled) - 7, -128, 127))


def test_a_mean_that_keeps_its_scale_is_an_average_pool_where_multipliers_are_integers(tmp_path):
    from accelsim import load_quantization

    nodes = [
        *QDQ,
        node("AveragePool", ["r"], ["a"], kernel_shape=[2, 2], strides=[2, 2]),
        node("QuantizeLinear", ["a", "s", "z"], ["y"]),
    ]
    path = written(tmp_path, nodes, SCALES, x=((3, 6, 6), np.float32), kind=np.uint8)
    assert isinstance(import_onnx(path, load_quantization("int8")).graph.nodes[1], AvgPool2d)
    assert isinstance(import_onnx(path).graph.nodes[1], Conv2d)


@pytest.mark.parametrize(
    "name, path",
    [("/c1/Conv", "c1"), ("/a/a.0/a.0.b/Gemm_2", "a.0.b"), ("Conv", "Conv"), ("../../x y", "....x_y"), ("", "node")],
)
def test_names_are_module_paths_and_never_leave_a_folder(name, path):
    assert module_path(name) == path.strip(".")


def test_at_the_command_line(tmp_path, capsys):
    constants = {**SCALES, "w": numbers(4, 1, 3, 3), "ws": np.float32(0.01), "wz": np.int8(0)}
    operator = node("QLinearConv", ["x", "s", "z", "w", "ws", "wz", "ys", "yz"], ["y"], "c")
    path = str(written(tmp_path, [operator], constants, x=((1, 6, 6), np.uint8)))
    np.save(tmp_path / "x.npy", RNG.uniform(-6, 6, (2, 1, 6, 6)))
    chosen = ["--input", str(tmp_path / "x.npy"), "--images", "2"]
    assert main(["run", path, *chosen]) == 0
    assert "bit_exact: true (2 images" in capsys.readouterr().out
    assert main(["run", path, *chosen, "--quantization-set", "accumulator_width_bits.c=16"]) == 0
    assert main(["compile", path, "--input", str(tmp_path / "x.npy"), "-o", str(tmp_path / "built")]) == 0
    assert main(["simulate", str(tmp_path / "built")]) == 0
    capsys.readouterr()
    assert main(["quantize", path, "--calibration", "x.npy", "-o", "never"]) == 2
    assert "is quantised already; leave --calibration out" in capsys.readouterr().err
    assert main(["run", path, *chosen, "--quantization-set", "requantization.scheme=nearest"]) == 2
    assert capsys.readouterr().err.startswith("accelsim: error: onnx [requantization]: scheme = 'nearest'")


def test_what_is_not_supported_is_named(tmp_path):
    constants = {**SCALES, "w": numbers(4, 3, 3, 3, kind=np.uint8), "ws": np.float32(0.01)}
    constants["wz"] = np.array([0, 255, 0, 1], np.uint8)
    inputs = ["x", "s", "z", "w", "ws", "wz", "ys", "yz"]
    path = written(tmp_path, [node("QLinearConv", inputs, ["y"], "c")], constants, x=((3, 6, 6), np.uint8))
    assert "QLinearConv 'c': weight zero points differ between channels" in refusal(import_onnx, path)
    path = written(tmp_path, [node("Softmax", ["x"], ["y"], "s")], {}, x=((3,), np.float32))
    line = refusal(import_onnx, path)
    assert "Softmax 's': is not supported; operators that are: " in line
    path = written(tmp_path, [node("QuantizeLinear", ["x", "s"], ["y"])], SCALES, x=((3,), np.float16), kind=np.uint8)
    assert "quantises float16; float32 is supported" in refusal(import_onnx, path)
    assert TensorProto.FLOAT


@pytest.mark.parametrize("alias", ["Identity", "DequantizeLinear"])
def test_limits_of_an_alias_leave_the_tensor_that_others_read(tmp_path, alias):
    """A Clip of another name of codes, whose first name is read later."""
    scales = {"s": np.float32(0.05), "z": np.uint8(100), "ys": np.float32(2.5), "yz": np.uint8(90)}
    constants = {**scales, "w": numbers(3, 3, 3, 3), "ws": np.float32(0.01), "wz": np.int8(0)}
    constants |= {"low": np.uint8(80), "high": np.uint8(120)}
    conv = node("QLinearConv", ["x", "s", "z", "w", "ws", "wz", "ys", "yz"], ["c"], "conv")
    nodes = {
        "Identity": [conv, node("Identity", ["c"], ["d"]), node("Clip", ["d", "low", "high"], ["e"])],
        "DequantizeLinear": [
            conv,
            node("DequantizeLinear", ["c", "ys", "yz"], ["early"]),
            node("Clip", ["c", "low", "high"], ["e"]),
        ],
    }[alias]
    ends = [
        node("DequantizeLinear", ["e", "ys", "yz"], ["er"]),
        node("DequantizeLinear", ["c", "ys", "yz"], ["cr"]),
        node("Add", ["er", "cr"], ["a"], "add"),
        node("QuantizeLinear", ["a", "ys", "yz"], ["y"]),
    ]
    path = written(tmp_path, [*nodes, *ends], constants, x=((3, 6, 6), np.uint8))
    imported = check(path, numbers(2, 3, 6, 6, kind=np.uint8))
    assert [one.op for one in imported.graph.nodes] == ["input", "conv2d", "clip", "add"]


@pytest.mark.parametrize("reader", ["Relu", "MaxPool"])
def test_codes_on_another_scale_are_for_sums_and_products(tmp_path, reader):
    constants = {**SCALES, "other": np.float32(0.1)}
    window = {"kernel_shape": [2, 2]} if reader == "MaxPool" else {}
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        node("DequantizeLinear", ["q", "other", "z"], ["r"]),
        node(reader, ["r"], ["f"], **window),
        node("QuantizeLinear", ["f", "other", "z"], ["y"]),
    ]
    path = written(tmp_path, nodes, constants, x=((3, 8, 8), np.float32), kind=np.uint8)
    line = refusal(import_onnx, path)
    assert (
        "reads codes on S = 0.1, Z = 120 (uint8), which are made on S = 0.05; only Add, Conv, Gemm and MatMul" in line
    )


def test_tables_are_looked_up(tmp_path):
    """Any function of codes, as an exporter writes it: Gather at codes made integers."""
    constants = {**SCALES, "entries": numbers(256), "least": np.int64(0), "tz": np.int8(5)}
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        node("Cast", ["q"], ["i"], to=onnx.TensorProto.INT64),
        node("Sub", ["i", "least"], ["j"]),
        node("Gather", ["entries", "j"], ["t"], "table"),
        node("DequantizeLinear", ["t", "ys", "tz"], ["y"]),
    ]
    path = written(tmp_path, nodes, constants, x=((3, 8, 8), np.float32))
    imported = check(path, RNG.uniform(-8, 8, (2, 3, 8, 8)).astype(np.float32))
    assert [(one.name, one.op) for one in imported.graph.nodes] == [("x", "input"), ("table", "table")]
    assert np.array_equal(imported.graph.by_name["table"].entries, constants["entries"])
