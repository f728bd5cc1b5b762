"""The Python API: what `import accelsim` offers, and that the same bits come out by every way through it."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from graphs import GraphMaker, random_graph

import accelsim
from accelsim.cli import main
from accelsim.errors import InputError
from accelsim.ir import IntegerGraph, evaluate, load_graph, save_graph
from accelsim.numerics import Requantization, Rounding, Scheme

PACKAGE = Path(accelsim.__file__).parent
FIXED = Requantization(scheme=Scheme.FIXED_POINT, rounding=Rounding.HALF_EVEN)
EDGE = accelsim.load_hardware("edge_8x8")
FUNCTIONS = [name for name in accelsim.__all__ if inspect.isfunction(getattr(accelsim, name))]


def classifier(seed: int = 0, classes: int = 5) -> IntegerGraph:
    """A convolution and a linear layer on 6 x 6 x 3 inputs."""
    maker = GraphMaker(np.random.default_rng(seed), FIXED)
    maker.linear(maker.conv(maker.input(6, 6, 3), 4, (3, 3)), classes)
    return dataclasses.replace(maker.graph(), output_shape=(classes,))


def some_images(graph: IntegerGraph, count: int, seed: int = 1) -> np.ndarray:
    """Floats (count, C, H, W) over the whole range of the input's codes."""
    tensor = graph.input.output
    codes = np.random.default_rng(seed).integers(
        graph.activation.minimum, graph.activation.maximum + 1, (count, tensor.channels, tensor.height, tensor.width)
    )
    return (codes - tensor.zero_point) * tensor.scale


def reference_classes(graph: IntegerGraph, images: np.ndarray, hardware: accelsim.Hardware) -> np.ndarray:
    tensors = evaluate(graph, accelsim.quantize_input(graph, images), hardware.arithmetic()).tensors
    return graph.to_pytorch(tensors[graph.output]).argmax(axis=1)


# --- the names ---------------------------------------------------------------------------------------------


def test_lazy_names_literal_list_and_typed_names_are_the_same():
    """Three statements of one thing: at run time, for tools, and for type checkers."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    typed = {alias.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert typed == accelsim._HOMES
    assert {*typed, "__version__"} == set(accelsim.__all__)
    assert set(accelsim.__all__) <= set(dir(accelsim))
    for name in typed:
        assert getattr(accelsim, name).__name__ == name


def test_the_contract_is_there():
    contract = "load_hardware capture quantize compile simulate evaluate load_graph load_program run_checked"
    assert set(contract.split()) <= set(FUNCTIONS)
    assert callable(accelsim.IntegerGraph.save)
    assert callable(accelsim.Program.save)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_is_typed_and_says_what_it_takes_and_raises(name):
    function = getattr(accelsim, name)
    signature = inspect.signature(function)
    assert signature.return_annotation is not inspect.Signature.empty
    assert all(p.annotation is not inspect.Parameter.empty for p in signature.parameters.values())
    text = inspect.getdoc(function)
    assert "Raises:\n    InputError: " in text
    if name != "quantize_input":  # says both in its first line
        assert "Args:\n" in text
        for parameter in signature.parameters:
            assert f"    {parameter}: " in text, parameter


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match=r"^module 'accelsim' has no attribute 'complie'$"):
        _ = accelsim.complie


@pytest.mark.parametrize(
    "use, absent",
    [
        ("accelsim.load_hardware, accelsim.compile, accelsim.load_graph", "torch simpy matplotlib"),
        ("accelsim.evaluate, accelsim.simulate, accelsim.run_checked", "torch matplotlib"),
        ("accelsim.quantize", "simpy matplotlib"),
    ],
)
def test_a_name_loads_only_what_it_needs(use, absent):
    script = f"import sys, accelsim\n{use}\nprint(*(name for name in {absent.split()} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, text=True)
    assert done.stdout.split() == []


# --- evaluate ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sets", [[], ["array.dataflow=os"], ["accumulator.width_bits=14"]])
def test_evaluate_finds_the_classes_of_the_reference(sets):
    graph, hardware = classifier(), accelsim.load_hardware("edge_8x8", sets)
    images = some_images(graph, 19)
    expected = reference_classes(graph, images, hardware)
    labels = expected.copy()
    labels[:4] = (labels[:4] + 1) % 5
    found = accelsim.evaluate(graph, images, labels, hardware)
    assert found.predictions.tolist() == expected.tolist()
    assert found.predictions.dtype == np.int64
    assert (found.count, found.accuracy) == (19, 15 / 19)
    assert found.confusion.sum() == 19
    assert np.trace(found.confusion) == 15
    assert found.confusion[labels[0], expected[0]] >= 1  # rows are labels, columns what they are taken for


@pytest.mark.parametrize("dataflow", ["ws", "os", "is"])
def test_vectors_are_classified_in_every_dataflow(dataflow):
    """Input-stationary keeps its inputs and outputs in columns, and runs a single linear layer."""
    maker = GraphMaker(np.random.default_rng(2), FIXED)
    maker.linear(maker.input(1, 1, 12), 5)
    graph = dataclasses.replace(maker.graph(), output_shape=(5,))
    hardware = accelsim.load_hardware("edge_8x8", [f"array.dataflow={dataflow}"])
    images = some_images(graph, 21)[:, :, 0, 0]
    expected = reference_classes(graph, images, hardware)
    assert len(set(expected.tolist())) > 2
    assert accelsim.evaluate(graph, images, expected, hardware).accuracy == 1


@pytest.mark.parametrize("batch", [1, 3, 7, 16])
def test_a_programs_batch_changes_no_prediction(batch):
    graph = classifier()
    images = some_images(graph, 7)
    expected = reference_classes(graph, images, EDGE)
    program = accelsim.compile(graph, EDGE, batch)
    told: list[int] = []
    found = accelsim.evaluate(program, images.astype(np.float32), expected.tolist(), progress=told.append)
    assert found.predictions.tolist() == expected.tolist()
    assert found.accuracy == 1
    assert told == [*range(batch, 7, batch), 7]


def test_evaluate_simulate_and_run_checked_agree():
    graph = classifier(seed=4)
    images = some_images(graph, 2)
    program = accelsim.compile(graph, EDGE, batch=2)
    outputs = accelsim.simulate(program, images).outputs
    checked = accelsim.run_checked(program, graph, accelsim.quantize_input(graph, images), labels=np.array([0, 1]))
    found = accelsim.evaluate(program, images, [0, 1])
    assert checked.outputs.tolist() == outputs.tolist()
    assert checked.mismatch is None
    assert found.predictions.tolist() == outputs.argmax(axis=1).tolist()
    assert found.accuracy == checked.accuracy


def test_a_graph_without_a_machine_runs_on_the_default_one():
    """As on the command line. Accumulators of 9 bits saturate here, so that the machine matters."""
    graph = classifier()
    images = some_images(graph, 40)
    wide = reference_classes(graph, images, accelsim.load_hardware("default_16x16"))
    narrow = accelsim.load_hardware("default_16x16", ["accumulator.width_bits=9"])
    assert reference_classes(graph, images, narrow).tolist() != wide.tolist()
    assert accelsim.evaluate(graph, images, wide).accuracy == 1
    assert accelsim.evaluate(graph, images, wide, narrow).accuracy < 1


def test_a_program_may_name_its_own_machine_and_no_other():
    graph = classifier()
    program = accelsim.compile(graph, EDGE)
    images, labels = some_images(graph, 1), [0]
    faster = accelsim.load_hardware("edge_8x8", ["clock_mhz=1000"])  # the same machine to a program
    assert accelsim.evaluate(program, images, labels, faster).count == 1
    with pytest.raises(InputError) as caught:
        accelsim.evaluate(program, images, labels, accelsim.load_hardware("default_16x16"))
    assert str(caught.value) == (
        f"program {program.name}: was compiled for edge_8x8, not for default_16x16; compile its graph for this "
        "machine, or leave hardware out"
    )


@pytest.mark.parametrize(
    "images, labels, message",
    [
        (np.zeros((2, 3, 6, 6), np.uint8), [0, 0], "images: type uint8 is not floating point; scale them as "),
        (np.zeros((0, 3, 6, 6)), [], "no images to run; give at least one"),
        (np.float64(1), [0], "no images to run; give at least one"),
        (
            np.zeros((2, 3, 6, 5)),
            [0, 0],
            "input: shape (2, 3, 6, 5) is not (batch, C, H, W) with (C, H, W) = (3, 6, 6)",
        ),
        (np.full((2, 3, 6, 6), np.nan), [0, 0], "input: holds NaN or infinite values; remove them"),
        (np.zeros((2, 3, 6, 6)), [0], "labels: int64 (1,); give integers (2,), one for each image"),
        (np.zeros((2, 3, 6, 6)), [0.0, 1.0], "labels: float64 (2,); give integers (2,), one for each image"),
        (np.zeros((2, 3, 6, 6)), [[0], [1]], "labels: int64 (2, 1); give integers (2,), one for each image"),
        (np.zeros((2, 3, 6, 6)), [0, 5], "labels: 0..5 leave 0..4, the network's outputs"),
        (np.zeros((2, 3, 6, 6)), [-1, 0], "labels: -1..0 leave 0..4, the network's outputs"),
    ],
)
def test_images_and_labels_that_do_not_fit_are_refused_in_one_line(images, labels, message):
    with pytest.raises(InputError) as caught:
        accelsim.evaluate(classifier(), images, labels, EDGE)
    assert str(caught.value).startswith(message)


def test_an_output_that_is_an_image_has_no_class():
    maker = GraphMaker(np.random.default_rng(0), FIXED)
    maker.conv(maker.input(6, 6, 3), 4, (3, 3))
    graph = maker.graph()
    with pytest.raises(InputError, match=r"its output has shape \(4, 4, 4\); labels need a vector$"):
        accelsim.evaluate(graph, some_images(graph, 1), [0], EDGE)


def test_a_graph_that_fits_no_machine_is_told_for_one_image():
    graph = classifier()
    with pytest.raises(InputError, match=r"activation\.memory_bytes >= \d+ or a smaller input$"):
        accelsim.evaluate(
            graph, some_images(graph, 1), [0], accelsim.load_hardware("edge_8x8", ["activation.memory_bytes=16"])
        )


def test_a_classification_is_frozen():
    graph = classifier()
    found = accelsim.evaluate(graph, some_images(graph, 1), [0], EDGE)
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.accuracy = 1.0


# --- simulate ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 3, 6, 6), (3, 3, 6, 6), ()])
def test_simulate_refuses_another_batch(shape):
    program = accelsim.compile(classifier(), EDGE, batch=2)
    with pytest.raises(InputError) as caught:
        accelsim.simulate(program, np.zeros(shape))
    assert str(caught.value) == f"input: shape {shape} is not that of a batch of 2, as compiled"


@pytest.mark.parametrize("shape", [(2, 3, 6, 5), (2, 107), (2,)])
def test_simulate_refuses_another_shape(shape):
    program = accelsim.compile(classifier(), EDGE, batch=2)
    with pytest.raises(InputError) as caught:
        accelsim.simulate(program, np.zeros(shape))
    assert str(caught.value) == f"input: shape {shape} is not (batch, C, H, W) with (C, H, W) = (3, 6, 6)"


# --- directories -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [str, Path])
def test_a_graph_saves_itself_as_storage_does_and_comes_back(tmp_path, kind):
    graph = random_graph(np.random.default_rng(5)).graph()
    graph.save(kind(tmp_path / "new" / "mine"))
    save_graph(graph, tmp_path / "theirs")
    again = accelsim.load_graph(kind(tmp_path / "new" / "mine"))
    again.save(tmp_path / "again")
    for name in ("graph.json", "graph.safetensors"):
        written = (tmp_path / "theirs" / name).read_bytes()
        assert (tmp_path / "new" / "mine" / name).read_bytes() == written
        assert (tmp_path / "again" / name).read_bytes() == written
    assert load_graph(tmp_path / "again").output_shape == graph.output_shape


def test_a_graph_that_cannot_be_saved_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"/file: cannot create the folder: File exists; choose another$"):
        classifier().save(tmp_path / "file")


def test_a_program_with_its_graph_inside_is_what_the_command_line_simulates(tmp_path, capsys):
    graph = classifier()
    program = accelsim.compile(graph, EDGE)
    program.save(tmp_path)
    graph.save(tmp_path / "graph")
    again = accelsim.load_program(str(tmp_path))
    images = some_images(graph, 1)
    assert accelsim.simulate(again, images).outputs.tolist() == accelsim.simulate(program, images).outputs.tolist()
    np.save(tmp_path / "images.npy", images)
    assert main(["simulate", str(tmp_path), "--input", str(tmp_path / "images.npy")]) == 0
    assert "bit_exact: true (1 images" in capsys.readouterr().out


# --- loaders -----------------------------------------------------------------------------------------------


def test_defaults_are_those_of_the_command_line():
    assert accelsim.load_hardware() == accelsim.load_hardware("default_16x16")
    assert accelsim.load_quantization() == accelsim.load_quantization("int8")
    assert accelsim.load_energy().name == "horowitz_45nm"


@pytest.mark.parametrize("name", ["load_hardware", "load_quantization"])
def test_one_override_that_is_no_list_is_told_how(name):
    with pytest.raises(InputError) as caught:
        getattr(accelsim, name)(overrides="a.b=1")
    assert str(caught.value) == "overrides = 'a.b=1' is one text; give a list of them: ['a.b=1']"


@pytest.mark.parametrize("kind", [str, Path])
def test_a_file_is_found_by_text_and_by_path(tmp_path, kind):
    (tmp_path / "mine.toml").write_text("zero_points = 'subtracted'\n")
    assert accelsim.load_quantization(kind(tmp_path / "mine.toml")).zero_points == "subtracted"
