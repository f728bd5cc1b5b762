"""Networks whose weights are drawn from a seed: too large to train here, or to keep in a repository.

    python -m accelsim.workloads.seeded resnet18 --data DIR

writes the card and the statistics of the batch norms, the only part that needs images; the weights themselves are drawn
anew whenever the network is loaded, the same bits on every machine, and compared with the card's digest. Cycles, energy
and bits of such a network are those of a trained one of its shape; its accuracy means nothing, and nothing prints one.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import math
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save
from torch import Tensor, nn

from accelsim.errors import InputError, did_you_mean
from accelsim.files import write_whole

from .cards import WEIGHTS_FOLDER, SeededCard, write_card
from .data import load_dataset
from .models import MODELS, build, load_statistics, statistics_names
from .train import determinate

STATISTICS_IMAGES = 32
"""Training images that the batch norms' statistics are taken from."""


@dataclass(frozen=True)
class Seeded:
    """One network.

    Attributes:
        name: The workload's.
        summary: What it is, in a few words.
        model: A key of `models.MODELS`.
        seed: Of the weights.
        calibration_images: For its ranges; of large networks, whose every tensor has thousands of values an image,
            they settle with a few.
    """

    name: str
    summary: str
    model: str
    seed: int = 1
    calibration_images: int = 8


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Seeded("mobilenet_v2", "MobileNetV2 at 224x224, 1000 classes, CIFAR-10 scaled up", "MobileNetV2"),
        Seeded("resnet18", "ResNet-18 at 224x224, 1000 classes, CIFAR-10 scaled up", "ResNet18"),
        Seeded(
            "transformer_block",
            "Transformer encoder block, 64 tokens of 128 channels, 4 heads, ReLU attention, CIFAR-10",
            "TransformerBlock",
            calibration_images=64,
        ),
        Seeded("vgg11", "VGG-11 with batch norm at 64x64, 1000 classes, CIFAR-10 scaled up", "VGG11"),
    )
}


def draw(module: nn.Module, seed: int) -> str:
    """Give every weight of two or more axes a value from a seed, in place, and return their sha256.

    A weight is sqrt(2 / fan_in) * (u - 131,070) / sqrt((2**32 - 1) / 3), where u is the sum of the four 16-bit parts of
    one 64-bit number from PCG64: symmetric, bell-shaped within 3.46 standard deviations, and nothing but integers, IEEE
    square roots, products and quotients, so the same bits everywhere. Each tensor has a stream of its own, by its
    place among the parameters. Biases become 0; batch norm's scale and shift stay 1 and 0.
    Source of the deviation: He et al., "Delving deep into rectifiers", ICCV 2015, equation 10.

    >>> layer = nn.Linear(50, 3)
    >>> draw(layer, 1)[:8], [round(float(w), 4) for w in layer.weight[0, :3].detach()]
    ('8d358af4', [0.2153, 0.3299, -0.374])
    """
    digest = hashlib.sha256()
    for place, (name, parameter) in enumerate(module.named_parameters()):
        if parameter.ndim < 2:
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            continue
        numbers = np.random.PCG64(np.random.SeedSequence([seed, place])).random_raw(parameter.numel())
        parts = numbers.view(np.uint16).reshape(-1, 4).sum(axis=1, dtype=np.int64)
        step = math.sqrt(2 / math.prod(parameter.shape[1:])) / math.sqrt((2**32 - 1) / 3)
        values = ((parts - 2 * (2**16 - 1)) * step).astype(np.float32)
        digest.update(values)
        with torch.no_grad():
            parameter.copy_(torch.from_numpy(values).view(parameter.shape))
    return digest.hexdigest()


def load_seeded(card: SeededCard, path: Path) -> nn.Module:
    """Return the network of a card with its drawn weights and the statistics in `path`, in eval mode.

    Raises:
        InputError: As for `models.load_trained`; the weights drawn here are not those of the card.
    """
    with torch.random.fork_rng(devices=[]):  # the caller's random numbers stay as they were
        module = build(card, path.with_suffix(".toml"))
    drawn = draw(module, card.seed)
    if drawn != card.drawn_sha256:
        raise InputError(
            f"{path.with_suffix('.toml')} [seeded]: drawn_sha256 = {card.drawn_sha256[:12]}.. is not that of the "
            f"weights drawn here, {drawn[:12]}..; write the card again with python -m accelsim.workloads.seeded"
        )
    load_statistics(card, path, module)
    return module.eval()


def take_statistics(module: nn.Module, images: npt.NDArray[np.float32]) -> dict[str, Tensor]:
    """Give every batch norm mean and variance of its input over the images, layer after layer, and return them.

    Each layer sees what the layers before it give once they are normalised by these very images.

    Args:
        module: In eval mode but for the batch norms, as it is left.
        images: float32 (N, C, H, W).
    """
    norms = [part for part in module.modules() if isinstance(part, nn.BatchNorm2d)]
    with determinate(), torch.no_grad():
        module.eval()
        for norm in norms:
            norm.train()
            norm.momentum = 1.0  # what this one batch has, and nothing of before
        module(torch.from_numpy(images))
        module.eval()
    state = module.state_dict()
    return {name: state[name].contiguous() for name in sorted(statistics_names(module))}


def write_seeded(recipe: Seeded, images: npt.NDArray[np.float32], output: Path) -> SeededCard:
    """Write statistics and card of a network into a folder.

    Args:
        images: Those that statistics are taken from, float32 (N, 3, input_size, input_size).
        output: An existing folder.
    """
    kind = MODELS[recipe.model]
    with torch.random.fork_rng(devices=[]):
        module = kind()
    drawn = draw(module, recipe.seed)
    content = save(take_statistics(module, images))
    own = "" if output == WEIGHTS_FOLDER else " --output FOLDER"
    card = SeededCard(
        name=recipe.name,
        summary=recipe.summary,
        dataset="cifar10",
        input_size=kind.input_size,
        parameters=sum(parameter.numel() for parameter in module.parameters()),
        model=recipe.model,
        arguments={},
        calibration_images=recipe.calibration_images,
        seed=recipe.seed,
        drawn_sha256=drawn,
        command=f"python -m accelsim.workloads.seeded {recipe.name} --data DIR --seed {recipe.seed}{own}",
        torch=torch.__version__,
        sha256=hashlib.sha256(content).hexdigest(),
    )
    write_whole(output / f"{recipe.name}.safetensors", content)
    write_whole(output / f"{recipe.name}.toml", write_card(card))
    return card


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit code: 0 done, 2 bad input."""
    parser = argparse.ArgumentParser(
        prog="python -m accelsim.workloads.seeded",
        description="Draw a workload's weights, take its batch norms' statistics, and write both down.",
    )
    parser.add_argument("name", help=", ".join(RECIPES))
    parser.add_argument("--data", type=Path, help="folder of CIFAR-10 (default: ACCELSIM_DATA, else ~/.cache/accelsim)")
    parser.add_argument("--seed", type=int, default=1, help="of the weights (default: 1)")
    parser.add_argument("--output", type=Path, default=WEIGHTS_FOLDER, help="folder (default: the package's)")
    given = parser.parse_args(arguments)
    try:
        if given.name not in RECIPES:
            raise InputError(
                f"name = {given.name!r} is not known; use one of {', '.join(RECIPES)}"
                f"{did_you_mean(given.name, RECIPES)}"
            )
        if not 0 <= given.seed < 2**63:
            raise InputError(f"--seed = {given.seed} must be in 0..2**63-1")
        recipe = dataclasses.replace(RECIPES[given.name], seed=given.seed)
        size = MODELS[recipe.model].input_size
        images = load_dataset("cifar10", given.data, "train", STATISTICS_IMAGES, size=size).images
        try:
            given.output.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{given.output}: cannot create the folder: {error.strerror}; give another") from error
        card = write_seeded(recipe, images, given.output)
    except InputError as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return 2
    print(f"{card.name}: {card.parameters} parameters, weights {card.drawn_sha256[:12]}..")
    return 0


if __name__ == "__main__":
    sys.exit(main())
