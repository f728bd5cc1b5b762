"""One determinate training loop for modules that compute integers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from accelsim.errors import InputError
from accelsim.training.quantizer import Quantizer

Loss = Callable[[Tensor, Tensor], Tensor]
Augmentation = Callable[[Tensor, torch.Generator], Tensor]


def fine_tune(
    module: nn.Module,
    images: Tensor | npt.NDArray[np.generic],
    targets: Tensor | npt.NDArray[np.generic],
    *,
    epochs: int,
    rate: float,
    quantizer_rate: float | None = None,
    batch: int = 64,
    weight_decay: float = 0.0,
    seed: int = 0,
    augment: Augmentation | None = None,
    loss: Loss = functional.cross_entropy,
    progress: Callable[[int, float], object] | None = None,
) -> list[float]:
    """Adam (AdamW where weights decay), its rates falling along half a cosine over all steps.

    Determinate: the same module, data and arguments with the same torch version on the same type of processor end in
    the same bits. One thread, because the order of float additions depends on their number; afterwards as before.

    Args:
        module: a `QatModule` or an `EngineModule`; trained in place, and left in evaluation mode.
        images: (N, C, H, W) or (N, K), N >= 1, of the module's dtype; a tensor or an array.
        targets: (N, ...), what `loss` compares with: int64 labels (N,) for cross entropy.
        epochs: passes over all images, at least 1.
        rate: learning rate of weights, biases and batch norms at the first step.
        quantizer_rate: of scales and zero points, whose steps are relative; `rate` where left out, 0 keeps them.
        batch: images a step; the last, smaller batch of an epoch is used too.
        weight_decay: share of each parameter but scales and zero points that a step takes off, times the rate.
        seed: 0..2**63-1, of the order of the images and of `augment`.
        augment: makes a batch of images of one, drawing from the generator it is given.
        loss: of the module's output and the targets.
        progress: called after each epoch with its number, from 1, and its mean loss.
    Returns:
        Mean loss of each epoch.
    Raises:
        InputError: an argument outside its range; the loss is not finite; what the module refuses.
    """
    images, targets = torch.as_tensor(images), torch.as_tensor(targets)
    _check(images, targets, epochs, batch, seed)
    for name, value in (("rate", rate), ("quantizer_rate", quantizer_rate), ("weight_decay", weight_decay)):
        if value is not None and not (math.isfinite(value) and value >= 0):
            raise InputError(f"{name} = {value} must be finite and at least 0")
    generator = torch.Generator().manual_seed(seed)
    learned = [one for part in module.modules() if isinstance(part, Quantizer) for one in part.parameters()]
    known = {id(one) for one in learned}
    others = [one for one in module.parameters() if id(one) not in known]
    groups = [
        {"params": others, "lr": rate, "weight_decay": weight_decay},
        {"params": learned, "lr": rate if quantizer_rate is None else quantizer_rate, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW([group for group in groups if group["params"]], lr=rate)
    first = [group["lr"] for group in optimizer.param_groups]
    steps = math.ceil(len(images) / batch)
    losses = []
    with _determinate():
        module.train()
        for epoch in range(epochs):
            total = 0.0
            for step, rows in enumerate(torch.randperm(len(images), generator=generator).split(batch)):
                share = (1 + math.cos(math.pi * (epoch + step / steps) / epochs)) / 2
                for group, start in zip(optimizer.param_groups, first, strict=True):
                    group["lr"] = start * share
                taken = images[rows] if augment is None else augment(images[rows], generator)
                found = loss(module(taken), targets[rows])
                optimizer.zero_grad()
                found.backward()
                optimizer.step()
                total += found.item() * len(rows)
            losses.append(total / len(images))
            if not math.isfinite(losses[-1]):
                raise InputError(f"the loss is {losses[-1]} in epoch {epoch + 1}; lower the learning rate")
            if progress is not None:
                progress(epoch + 1, losses[-1])
        module.eval()
    return losses


def _check(images: Tensor, targets: Tensor, epochs: int, batch: int, seed: int) -> None:
    if not len(images) or len(images) != len(targets):
        raise InputError(f"targets: {len(targets)} for {len(images)} images; give one for each, and at least one")
    for name, value in (("epochs", epochs), ("batch", batch)):
        if value < 1:
            raise InputError(f"{name} = {value} must be at least 1")
    if not 0 <= seed < 1 << 63:
        raise InputError(f"seed = {seed} is outside 0..2**63-1")


@contextmanager
def _determinate() -> Iterator[None]:
    """One thread and deterministic algorithms, inside; afterwards as before."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic)
