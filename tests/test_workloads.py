"""The networks that come along, their weights and cards, and the images they are run on."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import hostile_safetensors
import numpy as np
import pytest
from accelsim.workloads import cards, data, embed_digits

from accelsim import workloads
from accelsim.cli import main
from accelsim.errors import InputError

torch = pytest.importorskip("torch", reason="torch is not installed")
safetensors_torch = pytest.importorskip("safetensors.torch")

from accelsim.workloads import models, seeded, train  # noqa: E402  # they import torch

COLOUR = ("cifar_cnn", "cifar_mobilenet", "cifar_resnet")
GREY = ("lenet5", "lenet5_bias", "lenet5_digits", "mlp", "mlp_digits")
SEEDED = ("mobilenet_v2", "resnet18", "transformer_block", "vgg11")
TRAINED = COLOUR + GREY
NAMES = TRAINED + SEEDED


@pytest.fixture(autouse=True)
def no_folder_of_the_users_own(monkeypatch):
    monkeypatch.delenv("ACCELSIM_WORKLOADS", raising=False)


def refused(message: str) -> pytest.RaisesExc[InputError]:
    """Expect an InputError of exactly this text."""
    return pytest.raises(InputError, match=f"^{re.escape(message)}$")


def same_outcome(one: Path, other: Path, name: str) -> None:
    """Two trainings wrote the same weights, byte for byte, and the same card but for the time it took."""
    weights = f"{name}.safetensors"
    assert (one / weights).read_bytes() == (other / weights).read_bytes()
    assert cards.read_card(one / f"{name}.toml") == cards.read_card(other / f"{name}.toml")
    assert cards.read_card(one / f"{name}.toml").cpu_minutes is not None


def original_files(dataset: str) -> Path:
    """The folder of the real data set, or skip."""
    try:
        return data.find_folder(dataset)
    except InputError as error:
        pytest.skip(str(error))


# --- networks and their weights ---------------------------------------------------------------------------


def test_names_are_the_cards_beside_the_weights():
    assert workloads.names() == NAMES


@pytest.mark.parametrize(
    "name, parameters",
    [
        # 6*25 + 16*6*25 + 120*16*25 + 84*120 + 10*84 weights; 6 + 16 + 120 + 84 + 10 biases
        ("lenet5", 61_470),
        ("lenet5_bias", 61_706),
        ("lenet5_digits", 61_470),
        # 256*784 + 128*256 + 10*128 weights; 256 + 128 + 10 biases
        ("mlp", 235_146),
        ("mlp_digits", 235_146),
        # 6*75 + 16*150 + 120*400 + 84*120 + 10*84 weights; 6 + 16 + 120 + 84 + 10 biases
        ("cifar_cnn", 62_006),
        # 16*27; 16 to 32, five of 32, the projection; 32 to 64, five of 64, the projection; two for each of
        # 16 + 7*32 + 7*64 channels of batch norm; 640 + 10
        (
            "cifar_resnet",
            432
            + (9 * 16 * 32 + 5 * 9 * 32**2 + 16 * 32)
            + (9 * 32 * 64 + 5 * 9 * 64**2 + 32 * 64)
            + 2 * (16 + 7 * 32 + 7 * 64)
            + 650,
        ),
        # 16*27; depthwise and projection; with expansion 4: expansion, depthwise, projection; 64*256; batch norms; 2570
        (
            "cifar_mobilenet",
            432
            + (9 * 16 + 16 * 16)
            + (16 * 64 + 9 * 64 + 64 * 24)
            + (24 * 96 + 9 * 96 + 96 * 64)
            + 3 * (64 * 256 + 9 * 256 + 256 * 64)
            + 64 * 256
            + 2 * (16 + (16 + 16) + (64 + 64 + 24) + (96 + 96 + 64) + 3 * (256 + 256 + 64) + 256)
            + 2570,
        ),
    ],
)
def test_card_states_the_parameter_count_of_the_network(name, parameters):
    module = workloads.load(name).module
    assert sum(parameter.numel() for parameter in module.parameters()) == parameters
    assert workloads.describe(name).parameters == parameters


@pytest.mark.parametrize(
    "name, expected",
    [
        ("lenet5", {"c1": 117_600, "c3": 240_000, "c5": 48_000, "f6": 10_080, "output": 840}),
        ("mlp", {"fc1": 200_704, "fc2": 32_768, "output": 1_280}),
        ("cifar_cnn", {"conv1": 352_800, "conv2": 240_000, "fc1": 48_000, "fc2": 10_080, "fc3": 840}),
        (
            "cifar_resnet",
            {"conv": 442_368, "stage1": 13_107_200, "stage2": 13_107_200, "output": 640},
        ),
        (
            "cifar_mobilenet",
            {
                "conv": 442_368,
                "block1": 102_400,
                "block2": 802_816,
                "block3": 1_038_336,
                "block4": 2_244_608,
                "block5": 2_244_608,
                "block6": 2_244_608,
                "last": 1_048_576,
                "output": 2_560,
            },
        ),
    ],
)
def test_macs_per_image_are_those_of_the_layer_table(name, expected):
    workload = workloads.load(name)
    macs = {}

    def count(name: str) -> Callable[..., None]:
        def hook(module, inputs, output):
            # each output sums one filter's products
            macs[name] = macs.get(name, 0) + output.numel() * module.weight[0].numel()

        return hook

    for layer, module in workload.module.named_modules():
        if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)):
            module.register_forward_hook(count(layer.partition(".")[0]))
    workload.module(workload.example)
    assert macs == expected


@pytest.mark.parametrize(
    "name, expected",
    [
        ("lenet5", "c1 relu1 s2 c3 relu3 s4 c5 relu5 flatten f6 relu6 output"),
        ("mlp", "flatten fc1 tanh1 fc2 tanh2 output"),
    ],
)
def test_submodules_are_in_the_order_they_run(name, expected):
    assert " ".join(name for name, _ in workloads.load(name).module.named_children()) == expected


@pytest.mark.parametrize("name", TRAINED)
def test_loaded_workload_is_ready_to_be_captured(name):
    before = torch.random.get_rng_state()
    workload = workloads.load(name)
    assert torch.equal(torch.random.get_rng_state(), before)  # loading draws nothing from the caller's stream
    assert not any(module.training for module in workload.module.modules())
    assert workload.info == workloads.describe(name)
    assert workload.dataset == workload.info.dataset == workload.info.trained_on
    assert workload.info.input_size == (28 if name.startswith("mlp") else 32)
    channels = 3 if name in COLOUR else 1
    assert workload.example.shape == (1, channels, workload.info.input_size, workload.info.input_size)
    assert workload.example.dtype == torch.float32
    assert float(workload.example.min()) == 0.0
    assert float(workload.example.max()) == 1.0
    assert (workload.example == workload.example[:, :1]).all()  # grey, in as many channels as there are
    logits = workload.module(workload.example)
    assert logits.shape == (1, 10)
    if name in GREY:
        assert logits.argmax() == 4  # the first embedded test digit


def test_listing_workloads_imports_neither_torch_nor_numpy():
    script = (
        "import sys; from accelsim import workloads; [workloads.describe(n) for n in workloads.names()];"
        "print(sorted({'torch', 'numpy', 'safetensors'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout == "[]\n"


def test_reading_a_data_set_does_not_import_torch():
    script = (
        "import sys; from accelsim.workloads.data import load_dataset; load_dataset('digits', None, 'test');"
        "print('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout == "False\n"


@pytest.mark.parametrize(
    "name, least",
    [
        ("lenet5", 0.985),
        ("lenet5_bias", 0.985),
        ("lenet5_digits", 0.97),
        ("mlp", 0.98),
        ("mlp_digits", 0.95),
    ],
)
def test_float_accuracy_on_the_card_is_what_the_weights_give(name, least):
    workload = workloads.load(name)
    if workload.dataset != "digits":
        original_files(workload.dataset)
    test = data.load_dataset(workload.dataset, None, "test", size=workload.info.input_size)
    correct = train.count_correct(workload.module, test)
    # Equal on every machine: no image's two largest logits are nearer than 0.002, float32 sums differ by 1e-5
    # with the order of addition.
    assert correct / len(test.labels) == workload.info.float_accuracy
    assert workload.info.float_accuracy >= least


@pytest.fixture(scope="module")
def colours() -> data.Dataset:
    """CIFAR-10's test images, whose archive takes seconds to decode, once."""
    original_files("cifar10")
    return data.load_dataset("cifar10", None, "test")


@pytest.mark.parametrize(
    "name, least, images",
    [
        ("cifar_cnn", 0.62, 10_000),
        ("cifar_mobilenet", 0.80, 1_000),
        ("cifar_resnet", 0.84, 1_000),
    ],
)
def test_accuracy_on_a_colour_card_is_what_the_weights_give(colours, name, least, images):
    workload = workloads.load(name)
    part = dataclasses.replace(colours, images=colours.images[:images], labels=colours.labels[:images])
    share = train.count_correct(workload.module, part) / images
    stated = workload.info.float_accuracy
    # All images: up to two whose largest logits nearly tie may fall to another float32 sum. A first part: three
    # standard deviations of a draw of that size.
    assert abs(share - stated) <= (2e-4 if images == 10_000 else 3 * (stated * (1 - stated) / images) ** 0.5)
    assert stated >= least


@pytest.mark.parametrize("name", ["lenet_5", "../lenet5"])
def test_unknown_workload_is_refused_with_the_known_ones(name):
    known = f"use one of {', '.join(NAMES)}; did you mean 'lenet5'?"
    with refused(f"workload = '{name}' is not known; {known}"):
        workloads.describe(name)


def test_mlp_is_bit_exact_on_the_machine_with_its_tanh_as_tables(tmp_path, capsys):
    assert main(["run", "mlp_digits", "--images", "20", "--json", str(tmp_path / "report.json")]) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["bit_exact"], report["images_checked"]) == (True, 20)
    assert [layer["name"] for layer in report["layers"]] == ["fc1", "fc2", "output"]
    assert report["energy_by_op"]["read.table"]["count"] == 256 + 128  # one look-up for each hidden output


# --- workloads of the user's own ----------------------------------------------------------------------------


@pytest.fixture
def own(tmp_path, monkeypatch) -> Path:
    """The folder that ACCELSIM_WORKLOADS names; not there yet."""
    monkeypatch.setenv("ACCELSIM_WORKLOADS", str(tmp_path / "own"))
    return tmp_path / "own"


def test_own_training_run_is_found_by_name_and_runs(own, tmp_path, capsys):
    assert train.main(["lenet5", "--dataset", "digits", "--name", "mine", "--epochs", "1"]) == 0
    assert sorted(os.listdir(own)) == ["mine.safetensors", "mine.toml"]
    assert workloads.names() == (*COLOUR, *GREY[:3], "mine", *GREY[3:], *SEEDED)
    info = workloads.describe("mine")
    assert info.summary == "LeNet-5 with ReLU and max pooling, no biases, the embedded digits enlarged to 32x32"
    assert (info.dataset, info.trained_on, info.input_size) == ("digits", "digits", 32)
    assert workloads.load("mine").info == info
    assert workloads.calibration("mine", None, 3).shape == (3, 1, 32, 32)
    assert main(["run", "mine", "--images", "2", "--json", str(tmp_path / "report.json")]) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["workload"], report["bit_exact"]) == ("mine", True)


def test_command_on_the_card_of_an_own_run_gives_the_same_bytes(own, tmp_path):
    assert train.main(["mlp", "--dataset", "digits", "--name", "mine", "--epochs", "1", "--seed", "7"]) == 0
    command = cards.read_card(own / "mine.toml").command
    assert command == (
        "python -m accelsim.workloads.train mlp --dataset digits --name mine --output FOLDER --epochs 1 --seed 7"
    )
    again = tmp_path / "again"
    assert train.main(command.replace("FOLDER", str(again)).split()[3:]) == 0
    same_outcome(again, own, "mine")


def test_own_workload_may_not_take_the_name_of_one_of_the_package(own):
    own.mkdir()
    (own / "lenet5.toml").write_bytes((cards.WEIGHTS_FOLDER / "lenet5.toml").read_bytes())
    with refused(
        f"{own / 'lenet5.toml'}: 'lenet5' is a workload of the package; train yours under another --name, "
        "or unset ACCELSIM_WORKLOADS"
    ):
        workloads.describe("lenet5")
    assert workloads.describe("lenet5", cards.WEIGHTS_FOLDER).name == "lenet5"  # a folder given rules


def test_absent_folder_of_own_workloads_is_refused(own):
    with refused(f"ACCELSIM_WORKLOADS = '{own}' is not a folder; name the one with your cards, or unset it"):
        workloads.names()


def test_the_packages_own_folder_may_be_named(monkeypatch):
    monkeypatch.setenv("ACCELSIM_WORKLOADS", str(cards.WEIGHTS_FOLDER))
    assert workloads.names() == NAMES
    assert workloads.describe("lenet5").parameters == 61_470


# --- cards and weights that are wrong -----------------------------------------------------------------------


@pytest.fixture
def shipped(tmp_path: Path) -> Path:
    """A folder with a copy of lenet5's weights and card."""
    for suffix in (".toml", ".safetensors"):
        source = cards.WEIGHTS_FOLDER / f"lenet5{suffix}"
        (tmp_path / source.name).write_bytes(source.read_bytes())
    return tmp_path


def test_card_written_and_read_again_is_equal(tmp_path):
    card = dataclasses.replace(
        cards.read_card(cards.WEIGHTS_FOLDER / "lenet5.toml"),
        name="x",
        summary='quote " backslash \\ tab \t é 数',
    )
    (tmp_path / "x.toml").write_text(cards.write_card(card), encoding="utf-8")
    assert cards.read_card(tmp_path / "x.toml") == card


@pytest.mark.parametrize(
    "old, new, message",
    [
        ('name = "lenet5"', 'name = "lenet"', ": name = 'lenet' is not the file's name; use 'lenet5'"),
        ("parameters = 61470", "parameters = true", ": parameters = True is not of type int"),
        ("parameters = 61470\n", "", ": key 'parameters' is missing; train again, which writes the card"),
        ("seed = 1", "seeds = 1\nseed = 1", " [training]: unknown key 'seeds'; did you mean 'seed'?"),
        (
            "correct = 9932",
            "correct = 9933",
            " [accuracy]: float = 0.9932 is not correct / images = 9933 / 10000; train again, which writes the card",
        ),
        (
            "parameters = 61470",
            "parameters =",
            ": not valid TOML (Invalid value (at line 7, column 13)); train again, which writes it",
        ),
    ],
)
def test_damaged_card_is_refused_in_one_line(shipped, old, new, message):
    path = shipped / "lenet5.toml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with refused(f"{path}{message}"):
        workloads.describe("lenet5", shipped)


@pytest.mark.parametrize(
    "old, new, message",
    [
        (
            'class = "LeNet5"',
            'class = "LeNet6"',
            "class = 'LeNet6' is not known; use one of LeNet5, MLP, CifarCnn, CifarResNet, "
            "CifarMobileNet, ResNet18, MobileNetV2, VGG11, "
            "TransformerBlock; "
            "did you mean 'LeNet5'?",
        ),
        (
            "bias = false",
            "biases = false",
            "arguments do not fit LeNet5: LeNet5.__init__() got an unexpected keyword argument 'biases'",
        ),
    ],
)
def test_card_of_a_network_that_is_not_defined_is_refused(shipped, old, new, message):
    path = shipped / "lenet5.toml"
    path.write_text(path.read_text().replace(old, new))
    with refused(f"{path} [model]: {message}"):
        workloads.load("lenet5", shipped)


def test_card_with_another_input_size_than_its_networks_is_refused(shipped):
    path = shipped / "lenet5.toml"
    path.write_text(path.read_text().replace("input_size = 32", "input_size = 28"))
    with refused(f"{path}: input_size = 28 is not LeNet5's 32; train again, which writes the card"):
        workloads.load("lenet5", shipped)


def test_weights_that_are_not_the_cards_are_refused(shipped):
    path = shipped / "lenet5.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    digest, original = hashlib.sha256(content).hexdigest(), "facd1f45a180"
    with refused(
        f"{path}: sha256 = {digest[:12]}.. does not match its card's {original}..; "
        "install accelsim again, or train it again"
    ):
        workloads.load("lenet5", shipped)


def test_absent_weights_are_refused(shipped):
    (shipped / "lenet5.safetensors").unlink()
    with pytest.raises(InputError, match=r"lenet5\.safetensors: no such file"):
        workloads.load("lenet5", shipped)


def put_nan(tensors):
    tensors["c3.weight"][0, 0, 0, 0] = float("nan")


def put_infinity(tensors):
    tensors["c3.weight"][0, 0, 0, 0] = float("-inf")


def drop(tensors):
    del tensors["f6.weight"]


def add(tensors):
    tensors["f6.bias"] = torch.zeros(84)


def reshape(tensors):
    tensors["f6.weight"] = tensors["f6.weight"].T.contiguous()


def halve(tensors):
    tensors["f6.weight"] = tensors["f6.weight"].half()


@pytest.mark.parametrize(
    "spoil, message",
    [
        (put_nan, "tensor 'c3.weight' holds NaN or an infinity; weights must be finite, train it again"),
        (put_infinity, "tensor 'c3.weight' holds NaN or an infinity; weights must be finite, train it again"),
        (drop, "tensor 'f6.weight' is missing; LeNet5 with bias = false has it"),
        (add, "tensor 'f6.bias' is unknown; LeNet5 with bias = false has none of that name"),
        (reshape, "tensor 'f6.weight' is float32 (120, 84); LeNet5 with bias = false has float32 (84, 120)"),
        (halve, "tensor 'f6.weight' is float16 (84, 120); LeNet5 with bias = false has float32 (84, 120)"),
    ],
)
def test_weights_that_do_not_fit_are_refused_even_with_their_digest_on_the_card(shipped, spoil, message):
    path = shipped / "lenet5.safetensors"
    tensors = safetensors_torch.load(path.read_bytes())
    spoil(tensors)
    content = safetensors_torch.save(tensors)
    path.write_bytes(content)
    card = dataclasses.replace(cards.read_card(shipped / "lenet5.toml"), sha256=hashlib.sha256(content).hexdigest())
    (shipped / "lenet5.toml").write_text(cards.write_card(card))
    with refused(f"{path}: {message}"):
        workloads.load("lenet5", shipped)


@pytest.mark.parametrize("name", hostile_safetensors.FILES)
def test_weights_files_that_lie_are_refused_in_one_line(shipped, name):
    content = hostile_safetensors.FILES[name]
    (shipped / "lenet5.safetensors").write_bytes(content)
    card = dataclasses.replace(cards.read_card(shipped / "lenet5.toml"), sha256=hashlib.sha256(content).hexdigest())
    with pytest.raises(InputError) as caught:
        models.load_trained(card, shipped / "lenet5.safetensors")
    assert str(caught.value).startswith(f"{shipped}/lenet5.safetensors: ")
    assert "\n" not in str(caught.value)


def test_weights_that_are_no_safetensors_file_are_refused(shipped):
    path = shipped / "lenet5.safetensors"
    path.write_bytes(b"\x80\x04.")  # a pickle, which nothing here opens
    card = dataclasses.replace(
        cards.read_card(shipped / "lenet5.toml"), sha256=hashlib.sha256(b"\x80\x04.").hexdigest()
    )
    (shipped / "lenet5.toml").write_text(cards.write_card(card))
    with pytest.raises(InputError, match=rf"^{re.escape(str(path))}: not a safetensors file \(.*\); train it again$"):
        workloads.load("lenet5", shipped)


# --- the embedded digits ------------------------------------------------------------------------------------


def test_embedded_digits_are_scikit_learns():
    digits = pytest.importorskip("sklearn.datasets", reason="scikit-learn is not installed").load_digits()
    with np.load(data.DIGITS_FILE, allow_pickle=False) as arrays:
        assert arrays["images"].dtype == arrays["labels"].dtype == np.uint8
        assert (arrays["images"] == digits.images).all()
        assert (arrays["labels"] == digits.target).all()


def test_digits_test_split_follows_from_the_documented_draw():
    with np.load(data.DIGITS_FILE, allow_pickle=False) as arrays:
        labels, test_rows = arrays["labels"], arrays["test_rows"]
    assert (test_rows == embed_digits.choose_test_rows(labels, seed=1797, share=0.2)).all()
    # Stratified: 20 % of every class, to the nearest row.
    assert (np.bincount(labels[test_rows]) == np.round(0.2 * np.bincount(labels))).all()


def test_digits_splits_are_disjoint_and_complete():
    splits = [data.load_dataset("digits", None, split) for split in ("train", "test")]
    assert [len(split.labels) for split in splits] == [1438, 359]
    together = np.concatenate([split.images[:, 0, ::4, ::4].reshape(-1, 64) for split in splits])
    with np.load(data.DIGITS_FILE, allow_pickle=False) as arrays:
        assert sorted(map(bytes, (together * 16).astype(np.uint8))) == sorted(map(bytes, arrays["images"]))


def test_digit_pixels_are_sixteenths_repeated_in_4x4_blocks():
    digits = data.load_dataset("digits", None, "test")
    assert digits.images.dtype == np.float32
    assert digits.labels.dtype == np.int64
    blocks = digits.images.reshape(-1, 8, 4, 8, 4)
    assert (blocks == blocks[:, :, :1, :, :1]).all()
    assert set(np.unique(digits.images * 16)) == set(range(17))


def test_digits_at_size_28_are_3x3_blocks_framed_by_two_zeros():
    small, large = (data.load_dataset("digits", None, "test", size=size) for size in (28, 32))
    assert small.images.shape == (359, 1, 28, 28)
    assert small.images.dtype == np.float32
    assert (small.labels == large.labels).all()
    blocks = small.images[:, 0, 2:26, 2:26].reshape(-1, 8, 3, 8, 3)
    assert (blocks == large.images.reshape(-1, 8, 4, 8, 4)[:, :, :1, :, :1]).all()  # the same sixteenths
    assert np.count_nonzero(small.images) == np.count_nonzero(blocks)  # the frame is 0


@pytest.mark.parametrize("dataset", ["digits", "mnist"])
@pytest.mark.parametrize("size", [0, 8, 30])
def test_size_that_is_not_made_is_refused(dataset, size):
    made = "28, 32, 64 or 224" if dataset == "digits" else "28 or 32"
    with refused(f"size = {size} is not a size of {dataset}'s images; use {made}"):
        data.load_dataset(dataset, None, "test", size=size)


def test_damaged_embedded_digits_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "digits.npz"
    path.write_bytes(b"PK")
    monkeypatch.setattr(data, "DIGITS_FILE", path)
    with refused(
        f"{path}: sha256 = {hashlib.sha256(b'PK').hexdigest()[:12]}.. does not match the released file's "
        f"{data._DIGITS_SHA256[:12]}..; install accelsim again"
    ):
        data.load_dataset("digits", None, "test")


@pytest.mark.parametrize("name, size", [("lenet5_digits", 32), ("mlp_digits", 28)])
def test_calibration_is_the_first_training_images_in_the_workloads_size(name, size):
    images = workloads.calibration(name, None)
    assert images.shape == (1024, 1, size, size)
    assert images.dtype == np.float32
    assert (images == data.load_dataset("digits", None, "train", size=size).images[:1024]).all()


@pytest.mark.parametrize("count", [0, -1, 1439])
def test_calibration_asks_for_as_many_images_as_there_are(count):
    with refused(f"digits train: {count} images asked for, the split has 1438; use 1..1438"):
        workloads.calibration("lenet5_digits", None, count)


# --- the original MNIST and Fashion-MNIST -------------------------------------------------------------------


@pytest.mark.parametrize(
    "dataset, split, size, first_labels",
    [
        ("mnist", "train", 60_000, [5, 0, 4, 1, 9]),
        ("mnist", "test", 10_000, [7, 2, 1, 0, 4]),
        ("fashion-mnist", "train", 60_000, [9, 0, 0, 3, 0]),
        ("fashion-mnist", "test", 10_000, [9, 2, 1, 1, 6]),
    ],
)
def test_originals_begin_with_their_published_labels(dataset, split, size, first_labels):
    original_files(dataset)
    read = data.load_dataset(dataset, None, split)
    assert read.images.shape == (size, 1, 32, 32)
    assert (read.images.dtype, read.labels.dtype) == (np.float32, np.int64)
    assert read.labels[:5].tolist() == first_labels
    assert (np.unique(read.labels) == np.arange(10)).all()


def test_mnist_training_pixels_have_their_published_mean_and_deviation():
    original_files("mnist")
    images = data.load_dataset("mnist", None, "train").images
    assert images[:, :, 2:30, 2:30].mean(dtype=np.float64) == pytest.approx(0.1307, abs=5e-5)  # as printed
    assert images[:, :, 2:30, 2:30].std(dtype=np.float64) == pytest.approx(0.3081, abs=5e-5)
    assert np.count_nonzero(images) == np.count_nonzero(images[:, :, 2:30, 2:30])  # the frame is 0


# --- idx files: a miniature data set, so that no download is needed -----------------------------------------

PIXELS = np.arange(3 * 28 * 28, dtype=np.uint32).reshape(3, 28, 28).astype(np.uint8)  # 0..255, again and again
LABELS = np.array([7, 0, 9], dtype=np.uint8)


def idx(array: np.ndarray) -> bytes:
    """An idx file, written from the format's description."""
    header = bytes([0, 0, 8, array.ndim]) + b"".join(length.to_bytes(4, "big") for length in array.shape)
    return header + array.tobytes()


def published(name: str, array: np.ndarray) -> tuple[data._IdxFile, bytes]:
    packed = gzip.compress(idx(array), mtime=0)
    digests = hashlib.sha256(packed).hexdigest(), hashlib.sha256(idx(array)).hexdigest()
    return data._IdxFile(name, array.shape, len(packed), *digests), packed


@pytest.fixture
def mini(tmp_path, monkeypatch):
    """Stand-ins for the originals, 3 images a split, in the folders data/mnist and data/fashion-mnist."""
    monkeypatch.delenv("ACCELSIM_DATA", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    table = {}
    for dataset, pixels in (("mnist", PIXELS), ("fashion-mnist", 255 - PIXELS)):
        folder = tmp_path / "data" / dataset
        folder.mkdir(parents=True)
        table[dataset] = {}
        for split, prefix in (("train", "train"), ("test", "t10k")):
            images, packed_images = published(f"{prefix}-images-idx3-ubyte", pixels)
            labels, packed_labels = published(f"{prefix}-labels-idx1-ubyte", LABELS)
            table[dataset][split] = (images, labels)
            (folder / f"{images.name}.gz").write_bytes(packed_images)
            (folder / f"{labels.name}.gz").write_bytes(packed_labels)
    monkeypatch.setattr(data, "_IDX_FILES", table)
    return tmp_path / "data"


def test_mnist_pixels_are_divided_by_255_inside_a_frame_of_two_zeros(mini):
    read = data.load_dataset("mnist", mini, "test")
    assert read.labels.tolist() == [7, 0, 9]
    assert (read.name, read.split, read.source) == ("mnist", "test", mini / "mnist")
    expected = np.pad(PIXELS.astype(np.float32) / np.float32(255), ((0, 0), (2, 2), (2, 2)))
    assert (read.images[:, 0] == expected).all()
    assert read.images.max() == 1.0


def test_mnist_at_size_28_is_the_original_picture(mini):
    assert (data.load_dataset("mnist", mini, "test", size=28).images[:, 0] == PIXELS / np.float32(255)).all()
    assert workloads.calibration("mlp", mini, 3).shape == (3, 1, 28, 28)
    assert workloads.calibration("lenet5", mini, 3).shape == (3, 1, 32, 32)


def test_limit_keeps_the_first_images(mini):
    whole, part = (data.load_dataset("mnist", mini, "train", limit) for limit in (None, 2))
    assert (part.images == whole.images[:2]).all()
    assert part.labels.tolist() == [7, 0]
    with refused("mnist train: 4 images asked for, the split has 3; use 1..3"):
        data.load_dataset("mnist", mini, "train", 4)


def test_unknown_data_set_and_split_are_refused(mini):
    with refused(
        "dataset = 'mnits' is not known; use one of mnist, fashion-mnist, digits, cifar10; did you mean 'mnist'?"
    ):
        data.load_dataset("mnits", mini, "test")
    with refused("split = 'validation' is not a split of mnist; use 'train' or 'test'"):
        data.load_dataset("mnist", mini, "validation")


def test_folder_may_be_the_data_sets_own_or_its_parent(mini):
    for folder in (mini, mini / "mnist"):
        assert data.load_dataset("mnist", folder, "test").source == mini / "mnist"


def test_environment_names_the_folder_in_both_forms(mini, monkeypatch):
    for folder in (mini, mini / "fashion-mnist"):
        monkeypatch.setenv("ACCELSIM_DATA", str(folder))
        assert data.load_dataset("fashion-mnist", None, "test").source == mini / "fashion-mnist"


def test_folder_given_rules_over_the_environment(mini, monkeypatch, tmp_path):
    monkeypatch.setenv("ACCELSIM_DATA", str(tmp_path / "absent"))
    assert data.load_dataset("mnist", mini, "test").source == mini / "mnist"


def test_cache_folder_is_read_when_nothing_is_named(mini, tmp_path):
    cache = tmp_path / "home" / ".cache" / "accelsim"
    cache.parent.mkdir(parents=True)
    mini.rename(cache)
    assert data.load_dataset("mnist", None, "test").source == cache / "mnist"


def test_absent_data_is_refused_with_the_places_tried(mini, tmp_path, monkeypatch):
    here = "no idx file of mnist here"
    remedy = (
        "give the folder with --data or ACCELSIM_DATA, or download the files: python -m accelsim.workloads.data mnist"
    )
    home = tmp_path / "home" / ".cache" / "accelsim" / "mnist"
    with refused(f"{home}: {here} (the default folder); {remedy}"):
        data.load_dataset("mnist", None, "test")
    both = f"{tmp_path}/mnist and {tmp_path}"
    with refused(f"{both}: {here} (the folder given); {remedy} --data {tmp_path}"):
        data.load_dataset("mnist", tmp_path, "test")
    # What the environment names is not searched elsewhere, even if the default folder had it.
    home.parent.mkdir(parents=True)
    (mini / "mnist").rename(home)
    monkeypatch.setenv("ACCELSIM_DATA", str(tmp_path))
    with refused(f"{both}: {here} (the environment's ACCELSIM_DATA); {remedy}"):
        data.load_dataset("mnist", None, "test")


def test_another_data_set_in_the_folder_is_never_read_as_the_one_asked_for(mini):
    folder = mini / "fashion-mnist"
    path = folder / "t10k-images-idx3-ubyte.gz"
    found, original = (data._IDX_FILES[name]["test"][0].gzip_sha256[:12] for name in ("fashion-mnist", "mnist"))
    with refused(
        f"{path}: sha256 = {found}.. does not match the original's {original}.. (it is fashion-mnist's); "
        f"fetch the file again: python -m accelsim.workloads.data mnist --data {folder}"
    ):
        data.load_dataset("mnist", folder, "test")


def test_plain_files_are_read_and_compared_too(mini):
    for path in (mini / "mnist").iterdir():
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    assert data.load_dataset("mnist", mini, "test").labels.tolist() == [7, 0, 9]
    path = mini / "mnist" / "t10k-labels-idx1-ubyte"
    other = idx(np.array([7, 0, 8], dtype=np.uint8))
    path.write_bytes(other)
    with refused(
        f"{path}: sha256 = {hashlib.sha256(other).hexdigest()[:12]}.. does not match the original's "
        f"{hashlib.sha256(idx(LABELS)).hexdigest()[:12]}..; "
        f"fetch the file again: python -m accelsim.workloads.data mnist --data {path.parent}"
    ):
        data.load_dataset("mnist", mini, "test")


def test_missing_one_of_the_four_files_is_refused(mini):
    path = mini / "mnist" / "t10k-labels-idx1-ubyte.gz"
    path.unlink()
    with refused(
        f"{path}: absent, as is the plain file; mnist is read from four idx files; "
        f"download them: python -m accelsim.workloads.data mnist --data {path.parent}"
    ):
        data.load_dataset("mnist", mini, "test")


def test_folder_in_the_place_of_a_file_is_refused(mini):
    path = mini / "mnist" / "t10k-labels-idx1-ubyte.gz"
    path.unlink()
    path.mkdir()
    with refused(f"{path}: is a folder; name a file"):
        data.load_dataset("mnist", mini, "test")


PACKED = gzip.compress(idx(LABELS), mtime=0)
BAD_LABELS = {
    "no gzip file": (b"<html>404</html>", "not a valid gzip file (Not a gzipped file (b'<h'))"),
    "empty": (b"", "truncated, 0 bytes where the idx header alone has 8"),
    "cut stream": (
        PACKED[:-9],
        f"truncated, the gzip stream breaks off after {len(PACKED) - 9} of {len(PACKED)} bytes",
    ),
    "bad checksum": (
        PACKED[:-8] + bytes([PACKED[-8] ^ 1]) + PACKED[-7:],
        f"not a valid gzip file (CRC check failed {zlib.crc32(idx(LABELS)) ^ 1:#x} != {zlib.crc32(idx(LABELS)):#x})",
    ),
    "short header": (gzip.compress(idx(LABELS)[:7]), "truncated, 7 bytes where the idx header alone has 8"),
    "magic of images": (
        gzip.compress(idx(PIXELS)),
        "magic = 0x00000803 is not 0x00000801, an idx file of uint8 with 1 dimensions",
    ),
    "little-endian": (
        gzip.compress(bytes([1, 8, 0, 0]) + idx(LABELS)[4:]),
        "magic = 0x01080000 is not 0x00000801, an idx file of uint8 with 1 dimensions",
    ),
    "other size": (gzip.compress(idx(LABELS[:2])), "dimensions = (2,) are not mnist's (3,)"),
    "cut elements": (gzip.compress(idx(LABELS)[:-1]), "truncated, 10 bytes where the header promises 11"),
    "appended": (gzip.compress(idx(LABELS) + b"\0" * 9), "longer than the 11 bytes that the header promises"),
    "label 10": (
        gzip.compress(idx(np.array([7, 10, 9], dtype=np.uint8))),
        "label 1 = 10 is not a class, labels are 0..9",
    ),
}


@pytest.mark.parametrize("damage", BAD_LABELS)
def test_damaged_idx_file_is_refused_in_one_line_that_names_the_damage(mini, damage):
    content, what = BAD_LABELS[damage]
    path = mini / "mnist" / "t10k-labels-idx1-ubyte.gz"
    path.write_bytes(content)
    remedy = f"fetch the file again: python -m accelsim.workloads.data mnist --data {path.parent}"
    with refused(f"{path}: {what}; {remedy}"):
        data.load_dataset("mnist", mini, "test")


def test_same_pixels_packed_anew_are_not_the_published_file(mini):
    path = mini / "mnist" / "t10k-labels-idx1-ubyte.gz"
    original = path.read_bytes()
    other = gzip.compress(idx(LABELS), compresslevel=0, mtime=0)
    path.write_bytes(other)
    digests = [hashlib.sha256(content).hexdigest()[:12] for content in (other, original)]
    with refused(
        f"{path}: sha256 = {digests[0]}.. does not match the original's {digests[1]}..; "
        f"fetch the file again: python -m accelsim.workloads.data mnist --data {path.parent}"
    ):
        data.load_dataset("mnist", mini, "test")


# --- downloading, from folders that stand in for mirrors --------------------------------------------------


@pytest.fixture
def mirrors(mini, tmp_path, monkeypatch):
    """Two mirrors of MNIST: the first has everything, but one file is damaged; the second is whole."""
    urls = []
    for name in ("damaged", "whole"):
        (tmp_path / name).mkdir()
        for path in (mini / "mnist").iterdir():
            (tmp_path / name / path.name).write_bytes(path.read_bytes())
        urls.append((tmp_path / name).as_uri() + "/")
    (tmp_path / "damaged" / "t10k-labels-idx1-ubyte.gz").write_bytes(b"moved to another address")
    monkeypatch.setattr(data, "_MIRRORS", {"mnist": urls})
    return tmp_path


def test_fetch_takes_only_the_original_bytes(mirrors):
    target = data.fetch("mnist", mirrors / "new")
    assert target == mirrors / "new" / "mnist"
    for path in (mirrors / "whole").iterdir():
        assert (target / path.name).read_bytes() == path.read_bytes()
    assert len(list(target.iterdir())) == 4


def test_fetch_replaces_damaged_files_and_leaves_whole_ones_alone(mirrors):
    target = data.fetch("mnist", mirrors / "mnist")  # a folder of that name is the data set's own
    assert target == mirrors / "mnist"
    whole, damaged = target / "train-images-idx3-ubyte.gz", target / "t10k-images-idx3-ubyte.gz"
    before = whole.stat()
    damaged.write_bytes(b"")
    data.fetch("mnist", target)
    assert (whole.stat().st_ino, whole.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert damaged.read_bytes() == (mirrors / "whole" / damaged.name).read_bytes()


def test_loading_downloads_only_when_asked(mirrors):
    with pytest.raises(InputError, match="no idx file of mnist here"):
        data.load_dataset("mnist", mirrors / "new", "test")
    read = data.load_dataset("mnist", mirrors / "new", "test", download=True)
    assert read.labels.tolist() == [7, 0, 9]


def test_no_mirror_with_the_original_is_an_error_and_leaves_no_file(mirrors, monkeypatch):
    damaged, nowhere = (mirrors / "damaged").as_uri() + "/", (mirrors / "nowhere").as_uri() + "/"
    monkeypatch.setattr(data, "_MIRRORS", {"mnist": [damaged, nowhere]})
    name = "t10k-labels-idx1-ubyte.gz"
    found, original = (
        hashlib.sha256((mirrors / place / name).read_bytes()).hexdigest()[:12] for place in ("damaged", "whole")
    )
    with refused(
        f"mnist/{name}: no mirror gave the original file ({damaged}{name}: sha256 = {found}.., "
        f"not the original's {original}..; {nowhere}{name}: [Errno 2] No such file or directory: "
        f"'{mirrors}/nowhere/{name}'); "
        "copy the file from elsewhere and name its folder with --data or ACCELSIM_DATA"
    ):
        data.fetch("mnist", mirrors / "new")
    assert name not in os.listdir(mirrors / "new" / "mnist")


def test_fetch_command_reports_the_folder_or_one_line(mirrors, capsys):
    assert data.main(["mnist", "--data", str(mirrors / "new")]) == 0
    assert capsys.readouterr().out == f"mnist: {mirrors / 'new' / 'mnist'}\n"
    assert data.main(["digits"]) == 2
    assert capsys.readouterr().err == (
        "python -m accelsim.workloads.data: error: dataset = 'digits' is embedded in the package, "
        "there is nothing to download\n"
    )


# --- training -----------------------------------------------------------------------------------------------


def tiny() -> tuple[train.Recipe, data.Dataset, data.Dataset]:
    """Three short epochs on 100 digits; the last batch of an epoch has 4 images."""
    recipe = dataclasses.replace(train.RECIPES["lenet5_digits"], epochs=3)
    return (
        recipe,
        data.load_dataset("digits", None, "train", 100),
        data.load_dataset("digits", None, "test", 50),
    )


def tiny_in_colour() -> tuple[train.Recipe, data.Dataset, data.Dataset]:
    """Two epochs of two steps each: batch norm, momentum, warm-up, mirroring and smoothed labels."""
    recipe = dataclasses.replace(train.RECIPES["cifar_resnet"], epochs=3, batch=4)
    draw = np.random.default_rng(3)
    made = [
        data.Dataset(
            draw.random((7, 3, 32, 32), np.float32), draw.integers(0, 10, 7), "cifar10", split, Path("made here")
        )
        for split in ("train", "test")
    ]
    return recipe, made[0], made[1]


@pytest.mark.parametrize("make", [tiny, tiny_in_colour])
def test_interrupted_training_ends_in_the_same_bytes(make, tmp_path, monkeypatch):
    recipe, train_data, test_data = make()
    straight, resumed = tmp_path / "straight", tmp_path / "resumed"
    straight.mkdir()
    resumed.mkdir()
    card = train.train(recipe, train_data, test_data, seed=5, output=straight)

    epoch = train._Run.epoch

    def interrupted(run, images, labels):
        if run.epochs_done == 1:
            raise KeyboardInterrupt
        return epoch(run, images, labels)

    monkeypatch.setattr(train._Run, "epoch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train.train(recipe, train_data, test_data, seed=5, output=resumed)
    assert os.listdir(resumed) == [f"{recipe.name}.checkpoint.safetensors"]

    passes = []
    monkeypatch.setattr(train._Run, "epoch", lambda *given: passes.append(1) or epoch(*given))
    assert train.train(recipe, train_data, test_data, seed=5, output=resumed) == card
    assert len(passes) == 2  # it went on, rather than starting again
    assert sorted(os.listdir(resumed)) == [f"{recipe.name}.safetensors", f"{recipe.name}.toml"]
    same_outcome(resumed, straight, recipe.name)


def test_killed_training_ends_in_the_same_bytes_and_shows_no_bar_in_a_pipe(tmp_path):
    output, straight = tmp_path / "killed", tmp_path / "straight"
    command = [sys.executable, "-m", "accelsim.workloads.train", "lenet5_digits", "--epochs", "3"]
    command += ["--output", str(output)]
    checkpoint = output / "lenet5_digits.checkpoint.safetensors"
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while not checkpoint.exists() and process.poll() is None:
        time.sleep(0.001)
    process.kill()
    assert process.wait() == -signal.SIGKILL, "it ended before it could be killed"
    resumed = subprocess.run(command, capture_output=True, text=True, check=True)
    assert resumed.stderr == ""
    assert re.fullmatch(
        r"(lenet5_digits: epoch [23] of 3, mean loss \d\.\d{4}\n){1,2}"
        r"lenet5_digits: \d+ of 359 test images correct, \d+\.\d\d %\n",
        resumed.stdout,
    )
    assert train.main([*command[3:-1], str(straight)]) == 0
    same_outcome(output, straight, "lenet5_digits")


def test_trained_weights_load_from_the_folder_they_were_written_to(tmp_path):
    recipe, train_data, test_data = tiny()
    card = train.train(recipe, train_data, test_data, seed=0, output=tmp_path)
    assert workloads.names(tmp_path) == ("lenet5_digits",)
    workload = workloads.load("lenet5_digits", tmp_path)
    assert workload.info.float_accuracy == card.correct / 50
    assert train.count_correct(workload.module, test_data) == card.correct


def test_checkpoint_of_another_training_is_refused(tmp_path):
    recipe, train_data, test_data = tiny()
    path = tmp_path / "lenet5_digits.checkpoint.safetensors"
    path.write_bytes(_checkpoint(recipe, seed=1))
    with refused(f"{path}: seed = 1 in the checkpoint, 2 asked for; delete it to start again"):
        train.train(recipe, train_data, test_data, seed=2, output=tmp_path)
    with refused(f"{path}: epochs = 3 in the checkpoint, 4 asked for; delete it to start again"):
        train.train(dataclasses.replace(recipe, epochs=4), train_data, test_data, seed=1, output=tmp_path)


def _checkpoint(recipe: train.Recipe, seed: int) -> bytes:
    run = train._Run(recipe, seed)
    run.epoch(torch.zeros(1, 1, 32, 32), torch.zeros(1, dtype=torch.int64))
    return run.checkpoint()


@pytest.mark.parametrize("keep", [0, 7, 1000, -1])
def test_cut_checkpoint_is_refused(tmp_path, keep):
    recipe, train_data, test_data = tiny()
    path = tmp_path / "lenet5_digits.checkpoint.safetensors"
    path.write_bytes(_checkpoint(recipe, seed=1)[:keep])
    with pytest.raises(
        InputError,
        match=rf"^{re.escape(str(path))}: not a whole checkpoint \(.*\); delete it to start again$",
    ):
        train.train(recipe, train_data, test_data, seed=1, output=tmp_path)


def test_shift_moves_whole_images_by_up_to_two_pixels_and_zeros_move_in():
    images = torch.arange(1, 65, dtype=torch.float32).reshape(1, 1, 8, 8).repeat(200, 1, 1, 1)
    moved = train.shifted(images, 2, torch.Generator().manual_seed(0))
    seen = set()
    padded = np.pad(images[0, 0].numpy(), 4)
    for image in moved[:, 0].numpy():
        corners = [
            (row, column)
            for row in range(-4, 5)
            for column in range(-4, 5)
            if (image == padded[4 - row : 12 - row, 4 - column : 12 - column]).all()
        ]
        assert len(corners) == 1
        seen.update(corners)
    assert seen == {(row, column) for row in range(-2, 3) for column in range(-2, 3)}


@pytest.mark.parametrize(
    "arguments, message",
    [
        (
            ["lenet"],
            "recipe = 'lenet' is not known; use one of lenet5, lenet5_bias, lenet5_digits, mlp, mlp_digits, cifar_cnn, "
            "cifar_resnet, cifar_mobilenet; did you mean 'lenet5'?",
        ),
        (
            ["lenet5", "--dataset", "fashion", "--name", "mine"],
            "--dataset = 'fashion' is not known; use one of mnist, fashion-mnist, digits, cifar10; "
            "did you mean 'fashion-mnist'?",
        ),
        (
            ["lenet5", "--dataset", "cifar10", "--name", "mine"],
            "--dataset = 'cifar10' has images of 3 channels, LeNet5 takes 1; use mnist or fashion-mnist or digits",
        ),
        (
            ["cifar_cnn", "--dataset", "digits", "--name", "mine"],
            "--dataset = 'digits' has images of 1 channels, CifarCnn takes 3; use cifar10",
        ),
        (
            ["lenet5", "--dataset", "fashion-mnist"],
            "--name = 'lenet5' is a workload of the package; give yours a --name of its own",
        ),
        (
            ["lenet5", "--dataset", "digits", "--name", "lenet5_digits"],
            "--name = 'lenet5_digits' is a workload of the package; give yours a --name of its own",
        ),
        (
            ["lenet5_digits", "--name", "../mine"],
            "--name = '../mine' becomes a file's name; use letters, digits, _ and - only",
        ),
        (
            ["lenet5_digits", "--name", "mine"],
            "mine: no folder for your own weights; give --output or set ACCELSIM_WORKLOADS",
        ),
        (["lenet5_digits", "--epochs", "0"], "--epochs = 0 must be at least 1"),
        (["lenet5_digits", "--seed", "-1"], "--seed = -1 must be in 0..2**63-1"),
    ],
)
def test_train_refuses_bad_arguments_in_one_line(arguments, message, capsys):
    assert train.main(arguments) == 2
    assert capsys.readouterr().err == f"python -m accelsim.workloads.train: error: {message}\n"


def test_recipes_are_the_shipped_workloads():
    assert sorted((*train.RECIPES, *seeded.RECIPES)) == list(workloads.names())
    for name, recipe in train.RECIPES.items():
        card = cards.read_card(cards.WEIGHTS_FOLDER / f"{name}.toml")
        assert (card.summary, card.dataset, card.model) == (recipe.summary, recipe.dataset, recipe.model)
        assert (card.input_size, card.command) == (recipe.input_size, train._command(recipe, card.seed))
        assert (card.arguments, card.epochs) == ({"bias": recipe.bias}, recipe.epochs)
        assert card.correct / card.tested >= 0.62
        assert card.model in models.MODELS
