"""From a float network to the integer graph of quantisation-aware training, in one call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from accelsim.config.quantization import QuantizationScheme
from accelsim.ir import IntegerGraph
from accelsim.training.fine_tuning import fine_tune
from accelsim.training.qat import QatModule


def train_quantized(
    module: nn.Module,
    calibration: npt.NDArray[np.floating[Any]],
    scheme: QuantizationScheme,
    images: npt.NDArray[np.floating[Any]],
    labels: npt.NDArray[np.int64],
    *,
    name: str,
    epochs: int,
    rate: float,
    batch: int = 64,
    seed: int = 0,
    progress: Callable[[int, float], object] | None = None,
) -> IntegerGraph:
    """Calibrate, train with exact sums on labelled images, and return the graph of the end.

    Args:
        module: float, left as it was.
        calibration, images: (N, C, H, W) or (N, K), of the module's dtype.
        labels: (N,), of `images`.
        name: the graph's.
        scheme: as for `QatModule`.
        epochs, rate, batch, seed, progress: as for `fine_tune`.
    Raises:
        InputError: as `QatModule` and `fine_tune`.
    """
    trained = QatModule.from_module(module, calibration, scheme, name=name)
    fine_tune(
        trained,
        torch.from_numpy(images),
        torch.from_numpy(labels),
        epochs=epochs,
        rate=rate,
        batch=batch,
        seed=seed,
        progress=progress,
    )
    return trained.to_graph()
