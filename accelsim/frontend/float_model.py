"""What the float network makes of images, for comparison with its integer graph."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

IMAGES_AT_ONCE = 256


def float_predictions(module: nn.Module, images: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.int64]:
    """Classes that a float classifier gives images: int64 (N,), of equal outputs the first.

    Args:
        module: in evaluation mode; it runs in the precision of its parameters (float32 without any), on its device.
        images: float (N, C, H, W) or (N, K), N >= 1.
    """
    parameter = next(module.parameters(), torch.empty(0))
    found = []
    with torch.inference_mode():
        for first in range(0, len(images), IMAGES_AT_ONCE):
            batch = torch.as_tensor(np.ascontiguousarray(images[first : first + IMAGES_AT_ONCE]))
            output = module(batch.to(device=parameter.device, dtype=parameter.dtype))
            found.append(output.flatten(1).argmax(dim=1).cpu().numpy())
    return np.concatenate(found).astype(np.int64)
