"""Large networks: layers, weights drawn from a seed, statistics, images scaled up."""

from __future__ import annotations

import hashlib
import math
import os
import re
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from accelsim.workloads import cards, data

from accelsim import workloads
from accelsim.cli import main
from accelsim.errors import InputError
from accelsim.sources import DataWarning, choose_dataset, find_network, load_images, training_images

torch = pytest.importorskip("torch", reason="torch is not installed")

from accelsim.workloads import models, seeded  # noqa: E402  # they import torch
from accelsim.workloads.train import determinate  # noqa: E402

NAMES = tuple(sorted(seeded.RECIPES))


@pytest.fixture(autouse=True)
def no_folder_of_the_users_own(monkeypatch):
    monkeypatch.delenv("ACCELSIM_WORKLOADS", raising=False)


def refused(message: str) -> pytest.RaisesExc[InputError]:
    """Expect an InputError of exactly this text."""
    return pytest.raises(InputError, match=f"^{re.escape(message)}$")


# --- definitions ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, parameters, macs",
    [
        # Parameters as published with torchvision's models of the same papers. MACs by hand: a stage of ResNet-18 is
        # three 3x3 convolutions of c channels on p pixels, its first, from c/2 (stage 1: c), and a projection.
        (
            "resnet18",
            11_689_512,
            9_408 * 112**2
            + 4 * 9 * 64**2 * 56**2
            + sum((3 * 9 * c * c + 9 * c * c // 2 + c * c // 2) * p**2 for c, p in ((128, 28), (256, 14), (512, 7)))
            + 512_000,
        ),
        ("mobilenet_v2", 3_504_872, 300_774_272),
        (
            "vgg11",
            # 9,217,728 weights of convolutions, 2,752 channels of batch norm, three linear layers with biases
            9_217_728 + 2 * 2_752 + 2_049 * 4_096 + 4_097 * 4_096 + 4_097 * 1_000,
            27 * 64 * 64**2
            + 9 * (64 * 128 * 32**2 + (128 * 256 + 256**2) * 16**2 + (256 * 512 + 512**2) * 8**2 + 2 * 512**2 * 4**2)
            + 2_048 * 4_096
            + 4_096**2
            + 4_096_000,
        ),
    ],
)
def test_networks_are_those_of_the_papers(name, parameters, macs):
    card = cards.read_card(cards.WEIGHTS_FOLDER / f"{name}.toml")
    kind = models.MODELS[card.model]
    with torch.device("meta"):  # shapes only
        module = kind().eval()
    assert sum(parameter.numel() for parameter in module.parameters()) == parameters == card.parameters
    counted = Counter()
    tables = Counter()

    def count(layer):
        def hook(part, inputs, output):
            counted[layer] += output.numel() * part.weight[0].numel()
            tables[layer] += part.weight.numel()

        return hook

    for layer, part in module.named_modules():
        if isinstance(part, torch.nn.Conv2d | torch.nn.Linear):
            part.register_forward_hook(count(layer.partition(".")[0]))
    logits = module(torch.empty(1, 3, kind.input_size, kind.input_size, device="meta"))
    assert logits.shape == (1, 1000)
    assert counted.total() == macs
    for layer in counted:  # the table in the docstring
        row = next(line for line in kind.__doc__.splitlines() if line.split()[:1] == [layer])
        assert [int(word.replace(",", "")) for word in row.split()[-2:]] == [tables[layer], counted[layer]]


@pytest.mark.parametrize(
    "small",
    [
        models.ResNet18(width=8, classes=10),
        models.MobileNetV2(width=8, classes=10),
        models.VGG11(size=32, width=8, hidden=16, classes=10),
    ],
    ids=lambda module: type(module).__name__,
)
def test_small_versions_take_32x32(small):
    assert small.eval()(torch.rand(2, 3, 32, 32)).shape == (2, 10)


# --- weights ----------------------------------------------------------------------------------------------


def test_drawn_weights_follow_their_formula_and_their_place():
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2), torch.nn.Conv2d(2, 5, 3))
    digest = seeded.draw(module, seed=7)
    weights = [module[0].weight, module[2].weight]
    for place, weight in zip((0, 4), weights, strict=True):
        stream = np.random.PCG64(np.random.SeedSequence([7, place]))
        for value in weight.detach().flatten().tolist():
            number = int(stream.random_raw())
            total = sum(number >> shift & 0xFFFF for shift in (0, 16, 32, 48))
            deviation = math.sqrt(2 / weight[0].numel())
            assert value == np.float32((total - 131_070) * (deviation / math.sqrt((2**32 - 1) / 3)))
    assert digest == hashlib.sha256(b"".join(weight.detach().numpy().tobytes() for weight in weights)).hexdigest()
    assert not module[0].bias.any()
    assert not module[2].bias.any()
    assert (module[1].weight == 1).all()
    assert seeded.draw(module, seed=8) != digest


def test_drawn_weights_have_the_deviation_of_he():
    module = torch.nn.Linear(400, 500)
    seeded.draw(module, seed=1)
    # Of 200,000 values: the sample deviation is within 0.2 % of the true one (standard error 0.13 %), twice over.
    assert float(module.weight.detach().std()) == pytest.approx(math.sqrt(2 / 400), rel=4e-3)
    assert float(module.weight.detach().abs().max()) < 3.47 * math.sqrt(2 / 400)


@pytest.mark.parametrize("name", NAMES[:2])
def test_loaded_network_is_that_of_its_card(name):
    before = torch.random.get_rng_state()
    workload = workloads.load(name)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not any(part.training for part in workload.module.modules())
    assert (workload.info.float_accuracy, workload.info.trained_on) == (None, None)
    size = workload.info.input_size
    assert workload.example.shape == (1, 3, size, size)
    assert (workload.example[0, 0, ::28, ::28] == workload.example[0, 2, 27::28, 27::28]).all()  # a digit's 8x8 pixels


def test_normalised_activations_have_mean_0_and_deviation_1_on_the_images_of_the_statistics():
    module = models.ResNet18(width=4, classes=10)
    seeded.draw(module, seed=1)
    images = data.load_dataset("digits", None, "train", 4, size=64, channels=3).images
    statistics = seeded.take_statistics(module, images)
    assert not module.training
    assert len(statistics) == 2 * 20
    seen = []
    for part in module.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.register_forward_hook(lambda part, inputs, output: seen.append(output))
    with torch.no_grad(), determinate():
        module(torch.from_numpy(images))
    for output in seen[:10]:  # with 256 values of a channel or more
        values = output.transpose(0, 1).flatten(1)
        # The pass that took the statistics divided by the number of values, evaluation divides by one fewer.
        assert values.mean(1).abs().max() < 0.02
        assert (values.std(1) - 1).abs().max() < 0.02


def test_writing_again_gives_the_bytes_of_the_package(tmp_path):
    try:
        data.find_folder("cifar10")
    except InputError as error:
        pytest.skip(str(error))
    assert seeded.main(["vgg11", "--output", str(tmp_path)]) == 0
    written = cards.read_card(tmp_path / "vgg11.toml")
    shipped = cards.read_card(cards.WEIGHTS_FOLDER / "vgg11.toml")
    assert written.drawn_sha256 == shipped.drawn_sha256
    assert written.command == f"{shipped.command} --output FOLDER"
    if written.torch == shipped.torch:  # float32 sums of another version or processor may round differently
        ours, theirs = (
            models._tensors(card, folder / "vgg11.safetensors")
            for card, folder in ((written, tmp_path), (shipped, cards.WEIGHTS_FOLDER))
        )
        for name, tensor in ours.items():
            assert torch.allclose(tensor, theirs[name], rtol=1e-3, atol=1e-4), name


# --- images -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [64, 224, 100])
def test_scaled_up_images_are_those_of_interpolate(size):
    images = np.random.default_rng(size).uniform(0, 1, (2, 3, 32, 32)).astype(np.float32)
    exact = torch.from_numpy(images).double()  # in float32 its places are rounded to 2**-19
    expected = torch.nn.functional.interpolate(exact, size=(size, size), mode="bilinear")
    ours = data.scaled_up(images, size)
    assert ours.dtype == np.float32
    # four products of numbers below 1 and three sums, each rounded once
    assert np.abs(ours - expected.numpy()).max() <= 4 * 2**-24


def test_digits_fill_224_pixels_and_three_channels():
    small = data.load_dataset("digits", None, "test", 2, size=32)
    large = data.load_dataset("digits", None, "test", 2, size=224, channels=3)
    assert large.images.shape == (2, 3, 224, 224)
    for channel in range(3):
        assert (large.images[:, channel, ::28, ::28] == small.images[:, 0, ::4, ::4]).all()
        assert (large.images[:, channel, 27::28, 27::28] == small.images[:, 0, ::4, ::4]).all()


def test_colours_are_not_made_grey(tmp_path):
    with refused("channels = 1 cannot be made of cifar10's 3; leave them out"):
        data.load_dataset("cifar10", tmp_path, "test", channels=1)


def test_split_that_would_fill_the_memory_is_refused(monkeypatch):
    monkeypatch.setattr(data, "MOST_BYTES", 534 * 4 * 224**2)
    with refused("digits train: 1438 images scaled up take 0.3 GB; use at most 534"):
        data.load_dataset("digits", None, "train", size=224)


def test_a_seeded_network_runs_on_digits_where_its_images_are_absent(monkeypatch, tmp_path):
    monkeypatch.delenv("ACCELSIM_DATA", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.warns(DataWarning, match="using the embedded digits"):
        assert choose_dataset("cifar10", None, seeded=True) == "digits"
    with pytest.raises(InputError, match="cifar10"):
        choose_dataset("cifar10", None)


# --- cards that are wrong ---------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    """A copy of vgg11's card and statistics, of a small network so that drawing takes no time."""
    recipe = seeded.Seeded("small", "a small network", "VGG11")
    kind = models.MODELS["VGG11"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(models.MODELS, "VGG11", lambda: kind(width=8, hidden=16, classes=10))
        patch.setattr(models.MODELS["VGG11"], "input_size", 64, raising=False)
        seeded.write_seeded(recipe, data.load_dataset("digits", None, "train", 2, size=64, channels=3).images, tmp_path)
    path = tmp_path / "small.toml"
    path.write_text(path.read_text().replace("arguments = {}", "arguments = { width = 8, hidden = 16, classes = 10 }"))
    return tmp_path


def test_small_card_is_read_back(folder):
    assert workloads.load("small", folder).module(torch.rand(1, 3, 64, 64)).shape == (1, 10)
    card = cards.read_card(folder / "small.toml")
    (folder / "again").mkdir()
    (folder / "again" / "small.toml").write_text(cards.write_card(card))
    assert cards.read_card(folder / "again" / "small.toml") == card


def test_no_label_is_known_to_a_seeded_network(folder, monkeypatch, capsys):
    monkeypatch.setenv("ACCELSIM_WORKLOADS", str(folder))
    network = find_network("small", data="digits")
    assert load_images(network, "digits", 2).labels is None
    calibration = training_images(network, "digits", network.calibration_images)
    assert (calibration.images.shape, calibration.labels) == ((8, 3, 64, 64), None)
    assert main(["evaluate", "small", "--data", "digits", "--images", "2"]) == 2
    assert capsys.readouterr().err.endswith(
        "error: small: nobody trained its weights, so its accuracy means nothing; use run\n"
    )


def test_integer_graph_has_the_same_bytes_in_another_process_with_two_threads(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ACCELSIM_WORKLOADS", str(folder))
    call = "import accelsim.cli as c; raise SystemExit(c.main())"
    given = ["quantize", "small", "--data", "digits", "-o"]
    with determinate():  # one thread
        assert main([*given, str(tmp_path / "1")]) == 0
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2"}
    command = [sys.executable, "-c", call, *given, str(tmp_path / "2")]
    subprocess.run(command, env=environment, check=True, capture_output=True)
    for file in ("graph.json", "graph.safetensors"):
        assert (tmp_path / "1" / file).read_bytes() == (tmp_path / "2" / file).read_bytes()


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("seed = 1\n", "seed = -1\n", "{path} [seeded]: seed = -1 must be at least 0"),
        ("calibration_images = 8", "calibration_images = 0", "{path}: calibration_images = 0 must be at least 1"),
        (
            "calibration_images = 8\n",
            "",
            "{path}: key 'calibration_images' is missing; train again, which writes the card",
        ),
        ("[weights]", "more = 1\n[weights]", "{path} [seeded]: unknown key 'more'"),
        (
            'class = "VGG11"',
            'class = "VGG13"',
            "{path} [model]: class = 'VGG13' is not known; use one of "
            + ", ".join(models.MODELS)
            + "; did you mean 'VGG11'?",
        ),
    ],
)
def test_wrong_card_is_refused(folder, old, new, message):
    path = folder / "small.toml"
    path.write_text(path.read_text().replace(old, new))
    with refused(message.format(path=path)):
        workloads.load("small", folder)


def test_weights_that_are_not_the_cards_are_refused(folder):
    path = folder / "small.toml"
    card = cards.read_card(path)
    path.write_text(path.read_text().replace("seed = 1\n", "seed = 2\n"))
    kept = card.drawn_sha256[:12]
    with pytest.raises(InputError, match=rf"^{re.escape(str(path))} \[seeded\]: drawn_sha256 = {kept}\.\. is not that"):
        workloads.load("small", folder)


def test_damaged_statistics_are_refused(folder):
    path = folder / "small.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(InputError, match=r"small\.safetensors: sha256 = .* does not match its card's"):
        workloads.load("small", folder)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (
            ["resnet19"],
            "name = 'resnet19' is not known; use one of mobilenet_v2, resnet18, transformer_block, vgg11; "
            "did you mean 'resnet18'?",
        ),
        (["vgg11", "--seed", "-1"], "--seed = -1 must be in 0..2**63-1"),
    ],
)
def test_seeded_refuses_bad_arguments_in_one_line(arguments, message, capsys):
    assert seeded.main(arguments) == 2
    assert capsys.readouterr().err == f"python -m accelsim.workloads.seeded: error: {message}\n"
