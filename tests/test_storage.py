"""An integer graph on disk: what comes back is what was saved, and whatever was altered is refused in one line."""

from __future__ import annotations

import hashlib
import json
import tracemalloc
from dataclasses import fields
from pathlib import Path
from typing import Any

import hostile_safetensors
import numpy as np
import pytest
from graphs import GraphMaker, random_graph
from refusals import refusal
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from accelsim.ir import IntegerGraph, Multiplier, evaluate, load_graph, save_graph
from accelsim.numerics import Arithmetic, Requantization, Rounding, Scheme

ARITHMETIC = Arithmetic(
    psum_bits=20, width_bits=20, overflow="saturate", saturate_at="every_add", rows=4, dataflow="ws"
)
ALTERED = "its digest does not match its contents; the file was altered, quantize again"


def same(a: object, b: object) -> bool:
    """Equality of every field, arrays and multipliers included."""
    if type(a) is not type(b):
        return False
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b)
    if isinstance(a, Multiplier):
        return all(same(getattr(a, f.name), getattr(b, f.name)) for f in fields(a))
    if isinstance(a, tuple) and any(isinstance(item, Multiplier) for item in a):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b


def small_graph() -> IntegerGraph:
    """One node of every kind."""
    how = Requantization(scheme=Scheme.FIXED_POINT, rounding=Rounding.HALF_EVEN)
    maker = GraphMaker(np.random.default_rng(7), how)
    node = maker.input(6, 6, 2, 3)
    node = maker.conv(node, 4, (3, 3), padding=(1, 0, 0, 1), weight_bits=5, width=18)
    node = maker.pool(node, "max", (2, 2), (2, 2))
    node = maker.pool(node, "avg", (2, 2), (1, 1), (1, 0, 0, 1), count_include_pad=False)
    node = maker.sum(node, maker.conv(node, 4, (1, 1)))
    node = maker.clip(node)
    maker.table(maker.linear(node, 3))
    return maker.graph()


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> tuple[bytes, bytes]:
    folder = tmp_path_factory.mktemp("graph")
    save_graph(small_graph(), folder)
    return (folder / "graph.json").read_bytes(), (folder / "graph.safetensors").read_bytes()


def write(folder: Path, text: bytes | str, tensors: bytes) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "graph.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    (folder / "graph.safetensors").write_bytes(tensors)
    return folder


def vouched(data: dict[str, Any], tensors: bytes) -> str:
    """The JSON with the digests a careful forger would put in."""
    data = {key: value for key, value in data.items() if key != "sha256"}
    data["tensors_sha256"] = hashlib.sha256(tensors).hexdigest()
    data["sha256"] = hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()
    return json.dumps(data, indent=1) + "\n"


def forged(tmp_path, saved, place: tuple[str | int, ...], value: object):
    """A graph directory with one value changed and its digests made right again."""
    data = json.loads(saved[0])
    here = data
    for key in place[:-1]:
        here = here[key]
    here[place[-1]] = value
    return write(tmp_path, vouched(data, saved[1]), saved[1])


@pytest.mark.parametrize("seed", range(12))
def test_a_loaded_graph_equals_the_saved_one_in_every_field_and_in_its_bits(tmp_path, seed):
    maker = random_graph(np.random.default_rng(seed))
    graph = maker.graph()
    save_graph(graph, tmp_path)
    loaded = load_graph(tmp_path)
    for field in fields(IntegerGraph):
        if field.name not in ("nodes", "by_name"):
            assert getattr(loaded, field.name) == getattr(graph, field.name), field.name
    assert len(loaded.nodes) == len(graph.nodes)
    for before, after in zip(graph.nodes, loaded.nodes, strict=True):
        assert type(before) is type(after)
        for field in fields(before):
            assert same(getattr(before, field.name), getattr(after, field.name)), (before.name, field.name)
    codes = maker.codes(2)
    expected, got = (evaluate(g, codes, ARITHMETIC.at_width(20)).tensors for g in (graph, loaded))
    assert all(np.array_equal(expected[name], got[name]) for name in expected)


def test_saving_twice_gives_the_same_bytes_and_a_loaded_graph_saves_to_them_too(tmp_path, saved):
    save_graph(load_graph(write(tmp_path / "a", *saved)), tmp_path / "b")
    assert (tmp_path / "b" / "graph.json").read_bytes() == saved[0]
    assert (tmp_path / "b" / "graph.safetensors").read_bytes() == saved[1]


def test_scales_and_multipliers_keep_every_bit(tmp_path):
    how = Requantization(scheme=Scheme.FLOAT64, rounding=Rounding.HALF_EVEN)
    maker = GraphMaker(np.random.default_rng(0), how)
    maker.input(1, 1, 5)
    maker.linear("input", 3)
    graph = maker.graph()
    save_graph(graph, tmp_path)
    before, after = graph.nodes[1], load_graph(tmp_path).nodes[1]
    assert after.multiplier.real.tobytes() == before.multiplier.real.tobytes()
    assert after.multiplier.m0.tolist() == np.frombuffer(before.multiplier.real.tobytes(), dtype=np.int64).tolist()
    assert after.output.scale.hex() == (0.1).hex()


@pytest.mark.parametrize("name", ["graph.json", "graph.safetensors"])
def test_any_flipped_bit_is_refused_in_one_line(tmp_path, saved, name):
    folder = write(tmp_path, *saved)
    original = (folder / name).read_bytes()
    rng = np.random.default_rng(5)
    for position, bit in zip(rng.integers(0, len(original), 150), rng.integers(0, 8, 150), strict=True):
        data = bytearray(original)
        data[position] ^= 1 << bit
        (folder / name).write_bytes(data)
        try:
            loaded = json.loads(data) if name == "graph.json" else None
        except ValueError:
            loaded = None
        if loaded is not None and loaded == json.loads(original):
            continue  # white space, or the case of a hexadecimal escape: the contents are the same
        assert str(folder) in refusal(load_graph, folder), (position, bit)


def test_messages_of_an_altered_graph_say_which_file_and_what_to_do(tmp_path, saved):
    text, tensors = saved
    folder = write(tmp_path, text.replace(b'"zero_point": 3', b'"zero_point": 4'), tensors)
    assert refusal(load_graph, folder) == f"{folder}/graph.json: {ALTERED}"
    write(folder, text, tensors[:-1] + bytes([tensors[-1] ^ 1]))
    assert refusal(load_graph, folder) == (
        f"{folder}/graph.safetensors: does not match the digest in graph.json; the file was altered, quantize again"
    )
    write(folder, text.replace(b'"version": 2', b'"version": 1'), tensors)
    assert refusal(load_graph, folder) == f"{folder}/graph.json: graph version 1 is not 2; quantize the workload again"
    write(folder, text.replace(b"accelsim-graph", b"accelsim-other"), tensors)
    kind = f"{folder}/graph.json: is not an accelsim graph (format 'accelsim-graph'); quantize the workload again"
    assert refusal(load_graph, folder) == kind
    write(folder, b"[1, 2]", tensors)
    assert refusal(load_graph, folder) == kind


def test_missing_and_truncated_files_are_refused(tmp_path, saved):
    folder = write(tmp_path / "graph", *saved)
    (folder / "graph.safetensors").unlink()
    assert refusal(load_graph, folder).startswith(f"{folder}/graph.safetensors: no such file")
    write(folder, saved[0][:100], saved[1])
    assert refusal(load_graph, folder).startswith(f"{folder}/graph.json: not as written by quantize: ")
    write(folder, b"", saved[1])
    assert refusal(load_graph, folder).startswith(f"{folder}/graph.json: not as written by quantize: ")
    assert refusal(load_graph, tmp_path / "none").startswith(f"{tmp_path}/none/graph.json: no such file")


@pytest.mark.parametrize("depth", [1_000, 200_000])
@pytest.mark.parametrize("bracket", [b"[", b'{"a":'])
def test_deep_nesting_is_refused(tmp_path, saved, depth, bracket):
    folder = write(tmp_path, bracket * depth, saved[1])
    assert refusal(load_graph, folder).startswith(f"{folder}/graph.json: not as written by quantize: ")


@pytest.mark.parametrize(
    "place, value, expected",
    [
        (("name",), 3, "name = 3 is not of type str"),
        (("output",), None, "output = None is not of type str"),
        (("output_shape",), [3.0], "output_shape = 3.0 is not an integer"),
        (("output_shape",), "3", "output_shape = '3' is not of type list"),
        (("activation",), {"bits": 8}, "'signed' is missing"),
        (("activation", "bits"), True, "bits = True is not an integer"),
        (("activation", "bits"), 65, "bits = 65 is outside 1..64"),
        (("activation", "signed"), "yes", "signed = 'yes' is not of type bool"),
        (("requantization", "scheme"), "nearest", "'nearest' is not a valid Scheme"),
        (("requantization", "multiplier_bits"), 33, "multiplier_bits = 33 is outside 8..32"),
        (("nodes",), {"a": 1}, "nodes = {'a': 1} is not of type list"),
        (("nodes", 1), 5, "'int' object is not subscriptable"),
        (("nodes", 1, "op"), "conv9d", "op = 'conv9d' is not one of input, conv2d, linear, matmul, max_pool2d, "
                                       "avg_pool2d, add, clip, table, quantize, dequantize"),
        (("nodes", 1, "op"), ["conv2d"], "op = ['conv2d'] is not of type str"),
        (("nodes", 1, "inputs"), "input", "inputs = 'input' is not of type list"),
        (("nodes", 1, "shape"), [5, 5], "shape = [5, 5] does not hold 3 integers"),
        (("nodes", 1, "shape"), [5.0, 5, 4], "shape = 5.0 is not an integer"),
        (("nodes", 1, "shape"), [1 << 40, 5, 4], "shape = 1099511627776 does not fit 32 bits"),
        (("nodes", 1, "scale"), "0x1p99999", "hexadecimal value too large to represent as a float"),
        (("nodes", 1, "scale"), 0.5, "scale = 0.5 is not of type str"),
        (("nodes", 1, "zero_point"), 0.0, "zero_point = 0.0 is not an integer"),
        (("nodes", 1, "stride"), [1, 1, 1], "stride = [1, 1, 1] does not hold 2 integers"),
        (("nodes", 1, "padding"), 0, "padding = 0 is not of type list"),
        (("nodes", 1, "groups"), True, "groups = True is not an integer"),
        (("nodes", 1, "accumulator_width_bits"), "18", "accumulator_width_bits = '18' is not an integer"),
        (("nodes", 1, "multiplier"), None, "multiplier = None is not of type list"),
        (("nodes", 2, "kernel"), [2], "kernel = [2] does not hold 2 integers"),
        (("nodes", 3, "count_include_pad"), 1, "count_include_pad = 1 is not of type bool"),
    ],
)  # fmt: skip
def test_a_value_of_the_wrong_type_is_refused_by_its_key(tmp_path, saved, place, value, expected):
    folder = forged(tmp_path, saved, place, value)
    assert refusal(load_graph, folder) == (
        f"{folder}/graph.json: not as written by quantize: {expected}; quantize again"
    )


@pytest.mark.parametrize(
    "place, value, expected",
    [
        (("zero_points",), "none", "zero_points = 'none' is not one of folded, subtracted"),
        (("bias_at",), None, "bias_at = None is not one of ppu, accumulator"),
        (("output",), "conv9", "output 'conv9' is not a node"),
        (("activation", "bits"), 9, "activation_bits = 9 is outside 2..8"),
        (("nodes", 1, "stride"), [0, 1], "node conv1: window (3, 3) and stride (0, 1) must be at least 1, "
                                         "padding (1, 0, 0, 1) at least 0"),
        (("nodes", 1, "padding"), [-1, 0, 0, 1], "node conv1: window (3, 3) and stride (1, 1) must be at least 1, "
                                                 "padding (-1, 0, 0, 1) at least 0"),
        (("nodes", 1, "dilation"), [0, 1], "node conv1: groups = 1 and dilation = (0, 1) must be at least 1"),
        (("nodes", 1, "groups"), 0, "node conv1: groups = 0 and dilation = (1, 1) must be at least 1"),
        (("nodes", 1, "weight_bits"), 1 << 30, "node conv1: weight_bits = 1073741824 is outside 2..8"),
        (("nodes", 1, "zero_point"), 128, "node conv1: zero_point = 128 is outside -128..127"),
        (("nodes", 1, "scale"), "inf", "node conv1: scale = inf must be positive and finite"),
        (("nodes", 1, "clip"), [5, 4], "node conv1: clip (5, 4) must lie in -128..127, low to high"),
        (("nodes", 1, "inputs"), ["later"], "node conv1: reads 'later', which no earlier node computes"),
        (("nodes", 2, "kernel"), [0, 2], "node max2: window (0, 2) and stride (2, 2) must be at least 1, "
                                         "padding (0, 0, 0, 0) at least 0"),
        (("nodes", 0, "shape"), [0, 6, 2], "node input: shape (0, 6, 2) must be positive"),
        (("nodes", 0, "shape"), [2**31 - 1, 2**31 - 1, 2], "node conv1: output shape (5, 5, 4) does not follow from "
                                                           "its input; expected (2147483646, 2147483646, 4)"),
    ],
)  # fmt: skip
def test_a_value_that_breaks_a_rule_of_the_graph_is_refused_by_node_and_rule(tmp_path, saved, place, value, expected):
    folder = forged(tmp_path, saved, place, value)
    assert refusal(load_graph, folder) == f"integer graph random: {expected}"


@pytest.mark.parametrize(
    "place, value, expected",
    [
        (("colour",), 1, "graph.json: key 'colour' is unknown there, or written with its usual value"),
        (("activation", "scale"), 1, "activation: key 'scale' is unknown there, or written with its usual value"),
        (("nodes", 0, "clip"), [0, 1], None),
        (("nodes", 1, "kernel"), [3, 3], None),
        (("nodes", 1, "rounding"), "sum", None),
        (("nodes", 1, "kind"), "codes", "node conv1: key 'kind' is unknown there, or written with its usual value"),
        (("nodes", 0, "scale"), "0.1", None),
    ],
)  # fmt: skip
def test_what_a_graph_does_not_hold_is_refused(tmp_path, saved, place, value, expected):
    """A key that would be read over, or a value in another spelling, under digests that are right."""
    line = refusal(load_graph, forged(tmp_path, saved, place, value))
    assert line.startswith(f"{tmp_path}/graph.json: not as written by quantize: ")
    if expected is not None:
        assert line == f"{tmp_path}/graph.json: not as written by quantize: {expected}; quantize again"


def test_a_tensor_of_no_node_is_refused(tmp_path, saved):
    blob = save_tensors({**load_tensors(saved[1]), "conv1.spare": np.zeros(3, dtype=np.int8)})
    assert refusal(load_graph, write(tmp_path, vouched(json.loads(saved[0]), blob), blob)) == (
        f"{tmp_path}/graph.json: not as written by quantize: graph.safetensors: tensor 'conv1.spare' belongs to no "
        "node; quantize again"
    )


def test_every_missing_key_is_refused_in_one_line(tmp_path, saved):
    data = json.loads(saved[0])
    optional = {"stride", "padding", "dilation", "groups", "count_include_pad", "weight_bits", "weight_zero_point",
                "accumulator_width_bits"}  # fmt: skip
    for place in [(key,) for key in data] + [("nodes", i, key) for i, node in enumerate(data["nodes"]) for key in node]:
        changed = json.loads(saved[0])
        here = changed
        for key in place[:-1]:
            here = here[key]
        del here[place[-1]]
        if place in (("sha256",), ("tensors_sha256",)) or place[-1] in optional:
            continue
        folder = write(tmp_path, vouched(changed, saved[1]), saved[1])
        assert refusal(load_graph, folder).startswith(f"{folder}/graph.json: "), place
    del data["tensors_sha256"]
    data["sha256"] = hashlib.sha256(
        json.dumps({k: v for k, v in data.items() if k != "sha256"}, sort_keys=True).encode()
    ).hexdigest()
    folder = write(tmp_path, json.dumps(data, indent=1) + "\n", saved[1])
    assert refusal(load_graph, folder) == (
        f"{folder}/graph.json: not as written by quantize: 'tensors_sha256' is missing; quantize again"
    )


def test_tensors_of_another_type_or_shape_are_refused(tmp_path, saved):
    tensors = load_tensors(saved[1])

    def answer(**change: np.ndarray) -> str:
        blob = save_tensors({**tensors, **{key.replace("_", "."): value for key, value in change.items()}})
        return refusal(load_graph, write(tmp_path, vouched(json.loads(saved[0]), blob), blob))

    weight = tensors["conv1.weight"]
    prefix = f"{tmp_path}/graph.json: not as written by quantize: "
    nan = np.full(weight.shape, np.nan, dtype=np.float32)
    assert answer(conv1_weight=nan) == f"{prefix}tensor conv1.weight is float32, not int8; quantize again"
    assert answer(conv1_bias=np.zeros(4, dtype=np.int64)) == (
        f"{prefix}tensor conv1.bias is int64, not int32; quantize again"
    )
    assert answer(conv1_weight=weight[:, :, :2].copy()) == (
        "integer graph random: node conv1: output shape (5, 5, 4) does not follow from its input; expected (5, 6, 4)"
    )
    assert answer(conv1_weight=weight.reshape(-1)) == (
        "integer graph random: node conv1: weight (72,) with 1 groups does not fit 2 channels"
    )
    assert answer(conv1_weight=weight + np.int8(16)) == (
        "integer graph random: node conv1: a weight is outside -16..15, 5 bits"
    )
    assert answer(**{"conv1_multiplier.m0": np.zeros(4, dtype=np.int64)}).startswith(
        "integer graph random: node conv1: multiplier (m0, shift) = (0, "
    )
    blob = save_tensors({key: value for key, value in tensors.items() if key != "conv1.bias"})
    assert refusal(load_graph, write(tmp_path, vouched(json.loads(saved[0]), blob), blob)) == (
        f"{prefix}'conv1.bias' is missing; quantize again"
    )
    for blob in (b"", b"\xff" * 8, (1 << 62).to_bytes(8, "little") + b"{}"):
        assert refusal(load_graph, write(tmp_path, vouched(json.loads(saved[0]), blob), blob)).startswith(prefix)


def test_hostile_sizes_allocate_nothing_of_their_size(tmp_path, saved):
    data = json.loads(saved[0])
    data["nodes"] = [data["nodes"][0], data["nodes"][6] | {"inputs": ["input"], "zero_point": 3}]
    big = [2**20, 2**20, 2**20]  # an exabyte
    for node in data["nodes"]:
        node |= {"shape": big, "scale": data["nodes"][0]["scale"]}
    data |= {"output": data["nodes"][1]["name"], "output_shape": big}
    stem = f"{data['output']}."
    own = save_tensors({key: one for key, one in load_tensors(saved[1]).items() if key.startswith(stem)})
    folder = write(tmp_path, vouched(data, own), own)
    tracemalloc.start()
    graph = load_graph(folder)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert graph.input.output.size == 2**60
    assert peak < 1 << 21


@pytest.mark.parametrize("name", hostile_safetensors.FILES)
def test_tensors_that_lie_are_refused_without_allocating_what_they_claim(tmp_path, saved, name):
    """Their digests are right: whoever wrote the tensors wrote `graph.json` as well."""
    blob = hostile_safetensors.FILES[name]
    folder = write(tmp_path / "graph", vouched(json.loads(saved[0]), blob), blob)
    tracemalloc.start()
    line = refusal(load_graph, folder)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert line.startswith(f"{folder}/graph.json: not as written by quantize: ")
    assert line.endswith("; quantize again")
    assert peak < 4 << 20
