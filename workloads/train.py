"""Train a workload's network and write its weights and card.

    python -m accelsim.workloads.train lenet5 --data DIR

A recipe also trains on another data set, as a workload of your own: under a name of yours, into the folder that
the environment variable ACCELSIM_WORKLOADS names, where every command finds it, or into --output::

    python -m accelsim.workloads.train lenet5 --dataset fashion-mnist --name my_fashion --data DIR

Determinate: the same command with the same torch version on the same processor type gives the same bytes,
whether it ran through or was killed and started again. One thread, because the order of float additions
depends on the number of threads. After each epoch a checkpoint with everything that the rest depends on
(weights, optimizer, random generator) is written whole; a rerun continues from it. All files are safetensors
and TOML: nothing is pickled.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import math
import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from accelsim.errors import InputError, did_you_mean
from accelsim.files import write_whole

from . import ENVIRONMENT_VARIABLE
from .cards import WEIGHTS_FOLDER, Card, write_card
from .data import CHANNELS, DATASETS, Dataset, load_dataset
from .models import MODELS, NOT_KEPT


@dataclass(frozen=True)
class Recipe:
    """How one workload is trained: on the cross entropy; the learning rate rises in a line, if there is a warm-up, and
    falls along half a cosine.

    Attributes:
        name: The workload's name.
        network: What it is, in a few words.
        dataset: The data set it is trained and tested on.
        model: A key of `models.MODELS`.
        bias: The model's argument.
        epochs: Passes over the train split.
        batch: Images per step; the last, smaller batch of an epoch is used too.
        learning_rate: The greatest: at the first step, or after the warm-up.
        weight_decay: Share of each weight that a step takes off, times the learning rate.
        max_shift: Each image is moved by up to so many pixels, per axis, anew in each epoch; zeros move in.
        optimizer: ``adamw``, or ``sgd`` with Nesterov's momentum of 0.9; then biases and batch norm do not decay.
        warm_up: Share of all steps, 0 to below 1, in which the learning rate rises from 0.
        label_smoothing: Share of the target that is spread over all classes.
        flip: Whether each image is mirrored left to right with probability 1/2, anew in each epoch.
        varies: The name of the one of `RECIPES` that this is with another name or data set; None for those.
    """

    name: str
    network: str
    dataset: str
    model: str
    bias: bool
    epochs: int
    batch: int
    learning_rate: float
    weight_decay: float
    max_shift: int
    optimizer: str = "adamw"
    warm_up: float = 0.0
    label_smoothing: float = 0.0
    flip: bool = False
    varies: str | None = None

    @property
    def input_size(self) -> int:
        """Height and width of the images, those that the model takes."""
        return MODELS[self.model].input_size

    @property
    def summary(self) -> str:
        """One line for a list of workloads."""
        return f"{self.network}, {_PICTURES[self.dataset].format(size=f'{self.input_size}x{self.input_size}')}"


_PICTURES = {
    "mnist": "{size} images of MNIST",
    "fashion-mnist": "{size} images of Fashion-MNIST",
    "digits": "the embedded digits enlarged to {size}",
    "cifar10": "{size} colour images of CIFAR-10",
}
"""For each data set, what the summary of a workload says of its images."""


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="lenet5",
            network="LeNet-5 with ReLU and max pooling, no biases",
            dataset="mnist",
            model="LeNet5",
            bias=False,
            epochs=15,
            batch=128,
            learning_rate=2e-3,
            weight_decay=1e-2,
            max_shift=2,
        ),
        Recipe(
            name="lenet5_bias",
            network="LeNet-5 with ReLU, max pooling and biases",
            dataset="mnist",
            model="LeNet5",
            bias=True,
            epochs=15,
            batch=128,
            learning_rate=2e-3,
            weight_decay=1e-2,
            max_shift=2,
        ),
        Recipe(
            name="lenet5_digits",
            network="LeNet-5 with ReLU and max pooling, no biases",
            dataset="digits",
            model="LeNet5",
            bias=False,
            epochs=60,
            batch=32,
            learning_rate=2e-3,
            weight_decay=1e-2,
            max_shift=2,
        ),
        Recipe(
            name="mlp",
            network="MLP 784-256-128-10 with tanh and biases",
            dataset="mnist",
            model="MLP",
            bias=True,
            epochs=30,
            batch=128,
            learning_rate=2e-3,
            weight_decay=1e-2,
            max_shift=1,
        ),
        Recipe(
            name="mlp_digits",
            network="MLP 784-256-128-10 with tanh and biases",
            dataset="digits",
            model="MLP",
            bias=True,
            epochs=60,
            batch=32,
            learning_rate=2e-3,
            weight_decay=1e-2,
            max_shift=1,
        ),
        Recipe(
            name="cifar_cnn",
            network="CNN of 2 convolutions and 3 linear layers with ReLU and max pooling",
            dataset="cifar10",
            model="CifarCnn",
            bias=True,
            epochs=30,
            batch=64,
            learning_rate=2e-3,
            weight_decay=1e-2,
            max_shift=2,
            flip=True,
        ),
        Recipe(
            name="cifar_resnet",
            network="ResNet-14 with batch norm and residual additions",
            dataset="cifar10",
            model="CifarResNet",
            bias=True,
            epochs=16,
            batch=128,
            learning_rate=0.2,
            weight_decay=5e-4,
            max_shift=4,
            optimizer="sgd",
            warm_up=0.2,
            label_smoothing=0.1,
            flip=True,
        ),
        Recipe(
            name="cifar_mobilenet",
            network="MobileNetV2-like inverted residuals with depthwise convolutions, batch norm and ReLU",
            dataset="cifar10",
            model="CifarMobileNet",
            bias=True,
            epochs=18,
            batch=128,
            learning_rate=0.15,
            weight_decay=2e-4,
            max_shift=4,
            optimizer="sgd",
            warm_up=0.2,
            label_smoothing=0.05,
            flip=True,
        ),
    )
}


def train(recipe: Recipe, train_data: Dataset, test_data: Dataset, *, seed: int, output: Path) -> Card:
    """Train, continuing from the checkpoint in `output` if there is one, and write weights and card there.

    Args:
        recipe: What to train and how.
        train_data: Images to learn from, float32 (N, channels, input_size, input_size) in 0..1.
        test_data: Images for the accuracy on the card; seen by nothing else.
        seed: 0..2**63-1, of the initial weights, the order of the images and their shifts.
        output: An existing folder for ``<name>.safetensors``, ``<name>.toml`` and, until the end,
            ``<name>.checkpoint.safetensors``.
    Returns:
        The card that was written.
    Raises:
        InputError: The checkpoint is damaged or belongs to another recipe, seed or torch version; the
            training diverged.
    """
    with determinate():
        checkpoint = output / f"{recipe.name}.checkpoint.safetensors"
        run = _Run(recipe, seed)
        if checkpoint.exists():
            run.restore(checkpoint)
        images, labels = torch.from_numpy(train_data.images), torch.from_numpy(train_data.labels)
        while run.epochs_done < recipe.epochs:
            loss = run.epoch(images, labels)
            if not math.isfinite(loss):
                raise InputError(
                    f"{recipe.name}: the loss is {loss} in epoch {run.epochs_done}; lower the learning rate"
                )
            write_whole(checkpoint, run.checkpoint())
            tqdm.write(f"{recipe.name}: epoch {run.epochs_done} of {recipe.epochs}, mean loss {loss:.4f}")
        correct = count_correct(run.model, test_data)
        weights = save(trained_tensors(run.model))
    card = Card(
        name=recipe.name,
        summary=recipe.summary,
        dataset=recipe.dataset,
        trained_on=train_data.name,
        input_size=recipe.input_size,
        parameters=sum(parameter.numel() for parameter in run.model.parameters()),
        model=recipe.model,
        arguments={"bias": recipe.bias},
        correct=correct,
        tested=len(test_data.labels),
        epochs=recipe.epochs,
        seed=seed,
        command=_command(recipe, seed),
        torch=torch.__version__,
        cpu_minutes=round(run.cpu_seconds / 60, 2),
        sha256=hashlib.sha256(weights).hexdigest(),
    )
    write_whole(output / f"{recipe.name}.safetensors", weights)
    write_whole(output / f"{recipe.name}.toml", write_card(card))
    checkpoint.unlink(missing_ok=True)
    return card


def trained_tensors(model: nn.Module) -> dict[str, Tensor]:
    """What the weights file holds of a network: all of its state but batch norm's count of batches, used by none."""
    state = model.state_dict().items()
    return {key: value.contiguous() for key, value in state if not key.endswith(NOT_KEPT)}


def count_correct(model: nn.Module, data: Dataset, *, batch: int = 1000) -> int:
    """Return how many images of `data` have their largest logit at their label."""
    model.eval()
    correct = 0
    with torch.no_grad():
        for start in range(0, len(data.labels), batch):
            logits = model(torch.from_numpy(data.images[start : start + batch]))
            correct += int((logits.argmax(1) == torch.from_numpy(data.labels[start : start + batch])).sum())
    return correct


class _Run:
    """A training under way: everything that the next step depends on."""

    def __init__(self, recipe: Recipe, seed: int):
        self.recipe, self.seed, self.epochs_done, self.cpu_seconds = recipe, seed, 0, 0.0
        with torch.random.fork_rng(devices=[]):  # the caller's random numbers stay as they were
            torch.manual_seed(seed)
            self.model = MODELS[recipe.model](bias=recipe.bias)
        # The order of elements in memory that convolutions on several channels take least time with.
        self.memory = torch.contiguous_format if MODELS[recipe.model].channels == 1 else torch.channels_last
        self.model.to(memory_format=self.memory)  # type: ignore[call-overload]  # torch's annotations lack this form
        self.random = torch.Generator().manual_seed(seed)
        self.optimizer = _optimizer(recipe, self.model)

    def epoch(self, images: Tensor, labels: Tensor) -> float:
        """Pass over all images once; return the mean loss."""
        recipe, count, began = self.recipe, len(labels), time.process_time()
        self.model.train()
        order = torch.randperm(count, generator=self.random)
        steps = math.ceil(count / recipe.batch)
        total = 0.0
        title = f"{recipe.name}, epoch {self.epochs_done + 1} of {recipe.epochs}"
        for step in tqdm(range(steps), desc=title, unit="step", leave=False, disable=None):
            done = (self.epochs_done + step / steps) / recipe.epochs
            for group in self.optimizer.param_groups:
                group["lr"] = recipe.learning_rate * _share_of_rate(done, recipe.warm_up)
            rows = order[step * recipe.batch : (step + 1) * recipe.batch]
            batch = shifted(images[rows], recipe.max_shift, self.random)
            if recipe.flip:
                batch = flipped(batch, self.random)
            # A copy, because for one channel every order counts as contiguous, and convolutions take another path.
            logits = self.model(batch.clone(memory_format=self.memory))
            loss = functional.cross_entropy(logits, labels[rows], label_smoothing=recipe.label_smoothing)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            total += loss.item() * len(rows)
        self.epochs_done += 1
        self.cpu_seconds += time.process_time() - began
        return total / count

    def plan(self) -> dict[str, object]:
        """What must be equal for a checkpoint to be continued."""
        return {**dataclasses.asdict(self.recipe), "seed": self.seed, "torch": torch.__version__}

    def checkpoint(self) -> bytes:
        """Return all of it as one safetensors file; what is no tensor stands in its metadata as JSON."""
        tensors = {f"model.{key}": value.contiguous() for key, value in self.model.state_dict().items()}
        for key, parameter in self.model.named_parameters():
            for entry, value in self.optimizer.state[parameter].items():
                tensors[f"optimizer.{entry}.{key}"] = value.contiguous()
        tensors["random"] = self.random.get_state()
        metadata = {"epochs_done": str(self.epochs_done), "cpu_seconds": str(self.cpu_seconds)}
        return save(tensors, {"plan": json.dumps(self.plan()), **metadata})

    def restore(self, path: Path) -> None:
        """Continue where the checkpoint was written."""
        remedy = "delete it to start again"
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  # not a dict
            plan, self.epochs_done = json.loads(metadata["plan"]), int(metadata["epochs_done"])
            self.cpu_seconds = float(metadata["cpu_seconds"])
            for key, here in self.plan().items():
                if plan[key] != here:
                    raise InputError(f"{path}: {key} = {plan[key]!r} in the checkpoint, {here!r} asked for; {remedy}")
            self.model.load_state_dict(
                {key.removeprefix("model."): value for key, value in tensors.items() if key.startswith("model.")}
            )
            for key, parameter in self.model.named_parameters():
                self.optimizer.state[parameter] = {
                    entry: tensors[f"optimizer.{entry}.{key}"] for entry in _OPTIMIZER_STATE[self.recipe.optimizer]
                }
            self.random.set_state(tensors["random"])
        except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise InputError(f"{path}: not a whole checkpoint ({error}); {remedy}") from None


_OPTIMIZER_STATE = {"adamw": ("step", "exp_avg", "exp_avg_sq"), "sgd": ("momentum_buffer",)}
"""What each optimizer keeps of a parameter."""


def _optimizer(recipe: Recipe, model: nn.Module) -> torch.optim.Optimizer:
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    vectors = [parameter for parameter in model.parameters() if parameter.ndim == 1]
    weights = [parameter for parameter in model.parameters() if parameter.ndim != 1]
    groups = [{"params": weights, "weight_decay": recipe.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.SGD(groups, lr=recipe.learning_rate, momentum=0.9, nesterov=True)


def _share_of_rate(done: float, warm_up: float) -> float:
    """The learning rate's share of its greatest, 0..1, when the share `done`, 0..1, of all steps is done."""
    if done < warm_up:
        return done / warm_up
    return (1 + math.cos(math.pi * (done - warm_up) / (1 - warm_up))) / 2


def flipped(images: Tensor, random: torch.Generator) -> Tensor:
    """Return the images, (N, C, H, W), each mirrored left to right with probability 1/2; one draw per image."""
    mirrored = torch.randint(0, 2, (len(images), 1, 1, 1), generator=random) == 1
    return torch.where(mirrored, images.flip(3), images)


def shifted(images: Tensor, max_shift: int, random: torch.Generator) -> Tensor:
    """Return each image moved by -max_shift..max_shift pixels per axis, drawn from `random`; zeros move in.

    Args:
        images: (N, C, H, W), any dtype.
        max_shift: Pixels, 0 or more.
        random: Two draws per image.
    """
    count, _, height, width = images.shape
    padded = functional.pad(images, (max_shift,) * 4)
    corner = torch.randint(0, 2 * max_shift + 1, (2, count, 1), generator=random)
    rows, columns = corner[0] + torch.arange(height), corner[1] + torch.arange(width)
    # Broadcast to (N, H, W) rows of the last axis, C: advanced indices around a slice put it there.
    moved = padded[torch.arange(count)[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    return moved.permute(0, 3, 1, 2)


@contextmanager
def determinate() -> Iterator[None]:
    """One thread and deterministic algorithms, inside; afterwards as before."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic)


def _command(recipe: Recipe, seed: int) -> str:
    own = f" --dataset {recipe.dataset} --name {recipe.name} --output FOLDER" if recipe.varies else ""
    data = "" if recipe.dataset == "digits" else " --data DIR"
    trained = f"{recipe.varies or recipe.name}{own}{data} --epochs {recipe.epochs} --seed {seed}"
    return f"python -m accelsim.workloads.train {trained}"


def _chosen(given: argparse.Namespace) -> Recipe:
    """The recipe that the command line asks for."""
    if given.recipe not in RECIPES:
        raise InputError(
            f"recipe = {given.recipe!r} is not known; use one of {', '.join(RECIPES)}"
            f"{did_you_mean(given.recipe, RECIPES)}"
        )
    recipe = RECIPES[given.recipe]
    dataset, name = given.dataset or recipe.dataset, given.name or recipe.name
    if dataset not in DATASETS:
        raise InputError(
            f"--dataset = {dataset!r} is not known; use one of {', '.join(DATASETS)}{did_you_mean(dataset, DATASETS)}"
        )
    if CHANNELS[dataset] != MODELS[recipe.model].channels:
        fit = [other for other in DATASETS if CHANNELS[other] == MODELS[recipe.model].channels]
        raise InputError(
            f"--dataset = {dataset!r} has images of {CHANNELS[dataset]} channels, {recipe.model} takes "
            f"{MODELS[recipe.model].channels}; use {' or '.join(fit)}"
        )
    if (dataset, name) != (recipe.dataset, recipe.name):
        if name in RECIPES:
            raise InputError(f"--name = {name!r} is a workload of the package; give yours a --name of its own")
        if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
            raise InputError(f"--name = {name!r} becomes a file's name; use letters, digits, _ and - only")
        recipe = dataclasses.replace(recipe, name=name, dataset=dataset, varies=recipe.name)
    if given.epochs is not None:
        recipe = dataclasses.replace(recipe, epochs=given.epochs)
    if recipe.epochs < 1:
        raise InputError(f"--epochs = {recipe.epochs} must be at least 1")
    return recipe


def _output(given: Path | None, recipe: Recipe) -> Path:
    """The folder to write to: the package's own only for a recipe as it stands."""
    if given is not None:
        return given
    if recipe.varies is None:
        return WEIGHTS_FOLDER
    own = os.environ.get(ENVIRONMENT_VARIABLE, "")
    if not own:
        raise InputError(f"{recipe.name}: no folder for your own weights; give --output or set {ENVIRONMENT_VARIABLE}")
    return Path(own)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit code: 0 done, 2 bad input, 130 interrupted."""
    parser = argparse.ArgumentParser(
        prog="python -m accelsim.workloads.train",
        description="Train a workload and write its weights and card.",
    )
    parser.add_argument("recipe", help=", ".join(RECIPES))
    parser.add_argument("--dataset", help=f"train on another one: {', '.join(DATASETS)} (default: the recipe's)")
    parser.add_argument("--name", help="of the workload (default: the recipe's; needed for another data set)")
    parser.add_argument(
        "--data", type=Path, help="folder of the data sets (default: ACCELSIM_DATA, else ~/.cache/accelsim)"
    )
    parser.add_argument("--download", action="store_true", help="fetch the data set if it is absent")
    parser.add_argument("--epochs", type=int, help="passes over the train split (default: the recipe's)")
    parser.add_argument("--seed", type=int, default=1, help="of weights, order and shifts (default: 1)")
    parser.add_argument(
        "--output",
        type=Path,
        help=f"folder for weights and card (default: {ENVIRONMENT_VARIABLE} for your own workloads, else the package)",
    )
    given = parser.parse_args(arguments)
    try:
        recipe = _chosen(given)
        output = _output(given.output, recipe)
        if not 0 <= given.seed < 2**63:
            raise InputError(f"--seed = {given.seed} must be in 0..2**63-1")
        size, download = recipe.input_size, given.download
        train_data = load_dataset(recipe.dataset, given.data, "train", size=size, download=download)
        test_data = load_dataset(recipe.dataset, given.data, "test", size=size, download=download)
        try:
            output.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{output}: cannot create the folder: {error.strerror}; give another --output") from error
        card = train(recipe, train_data, test_data, seed=given.seed, output=output)
    except InputError as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            f"{parser.prog}: interrupted; the same command continues after the last whole epoch",
            file=sys.stderr,
        )
        return 130
    print(f"{card.name}: {card.correct} of {card.tested} test images correct, {100 * card.accuracy:.2f} %")
    return 0


if __name__ == "__main__":
    sys.exit(main())
