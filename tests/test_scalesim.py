"""SCALE-Sim's cycles under the scalesim presets, and its topology files as workloads."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from graphs import GraphMaker
from scalesim_peer import VARIABLE, run_scalesim

from accelsim.cli import main
from accelsim.compiler import compile_graph
from accelsim.config import QuantizationScheme, load_hardware, load_quantization
from accelsim.errors import InputError
from accelsim.importers import as_products, random_images, read_topology, topology_graph, topology_of, topology_text
from accelsim.importers.topology import Convolution, Product
from accelsim.ir import IntegerGraph, Mac, evaluate, quantize_input
from accelsim.isa import Compute, load_program
from accelsim.machine import Accelerator
from accelsim.pipeline import run_checked, save_compiled
from accelsim.report.document import array_spans

FORMATS = (Path(__file__).resolve().parents[1] / "docs" / "formats.md").read_text(encoding="utf-8")

# --- cycles -----------------------------------------------------------------------------------------------------------

LENET5 = [(784, 25, 6), (100, 150, 16), (1, 400, 120), (1, 120, 84), (1, 84, 10)]
"""(M, K, N) of each layer: output pixels, filter window times channels, filters."""
CONVOLUTION = [(56 * 56, 9 * 64, 64)]
RESNET18 = [
    (112 * 112, 49 * 3, 64),
    (56 * 56, 9 * 64, 64),
    *((28 * 28, 9 * 64, 128), (28 * 28, 9 * 128, 128), (28 * 28, 64, 128)),
    *((14 * 14, 9 * 128, 256), (14 * 14, 9 * 256, 256), (14 * 14, 128, 256)),
    *((7 * 7, 9 * 256, 512), (7 * 7, 9 * 512, 512), (7 * 7, 256, 512)),
    (1, 512, 1000),
]
"""Its different layers: 21 in all."""
SHAPES = [*LENET5, *CONVOLUTION, *RESNET18[2:], RESNET18[0]]
ARRAYS = [8, 16, 32, 128]


@lru_cache
def product(m: int, k: int, n: int) -> IntegerGraph:
    return topology_graph(Product(name="gemm", m=m, k=k, n=n))


def span(graph: IntegerGraph, array: int, dataflow: str) -> int:
    hardware = load_hardware(f"scalesim_{array}x{array}", [f"array.dataflow={dataflow}"])
    run = Accelerator(compile_graph(graph, hardware)).run(values=False)
    return array_spans(run.timeline)[0]


def skewed(rows: int, columns: int) -> int:
    """Rows of a demand matrix once each column is moved down by one more than the column before."""
    return rows + columns - 1


def scalesim_cycles(m: int, k: int, n: int, rows: int, columns: int, dataflow: str) -> int:
    """Rows of SCALE-Sim's demand matrices: fold by fold, as its systolic_compute_{ws,os,is}.py stack them."""
    if dataflow == "os":
        folds, streamed = (m, n), None
    else:
        folds, streamed = ((k, n), m) if dataflow == "ws" else ((k, m), n)
    total = 0
    for _ in range(0, folds[1], columns):
        for _ in range(0, folds[0], rows):
            if streamed is None:  # operands, then C - 1 idle rows; R columns
                total += skewed(k + (columns - 1), rows)
            else:  # R rows while the held operand loads, the streamed one, C - 1 idle rows; R columns
                total += skewed(rows + streamed + (columns - 1), rows)
    return total


@pytest.mark.parametrize("dataflow", ["ws", "os", "is"])
@pytest.mark.parametrize("array", ARRAYS)
def test_the_array_span_of_a_matrix_product_is_scale_sims(array, dataflow):
    """Every layer of LeNet-5, of a 64x56x56 -> 64 3x3 convolution and of ResNet-18."""
    for m, k, n in SHAPES:
        folds = {
            "ws": -(-k // array) * -(-n // array) * (2 * array + m + array - 2),
            "os": -(-m // array) * -(-n // array) * (k + array + array - 2),
            "is": -(-k // array) * -(-m // array) * (2 * array + n + array - 2),
        }[dataflow]
        assert scalesim_cycles(m, k, n, array, array, dataflow) == folds
        assert span(product(m, k, n), array, dataflow) == folds, (m, k, n)


@pytest.mark.parametrize("dataflow", ["ws", "os", "is"])
def test_the_array_need_not_be_square(dataflow):
    m, k, n = 37, 29, 21
    changes = [f"array.dataflow={dataflow}", "array.rows=6", "array.columns=10"]
    graph, hardware = product(m, k, n), load_hardware("scalesim_8x8", changes)
    program = compile_graph(graph, hardware)
    assert {i.serial for i in program.instructions if isinstance(i, Compute)} == {1}
    outcome = run_checked(program, graph, quantize_input(graph, random_images(graph, 1)))
    assert outcome.mismatch is None
    assert array_spans(outcome.timed.timeline)[0] == scalesim_cycles(m, k, n, 6, 10, dataflow)


def test_tiles_that_overlap_take_fewer_cycles():
    m, k, n = 37, 29, 21
    for dataflow in ("ws", "os", "is"):
        changes = [f"array.dataflow={dataflow}", "array.serial_tiles=false"]
        program = compile_graph(product(m, k, n), load_hardware("scalesim_8x8", changes))
        assert not any(i.serial for i in program.instructions if isinstance(i, Compute))
        overlapping = array_spans(Accelerator(program).run(values=False).timeline)[0]
        assert overlapping < scalesim_cycles(m, k, n, 8, 8, dataflow)


@pytest.mark.parametrize("dataflow", ["ws", "os", "is"])
def test_the_package_itself_prints_one_cycle_less(dataflow):
    """A sample: LeNet-5 as matrix products on 8x8, where K is less than R for none, and on 32x32, where it is."""
    python = os.environ.get(VARIABLE)
    if python is None:
        pytest.skip(f"{VARIABLE} names no interpreter that has scalesim==3.0.0")
    products = [Product(name=f"gemm{i}", m=m, k=k, n=n) for i, (m, k, n) in enumerate(LENET5)]
    for array in (8, 32):
        peer = run_scalesim(python, topology_text(products), rows=array, columns=array, dataflow=dataflow, gemm=True)
        assert peer.stalls == [0] * len(LENET5)
        assert [cycles + 1 for cycles in peer.cycles] == [span(product(*s), array, dataflow) for s in LENET5]


# --- input-stationary -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 3])
def test_input_stationary_pixels_are_vectors(tmp_path, batch):
    graph = topology_graph(Product(name="gemm", m=11, k=13, n=9))
    hardware = load_hardware("edge_8x8", ["array.dataflow=is", "array.columns=4", "weight.memory_bytes=64"])
    codes = quantize_input(graph, random_images(graph, batch))
    program = compile_graph(graph, hardware, batch)
    outcome = run_checked(program, graph, codes)
    assert outcome.mismatch is None
    ws = evaluate(graph, codes, load_hardware("edge_8x8").arithmetic()).tensors["gemm"]
    assert np.array_equal(graph.to_pytorch(ws), outcome.outputs)
    save_compiled(program, graph, codes, tmp_path / "program")
    loaded = load_program(tmp_path / "program")
    assert (loaded.input.layout, loaded.input.block) == ("pixel_columns", 4)
    data = loaded.dram[loaded.input.slice()]
    assert np.array_equal(loaded.input.unpack(data, loaded.modes.activation), codes)
    # Image 0, its first block: the first element of pixels 0..3, then the second.
    assert data[:8].view(np.int8).tolist() == [*codes[0, 0, :4, 0], *codes[0, 0, :4, 1]]


@pytest.mark.parametrize(
    "shape",
    [
        Convolution(name="c", height=2, width=3, kernel_height=1, kernel_width=1, channels=2, filters=2, stride=1),
        Convolution(name="c", height=1, width=3, kernel_height=1, kernel_width=2, channels=2, filters=2, stride=1),
        Convolution(name="c", height=1, width=3, kernel_height=1, kernel_width=1, channels=2, filters=2, stride=2),
    ],
)
def test_input_stationary_refuses_other_convolutions(shape):
    with pytest.raises(InputError) as error:
        compile_graph(topology_graph(shape), load_hardware("edge_8x8", ["array.dataflow=is"]))
    assert str(error.value) == (
        "c: array.dataflow = 'is' runs a single linear layer, or a 1x1 convolution over one row, without a table, "
        "because it takes its inputs from DRAM in columns; this graph has 1 layer, the first a conv2d; use 'ws' or 'os'"
    )


# --- files ------------------------------------------------------------------------------------------------------------

CONVOLUTIONS = """Layer name, IFMAP Height, IFMAP Width, Filter Height, Filter Width, Channels, Num Filter, Strides,
c1, 32, 32, 5, 5, 1, 6, 1,
c3,  14,14, 5, 5, 6, 16, 1,
"""


def shape_of(row: str, header: str = CONVOLUTIONS.splitlines()[0], *, folder: Path) -> Product | Convolution:
    path = folder / "one.csv"
    path.write_text(f"{header}\n{row}\n")
    (shape,) = read_topology(path)
    return shape


@pytest.mark.parametrize(
    "header, row",
    [
        (CONVOLUTIONS.splitlines()[0], "c, 9, 8, 3, 2, 4, 5, 2,"),
        (CONVOLUTIONS.splitlines()[0].strip(","), "c,9,8,3,2,4,5,2"),
        ("Layer name,IFMAP Height,IFMAP Width,Filter Height,Filter Width,Channels,Num Filter,Strides,, Target",
         "c,9,8,3,2,4,5,2, NPU"),
        ("\ufefflayer, ifmap_height, ifmap_width, filter_height, filter_width, channel, num_filters, stride, Batch,",
         "c, 9, 8, 3, 2, 4, 5, 2, 1,"),
        (CONVOLUTIONS.splitlines()[0] + " Sparsity", "c, 9, 8, 3, 2, 4, 5, 2, 1:1,"),
        (CONVOLUTIONS.splitlines()[0] + "\n,,,,,,,,\n", "c, 9, 8, 3, 2, 4, 5, 2,#dw\r\n\r\n ,"),
    ],
)  # fmt: skip
def test_headers_and_rows_as_real_files_have_them(tmp_path, header, row):
    assert shape_of(row, header, folder=tmp_path) == Convolution(
        name="c", height=9, width=8, kernel_height=3, kernel_width=2, channels=4, filters=5, stride=2
    )


@pytest.mark.parametrize("header", ["Layer,M,N,K", "Layer Name, M, N, K,", "Layer,M,N,K,Sparsity,"])
def test_matrix_products_are_told_by_their_header(tmp_path, header):
    assert shape_of("Test 1, 256, 128, 64,", header, folder=tmp_path) == Product(name="Test 1", m=256, n=128, k=64)


def test_windows_are_rounded_up_as_scale_sim_does(tmp_path):
    # AlexNet's first layer: (224 - 11 + 4) / 4 = 54.25 windows.
    shape = shape_of("Conv1, 224, 224, 11, 11, 3, 96, 4,", folder=tmp_path)
    assert shape.output == (55, 55)
    assert as_products(shape) == [Product(name="Conv1", m=55 * 55, k=11 * 11 * 3, n=96)]
    small = shape_of("c, 9, 8, 3, 3, 2, 4, 4,", folder=tmp_path)
    graph = topology_graph(small)
    assert (small.output, graph.output_shape) == ((3, 3), (4, 3, 3))
    (layer,) = (node for node in graph.nodes if isinstance(node, Mac))
    assert graph.macs(layer) == 9 * 18 * 4
    outcome = run_checked(
        compile_graph(graph, load_hardware("edge_8x8")), graph, quantize_input(graph, random_images(graph, 2))
    )
    assert outcome.mismatch is None


def test_a_name_with_dp_is_a_depthwise_layer(tmp_path):
    shape = shape_of("Conv2_DP, 7, 7, 3, 3, 5, 1, 2,", folder=tmp_path)
    assert as_products(shape)[-1] == Product(name="Conv2_DPChannel_4", m=9, k=9, n=1)
    assert len(as_products(shape)) == 5
    graph = topology_graph(shape)
    assert graph.output_shape == (5, 3, 3)
    program = compile_graph(graph, load_hardware("scalesim_8x8"))
    assert {(i.diagonal, i.serial) for i in program.instructions if isinstance(i, Compute)} == {(1, 1)}
    assert run_checked(program, graph, quantize_input(graph, random_images(graph, 1))).mismatch is None


def test_values_are_random_and_the_same_each_time():
    shape = Product(name="gemm", m=200, k=64, n=32)
    first, second = (topology_graph(shape).nodes[1] for _ in range(2))
    assert np.array_equal(first.weight, second.weight)
    assert (first.weight.min(), first.weight.max()) == (-127, 127)
    assert not np.array_equal(first.weight, topology_graph(Product(name="other", m=200, k=64, n=32)).nodes[1].weight)
    graph = topology_graph(shape)
    codes = quantize_input(graph, random_images(graph, 2))
    assert (codes.min(), codes.max()) == (-128, 127)
    assert not np.array_equal(codes[0], codes[1])
    out = evaluate(graph, codes, load_hardware("edge_8x8").arithmetic()).tensors["gemm"]
    assert 25 < out.std() < 70  # neither all zero nor all saturated


def test_the_schemes_of_the_sums_apply(tmp_path):
    scheme = load_quantization(
        "int8", ["requantization.scheme=power_of_two", "bias_at=accumulator", "accumulator_width_bits.gemm=18"]
    )
    graph = topology_graph(Product(name="gemm", m=6, k=9, n=4), scheme)
    assert (graph.bias_at, graph.requantization.scheme.value) == ("accumulator", "power_of_two")
    hardware = load_hardware("edge_8x8")
    outcome = run_checked(compile_graph(graph, hardware), graph, quantize_input(graph, random_images(graph, 1)))
    assert outcome.mismatch is None
    path = tmp_path / "net.csv"
    path.write_text(CONVOLUTIONS)
    assert run_line(["run", f"{path}:c1", "--quantization-set", "weight.bits=4"]) == (
        f"{path}: the model is quantised already, so [weight] of the scheme would change nothing; "
        "set only zero_points, bias_at, accumulator_width_bits, requantization"
    )


HEADER = CONVOLUTIONS.splitlines()[0]


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "{}: is empty; its first line names the columns: Layer name, IFMAP Height, IFMAP Width, Filter Height, "
             "Filter Width, Channels, Num Filter, Strides"),
        ("Layer,M,K,N\na,1,2,3\n",
         "{}: line 1: columns 'Layer, M, K, N' are of neither kind of topology; write 'Layer name, IFMAP Height, IFMAP "
         "Width, Filter Height, Filter Width, Channels, Num Filter, Strides' or 'Layer, M, N, K'"),
        (HEADER, "{}: has a header and no layer; add a row of Layer name, IFMAP Height, IFMAP Width, Filter Height, "
                 "Filter Width, Channels, Num Filter, Strides"),
        (f"{HEADER}\nc1, 32, 32, 5, 5, 1, 6, 1,\nc2, 14, x, 5, 5, 6, 16, 1,\n",
         "{}: line 3: IFMAP Width = 'x' must be an integer in 1..65535; correct the row, or leave it out"),
        (f"{HEADER}\nc1, 32, 32, 5, 5, 0, 6, 1,\n",
         "{}: line 2: Channels = '0' must be an integer in 1..65535; correct the row, or leave it out"),
        (f"{HEADER}\nc1, 32, 32, 5, 5, 1, 6, 1e3,\n",
         "{}: line 2: Strides = '1e3' must be an integer in 1..65535; correct the row, or leave it out"),
        (f"{HEADER}\nc1, 32, 32, 5, 5\n",
         "{}: line 2: 5 values are too few for Layer name, IFMAP Height, IFMAP Width, Filter Height, Filter Width, "
         "Channels, Num Filter, Strides; add 'Channels'"),
        (f"{HEADER}\nc1, 4, 32, 5, 5, 1, 6, 1,\n",
         "{}: line 2: Filter Height = 5 must not exceed IFMAP Height = 4; the file has no padding, so add it to IFMAP "
         "Height"),
        (f"{HEADER}\nc1, 32, 32, 5, 5, 1, 6, 1, 2:4,\n",
         "{}: line 2: sparsity 2:4 is not modelled, every layer here is dense; write 1:1"),
        (f"{HEADER} Batch,\nc1, 32, 32, 5, 5, 1, 6, 1, 4,\n",
         "{}: line 2: Batch = '4' must be 1; give the batch to the command, as --batch"),
        ("Layer,M,N,K,\nbig,60000,2,60000,\n",
         "{}: line 2: layer 'big' has a tensor of 3600000000 elements, which must be at most 67108864; use smaller "
         "sizes"),
    ],
)  # fmt: skip
def test_a_bad_row_is_named_in_one_line(tmp_path, text, message):
    path = tmp_path / "net.csv"
    path.write_text(text)
    with pytest.raises(InputError) as error:
        read_topology(path)
    assert str(error.value) == message.format(path)


def test_layers_of_one_name_are_numbered(tmp_path):
    path = tmp_path / "net.csv"
    path.write_text("Layer,M,N,K\nqkv,1,2,3\nqkv,2,2,3\n,3,2,3\n")
    assert [shape.name for shape in read_topology(path)] == ["qkv", "qkv_2", "line4"]


# --- writing ----------------------------------------------------------------------------------------------------------


def test_a_written_file_reads_back_with_the_layers_own_sizes(tmp_path):
    how = QuantizationScheme().requantization.numerics()
    made = GraphMaker(np.random.default_rng(3), how)
    first = made.conv(made.input(9, 9, 3), 4, (3, 3), stride=(2, 2), padding=(1, 1, 1, 1))
    second = made.conv(first, 4, (3, 3), padding=(1, 1, 1, 1), groups=4)
    third = made.conv(second, 6, (3, 3), groups=2)
    made.linear(third, 5)
    graph = made.graph()
    macs = sum(graph.macs(node) for node in graph.nodes if isinstance(node, Mac))
    for products in (False, True):
        shapes = topology_of(graph, products=products)
        path = tmp_path / "net.csv"
        path.write_text(topology_text(shapes))
        assert all(
            line.endswith(",") for line in path.read_text().splitlines()
        )  # SCALE-Sim drops what follows the last
        again = read_topology(path)
        assert again == shapes
        assert macs == sum(p.m * p.k * p.n for shape in again for p in as_products(shape))
        assert len(again) == (1 + 4 + 2 + 1 if products else 1 + 1 + 2 + 1)
    assert sum(isinstance(s, Convolution) and s.depthwise for s in topology_of(graph)) == 1


@pytest.mark.parametrize("over, m, k, n", [("channels", 6, 4, 6), ("tokens", 6, 6, 4)])
def test_products_of_two_tensors_are_a_layer_a_head(over, m, k, n):
    how = QuantizationScheme().requantization.numerics()
    made = GraphMaker(np.random.default_rng(3), how, zero_points="subtracted")
    tokens = made.conv(made.input(6, 1, 3), 8, (1, 1))
    first = tokens if over == "channels" else made.conv(tokens, 12, (1, 1))
    made.matmul(first, tokens, 2, over)
    graph = made.graph()
    heads = topology_of(graph, products=True)[-2:]
    assert [(head.m, head.k, head.n) for head in heads if isinstance(head, Product)] == [(m, k, n)] * 2
    assert [as_products(shape) for shape in topology_of(graph)[-2:]] == [[head] for head in heads]
    assert graph.macs(graph.nodes[-1]) == 2 * m * k * n


# --- commands ---------------------------------------------------------------------------------------------------------


def run_line(arguments: list[str]) -> str:
    """The one line of a refused command."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        assert main(arguments) == 2
    assert said.getvalue().count("\n") == 1
    return said.getvalue().removeprefix("accelsim: error: ").rstrip("\n")


@pytest.fixture
def net(tmp_path, monkeypatch) -> str:
    monkeypatch.chdir(tmp_path)
    Path("net.csv").write_text("Layer,M,N,K,\na,20,6,25,\nb,9,8,12,\n")
    return "net.csv"


def test_run_takes_every_layer_and_sums_up(net, capsys):
    assert main(["run", net, "--hardware", "scalesim_8x8", "--batch", "2", "--json", "out.json"]) == 0
    text, report = capsys.readouterr().out, json.loads(Path("out.json").read_text())
    assert (report["format"], report["version"]) == ("accelsim-topology", 1)
    described = FORMATS.split("| key of a topology |")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (`.*?) \|", described, re.MULTILINE)
    assert {key for row in rows for key in re.findall(r"`(\w+)`", row)} == report.keys() - {"format", "version"}
    assert report["totals"].keys() <= set(re.findall(r"`(\w+)`", described.split("| `totals` | sums")[1]))
    assert [layer["name"] for layer in report["layers"]] == ["a", "b"]
    for layer in report["layers"]:
        assert main(["run", f"{net}:{layer['name']}", "--hardware", "scalesim_8x8", "--batch", "2", "--json", "1"]) == 0
        alone = json.loads(Path("1").read_text())
        assert {key: layer[key] for key in alone["layers"][0]} == alone["layers"][0]
        assert alone["bit_exact"] is layer["bit_exact"] is True
    for key in ("cycles", "array_span_cycles", "macs", "energy", "dram_bytes_read"):
        assert report["totals"][key] == pytest.approx(sum(layer[key] for layer in report["layers"]), rel=1e-12)
    spans = [scalesim_cycles(40, 25, 6, 8, 8, "ws"), scalesim_cycles(18, 12, 8, 8, 8, "ws")]
    assert [layer["array_span_cycles"] for layer in report["layers"]] == spans
    assert re.search(rf"^total +{report['totals']['cycles']:,} +{sum(spans):,} ", text, re.MULTILINE)
    assert "bit_exact: true (2 images of each layer)" in text


def test_one_layer_is_compiled_simulated_and_swept(net, capsys):
    assert main(["compile", f"{net}:b", "--hardware", "edge_8x8", "-o", "program"]) == 0
    assert main(["simulate", "program"]) == 0
    assert "bit_exact: true" in capsys.readouterr().out
    Path("sweep.toml").write_text(
        'title = "t"\nhardware = "scalesim_8x8"\nmeasure = ["cycles"]\n[axes]\nworkload = ["net.csv:a", "net.csv:b"]\n'
        '"hardware.array.dataflow" = ["os", "is"]\n'
    )
    assert main(["sweep", "sweep.toml", "--json", "points.json"]) == 0
    rows = json.loads(Path("points.json").read_text())["points"]
    assert [row["status"] for row in rows] == ["done"] * 4


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["compile", "net.csv", "-o", "x"],
         "net.csv: holds 2 layers that do not depend on one another; name one, such as net.csv:a"),
        (["run", "net.csv:c"], "net.csv: has no layer 'c'; it has a, b"),
        (["run", "net.csv", "--figures", "f"], "--figures: net.csv holds 2 layers; name one, such as net.csv:a"),
        (["run", "net.csv", "--html", "f"], "--html: net.csv holds 2 layers; name one, such as net.csv:a"),
        (["run", "net.csv", "--trace", "f"], "--trace: net.csv holds 2 layers; name one, such as net.csv:a"),
        (["run", "net.csv", "--data", "digits"],
         "--data digits: the values of net.csv are random; leave --data out"),
        (["run", "net.csv:a", "--calibration", "f.npy"],
         "--calibration f.npy: the values of net.csv are random; leave --calibration out"),
        (["run", "nonet.csv"], "nonet.csv: no such file; did you mean 'net.csv'?"),
        (["evaluate", "net.csv:a"], "net.csv:a: its images have no labels; give --data NAME of a data set"),
        (["topology", "net.csv", "-o", "x.csv"],
         "net.csv: holds matrix products, from which no convolution can be told; add --gemm"),
        (["topology", "net.csv", "--gemm", "-o", "x.txt"],
         "--output x.txt: a topology's name ends in .csv; change it"),
        (["topology", "net.csv:q", "--gemm", "-o", "x.csv"],
         "net.csv: has no layer 'q'; name one of the file's, or none for all"),
    ],
)  # fmt: skip
def test_refusals_of_the_commands(net, arguments, message):
    assert run_line(arguments) == message


def test_topology_writes_lenet5_as_convolutions_and_products(tmp_path, monkeypatch, capsys):
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    assert main(["topology", "lenet5_digits", "-o", "lenet.csv"]) == 0
    assert Path("lenet.csv").read_text().splitlines()[1:3] == ["c1,32,32,5,5,1,6,1,", "c3,14,14,5,5,6,16,1,"]
    assert main(["topology", "lenet.csv", "--gemm", "-o", "gemm.csv"]) == 0
    found = [(s.m, s.k, s.n) for s in read_topology(Path("gemm.csv")) if isinstance(s, Product)]
    assert found == LENET5
    assert "gemm.csv: 5 layers as matrix products" in capsys.readouterr().out


def test_a_default_scheme_is_no_scheme():
    shape = Product(name="gemm", m=3, k=4, n=5)
    assert topology_graph(shape).requantization == topology_graph(shape, QuantizationScheme()).requantization


# --- the page ---------------------------------------------------------------------------------------------------------

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "coming-from-scalesim.md").read_text(encoding="utf-8")
LENET5_LAYERS = {
    "c1": ("c1, 32, 32, 5, 5, 1, 6, 1,", LENET5[0]),
    "c3": ("c3, 14, 14, 5, 5, 6, 16, 1,", LENET5[1]),
    "c5": ("c5, 5, 5, 5, 5, 16, 120, 1,", LENET5[2]),
    "f6": ("f6, 1, 1, 1, 1, 120, 84, 1,", LENET5[3]),
    "output": ("output, 1, 1, 1, 1, 84, 10, 1,", LENET5[4]),
}


@pytest.mark.parametrize("dataflow", ["ws", "os"])
def test_the_pages_worked_example_is_what_runs(tmp_path, dataflow):
    found = re.search(rf"^\| {dataflow} \| SCALE-Sim prints .*\n\|[-|]+\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
    assert found
    rows = [[cell.strip() for cell in line.strip("|").split(" |")] for line in found[1].splitlines()]
    assert [row[0] for row in rows] == list(LENET5_LAYERS)
    for name, *numbers in rows:
        row, sizes = LENET5_LAYERS[name]
        graph = topology_graph(shape_of(row, folder=tmp_path))
        expected = [scalesim_cycles(*sizes, 8, 8, dataflow) - 1, span(product(*sizes), 8, dataflow)]
        for serial in ("true", "false"):
            changes = [f"array.dataflow={dataflow}", f"array.serial_tiles={serial}"]
            program = compile_graph(graph, load_hardware("scalesim_8x8", changes))
            expected.append(array_spans(Accelerator(program).run(values=False).timeline)[0])
        assert [int(number.replace(",", "")) for number in numbers] == expected, name


def test_the_packages_figures_in_the_results_are_the_folds_less_one():
    page = (Path(__file__).resolve().parents[1] / "docs" / "results.md").read_text(encoding="utf-8")
    found = re.search(r"^\| M, K, N \| (.*) \|\n\|[-|]+\n((?:\|.*\n)+)", page, re.MULTILINE)
    assert found
    machines = [(int(size), dataflow) for size, dataflow in re.findall(r"\d+×(\d+) (\w\w)", found[1])]
    rows = [[cell.strip() for cell in line.strip("|").split(" |")] for line in found[2].splitlines()]
    assert (len(machines), len(rows)) == (4, 10)
    for sizes, *printed in rows:
        m, k, n = map(int, sizes.split(", "))
        expected = [scalesim_cycles(m, k, n, size, size, dataflow) - 1 for size, dataflow in machines]
        assert [int(number.replace(",", "")) for number in printed] == expected
