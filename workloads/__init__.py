"""Networks with trained weights, and the labelled images they are run on.

>>> names()
('lenet5', 'lenet5_bias', 'lenet5_digits')
>>> describe("lenet5").parameters
61470

`names` and `describe` read the cards beside the weights and need the standard library only; `calibration`
needs NumPy; `load` needs torch. Data sets are in `data`, network definitions in `models`, training in
`train`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from accelsim.errors import InputError, did_you_mean

from .cards import WEIGHTS_FOLDER, Card, read_card

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch

__all__ = ["Workload", "WorkloadInfo", "calibration", "describe", "load", "names"]


@dataclass(frozen=True)
class WorkloadInfo:
    """What a list of workloads shows.

    Attributes:
        name: What to call it on the command line.
        summary: One line.
        dataset: The data set whose images it takes, see `data.DATASETS`.
        float_accuracy: Share, 0..1, of the full test split that the float32 network classifies correctly.
        trained_on: The data set its weights were trained on.
        parameters: Number of weights and biases.
    """

    name: str
    summary: str
    dataset: str
    float_accuracy: float
    trained_on: str
    parameters: int


@dataclass(frozen=True, eq=False)  # tensors do not compare to one truth value
class Workload:
    """A network ready to be captured.

    Attributes:
        info: Its card.
        module: In eval mode, with the trained weights, float32, on the CPU.
        example: float32 (1, 1, 32, 32), 0..1: the first test image of the embedded digits, whatever the
            network was trained on, so that it is there without any data folder. One input, for shapes; not
            for calibration.
        dataset: ``info.dataset``.
    """

    info: WorkloadInfo
    module: torch.nn.Module
    example: torch.Tensor
    dataset: str


def names(folder: Path | None = None) -> tuple[str, ...]:
    """Return the workloads that have a card in `folder` (None: those that come with the package), sorted."""
    return tuple(sorted(path.stem for path in (folder or WEIGHTS_FOLDER).glob("*.toml")))


def describe(name: str, folder: Path | None = None) -> WorkloadInfo:
    """Return what the card of a workload says.

    Args:
        name: One of ``names(folder)``.
        folder: Where ``train --output`` wrote; None: the weights that come with the package.
    Raises:
        InputError: No such workload, or its card is damaged.
    """
    return _info(_card(name, folder))


def load(name: str, folder: Path | None = None) -> Workload:
    """Return a workload's network with its trained weights.

    Args:
        name, folder: As for `describe`.
    Raises:
        InputError: As for `describe`; torch is not installed; the weights are absent, not the file the card
            was written for, not finite float32, or do not fit the model.
    """
    try:
        import torch
    except ModuleNotFoundError:
        raise InputError(f"workload {name!r}: loading a network needs torch; pip install 'accelsim[torch]'") from None
    from .data import load_dataset
    from .models import load_trained

    card = _card(name, folder)
    module = load_trained(card, (folder or WEIGHTS_FOLDER) / f"{name}.safetensors")
    example = torch.from_numpy(load_dataset("digits", None, "test", limit=1).images)
    return Workload(_info(card), module, example, card.dataset)


def calibration(name: str, folder: Path | None, count: int = 1024) -> npt.NDArray[np.float32]:
    """Return the first `count` training images of a workload's data set: float32 (count, 1, 32, 32), 0..1.

    Args:
        name: One of `names`.
        folder: Of the data set, as for `data.load_dataset`; not used by ``lenet5_digits``, whose images are
            embedded.
        count: 1..size of the train split.
    Raises:
        InputError: As for `describe` and `data.load_dataset`.
    """
    from .data import load_dataset

    return load_dataset(describe(name).dataset, folder, "train", limit=count).images


def _card(name: str, folder: Path | None) -> Card:
    known = names(folder)
    if name not in known:
        listed = f"use one of {', '.join(known)}" if known else f"there is no card in {folder or WEIGHTS_FOLDER}"
        raise InputError(f"workload = {name!r} is not known; {listed}{did_you_mean(name, known)}")
    return read_card((folder or WEIGHTS_FOLDER) / f"{name}.toml")


def _info(card: Card) -> WorkloadInfo:
    return WorkloadInfo(
        name=card.name,
        summary=card.summary,
        dataset=card.dataset,
        float_accuracy=card.accuracy,
        trained_on=card.trained_on,
        parameters=card.parameters,
    )
