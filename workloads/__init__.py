"""Networks with trained or seeded weights, and the labelled images they are run on.

>>> names()
('cifar_cnn', 'cifar_mobilenet', 'cifar_resnet', 'lenet5', 'lenet5_bias', 'lenet5_digits', 'mlp', 'mlp_digits', \
'mobilenet_v2', 'resnet18', 'transformer_block', 'vgg11')
>>> describe("lenet5").parameters
61470

Your own: train a network of `models` on one of the data sets into a folder of yours, and name that folder in the
environment variable ACCELSIM_WORKLOADS. Then its workloads stand beside those of the package, in ``accelsim list``
and wherever a workload is named::

    export ACCELSIM_WORKLOADS=~/my_workloads
    python -m accelsim.workloads.train lenet5 --dataset fashion-mnist --name my_fashion --data DIR
    accelsim run my_fashion --data DIR --images 100

`names` and `describe` read the cards beside the weights and need the standard library only; `calibration`
needs NumPy; `load` needs torch. Data sets are in `data`, network definitions in `models`, training in
`train`, networks with weights from a seed in `seeded`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from accelsim.errors import InputError, did_you_mean

from .cards import WEIGHTS_FOLDER, AnyCard, SeededCard, read_card

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch

__all__ = ["ENVIRONMENT_VARIABLE", "Workload", "WorkloadInfo", "calibration", "describe", "load", "names"]

ENVIRONMENT_VARIABLE = "ACCELSIM_WORKLOADS"
"""Names a folder whose workloads stand beside those of the package."""


@dataclass(frozen=True)
class WorkloadInfo:
    """What a list of workloads shows.

    Attributes:
        name: What to call it on the command line.
        summary: One line.
        dataset: The data set whose images it takes, see `data.DATASETS`.
        float_accuracy: Share, 0..1, of the full test split that the float32 network classifies correctly; None for
            seeded weights.
        trained_on: The data set its weights were trained on; None for seeded weights.
        input_size: Height and width of the images it takes, the `size` of `data.load_dataset`.
        parameters: Number of weights and biases.
        calibration_images: Images that its ranges are taken from where the user names no others.
    """

    name: str
    summary: str
    dataset: str
    float_accuracy: float | None
    trained_on: str | None
    input_size: int
    parameters: int
    calibration_images: int


@dataclass(frozen=True, eq=False)  # tensors do not compare to one truth value
class Workload:
    """A network ready to be captured.

    Attributes:
        info: Its card.
        module: In eval mode, with its weights, float32, on the CPU.
        example: float32 (1, channels, input_size, input_size), 0..1: the first test image of the embedded digits, the
            same in all channels, whatever the network was trained on, so that it is there without any data folder. One
            input, for shapes; not for calibration.
        dataset: ``info.dataset``.
    """

    info: WorkloadInfo
    module: torch.nn.Module
    example: torch.Tensor
    dataset: str


def names(folder: Path | None = None) -> tuple[str, ...]:
    """Return the names of all workloads that have a card, sorted.

    Args:
        folder: Where ``train --output`` wrote. None: the package's own workloads and those in the folder that
            the environment variable ACCELSIM_WORKLOADS names.
    Raises:
        InputError: What ACCELSIM_WORKLOADS names is not a folder.
    """
    return tuple(sorted({path.stem for place in _places(folder) for path in place.glob("*.toml")}))


def describe(name: str, folder: Path | None = None) -> WorkloadInfo:
    """Return what the card of a workload says.

    Args:
        name: One of ``names(folder)``.
        folder: As for `names`.
    Raises:
        InputError: As for `names`; no such workload; two of that name; its card is damaged.
    """
    return _info(read_card(_find(name, folder)))


def load(name: str, folder: Path | None = None) -> Workload:
    """Return a workload's network with its weights.

    Args:
        name, folder: As for `describe`.
    Raises:
        InputError: As for `describe`; torch is not installed; the weights are absent, not the file the card
            was written for, not finite float32, or do not fit the model.
    """
    try:
        import torch
    except ImportError:
        raise InputError(f"workload {name!r}: loading a network needs torch; pip install 'accelsim[torch]'") from None
    from .data import CHANNELS, load_dataset
    from .models import load_trained
    from .seeded import load_seeded

    path = _find(name, folder)
    card = read_card(path)
    weights = path.with_suffix(".safetensors")
    module = load_seeded(card, weights) if isinstance(card, SeededCard) else load_trained(card, weights)
    channels = CHANNELS[card.dataset]
    digit = load_dataset("digits", None, "test", limit=1, size=card.input_size, channels=channels)
    return Workload(_info(card), module, torch.from_numpy(digit.images), card.dataset)


def calibration(name: str, folder: Path | None, count: int | None = None) -> npt.NDArray[np.float32]:
    """Return the first `count` training images of a workload's data set, in the size that it takes.

    Args:
        name: One of ``names()``.
        folder: Of the data set, as for `data.load_dataset`; not used for the digits, which are embedded.
        count: 1 to as many as the train split has; None for the workload's ``calibration_images``.
    Returns:
        float32 (count, channels, input_size, input_size), 0..1.
    Raises:
        InputError: As for `describe` and `data.load_dataset`.
    """
    from .data import load_dataset

    info = describe(name)
    count = info.calibration_images if count is None else count
    return load_dataset(info.dataset, folder, "train", limit=count, size=info.input_size).images


def _places(folder: Path | None) -> tuple[Path, ...]:
    """The folders that are searched for cards."""
    if folder is not None:
        return (folder,)
    own = os.environ.get(ENVIRONMENT_VARIABLE, "")
    if not own:
        return (WEIGHTS_FOLDER,)
    if not os.path.isdir(own):
        raise InputError(f"{ENVIRONMENT_VARIABLE} = {own!r} is not a folder; name the one with your cards, or unset it")
    return (WEIGHTS_FOLDER, Path(own))


def _find(name: str, folder: Path | None) -> Path:
    """The one card of that name."""
    known = names(folder)
    if name not in known:
        listed = f"use one of {', '.join(known)}" if known else f"there is no card in {_places(folder)[0]}"
        raise InputError(f"workload = {name!r} is not known; {listed}{did_you_mean(name, known)}")
    cards = [card for place in _places(folder) if os.path.exists(card := place / f"{name}.toml")]
    if len(cards) > 1 and not os.path.samefile(*cards):
        # Either choice would make a name in somebody's report mean something else in another environment.
        raise InputError(
            f"{cards[1]}: {name!r} is a workload of the package; train yours under another --name, "
            f"or unset {ENVIRONMENT_VARIABLE}"
        )
    return cards[0]


TRAINED_CALIBRATION_IMAGES = 1024
"""Images that ranges of a trained network are taken from."""


def _info(card: AnyCard) -> WorkloadInfo:
    return WorkloadInfo(
        name=card.name,
        summary=card.summary,
        dataset=card.dataset,
        float_accuracy=None if isinstance(card, SeededCard) else card.accuracy,
        trained_on=None if isinstance(card, SeededCard) else card.trained_on,
        input_size=card.input_size,
        parameters=card.parameters,
        calibration_images=card.calibration_images if isinstance(card, SeededCard) else TRAINED_CALIBRATION_IMAGES,
    )
