"""Damaged and hostile ONNX files: one line each, exit code 2, and no large allocation."""

from __future__ import annotations

import json
import resource
import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from refusals import refusal

from accelsim.errors import InputError
from accelsim.importers import import_onnx
from accelsim.importers.onnx_lowering import OPERATORS

LIMIT_BYTES = 128 << 20
"""What the refusal of a hostile file may allocate beyond an interpreter that has everything loaded."""


def valid():
    """A small network in QDQ form: convolution, ReLU, addition, pool, matrix product."""
    rng = np.random.default_rng(0)
    constants = {
        "s": np.float32(0.02),
        "z": np.uint8(3),
        "w": rng.integers(-127, 128, (2, 1, 3, 3)).astype(np.int8),
        "ws": np.array([0.01, 0.02], np.float32),
        "wz": np.zeros(2, np.int8),
        "b": np.array([5, -5], np.int32),
        "bs": np.array([0.0002, 0.0004], np.float32),
        "m": rng.integers(-127, 128, (18, 4)).astype(np.int8),
        "ms": np.float32(0.01),
    }
    node = helper.make_node
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["xq"]),
        node("DequantizeLinear", ["xq", "s", "z"], ["xr"]),
        node("DequantizeLinear", ["w", "ws", "wz"], ["wr"], axis=0),
        node("DequantizeLinear", ["b", "bs"], ["br"], axis=0),
        node("Conv", ["xr", "wr", "br"], ["c"], "conv", pads=[1, 1, 1, 1]),
        node("Relu", ["c"], ["r"]),
        node("QuantizeLinear", ["r", "s", "z"], ["rq"]),
        node("DequantizeLinear", ["rq", "s", "z"], ["rr"]),
        node("Add", ["rr", "rr"], ["a"], "add"),
        node("QuantizeLinear", ["a", "s", "z"], ["aq"]),
        node("DequantizeLinear", ["aq", "s", "z"], ["ar"]),
        node("MaxPool", ["ar"], ["p"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
        node("Flatten", ["p"], ["f"]),
        node("DequantizeLinear", ["m", "ms"], ["mr"]),
        node("MatMul", ["f", "mr"], ["y"], "matmul"),
        node("QuantizeLinear", ["y", "s", "z"], ["yq"]),
        node("DequantizeLinear", ["yq", "s", "z"], ["out"]),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 1, 6, 6])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["N", 4])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def initializer(model, name):
    return next(tensor for tensor in model.graph.initializer if tensor.name == name)


def operator(model, kind):
    return next(node for node in model.graph.node if node.op_type == kind)


def external(location, **more):
    def change(model):
        tensor = initializer(model, "m")
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in {"location": location, **more}.items():
            tensor.external_data.add(key=key, value=value)

    return change


def attribute(kind, **attributes):
    def change(model):
        node = operator(model, kind)
        del node.attribute[:]
        node.attribute.extend(helper.make_attribute(key, value) for key, value in attributes.items())

    return change


def shape(name, dims):
    def change(model):
        tensor = initializer(model, name)
        del tensor.dims[:]
        tensor.dims.extend(dims)

    return change


def constant(name, value):
    def change(model):
        tensor = initializer(model, name)
        tensor.CopyFrom(numpy_helper.from_array(np.asarray(value), name))

    return change


def reads(kind, place, name):
    def change(model):
        operator(model, kind).input[place] = name

    return change


def input_shape(*dims):
    def change(model):
        del model.graph.input[:]
        model.graph.input.append(helper.make_tensor_value_info("x", TensorProto.FLOAT, dims))

    return change


def subgraph(model):
    operator(model, "Relu").attribute.append(helper.make_attribute("body", model.graph))


def many_reshapes(model):
    """Each of 4,000 nodes would hold the order of four million elements."""
    del model.graph.node[2:-1]
    name = "xq"
    for number in range(4000):
        model.graph.node.append(helper.make_node("Transpose", [name], [f"t{number}"], perm=[0, 1, 3, 2]))
        name = f"t{number}"
    last = model.graph.node[2]
    model.graph.node.append(last)
    del model.graph.node[2]
    model.graph.node[-1].input[0] = name
    input_shape("N", 1, 2048, 2048)(model)


def big_casts(model):
    """A constant of 8 MB, made wider again and again."""
    tensor = numpy_helper.from_array(np.zeros(1 << 20, np.int8), "big")
    model.graph.initializer.append(tensor)
    for number in range(4000):
        model.graph.node.insert(0, helper.make_node("Cast", ["big"], [f"big{number}"], to=TensorProto.DOUBLE))


def repeated(kind, *operands):
    """An operator on constants whose result is many times what is there: 1 MiB by 1 MiB."""

    def change(model):
        model.graph.initializer.extend(
            numpy_helper.from_array(np.ascontiguousarray(array), f"r{place}") for place, array in enumerate(operands)
        )
        names = [f"r{place}" for place in range(len(operands))]
        model.graph.node.insert(0, helper.make_node(kind, names, ["repeated"]))

    return change


HOSTILE = {
    "huge_dims": (shape("w", [1 << 40, 1 << 40]), "needs 1208925819614629174706176 bytes, and 18 are there"),
    "wrapping_dims": (shape("w", [1 << 32, 1 << 32]), "needs 18446744073709551616 bytes"),
    "negative_dims": (shape("w", [-2, 9]), "is none a tensor can have"),
    "more_bytes_than_shape": (shape("w", [1, 1, 3, 3]), "needs 9 bytes, and 18 are there"),
    "many_dims": (shape("w", [1] * 60), "is none a tensor can have"),
    "huge_input": (input_shape("N", 1 << 30, 1 << 30, 1 << 30), "elements an image may have"),
    "large_input": (input_shape("N", 1 << 14, 1 << 14, 1), "elements an image may have"),
    "open_input": (input_shape("N", 1, "H", 6), "dimension 2 is open"),
    "zero_input": (input_shape("N", 0, 6, 6), "dimension 1 is 0"),
    "five_dims": (input_shape("N", 1, 1, 6, 6), "has 5 dimensions"),
    "huge_pads": (attribute("Conv", pads=[1 << 20] * 4), "has more than"),
    "overflowing_pads": (attribute("Conv", pads=[1 << 62] * 4), "does not fit 32 bits"),
    "negative_pads": (attribute("Conv", pads=[-1] * 4), "must not be negative"),
    "huge_stride": (attribute("Conv", strides=[1 << 40] * 2), "does not fit 32 bits"),
    "zero_stride": (attribute("Conv", strides=[0, 1]), "must be at least 1"),
    "huge_kernel": (attribute("MaxPool", kernel_shape=[1 << 30] * 2), "does not fit an input"),
    "huge_attribute": (attribute("Conv", pads=[1] * 1_000_000), "attribute pads must be 4 integers"),
    "wrong_attribute": (attribute("Conv", pads="yes"), "attribute pads must be 4 integers"),
    "groups": (attribute("Conv", group=1 << 40), "do not fit 1 channels"),
    "cycle": (reads("QuantizeLinear", 0, "rq"), "the graph has a cycle, is unsorted or lacks an input"),
    "unsorted": (reads("Conv", 0, "ar"), "the graph has a cycle"),
    "missing_input": (reads("Conv", 1, "nowhere"), "reads 'nowhere'"),
    "itself": (reads("Relu", 0, "r"), "the graph has a cycle"),
    "left_out": (reads("Conv", 1, ""), "lacks operand 1"),
    "defined_twice": (lambda model: model.graph.node[1].output.__setitem__(0, "xq"), "is defined twice"),
    "shadows_a_constant": (lambda model: model.graph.node[1].output.__setitem__(0, "w"), "is defined twice"),
    "constants_of_one_name": (lambda model: setattr(initializer(model, "b"), "name", "w"), "or one used twice"),
    "no_output": (lambda model: setattr(model.graph.output[0], "name", "nowhere"), "is computed by no node"),
    "outputs": (lambda model: model.graph.output.append(model.graph.output[0]), "has 2 outputs"),
    "two_inputs": (
        lambda model: model.graph.input.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])),
        "needs exactly one input that is no initializer, and has 'x', 'y'",
    ),
    "no_utf8": (lambda model: None, "is not UTF-8"),
    "subgraph": (subgraph, "subgraphs and such are not supported"),
    "function": (lambda model: model.functions.add(name="evil", domain="x"), "defines a function, 'evil'"),
    "operator": (lambda model: setattr(operator(model, "Relu"), "op_type", "If"), "If 'r': is not supported"),
    "domain": (lambda model: setattr(operator(model, "Relu"), "domain", "evil"), "evil.Relu 'r': is not supported"),
    "no_opset": (lambda model: model.ClearField("opset_import"), "states no version"),
    "no_graph": (lambda model: model.ClearField("graph"), "holds no graph"),
    "type": (lambda model: setattr(initializer(model, "w"), "data_type", 77), "type 77 is not supported"),
    "text": (lambda model: setattr(initializer(model, "w"), "data_type", 8), "type STRING is not supported"),
    "half": (lambda model: setattr(initializer(model, "w"), "data_type", 10), "needs 36 bytes, and 18 are there"),
    "scale_zero": (constant("s", np.float32(0)), "must be positive and finite"),
    "scale_nan": (constant("ms", np.float32(np.nan)), "must be positive and finite"),
    "scale_negative": (constant("ms", np.float32(-1)), "must be positive and finite"),
    "scale_integer": (constant("ms", np.int32(1)), "must be one float"),
    "tiny_scale": (constant("s", np.float32(1e-38)), "a bias does not fit 32 bits in steps"),
    "zero_type": (constant("wz", np.zeros(2, np.uint8)), "a zero point, is uint8 (2,); int8 (2,) is needed"),
    "zero_count": (constant("wz", np.zeros(3, np.int8)), "a zero point, is int8 (3,)"),
    "wide_codes": (constant("z", np.int32(3)), "another type than int8 and uint8"),
    "weight_type": (constant("m", np.zeros((18, 4), np.int32)), "weights of type int32"),
    "weight_shape": (constant("m", np.zeros((17, 4), np.int8)), "a matrix with 17 rows does not fit"),
    "empty_weights": (constant("w", np.zeros((0, 1, 3, 3), np.int8)), "scales do not fit axis 0"),
    "float_weights": (reads("Conv", 1, "ws"), "is no constant behind a DequantizeLinear"),
    "float_conv": (reads("Conv", 0, "x"), "does not come from a DequantizeLinear"),
    "not_quantised": (lambda model: setattr(model.graph.output[0], "name", "y"), "is not quantised"),
    "absolute": (external("/etc/passwd"), "is no plain path inside the model's folder"),
    "outside": (external("../secret.bin"), "leaves the model's folder"),
    "round_about": (external("sub/../../secret.bin"), "leaves the model's folder"),
    "link": (external("link.bin"), "is no plain path inside the model's folder"),
    "linked_folder": (external("folder/secret.bin"), "is no plain path inside the model's folder"),
    "absent": (external("absent.bin"), "No such file"),
    "no_location": (external(""), "is no plain path"),
    "nul": (external("a\0b"), "is no plain path"),
    "a_folder": (external("sub"), "does not hold 72 at 0"),
    "device": (external("fifo"), "does not hold 72 at 0"),
    "short_data": (external("data.bin", offset="40"), "does not hold 72 at 40"),
    "huge_offset": (external("data.bin", offset="9" * 14), "does not hold 72 at"),
    "endless_offset": (external("data.bin", offset="9" * 4000), "which are no sizes"),
    "negative_offset": (external("data.bin", offset="-1"), "which are no sizes"),
    "huge_length": (external("data.bin", length="9" * 14), "does not hold 72 at 0"),
    "many_reshapes": (many_reshapes, "grow beyond all measure"),
    "big_casts": (big_casts, "grow beyond all measure"),
    "repeated_rows": (
        repeated("Gather", np.zeros((1, 1 << 20), np.int8), np.zeros(1 << 17, np.int64)),
        "Gather 'repeated': the file's constants and shapes grow beyond all measure",
    ),
    "wide_limits": (
        repeated("Clip", np.zeros((1 << 20, 1), np.int8), np.zeros((1, 1 << 20), np.int8)),
        "Clip 'repeated': the file's constants and shapes grow beyond all measure",
    ),
    "bad_gather": (
        repeated("Gather", np.zeros(2, np.int8), np.full(1, 5, np.int64)),
        "Gather 'repeated': cannot be evaluated on its constants",
    ),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    top = tmp_path_factory.mktemp("hostile")
    place = top / "models"
    (place / "sub").mkdir(parents=True)
    (top / "secret.bin").write_bytes(bytes(72))
    (place / "data.bin").write_bytes(bytes(72))
    (place / "link.bin").symlink_to(top / "secret.bin")
    (place / "folder").symlink_to(top)
    subprocess.run(["mkfifo", place / "fifo"], check=True)
    for name, (change, _) in HOSTILE.items():
        model = valid()
        change(model)
        data = model.SerializeToString()
        (place / f"{name}.onnx").write_bytes(data.replace(b"pool", b"po\xf6l") if name == "no_utf8" else data)
    return place


def test_the_file_that_the_cases_alter_is_read(folder):
    path = folder / "valid.onnx"
    path.write_bytes(valid().SerializeToString())
    names = [node.name for node in import_onnx(path).graph.nodes]
    assert names == ["x", "conv", "add", "pool", "matmul"]
    model = valid()
    external("data.bin", offset="0", length="72")(model)
    path.write_bytes(model.SerializeToString())
    assert not import_onnx(path).graph.by_name["matmul"].weight.any()  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_by_its_rule(folder, name):
    line = refusal(import_onnx, folder / f"{name}.onnx")
    assert line.startswith(f"{folder / name}.onnx: ")
    assert HOSTILE[name][1] in line
    assert len(line) < 1200


def test_all_of_them_at_the_command_line_without_large_allocations(folder):
    """One process, its memory limited a little above what it has loaded, refuses every file with exit code 2."""
    script = """
import json, resource, sys
import accelsim.importers, accelsim.cli, onnx, onnx.numpy_helper, accelsim.sources, accelsim.workloads.data
limit, names = json.loads(sys.argv[1])
status = dict(line.split(":") for line in open("/proc/self/status") if ":" in line and "\\t" in line)
used = int(status["VmSize"].split()[0]) * 1024
resource.setrlimit(resource.RLIMIT_AS, (used + limit, used + limit))
codes = {name: accelsim.cli.main(["quantize", name, "-o", "never"]) for name in names}
print(json.dumps(codes))
"""
    names = [f"{name}.onnx" for name in HOSTILE]
    arguments = [sys.executable, "-c", script, json.dumps([LIMIT_BYTES, names])]
    done = subprocess.run(arguments, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == dict.fromkeys(names, 2)
    lines = done.stderr.splitlines()
    assert len(lines) == len(names)
    for name, line in zip(names, lines, strict=True):
        assert line.startswith(f"accelsim: error: {name}: "), line
        assert "memory" not in line
    assert not (folder / "never").exists()


def damaged(rng):
    """A valid file cut off, or with some bytes changed or gone."""
    data = bytearray(valid().SerializeToString())
    if rng.integers(4) == 0:
        return data[: int(rng.integers(len(data)))]
    for _ in range(int(rng.integers(1, 5))):
        place = int(rng.integers(len(data)))
        if rng.integers(3) == 0:
            del data[place : place + int(rng.integers(1, 20))]
        else:
            data[place] = int(rng.integers(256))
    return data


NUMBERS = [0, 1, -1, 2, 3, 7, 100_000, 1 << 31, -(1 << 31), 1 << 62, -(1 << 63)]
ATTRIBUTES = [
    *("axis", "pads", "strides", "dilations", "group", "kernel_shape", "perm", "axes", "transB", "to", "block_size"),
    *("ceil_mode", "count_include_pad", "output_dtype", "allowzero", "alpha", "auto_pad", "min"),
]


def rearranged(rng):
    """A well-formed file whose operators, operands, attributes or constants are others."""
    model = valid()
    names = [name for node in model.graph.node for name in (*node.input, *node.output)] + [""]
    for _ in range(int(rng.integers(1, 4))):
        node = model.graph.node[int(rng.integers(len(model.graph.node)))]
        match int(rng.integers(6)):
            case 0 if node.input:
                node.input[int(rng.integers(len(node.input)))] = str(rng.choice(names))
            case 1:
                node.op_type = str(rng.choice([*OPERATORS, "Cast", "Concat", "Gather", "Constant"]))
            case 2:
                few = [int(rng.choice(NUMBERS)) for _ in range(int(rng.integers(1, 5)))]
                value = [few, few[0], "SAME_UPPER", float("nan"), 1.0][int(rng.integers(5))]
                node.attribute.append(helper.make_attribute(str(rng.choice(ATTRIBUTES)), value))
            case 3:
                tensor = model.graph.initializer[int(rng.integers(len(model.graph.initializer)))]
                shape = tuple(rng.integers(1, 4, int(rng.integers(4))))
                kind = rng.choice([np.int8, np.uint8, np.int32, np.int64, np.float32])
                values = np.asarray(rng.choice(NUMBERS, size=shape)).astype(kind)
                tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
            case 4:
                node.input.append(str(rng.choice(names)))
            case _ if node.input:
                del node.input[-1]
    return model.SerializeToString()


@pytest.mark.parametrize("change", [damaged, rearranged])
def test_an_altered_file_is_refused_or_gives_a_legal_graph(tmp_path, change):
    rng = np.random.default_rng(20261128)
    path = tmp_path / "fuzz.onnx"
    graphs, lines = [], []
    for _ in range(500):
        path.write_bytes(change(rng))
        try:
            graphs.append(import_onnx(path).graph)  # which checks its legality when it is made
        except InputError as error:
            lines.append(str(error))
    assert len(graphs) > 5
    assert all(line.startswith(f"{path}: ") and "\n" not in line for line in lines)


def test_something_else_is_no_onnx_file(tmp_path):
    for name, data in {"empty": b"", "text": b"hello", "pickle": b"\x80\x04.", "zeros": bytes(99)}.items():
        path = tmp_path / f"{name}.onnx"
        path.write_bytes(data)
        assert str(path) in refusal(import_onnx, path)
    assert "no such file" in refusal(import_onnx, tmp_path / "absent.onnx")
    assert "is a folder" in refusal(import_onnx, tmp_path)
    assert "is no regular file" in refusal(import_onnx, "/dev/zero")


def test_a_file_beyond_what_protobuf_takes_is_not_read(tmp_path):
    path = tmp_path / "sparse.onnx"
    with open(path, "wb") as stream:
        stream.truncate(3 << 30)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "more than the 2 GiB" in refusal(import_onnx, path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < LIMIT_BYTES >> 10
    assert onnx.__version__


@pytest.mark.parametrize("error", [ImportError, ModuleNotFoundError])
def test_without_the_package_a_file_is_refused_in_one_line(folder, monkeypatch, error):
    """Absent, or there and broken."""

    class Broken:
        def find_spec(self, name, *_):
            if name == "onnx":
                raise error("libonnx.so: cannot open shared object file")

    monkeypatch.delitem(sys.modules, "onnx")
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    path = folder / "valid.onnx"
    path.write_bytes(b"")
    assert refusal(import_onnx, path) == f"{path}: reading ONNX needs the package onnx; pip install 'accelsim[onnx]'"
