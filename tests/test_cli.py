"""The commands, as a user meets them: output, exit codes, one-line errors."""

from __future__ import annotations

import ctypes
import dataclasses
import json
import re
import signal
import time

import numpy as np
import pytest

from accelsim import __version__
from accelsim.cli import COMMANDS, main
from accelsim.isa import assemble, load_program
from accelsim.pipeline import input_codes, load_compiled, run_checked

WIDTHS = ("c1=18", "c3=16", "c5=16", "f6=18", "output=16")


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A compiled program of the embedded digits, batch 2, on the small machine."""
    folder = tmp_path_factory.mktemp("program") / "lenet"
    assert main(["compile", "lenet5_digits", "--hardware", "edge_8x8", "--batch", "2", "-o", str(folder)]) == 0
    return folder


def refused(capsys, *arguments: str) -> str:
    """Run a command that must fail with exit code 2; return its one line."""
    try:
        code = main(list(arguments))
    except SystemExit as stop:  # argparse
        code = stop.code
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    lines = [line for line in err.splitlines() if not line.startswith("accelsim: warning: ")]
    assert len(lines) == 1
    return lines[0].removeprefix("accelsim: error: ")


def test_bare_command_shows_every_command_and_examples(capsys):
    assert main([]) == 0
    text = capsys.readouterr().out
    assert all(re.search(rf"^    {name}\b", text, re.MULTILINE) for name in COMMANDS)
    assert "examples:" in text


def test_version(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert (stop.value.code, capsys.readouterr().out) == (0, f"accelsim {__version__}\n")


@pytest.mark.parametrize(
    "arguments, line",
    [
        (
            ["rnu"],
            f"'rnu' is not a command; did you mean 'run'?; commands: {', '.join(COMMANDS)}",
        ),
        (["run", "lenet5_digits", "--batch", "0"], "--batch 0: must be at least 1"),
        (["run", "lenet5_digits", "--images", "-3"], "--images -3: must be at least 1"),
        (
            ["run", "lenet"],
            "workload 'lenet' is neither a name, a graph or program directory, an ONNX file, file.py:function, nor "
            "file.csv:layer; did you mean 'lenet5'?",
        ),
        (
            ["run", "lenet5_digits", "--hardware", "edge"],
            "hardware 'edge' is neither a preset nor a file; did you mean 'edge_8x8'?; "
            "presets: default_16x16, edge_8x8, rtl_16x16, rtl_4x4, rtl_8x8, scalesim_128x128, scalesim_16x16, "
            "scalesim_32x32, scalesim_8x8, tpu_like_32x32",
        ),
        (
            ["run", "lenet5_digits", "--set", "array.dataflow=is"],
            "lenet5_digits: array.dataflow = 'is' runs a single linear layer, or a 1x1 convolution over one row, "
            "without a table, because it takes its inputs from DRAM in columns; this graph has 5 layers, the first a "
            "conv2d; use 'ws' or 'os'",
        ),
        (
            ["run", "lenet5_digits", "--set", "activation.memory_bytes=400"],
            "layer c5 does not fit: the smallest band of its operands and its result needs 416 bytes of the activation "
            "buffer, 400 there; use activation.memory_bytes >= 416 or a smaller input",
        ),
        (
            ["run", "lenet5_digits", "--quantization-set", "accumulator_width_bits.c3=40"],
            "layer c3: accumulator_width_bits = 40 exceeds accumulator.width_bits = 32 of machine default_16x16; "
            "lower one or raise the other",
        ),
        (
            ["run", "lenet5_digits", "--images", "400"],
            "digits test: 400 images asked for, the split has 359; use 1..359",
        ),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(capsys, arguments, line):
    assert refused(capsys, *arguments) == line


def test_wrong_inputs_are_refused(capsys, tmp_path, directory):
    def saved(array: np.ndarray) -> str:
        path = tmp_path / "x.npy"
        np.save(path, array)
        return str(path)

    nan = np.zeros((2, 1, 32, 32), np.float32)
    nan[1, 0, 3, 4] = np.nan
    simulate = ["simulate", str(directory), "--input"]
    assert refused(capsys, *simulate, saved(nan)) == "input: holds NaN or infinite values; remove them"
    assert refused(capsys, *simulate, saved(np.zeros((2, 1, 28, 28)))) == (
        "input: shape (2, 1, 28, 28) is not (batch, C, H, W) with (C, H, W) = (1, 32, 32)"
    )
    assert refused(capsys, *simulate, saved(np.zeros((3, 1, 32, 32)))) == (
        f"--input {tmp_path / 'x.npy'}: holds 3 images; the program's batch is 2"
    )
    assert refused(capsys, *simulate, saved(np.zeros((2, 1, 32, 32), int))) == (
        f"{tmp_path / 'x.npy'}: holds int64, not floating-point images; save them as float32"
    )
    (tmp_path / "x.npy").write_bytes(b"\x93NUMPY junk")
    assert refused(capsys, *simulate, str(tmp_path / "x.npy")).startswith(
        f"{tmp_path / 'x.npy'}: cannot be read as .npy"
    )
    assert refused(capsys, *simulate, str(tmp_path / "y.npy")) == (
        f"{tmp_path / 'y.npy'}: no such file; give an .npy file"
    )


@pytest.mark.parametrize("dataflow", ["ws", "os"])
def test_run_reports_a_digit_bits_cycles_and_energy(capsys, tmp_path, dataflow):
    path = tmp_path / "out.json"
    code = main(["run", "lenet5_digits", "--images", "20", "--set", f"array.dataflow={dataflow}", "--json", str(path)])
    text = capsys.readouterr().out
    assert code == 0
    assert "taken for a 4 (labelled 4)" in text
    assert "bit_exact: true (20 images, every written tensor)" in text
    report = json.loads(path.read_text())
    assert (report["format"], report["version"], report["bit_exact"]) == ("accelsim-report", 1, True)
    assert report["images_checked"] == 20 == len(report["outputs"])
    assert report["accuracy"] >= 0.95
    totals, layers = report["totals"], report["layers"]
    assert totals["cycles"] == sum(layer["cycles"] for layer in layers)
    assert [layer["name"] for layer in layers] == ["c1", "c3", "c5", "f6", "output"]
    assert [layer["macs"] for layer in layers] == [117_600, 240_000, 48_000, 10_080, 840]
    assert totals["macs"] == 416_520
    assert totals["energy"] == pytest.approx(sum(figure["energy"] for figure in report["energy_by_op"].values()))
    for figure in report["energy_by_op"].values():
        assert figure["count"] * figure["bits"] * figure["energy_per_bit"] == pytest.approx(figure["energy"])
    # Weights (61,470 bytes), input (1,024) and records (16 bytes for each of 236 channels) come in once.
    assert report["energy_by_op"]["dram.read"]["count"] == 61_470 + 1_024 + 236 * 16
    assert report["energy_by_op"]["dram.write"]["count"] == 10
    pes = 256
    assert report["energy_by_op"]["idle"]["count"] == totals["cycles"] * pes - totals["macs"]
    assert totals["utilization"] == pytest.approx(totals["macs"] / (totals["cycles"] * pes))


def test_ws_takes_5_tiles_for_c1_because_runs_are_never_merged(tmp_path):
    path = tmp_path / "out.json"
    assert main(["run", "lenet5_digits", "--json", str(path)]) == 0
    c1 = json.loads(path.read_text())["layers"][0]
    # 5 runs of 5 positions, 784 words each; the first load takes R = 16 cycles and the last wave R + C - 2 more.
    assert c1["array_span_cycles"] == 16 + 5 * 784 + 30


@pytest.mark.parametrize(
    "options, energies",
    [
        ([], [115_718_400, 236_160_000, 47_232_000, 3_306_240, 276_240]),
        (
            [part for width in WIDTHS for part in ("--quantization-set", f"accumulator_width_bits.{width}")],
            [115_718_400, 230_400_000, 46_080_000, 3_306_240, 269_440],
        ),
    ],
    ids=["18 bits", "per-layer widths"],
)
def test_coursework_energy_table_comes_out_to_the_digit(tmp_path, options, energies):
    path = tmp_path / "out.json"
    command = ["run", "lenet5", "--batch", "4", "--energy", "lenet_coursework", "--quantization", "coursework"]
    assert main([*command, "--set", "accumulator.width_bits=18", *options, "--json", str(path)]) == 0
    report = json.loads(path.read_text())
    assert [layer["energy"] for layer in report["layers"]] == energies
    assert report["totals"]["energy"] == sum(energies)
    assert sum(energies) in (402_692_880, 395_774_080)
    assert report["energy_by_op"]["mul"]["count"] == 1_411_200 + 2_880_000 + 576_000 + 40_320 + 3_360
    assert report["energy_by_op"]["add.array"]["count"] == 1_411_200 + 2_880_000 + 576_000 + 40_320 + 3_400


def test_compiled_program_simulates_to_what_run_says(capsys, tmp_path, directory):
    paths = [tmp_path / "run.json", tmp_path / "simulate.json"]
    assert main(["run", "lenet5_digits", "--hardware", "edge_8x8", "--batch", "2", "--json", str(paths[0])]) == 0
    assert main(["simulate", str(directory), "--json", str(paths[1])]) == 0
    first, second = (json.loads(path.read_text()) for path in paths)
    for key in ("totals", "layers", "energy_by_op", "outputs", "hardware", "bit_exact"):
        assert first[key] == second[key], key


def test_disassembly_assembles_to_the_same_program(capsys, directory):
    capsys.readouterr()
    assert main(["disasm", str(directory)]) == 0
    assert assemble(capsys.readouterr().out) == load_program(directory).instructions


def test_one_flipped_weight_bit_is_found_and_located(directory):
    program, graph = load_compiled(directory)
    dram = program.dram.copy()
    weights = next(x for x in program.instructions if getattr(x, "memory", 0) == 1)  # the first LOAD of weights
    dram[weights.dram_address] ^= 0x40
    outcome = run_checked(dataclasses.replace(program, dram=dram), graph, input_codes(program))
    assert outcome.mismatch is not None
    assert (outcome.mismatch.node, outcome.mismatch.index[2]) == ("s2", 0)  # channel 0 of the pooled C1


def test_a_mismatch_is_exit_code_1(capsys, monkeypatch, directory):
    from accelsim.machine import accelerator

    original = accelerator.post_unit.execute

    def one_bit_off(post, memories, modes):
        codes = original(post, memories, modes)
        codes[0, 0] ^= 1
        return codes

    monkeypatch.setattr(accelerator.post_unit, "execute", one_bit_off)
    assert main(["simulate", str(directory)]) == 1
    text = capsys.readouterr().out
    assert "bit_exact: false" in text
    assert "first difference: image 0, node s2, (y, x, channel) = (0, 0, 0): expected " in text


def test_time_does_not_depend_on_data(directory):
    program, graph = load_compiled(directory)
    codes = input_codes(program)
    rng = np.random.default_rng(7)
    cycles = {
        run_checked(program, graph, x).timed.cycles
        for x in (codes, np.zeros_like(codes), np.full_like(codes, -128), rng.integers(-128, 128, codes.shape))
    }
    assert len(cycles) == 1


def test_list_names_workloads_and_presets(capsys):
    assert main(["list"]) == 0
    text = capsys.readouterr().out
    for name in ("lenet5_digits", "lenet5_bias", "default_16x16", "edge_8x8", "lenet_coursework", "affine_subtracted"):
        assert name in text


@pytest.mark.parametrize(
    "preset",
    [
        *("affine", "affine_subtracted", "uint8", "power_of_two", "bias_in_accumulator"),
        *("tflite", "gemmini", "vta", "onnx"),
    ],
)
def test_every_quantisation_preset_is_bit_exact(capsys, preset):
    workload = "lenet5_bias" if preset in ("bias_in_accumulator", "gemmini") else "lenet5_digits"
    assert main(["run", workload, "--data", "digits", "--quantization", preset, "--images", "3"]) == 0
    assert "bit_exact: true (3 images" in capsys.readouterr().out


@pytest.fixture(scope="module")
def graph_directory(tmp_path_factory):
    """The quantised graph of the embedded digits."""
    folder = tmp_path_factory.mktemp("graph") / "lenet"
    assert main(["quantize", "lenet5_digits", "-o", str(folder)]) == 0
    return folder


def test_a_quantised_graph_runs_as_the_workload_does(capsys, tmp_path, graph_directory):
    path = tmp_path / "out.json"
    command = ["run", str(graph_directory), "--data", "digits", "--images", "4", "--json", str(path)]
    assert main(command) == 0
    outputs = json.loads(path.read_text())["outputs"]
    assert main(["run", "lenet5_digits", "--images", "4", "--json", str(path)]) == 0
    assert json.loads(path.read_text())["outputs"] == outputs


def test_a_graph_directory_without_data_is_refused(capsys, graph_directory):
    assert refused(capsys, "run", str(graph_directory)) == (
        f"{graph_directory}: no data is known for it; give --input FILE.npy, or --data NAME of a data set"
    )


@pytest.mark.parametrize(
    "command",
    [
        ["run"], ["compile", "-o", "out"], ["quantize", "-o", "out"], ["export", "-o", "out.onnx"], ["evaluate"],
        ["accumulator", "--widths", "12", "-o", "out"], ["cosim"], ["vectors", "export", "-o", "out"], ["compare"],
    ],
    ids=lambda command: command[0],
)  # fmt: skip
@pytest.mark.parametrize(
    "option",
    [("--quantization", "affine"), ("--quantization-set", "weight.bits=4"), ("--calibration", "images.npy")],
    ids=lambda option: option[0],
)
def test_a_graph_directory_takes_no_scheme(capsys, tmp_path, monkeypatch, graph_directory, command, option):
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    assert refused(capsys, *command, str(graph_directory), "--data", "digits", *option) == (
        f"{option[0]}: {graph_directory} is a graph directory, quantised already; leave {option[0]} out"
    )
    assert not list(tmp_path.iterdir())


def test_compare_gives_a_scheme_to_the_network_that_takes_one(capsys, graph_directory):
    """Beside a graph directory it is the other's; two directories take none."""
    folder, words = str(graph_directory), ["--quantization", "coursework", "--data", "digits", "--images", "2"]
    for pair in ((folder, "lenet5_digits"), ("lenet5_digits", folder)):
        assert main(["compare", *pair, *words]) == 0
        assert "predictions changed" in capsys.readouterr().out
    line = f"{folder} is a graph directory, quantised already; leave"
    assert refused(capsys, "compare", folder, folder, *words) == f"--quantization: {line} --quantization out"
    words[0] = "--second-quantization"
    assert refused(capsys, "compare", "lenet5_digits", folder, *words) == (
        f"--second-quantization: {line} --second-quantization out"
    )


def test_evaluate_counts_right_answers(capsys, graph_directory):
    capsys.readouterr()
    assert main(["evaluate", str(graph_directory), "--data", "digits", "--images", "30"]) == 0
    text = capsys.readouterr().out
    found = re.search(r"^accuracy +([0-9.]+) % \((\d+) of 30 images of digits test\)$", text, re.MULTILINE)
    assert found is not None
    assert int(found[2]) >= 29


def test_evaluate_takes_no_images_without_labels(capsys, graph_directory):
    with pytest.raises(SystemExit) as stop:
        main(["evaluate", str(graph_directory), "--data", "digits", "--input", "x.npy"])
    assert stop.value.code == 2
    assert "unknown arguments: --input x.npy" in capsys.readouterr().err


def test_evaluate_on_a_4_bit_range_of_accumulators_falls_to_chance(capsys, graph_directory):
    narrow = ["--set", "accumulator.width_bits=8"]
    assert main(["evaluate", str(graph_directory), "--data", "digits", "--images", "30", *narrow]) == 0
    found = re.search(r"\((\d+) of 30", capsys.readouterr().out)
    assert int(found[1]) < 12


LENET_NODES = ["input", "c1", "s2", "c3", "s4", "c5", "f6", "output"]


def test_compare_with_itself_is_equal_and_with_floor_is_not(capsys, graph_directory):
    capsys.readouterr()
    folder = str(graph_directory)
    assert main(["compare", folder, folder, "--data", "digits", "--images", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()[2:]
    assert [line.split()[0] for line in lines[:8]] == LENET_NODES
    assert all(line.split()[2:4] == ["0", "100.000"] and line.endswith("equal") for line in lines[:8])
    assert lines[8:] == ["", "predictions changed: 0 of 3", "accuracy: A 100.00 %, B 100.00 %"]
    other = ["lenet5_digits", "--quantization", "coursework"]
    assert main(["compare", folder, *other, "--data", "digits", "--images", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()[2:]
    assert lines[0].endswith("equal")
    assert all(int(line.split()[2].replace(",", "")) > 0 for line in lines[1:8])


def test_compare_counts_off_by_one_where_only_the_rounding_differs(capsys, graph_directory):
    """Floor lowers about half of the first layer's codes by one; the counts add up to the values compared."""
    capsys.readouterr()
    floor = ["lenet5_digits", "--quantization-set", "requantization.rounding=floor"]
    assert main(["compare", str(graph_directory), *floor, "--data", "digits", "--images", "70"]) == 0
    c1 = capsys.readouterr().out.splitlines()[3]
    found = re.match(
        r"c1 +([\d,]+) +([\d,]+) +([\d.]+) +([\d,]+) +(\d+) +(\d+) +(\d+) +\S+ +\((.*)\): (-?\d+), (-?\d+) ", c1
    )
    values, differ, off_by_one = (int(found[i].replace(",", "")) for i in (1, 2, 4))
    assert values == 70 * 28 * 28 * 6
    assert (found[5], found[6], found[7]) == ("0", "0", "1")
    assert 0.2 * values < differ == off_by_one < 0.6 * values
    assert float(found[3]) == pytest.approx(100 * (1 - differ / values), abs=6e-4)
    assert int(found[9]) - int(found[10]) == 1


def test_compare_lists_nodes_without_a_counterpart(tmp_path, capsys):
    """Two networks with one layer of the same name and shape, one of another shape, and one each of its own."""
    (tmp_path / "two.py").write_text(
        "import torch\nfrom torch import nn\nfrom collections import OrderedDict as D\n"
        "def net(hidden, last):\n"
        "    torch.manual_seed(0)\n"
        "    layers = D(fc=nn.Linear(4, 3), mid=nn.Linear(3, hidden))\n"
        "    layers[last] = nn.Linear(hidden, 2)\n"
        "    return nn.Sequential(layers), torch.rand(5, 4)\n"
        "def a(): return net(3, 'x')\n"
        "def b(): return net(5, 'y')\n"
    )
    names = [f"{tmp_path / 'two.py'}:{function}" for function in "ab"]
    assert main(["compare", *names, "--images", "5"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[2:4]] == ["input", "fc"]
    assert lines[4:8] == ["", "only in A: x", "only in B: y", "of other shapes in A and B: mid"]


def test_compare_without_b_needs_a_model_of_another_library(capsys, graph_directory):
    capsys.readouterr()
    assert main(["compare", str(graph_directory), "--data", "digits"]) == 2
    assert "is no model that another library has quantised" in capsys.readouterr().err


def test_requant_diff_names_every_difference_of_a_network(capsys, tmp_path):
    path = tmp_path / "out.json"
    words = ["requant-diff", "int8", "int8", "--set-b", "requantization.rounding=floor", "--samples", "640"]
    network = ["--workload", "lenet5_digits", "--images", "12", "--threads", "1"]
    assert main([*words, *network, "--json", str(path)]) == 0
    text = capsys.readouterr().out
    found = json.loads(path.read_text())
    assert (found["format"], found["version"]) == ("accelsim-requantization-difference", 1)
    assert found["b"]["set"] == ["requantization.rounding=floor"]
    assert found["b"]["requantization"]["rounding"] == "floor"
    ran = found["network"]
    assert (ran["compared"], ran["quantization"], ran["data"], ran["images"]) == (
        "requantization", "int8", "digits test", 12,
    )  # fmt: skip
    assert [layer["node"] for layer in ran["layers"]] == ["c1", "s2", "c3", "s4", "c5", "f6", "output"]
    for layer in ran["layers"]:
        # Floor is at most one below, and a max pool rounds nothing.
        assert set(layer["same_inputs"]["steps"]) == (set() if layer["op"] == "max_pool2d" else {"-1"})
    assert "B  int8 with requantization.rounding=floor: fixed_point, floor, 32-bit multiplier" in text
    assert "quantised once under int8; requantisation exchanged, multipliers from M" in text
    assert re.search(r"^accuracy     A 100\.00 %, B 100\.00 %; right in A alone 0, in B alone 0$", text, re.MULTILINE)
    assert main([*words, "--json", str(path)]) == 0
    assert json.loads(path.read_text()) == {**found, "network": None}  # without a workload, the same sweep


def test_requant_diff_of_two_schemes_is_end_to_end_or_on_a_common_graph(capsys, tmp_path):
    path = tmp_path / "out.json"
    network = ["--workload", "lenet5_digits", "--images", "4", "--threads", "1"]
    assert main(["requant-diff", "gemmini", "uint8", *network, "--json", str(path)]) == 0
    assert "two schemes, which differ in activation.signed, activation.symmetric, weight" in capsys.readouterr().out
    found = json.loads(path.read_text())
    assert found["sweep"] is None  # int8 and uint8 have no last place in common
    assert (found["network"]["compared"], found["network"]["quantization"]) == ("schemes", None)
    assert found["network"]["differing_keys"] == [
        "activation.signed", "activation.symmetric", "weight.granularity", "zero_points", "bias_at",
    ]  # fmt: skip
    assert all(layer["same_inputs"] is layer["end_to_end"] is None for layer in found["network"]["layers"])
    assert found["network"]["classification"]["accuracy"]["b"] == 1
    assert main(["requant-diff", "gemmini", "nvdla", *network, "--quantization", "int8_per_tensor"]) == 0
    assert "quantised once under int8_per_tensor; requantisation exchanged" in capsys.readouterr().out


def test_requant_diff_takes_a_graph_as_it_is(capsys, tmp_path, graph_directory):
    path = tmp_path / "out.json"
    words = ["requant-diff", "int8", "tflite", "--workload", str(graph_directory), "--data", "digits", "--images", "2"]
    assert main([*words, "--samples", "64", "--json", str(path)]) == 0
    found = json.loads(path.read_text())["network"]
    capsys.readouterr()
    assert (found["compared"], found["quantization"], found["differing_keys"]) == ("requantization", None, [])
    assert refused(capsys, *words, "--quantization", "int8") == (
        f"--quantization: {graph_directory} is a graph directory, quantised already; leave --quantization out"
    )


@pytest.mark.parametrize(
    "arguments, line",
    [
        (["int8", "int8", "--samples", "0"], "--samples 0: must be at least 1"),
        (["int8", "int8", "--samples", "10000001"], "--samples 10000001: must be at most 10000000"),
        (["int8", "int8", "--seed", "-1"], "--seed -1: must be at least 0"),
        (["int8", "int8", "--threads", "0"], "--threads 0: must be at least 1"),
        (
            ["int8", "int8", "--images", "5"],
            "--images: without --workload there is no network to run; name one; leave --images out",
        ),
        (
            ["int8", "uint8"],
            "int8 and uint8: results are int8 and uint8, which have no last place in common; compare their accuracy "
            "with --workload",
        ),
        (
            ["int8", "int8", "--set-b", "requantization.round=floor"],
            "--set-b requantization.round=floor: unknown key 'requantization.round'; did you mean 'rounding'?",
        ),
        (
            ["int8", "int8", "--set-a", "requantization.guard_bits=3"],
            "int8 [requantization]: guard_bits needs order = 'shift_first'; multiply_first keeps every bit anyway",
        ),
        (
            ["int8", "int8", "--workload", "lenet5_digits", "--quantization-set", "weight.bits=4"],
            "--quantization-set: overrides keys of --quantization, which is not given; leave --quantization-set out",
        ),
        (
            ["int8", "vta", "--workload", "lenet5_digits", "--quantization", "int8", "--samples", "64"],
            None,
        ),
    ],
)
def test_requant_diff_refuses_what_it_cannot_compare(capsys, arguments, line):
    found = refused(capsys, "requant-diff", *arguments)
    if line is None:
        assert re.fullmatch(
            r"lenet5_digits: node c1: power_of_two: multiplier M = [0-9.e-]+ is not a power of two; quantise under a "
            r"scheme with power-of-two scales \(--quantization\)",
            found,
        )
    else:
        assert found == line


def test_dumped_tensors_are_those_of_the_report_and_the_manifest_says_what_they_are(tmp_path, graph_directory):
    folder, path = tmp_path / "tensors", tmp_path / "out.json"
    command = ["run", str(graph_directory), "--data", "digits", "--images", "3", "--json", str(path)]
    assert main([*command, "--dump-tensors", str(folder)]) == 0
    manifest = json.loads((folder / "manifest.json").read_text())
    assert [entry["node"] for entry in manifest["tensors"]] == ["input", "c1", "s2", "c3", "s4", "c5", "f6", "output"]
    for entry in manifest["tensors"]:
        array = np.load(folder / entry["file"], allow_pickle=False)
        assert (list(array.shape), array.dtype.name) == (entry["shape"], entry["dtype"])
    last = np.load(folder / manifest["tensors"][-1]["file"]).reshape(3, 10)
    assert last.tolist() == json.loads(path.read_text())["outputs"]


@pytest.mark.parametrize(
    "source, line",
    [
        ("def net(:", "importing it raised SyntaxError: "),
        ("def nte(): ...", "has no function 'net'; did you mean 'nte'?"),
        ("def net(): raise ValueError('a\\nb')", ":net: raised ValueError: a b"),
        ("def net(): return 3", ":net: must return (nn.Module, example tensor), not int"),
        ("def net(x): ...", ":net: missing a required argument: 'x'; write a function without arguments"),
        ("class net: ...", "'net' is a class, not a function; write one that returns (nn.Module, example tensor)"),
        ("import torch\nnet = torch.nn.ReLU()", "'net' is a ReLU, not a function; write one that returns"),
        (
            "import torch\ndef net(): return torch.nn.ReLU()",
            "not ReLU; the example is one input, such as torch.zeros(1, 1, 28, 28)",
        ),
        ("def net(): return 3, 4", ":net: must return (nn.Module, example tensor), not (int, int)"),
    ],
)
def test_a_model_of_ones_own_that_does_not_work_is_one_line(capsys, tmp_path, source, line):
    (tmp_path / "mine.py").write_text(source)
    assert line in refused(capsys, "run", f"{tmp_path / 'mine.py'}:net")


def test_figures_are_written_where_asked(tmp_path, graph_directory):
    assert main(["run", str(graph_directory), "--data", "digits", "--figures", str(tmp_path / "figures")]) == 0
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    assert {"energy.png", "utilization.svg", "timeline.png", "partial_sums.svg"} <= names


def test_an_interrupt_that_a_callback_swallows_comes_again(monkeypatch, capsys):
    """As in the callbacks of Numba's compiler, where Python reports an exception and goes on."""

    def interrupted() -> None:
        raise KeyboardInterrupt

    def command(_: object) -> int:
        ctypes.CFUNCTYPE(None)(interrupted)()
        time.sleep(20)
        return 0

    monkeypatch.setitem(COMMANDS, "list", (command, *COMMANDS["list"][1:]))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in background
    began = time.monotonic()
    try:
        assert main(["list"]) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert time.monotonic() - began < 10
    assert capsys.readouterr().err == "accelsim: interrupted\n"
