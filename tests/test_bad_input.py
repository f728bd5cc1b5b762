"""Bad input through the command line: one line, exit code 2, nothing on standard output, every older file intact."""

from __future__ import annotations

import gzip
import importlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from accelsim.cli import main
from accelsim.errors import InputError
from accelsim.pipeline import load_compiled

MODELS = """
import torch
from torch import nn

X = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
CONV = nn.Conv2d(1, 2, 3)


class Does(nn.Module):
    def __init__(self, forward):
        super().__init__()
        self.conv, self.does = nn.Conv2d(1, 2, 3), forward

    def forward(self, x):
        return self.does(self, x)


class Two(nn.Module):
    def forward(self, x, y):
        return x + y


def small():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 4)), X


def other():
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(1, 2, 3)), X


def nan():
    model = nn.Sequential(nn.Conv2d(1, 2, 3))
    model[0].weight.data[0, 0, 0, 0] = float("nan")
    return model, X


def infinite():
    model = nn.Sequential(nn.Conv2d(1, 2, 3))
    model[0].bias.data[1] = float("inf")
    return model, X


def control(): return Does(lambda self, x: self.conv(x) if x.sum() > 0 else self.conv(-x)), X
def two_inputs(): return Two(), X
def two_examples(): return Two(), (X, X)
def two_outputs(): return Does(lambda self, x: {"a": self.conv(x), "b": x}), X
def no_output(): return Does(lambda self, x: None), X
def complex_input(): return CONV, X.to(torch.complex64)
def integer_input(): return CONV, X.int()
def half_weights(): return nn.Conv2d(1, 2, 3).half(), X
def quantized(): return torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Flatten(), nn.Linear(64, 4))), X
def dropout(): return Does(lambda self, x: nn.functional.dropout(self.conv(x), 0.5, training=True)), X
def meta(): return nn.Conv2d(1, 2, 3, device="meta"), X
def meta_input(): return CONV, X.to("meta")
def sparse(): return CONV, X.to_sparse()
def lazy(): return nn.Sequential(nn.LazyConv2d(2, 3)), X
def channels(): return nn.Conv2d(3, 2, 3), X
def volume(): return nn.Conv3d(1, 2, 3), torch.rand(1, 1, 8, 8, 8)
def none(): return CONV, X[:0]
def identity(): return nn.Identity(), X
def softmax(): return nn.Softmax(1), X
def leaves(): raise SystemExit(3)
def large(): return nn.Conv2d(8000, 2, 3), torch.rand(1, 8000, 3, 3)
"""


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A folder with the user's models, a program of one of them and files to break; the process stands in it."""
    folder = tmp_path_factory.mktemp("bad")
    before = os.getcwd()
    os.chdir(folder)
    Path("models.py").write_text(MODELS)
    Path("file").write_text("a file\n")
    assert main(["compile", "models.py:small", "-o", "program"]) == 0
    assert main(["quantize", "models.py:other", "-o", "other"]) == 0
    yield folder
    os.chdir(before)


@pytest.fixture
def refused(capsys, here):
    """Run a command that must fail with exit code 2; return its one line."""

    def run(*arguments: object) -> str:
        capsys.readouterr()
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as stop:  # argparse
            code = stop.code
        out, err = capsys.readouterr()
        lines = [line for line in err.splitlines() if not line.startswith("accelsim: warning: ")]
        assert (code, out, len(lines)) == (2, "", 1), err
        return lines[0].removeprefix("accelsim: error: ")

    return run


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# Words ----------------------------------------------------------------------------------------------------------

COMMANDS = (
    "commands: run, compile, quantize, topology, export, evaluate, accumulator, sweep, plot, animate, study, compare, "
    "requant-diff, diff, explain, arithmetic, simulate, cosim, disasm, vectors, list"
)


@pytest.mark.parametrize(
    "arguments, line",
    [
        (["it's"], f'"it\'s" is not a command; {COMMANDS}'),
        (["ru\nn"], f"'ru\\nn' is not a command; did you mean 'run'?; {COMMANDS}"),
        (["--vresion"], "unknown arguments: --vresion; did you mean '--version'?; see 'accelsim --help'"),
        (["run"], "the following arguments are required: WORKLOAD; see 'accelsim run --help'"),
        (
            ["run", "lenet5_digits", "--imagess=3"],
            "unknown arguments: --imagess=3; did you mean '--images'?; see 'accelsim run --help'",
        ),
        (["list", "a\nb"], "unknown arguments: a b; see 'accelsim list --help'"),
        (["run", "x", "--batch", "1e3"], "argument --batch: invalid int value: '1e3'; see 'accelsim run --help'"),
        (["run", "x\ny.py:f"], "x y.py: no such file; a model of your own is named file.py:function"),
        (["run", "x.py:f\n"], "workload 'x.py:f\\n': a model of your own is named file.py:function"),
        (
            ["simulate", "no\nsuch"],
            "no such: is not a program directory; make one with 'accelsim compile WORKLOAD -o DIR'",
        ),
        (["run", "x" * 300], f"{'x' * 300}/graph.json: File name too long; check the path"),
        (["run", "models.py:small", "--hardware", "x" * 300], f"{'x' * 300}: File name too long; check the path"),
        (["simulate", "x" * 300], f"{'x' * 300}: File name too long; check the path"),
        (
            ["run", "lenet5_digits", "--data", "digit"],
            "--data digit: the digits are embedded and read no folder; leave --data out, or use one of "
            "mnist, fashion-mnist, digits, cifar10; did you mean 'digits'?",
        ),
        (
            ["run", "models.py:small", "--images", "3"],
            "models.py:small: 3 images asked for, its example holds 2; give --input FILE.npy or fewer --images",
        ),
        (
            ["run", "lenet5_digits", "--images", "99999999999999999999"],
            "digits test: 99999999999999999999 images asked for, the split has 359; use 1..359",
        ),
        (["compile", "models.py:small", "--batch", "70000", "-o", "p"], "batch = 70000 is outside 1..65535"),
        (
            ["evaluate", "models.py:small"],
            "models.py:small: its images have no labels; give --data NAME of a data set",
        ),
        (
            ["compare", "program", "lenet5_digits"],
            "program takes (C, H, W) = (1, 8, 8) and lenet5_digits (1, 32, 32); compare models of one input shape",
        ),
    ],
)
def test_what_is_mistyped_or_impossible_is_named_with_its_remedy(refused, arguments, line):
    assert refused(*arguments) == line


# Hardware -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings, line",
    [
        (["array.rows=257"], "default_16x16 [array]: rows = 257 must be at most 256"),
        (
            ["array.rows=99999999999999999999"],
            "default_16x16 [array]: rows = 99999999999999999999 must be at most 256",
        ),
        (["array={rows=3}"], "--set array={rows=3}: 'array' is a section; set one of its keys, such as array.rows"),
        (
            ["dram.memory_bytes=100"],
            "the DRAM image of 640 bytes exceeds dram.memory_bytes = 100; use a larger DRAM or a smaller batch",
        ),
        (
            ["activation.memory_bytes=1"],
            "layer 3 does not fit: the smallest band of its operands and its result needs 76 bytes of the activation "
            "buffer, 1 there; use activation.memory_bytes >= 76 or a smaller input",
        ),
        (
            ["weight.memory_bytes=32"],
            "layer 3 does not fit: two of its smallest weight tiles need 128 bytes of the weight buffer, 32 there; "
            "use weight.memory_bytes >= 128 or fewer array.rows",
        ),
        (
            ["parameter.memory_bytes=32"],
            "layer 0 does not fit: 2 output channels at once need 64 bytes of the parameter buffer, 32 there; "
            "use parameter.memory_bytes >= 64",
        ),
        (
            ["table.memory_bytes=255"],
            "default_16x16: table.memory_bytes = 255 must hold one table of 256 entries; use at least 256",
        ),
        (
            ["accumulator.memory_bytes=127"],
            "default_16x16: accumulator.memory_bytes = 127 must hold two words of 16 x 32 bits, "
            "so that one fills while one drains; use at least 128",
        ),
    ],
)
def test_a_machine_that_cannot_be_or_is_too_small_is_refused(refused, settings, line):
    assert refused("run", "models.py:small", *(f"--set={setting}" for setting in settings)) == line


@pytest.mark.parametrize(
    "settings",
    [
        ["array.rows=1", "array.columns=1", "weight.memory_bytes=2", "parameter.memory_bytes=32"],
        ["array.rows=256", "array.columns=256"],
        ["accumulator.memory_bytes=128", "weight.memory_bytes=128", "parameter.memory_bytes=128"],
        ["activation.memory_bytes=76", "dram.memory_bytes=768"],
    ],
    ids=["1x1", "256x256", "smallest tiles", "smallest tensors"],
)
def test_the_limits_that_messages_name_are_the_limits(here, settings):
    assert main(["run", "models.py:small", *(f"--set={setting}" for setting in settings)]) == 0


# Models ---------------------------------------------------------------------------------------------------------

CANNOT = "torch.export cannot trace the model on an input of shape (2, 1, 8, 8): "


@pytest.mark.parametrize(
    "name, line",
    [
        ("nan", "float graph nan: 0 (aten.conv2d): a parameter is NaN or infinite; repair or retrain the model"),
        (
            "infinite",
            "float graph infinite: 0 (aten.conv2d): a parameter is NaN or infinite; repair or retrain the model",
        ),
        (
            "control",
            "control: torch.export cannot trace the model: its control flow depends on values of a tensor; "
            "make the forward pass the same for every input",
        ),
        ("two_inputs", f"two_inputs: {CANNOT}TypeError: missing a required argument: 'y'"),
        ("two_examples", "models.py:two_examples: must return (nn.Module, example tensor), not (Two, tuple)"),
        ("two_outputs", "two_outputs: returns 2 values, 2 of them tensors; return one"),
        ("no_output", "no_output: returns 1 values, 0 of them tensors; return one"),
        (
            "complex_input",
            "complex_input: the example is torch.complex64 (2, 1, 8, 8); "
            "it must be a float tensor (N, C, H, W) or (N, K)",
        ),
        (
            "integer_input",
            "integer_input: the example is torch.int32 (2, 1, 8, 8); it must be a float tensor (N, C, H, W) or (N, K)",
        ),
        ("half_weights", f"half_weights: {CANNOT}RuntimeError: "),
        pytest.param(
            "quantized",
            f"quantized: {CANNOT}AttributeError: ",
            marks=pytest.mark.filterwarnings("ignore::DeprecationWarning"),
        ),
        (
            "dropout",
            "dropout: the model itself (aten.dropout): drops at random in evaluation too; "
            "pass training=self.training, or use nn.Dropout",
        ),
        (
            "meta",
            "models.py:meta: has tensors on the meta device, which hold no values; "
            "make it on the CPU and load its weights",
        ),
        ("meta_input", "models.py:meta_input: has tensors on the meta device, which hold no values; "),
        ("sparse", "models.py:sparse: the example is torch.sparse_coo; return example.to_dense()"),
        ("lazy", f"lazy: {CANNOT}ValueError: Attempted to use an uninitialized parameter"),
        ("channels", f"channels: {CANNOT}RuntimeError: Given groups=1, weight of size [2, 3, 3, 3]"),
        (
            "volume",
            "models.py:volume: the example has shape (1, 1, 8, 8, 8); it must be (N, C, H, W) or (N, K)",
        ),
        ("none", "models.py:none: the example has shape (0, 1, 8, 8); it must be (N, C, H, W) or (N, K)"),
        ("identity", "identity: the graph computes nothing; its output is its input"),
        ("softmax", "softmax: the model itself (aten.softmax): operator is not supported; return the logits"),
        ("leaves", "models.py:leaves: called exit(3); return (nn.Module, example tensor)"),
        (
            "large",  # one window and its result: 3 x 3 x 8,000 + 2 bytes
            "layer conv2d_1 does not fit: the smallest band of its operands and its result needs 72002 bytes of the "
            "activation buffer, 65536 there; use activation.memory_bytes >= 72002 or a smaller input",
        ),
    ],
)
def test_a_model_that_cannot_run_on_the_machine_is_refused(refused, name, line):
    assert refused("run", f"models.py:{name}").startswith(line)


def test_a_model_may_import_its_neighbours(here):
    Path("neighbour.py").write_text("from models import small\n")
    assert main(["run", "neighbour.py:small"]) == 0


# Inputs ---------------------------------------------------------------------------------------------------------

IMAGES = np.random.default_rng(0).uniform(0, 1, (2, 1, 8, 8))
NO_ARRAY = "is no .npy file; save one array with numpy.save"


def npy(array: np.ndarray) -> bytes:
    np.save("saved.npy", array)
    return Path("saved.npy").read_bytes()


def archive() -> bytes:
    np.savez("saved.npz", images=IMAGES)
    return Path("saved.npz").read_bytes()


@pytest.mark.parametrize(
    "make, line",
    [
        (lambda: npy(IMAGES > 0.5), "x.npy: holds bool, not floating-point images; save them as float32"),
        (lambda: npy(IMAGES + 1j), "x.npy: holds complex128, not floating-point images; save them as float32"),
        (
            lambda: npy(np.array([{}], object)),
            "x.npy: cannot be read as .npy: Object arrays cannot be loaded when allow_pickle=False; "
            "save it with numpy.save",
        ),
        (archive, "x.npy: is an .npz archive; save one array with numpy.save"),
        (lambda: b"", f"x.npy: {NO_ARRAY}"),
        (lambda: b"\x80\x04K\x01.", f"x.npy: {NO_ARRAY}"),
        (
            lambda: npy(IMAGES)[:300],
            "x.npy: cannot be read as .npy: EOF: reading array data, expected 1024 bytes",
        ),
        (lambda: npy(IMAGES)[:60], "x.npy: cannot be read as .npy: EOF: reading array header"),
        (
            lambda: npy(IMAGES).replace(b"(2, 1, 8, 8), }           ", b"(9999999999999,1,8,8), }  "),
            "x.npy: cannot be read as .npy: Unable to allocate 4.55 PiB",
        ),
        (lambda: npy(IMAGES[:0]), "x.npy: shape (0, 1, 8, 8) is not (N, C, H, W) or (N, K) with N of at least 1"),
        (lambda: npy(IMAGES[None]), "x.npy: shape (1, 2, 1, 8, 8) is not (N, C, H, W) or (N, K) with N of at least 1"),
        (lambda: npy(IMAGES[0]), "x.npy: shape (1, 8, 8) is not (N, C, H, W) or (N, K) with N of at least 1"),
        (lambda: npy(IMAGES[..., :0]), "input: shape (2, 1, 8, 0) is not (batch, C, H, W) with (C, H, W) = (1, 8, 8)"),
        (
            lambda: npy(IMAGES.astype(np.longdouble) * np.longdouble("1e4000")),
            "input: holds NaN or infinite values; remove them",
        ),
    ],
)
def test_what_is_no_array_of_images_is_refused(refused, make, line):
    Path("x.npy").write_bytes(make())
    assert refused("run", "program", "--input", "x.npy").startswith(line)


def test_inputs_that_are_no_file_or_too_few_are_refused(refused):
    np.save("two.npy", IMAGES)
    assert refused("run", "program", "--input", ".") == ".: cannot read: Is a directory; give an .npy file"
    assert refused("run", "program", "--input", "file/x") == "file/x: cannot read: Not a directory; give an .npy file"
    assert refused("run", "program", "--input", "two.npy", "--images", 3) == (
        "--input two.npy: holds 2 images, 3 are asked for; use fewer"
    )
    np.save("x.npy", IMAGES * 1e308)
    assert refused("run", "models.py:small", "--calibration", "x.npy") == (
        "small: input: NaN or beyond float32 on the calibration data; repair weights or data"
    )


@pytest.mark.parametrize("dtype", [">f4", "f2", np.longdouble])
@pytest.mark.parametrize("factor", [1, 6e4])
def test_any_finite_images_of_any_float_type_run(here, capsys, dtype, factor):
    np.save("x.npy", (IMAGES * factor).astype(dtype))
    assert main(["run", "program", "--input", "x.npy"]) == 0
    np.save("x.npy", IMAGES * 1e308)  # saturates at the largest code, also in the picture of the input
    assert main(["run", "program", "--input", "x.npy"]) == 0


# Data sets ------------------------------------------------------------------------------------------------------


def test_a_data_folder_with_broken_files_is_refused(refused, tmp_path, monkeypatch):
    fetch = f"python -m accelsim.workloads.data mnist --data {tmp_path}"
    monkeypatch.delenv("ACCELSIM_DATA", raising=False)
    run = ["run", "lenet5", "--data", tmp_path]
    assert refused(*run).startswith(f"{tmp_path}/mnist and {tmp_path}: no idx file of mnist here (the folder given); ")
    images, labels = tmp_path / "train-images-idx3-ubyte.gz", tmp_path / "train-labels-idx1-ubyte.gz"
    labels.write_bytes(b"")
    images.write_bytes(b"")
    assert refused(*run) == (
        f"{labels}: truncated, 0 bytes where the idx header alone has 8; fetch the file again: {fetch}"
    )
    labels.write_bytes(gzip.compress(bytes(1000))[:-9])
    assert refused(*run).startswith(f"{labels}: truncated, the gzip stream breaks off after ")
    labels.write_bytes(b"plain")
    assert refused(*run).startswith(f"{labels}: not a valid gzip file (")


# Program directories --------------------------------------------------------------------------------------------

PROGRAM_FILES = ["program.bin", "dram.bin", "program.json", "graph/graph.json", "graph/graph.safetensors"]


@pytest.mark.parametrize("name", PROGRAM_FILES)
def test_1000_flipped_bits_of_every_file_of_a_program_directory_are_refused(here, name):
    path, rng = Path("program", name), random.Random(name)
    good = path.read_bytes()
    places = [(rng.randrange(len(good)), 1 << rng.randrange(8)) for _ in range(1000)]
    if name == "program.bin":  # and every byte of its header
        places += [(place, flips) for place in range(192) for flips in (1, 0xFF)]
    try:
        for place, flips in places:
            bad = bytearray(good)
            bad[place] ^= flips
            path.write_bytes(bad)
            with pytest.raises(InputError) as error:
                load_compiled(Path("program"))
            assert str(error.value).startswith("program/")
            assert "\n" not in str(error.value)
    finally:
        path.write_bytes(good)


@pytest.mark.parametrize("name", PROGRAM_FILES)
def test_a_missing_cut_or_empty_file_of_a_program_directory_is_refused_by_every_command(refused, name):
    path = Path("program", name)
    good = path.read_bytes()
    commands = [["simulate", "program"], ["run", "program", "--input", "two.npy"], ["disasm", "program"]]
    commands = commands[:2] if name.startswith("graph") else commands[::2]
    np.save("two.npy", IMAGES)
    try:
        for content in (None, good[:-1], b""):
            path.unlink()
            if content is not None:
                path.write_bytes(content)
            for command in commands:
                line = refused(*command)
                assert line.startswith((f"{path}: ", "workload 'program' is neither a name, a graph or program"))
            path.write_bytes(good)
    finally:
        path.write_bytes(good)


def test_the_graph_of_another_workload_is_refused(refused):
    Path("program/graph").rename("kept")
    try:
        Path("other").rename("program/graph")
        assert refused("simulate", "program") == (
            "program/graph: has no node '3', which the program computes; it is another workload's, compile again"
        )
    finally:
        Path("program/graph").rename("other")
        Path("kept").rename("program/graph")


# Destinations ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command, line",
    [
        (["run", "--json", "file/x"], "file/x: 'file' is a file, not a folder; choose another"),
        (["run", "--json", "no\nwhere/x"], "no where/x: there is no folder no where; make it first, or choose another"),
        (["run", "--json", "program"], "program: is a folder; name a file"),
        (["run", "--trace", "program"], "program: is a folder; name a file"),
        (["run", "--figures", "file"], "file: 'file' is a file, not a folder; choose another"),
        (["run", "--dump-tensors", "file/x"], "file/x: 'file' is a file, not a folder; choose another"),
        (["compile", "-o", "file/x/y"], "file/x/y: 'file' is a file, not a folder; choose another"),
        (["quantize", "-o", "file"], "file: 'file' is a file, not a folder; choose another"),
        (["simulate", "--json", "file/x"], "file/x: 'file' is a file, not a folder; choose another"),
    ],
)
def test_a_destination_that_cannot_be_written_is_refused_before_any_work(refused, command, line):
    # The workload does not exist either; that its absence is not what is said shows what is looked at first.
    assert refused(command[0], "models.py:absent", *command[1:]) == line
    assert Path("file").read_text() == "a file\n"


RUN = [sys.executable, "-c", "import sys; from accelsim.cli import main; sys.exit(main())"]


@pytest.mark.parametrize(
    "command, limit, file",
    [
        (["simulate", "--json", "{}/report.json"], 1000, "report.json"),
        (["run", "--input", "one.npy", "--dump-tensors", "{}"], 300, "manifest.json"),
        (["simulate", "--figures", "{}"], 20_000, "energy.png"),
        (["simulate", "--trace", "{}/trace.json"], 5000, "trace.json"),
        (["quantize", "-o", "{}"], 1000, "graph.json"),
        (["compile", "--input", "one.npy", "-o", "{}"], 700, "graph/graph.safetensors"),
    ],
    ids=["--json", "--dump-tensors", "--figures", "--trace", "quantize", "compile"],
)
def test_a_disk_that_is_full_leaves_no_half_file_and_the_older_ones_intact(here, tmp_path, command, limit, file):
    """A limit on the size of a file fails in the same call as a full disk, for any user on any machine."""
    if "--figures" in command:  # matplotlib lists the fonts once a machine and would complain that it cannot
        importlib.import_module("matplotlib.font_manager")
    folder = tmp_path / "out"
    (folder / file).parent.mkdir(parents=True)
    (folder / file).write_text("older")
    np.save("one.npy", IMAGES[:1])
    done = subprocess.run(
        [*RUN, command[0], "program", *(word.format(folder) for word in command[1:])],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    lines = [line for line in done.stderr.splitlines() if not line.startswith("accelsim: warning: ")]
    assert lines == [
        f"accelsim: error: {folder / file}: cannot write: File too large; choose a writable folder with free space"
    ]
    assert (done.returncode, done.stdout) == (2, "")
    left = contents(folder)
    assert left.pop(file) == b"older"
    assert not any(".accelsim-" in name for name in left)
    for name, content in left.items():  # what was written before is whole
        assert name.endswith(".npy") or name == "graph.safetensors", name
        assert len(content) <= limit


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_device_as_standard_output_is_one_line(here):
    with open("/dev/full", "w") as full:
        done = subprocess.run([*RUN, "list"], stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (
        2,
        "accelsim: error: cannot write the output: No space left on device; send it elsewhere\n",
    )


def test_closed_or_narrow_standard_output_is_no_reason_to_fail(here):
    closed = subprocess.run([*RUN, "list"], preexec_fn=lambda: os.close(1), stderr=subprocess.PIPE)
    assert (closed.returncode, closed.stderr) == (0, b"")
    np.save("one.npy", IMAGES[:1])
    narrow = subprocess.run(
        [*RUN, "compile", "program", "--input", "one.npy", "-o", os.fsencode("g\u00fc") + b"\xff"],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
    )
    assert (narrow.returncode, narrow.stderr) == (0, b"")
    assert narrow.stdout.startswith(rb"g\xfc\udcff: ")


def test_json_to_standard_output_is_json_alone_in_a_pipe_and_in_a_file(here):
    command = [*RUN, "simulate", "program", "--json", "/dev/stdout"]
    piped = subprocess.run(command, capture_output=True, check=True).stdout
    with open("out.json", "wb") as file:
        subprocess.run(command, stdout=file, check=True)
    assert json.loads(piped)["bit_exact"] is True
    assert Path("out.json").read_bytes() == piped


def test_ctrl_c_is_one_line_exit_code_130_and_the_older_file(here):
    Path("long.json").write_text("older")
    np.save("many.npy", np.zeros((60_000, 1, 8, 8), np.float16))
    process = subprocess.Popen(
        [*RUN, "run", "program", "--input", "many.npy", "--json", "long.json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    time.sleep(2)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", "accelsim: interrupted\n")
    assert Path("long.json").read_text() == "older"
    assert not list(Path(".").glob(".accelsim-*"))
