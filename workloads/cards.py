"""The card beside a workload's weights, ``weights/<name>.toml``, says what they are. Standard library
only."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from accelsim.errors import InputError, did_you_mean
from accelsim.files import read_text

WEIGHTS_FOLDER = Path(__file__).with_name("weights")

T = TypeVar("T")


@dataclass(frozen=True)
class Card:
    """What is known about one set of trained weights.

    Attributes:
        name: The workload's name; the files are ``<name>.toml`` and ``<name>.safetensors``.
        summary: One line for a list of workloads.
        dataset: The data set whose images the network takes, see `data.DATASETS`.
        trained_on: The data set the weights were trained on.
        input_size: Height and width of the images it takes, the `size` of `data.load_dataset`.
        parameters: Number of weights and biases.
        model: A key of `models.MODELS`.
        arguments: Keyword arguments for the model.
        correct: Images of the data set's full test split that the float32 network classifies correctly.
        tested: Images in that split.
        epochs: Passes over the train split.
        seed: Of the initial weights, the order of the images and their shifts.
        command: The command line that trains these weights, from the top of the repository.
        torch: The torch version that trained them; another one may round differently.
        sha256: Of the weights file.
        cpu_minutes: Processor time of the training; None on cards from before it was taken. It differs from run to run
            and does not count when cards are compared.
    """

    name: str
    summary: str
    dataset: str
    trained_on: str
    input_size: int
    parameters: int
    model: str
    arguments: Mapping[str, bool | int]
    correct: int
    tested: int
    epochs: int
    seed: int
    command: str
    torch: str
    sha256: str
    cpu_minutes: float | None = field(default=None, compare=False)

    @property
    def accuracy(self) -> float:
        """Share of the test split that is classified correctly, 0..1."""
        return self.correct / self.tested


@dataclass(frozen=True)
class SeededCard:
    """What is known about a network that nobody trained: its accuracy means nothing, its bits and cycles do.

    Attributes:
        name, summary, dataset, input_size, parameters, model, arguments: As of a `Card`.
        calibration_images: Images that ranges are taken from where the user names no others.
        seed: Of the weights, see `seeded.draw`.
        drawn_sha256: Of the drawn weights.
        command: The command line that wrote card and statistics, from the top of the repository.
        torch: The torch version that took the batch norms' statistics; another one may round differently.
        sha256: Of the file that holds these statistics.
    """

    name: str
    summary: str
    dataset: str
    input_size: int
    parameters: int
    model: str
    arguments: Mapping[str, bool | int]
    calibration_images: int
    seed: int
    drawn_sha256: str
    command: str
    torch: str
    sha256: str


AnyCard = Card | SeededCard


def write_card(card: AnyCard) -> str:
    """Return the card as TOML; `read_card` reads it back to an equal one."""
    pairs = ", ".join(f"{key} = {_toml(value)}" for key, value in card.arguments.items())
    arguments = f"{{ {pairs} }}" if pairs else "{}"
    if isinstance(card, SeededCard):
        return f"""\
# Written by accelsim.workloads.seeded beside {card.name}.safetensors, the batch norms' statistics.
name = {_toml(card.name)}
summary = {_toml(card.summary)}
dataset = {_toml(card.dataset)}
input_size = {card.input_size}
parameters = {card.parameters}
calibration_images = {card.calibration_images}

[model]
class = {_toml(card.model)}
arguments = {arguments}

[seeded]  # nobody trained these weights: what they classify means nothing
command = {_toml(card.command)}
seed = {card.seed}
torch = {_toml(card.torch)}
drawn_sha256 = {_toml(card.drawn_sha256)}

[weights]
sha256 = {_toml(card.sha256)}
"""
    cpu = "" if card.cpu_minutes is None else f"cpu_minutes = {card.cpu_minutes}\n"
    return f"""\
# Written by accelsim.workloads.train beside {card.name}.safetensors, which it describes.
name = {_toml(card.name)}
summary = {_toml(card.summary)}
dataset = {_toml(card.dataset)}
trained_on = {_toml(card.trained_on)}
input_size = {card.input_size}
parameters = {card.parameters}

[model]
class = {_toml(card.model)}
arguments = {arguments}

[accuracy]  # of the float32 network on the full test split: correct / images
float = {card.accuracy}
correct = {card.correct}
images = {card.tested}

[training]
command = {_toml(card.command)}
epochs = {card.epochs}
seed = {card.seed}
torch = {_toml(card.torch)}
{cpu}
[weights]
sha256 = {_toml(card.sha256)}
"""


def read_card(path: Path) -> AnyCard:
    """Read a card; a table [seeded] in it makes it a `SeededCard`.

    Raises:
        InputError: Unreadable, not TOML, a key missing, unknown, of the wrong type or out of range.
    """
    try:
        top = tomllib.loads(read_text(path))
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path}: not valid TOML ({error}); train again, which writes it") from None
    root = _Table(path, "", top)
    model = _Table(path, "model", root.take("model", dict))
    if "seeded" in top:
        return _seeded_card(path, root, model)
    accuracy = _Table(path, "accuracy", root.take("accuracy", dict))
    training = _Table(path, "training", root.take("training", dict))
    weights = _Table(path, "weights", root.take("weights", dict))
    card = Card(
        name=root.take("name", str),
        summary=root.take("summary", str),
        dataset=root.take("dataset", str),
        trained_on=root.take("trained_on", str),
        input_size=root.take("input_size", int),
        parameters=root.take("parameters", int),
        model=model.take("class", str),
        arguments=model.take("arguments", dict),
        correct=accuracy.take("correct", int),
        tested=accuracy.take("images", int),
        epochs=training.take("epochs", int),
        seed=training.take("seed", int),
        command=training.take("command", str),
        torch=training.take("torch", str),
        sha256=weights.take("sha256", str),
        cpu_minutes=training.take("cpu_minutes", float) if "cpu_minutes" in training.entries else None,
    )
    stated = accuracy.take("float", float)
    for table in (root, model, accuracy, training, weights):
        table.nothing_left()
    _check_name(path, card)
    if not 0 <= card.correct <= card.tested or card.tested < 1 or stated != card.accuracy:
        raise InputError(
            f"{path} [accuracy]: float = {stated} is not correct / images = {card.correct} / {card.tested}; "
            "train again, which writes the card"
        )
    return card


def _seeded_card(path: Path, root: _Table, model: _Table) -> SeededCard:
    seeded = _Table(path, "seeded", root.take("seeded", dict))
    weights = _Table(path, "weights", root.take("weights", dict))
    card = SeededCard(
        name=root.take("name", str),
        summary=root.take("summary", str),
        dataset=root.take("dataset", str),
        input_size=root.take("input_size", int),
        parameters=root.take("parameters", int),
        model=model.take("class", str),
        arguments=model.take("arguments", dict),
        calibration_images=root.take("calibration_images", int),
        seed=seeded.take("seed", int),
        drawn_sha256=seeded.take("drawn_sha256", str),
        command=seeded.take("command", str),
        torch=seeded.take("torch", str),
        sha256=weights.take("sha256", str),
    )
    for table in (root, model, seeded, weights):
        table.nothing_left()
    _check_name(path, card)
    for where, key, value, least in (
        (root, "calibration_images", card.calibration_images, 1),
        (seeded, "seed", card.seed, 0),
    ):
        if value < least:
            raise InputError(f"{where.place}: {key} = {value} must be at least {least}")
    return card


def _check_name(path: Path, card: AnyCard) -> None:
    if card.name != path.stem:
        raise InputError(f"{path}: name = {card.name!r} is not the file's name; use {path.stem!r}")


class _Table:
    """One TOML table, whose keys are taken one by one, each with its type, until none may be left."""

    def __init__(self, path: Path, name: str, entries: dict[str, object]):
        self.place = f"{path} [{name}]" if name else f"{path}"
        self.entries = dict(entries)
        self.known: list[str] = []

    def take(self, key: str, kind: type[T]) -> T:
        self.known.append(key)
        if key not in self.entries:
            raise InputError(f"{self.place}: key {key!r} is missing; train again, which writes the card")
        value = self.entries.pop(key)
        if type(value) is not kind:  # not isinstance: True is an int
            raise InputError(f"{self.place}: {key} = {value!r} is not of type {kind.__name__}")
        return value

    def nothing_left(self) -> None:
        for key in self.entries:
            raise InputError(f"{self.place}: unknown key {key!r}{did_you_mean(key, self.known)}")


def _toml(value: bool | int | str) -> str:
    """One TOML value. A TOML basic string and a JSON string escape alike what may stand in a card."""
    return json.dumps(value, ensure_ascii=False)
