"""Imported networks against onnxruntime, code by code in every tensor: zero differences as ONNX requantises."""

from __future__ import annotations

import numpy as np
import onnx_models
import pytest
import torch
from refusals import refusal

from accelsim import EngineModule, compile, load_hardware, load_quantization, vectors, workloads
from accelsim.engine import execute
from accelsim.frontend import capture, fold_batch_norm
from accelsim.importers import import_onnx
from accelsim.ir import Add, host_operators
from accelsim.pipeline import evaluate, run_checked

HARDWARE = load_hardware()


def pixels(*shape):
    return np.random.default_rng(0).uniform(0, 1, shape).astype(np.float32)


@pytest.fixture(scope="module")
def lenet5():
    loaded = workloads.load("lenet5_digits")
    graph = fold_batch_norm(capture(loaded.module, loaded.example, "lenet5"))
    digits = loaded.example.numpy()
    noise = pixels(31, *digits.shape[1:])
    return onnx_models.float_model(graph), np.concatenate([digits, noise])


@pytest.fixture(scope="module")
def resnet():
    model = onnx_models.resnet((8, 16, 16), blocks=1)
    images = pixels(16, 3, 32, 32)
    return onnx_models.float_model(fold_batch_norm(capture(model, torch.from_numpy(images[:1]), "resnet"))), images


def differences(path, images, scheme=None):
    """Codes that differ from onnxruntime's by tensor, how many were compared, and the import."""
    imported = import_onnx(path, scheme)
    nodes = [node.name for node in imported.graph.nodes]
    ours = execute(imported.graph, imported.encode(images), HARDWARE.arithmetic(), nodes=nodes, threads=1)
    theirs = onnx_models.run(path, images)
    differ = {name: int((imported.decode(name, ours) != values).sum()) for name, values in theirs.items()}
    return differ, sum(values.size for values in theirs.values()), imported


@pytest.mark.parametrize("form", onnx_models.FORMATS)
@pytest.mark.parametrize(
    "options",
    [{}, {"weight_type": "QUInt8", "per_channel": False}, {"activation_type": "QInt8"}],
    ids=["u8s8", "u8u8", "s8s8"],
)
def test_lenet5_has_no_code_that_differs_from_onnxruntime(lenet5, tmp_path, form, options):
    if (form, options.get("activation_type")) == ("QOperator", "QInt8"):
        pytest.skip("onnxruntime has no int8 kernel for what its quantiser writes here")
    model, images = lenet5
    path = onnx_models.quantized(model, images, tmp_path / "lenet5.onnx", form, **options)
    differ, count, imported = differences(path, images)
    assert count > 200_000
    assert differ == dict.fromkeys(differ, 0)
    assert len(differ) >= 7
    unsigned = "activation_type" not in options
    assert imported.graph.activation.signed is not unsigned
    assert imported.graph.zero_points == ("subtracted" if "weight_type" in options else "folded")


@pytest.mark.parametrize("form", onnx_models.FORMATS)
def test_a_residual_network_has_no_code_that_differs_from_onnxruntime(resnet, tmp_path, form):
    model, images = resnet
    path = onnx_models.quantized(model, images, tmp_path / "resnet.onnx", form)
    differ, count, imported = differences(path, images)
    assert count > 700_000
    assert differ == dict.fromkeys(differ, 0)
    assert {node.rounding for node in imported.graph.nodes if isinstance(node, Add)} == {"sum"}


def test_on_a_machine_with_float32_multipliers_the_same_bits(lenet5, tmp_path):
    model, images = lenet5
    path = onnx_models.quantized(model, images, tmp_path / "lenet5.onnx", "QDQ")
    imported = import_onnx(path)
    program = compile(imported.graph, HARDWARE, batch=2)
    outcome = run_checked(program, imported.graph, imported.encode(images[:4]), keep_tensors=True)
    assert outcome.mismatch is None
    assert outcome.tensors is not None
    for name, values in onnx_models.run(path, images[:4]).items():
        np.testing.assert_array_equal(imported.decode(name, outcome.tensors), values, err_msg=name)


def test_a_residual_network_runs_on_the_machine_with_another_requantisation(resnet, tmp_path):
    model, images = resnet
    path = onnx_models.quantized(model, images, tmp_path / "resnet.onnx", "QDQ")
    exact = import_onnx(path).graph
    line = refusal(compile, exact, HARDWARE)
    assert "node 3.add_1: adds in float32 with one rounding runs on the host" in line
    assert "--quantization int8" in line
    codes = np.zeros((1, 32, 32, 3), dtype=np.int64)
    request = vectors.Request(level="layer", policy=None, layers=[], simple=False, command="", versions={})
    for line, what in (
        (refusal(vectors.export_network, exact, HARDWARE, codes, tmp_path / "pack", request), "exported as vectors"),
        (refusal(EngineModule, exact, HARDWARE), "cannot be trained"),
    ):
        assert what in line
        assert "node 3.add_1: adds in float32" in line
    found = evaluate(
        exact, images, np.zeros(len(images), dtype=int), HARDWARE, threads=1
    )  # the engine needs no machine
    assert found.count == len(images)
    graph = import_onnx(path, load_quantization("int8")).graph
    assert not host_operators(graph)
    program = compile(graph, HARDWARE)
    outcome = run_checked(program, graph, import_onnx(path, load_quantization("int8")).encode(images[:1]))
    assert outcome.mismatch is None


def test_a_fixed_point_multiplier_moves_only_what_lies_at_a_tie(lenet5, tmp_path):
    """Float32 rounds the product v * M; M0 and the shift do not. Both round to one of the two nearest codes."""
    model, images = lenet5
    path = onnx_models.quantized(model, images, tmp_path / "lenet5.onnx", "QOperator")
    differ, count, _ = differences(path, images, load_quantization("int8"))
    assert sum(differ.values()) < count // 10_000


def test_options_of_the_scheme_reach_the_graph(lenet5, tmp_path):
    model, images = lenet5
    path = onnx_models.quantized(model, images, tmp_path / "lenet5.onnx", "QDQ")
    scheme = load_quantization(
        "onnx", ["zero_points=subtracted", "bias_at=accumulator", "accumulator_width_bits.c1=20"]
    )
    graph = import_onnx(path, scheme).graph
    assert (graph.zero_points, graph.bias_at) == ("subtracted", "accumulator")
    assert graph.by_name["c1"].accumulator_width_bits == 20
    line = refusal(import_onnx, path, load_quantization("onnx", ["accumulator_width_bits.c2=20"]))
    assert "'c2' is no layer" in line
    line = refusal(import_onnx, path, load_quantization("uint8"))
    assert "is quantised already, so [activation] of the scheme would change nothing" in line
    line = refusal(import_onnx, path, load_quantization("int8", ["requantization.scheme=power_of_two"]))
    assert "is not a power of two" in line
