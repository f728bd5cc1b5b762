"""What every network of the package says of itself."""

from __future__ import annotations

from typing import ClassVar

from torch import nn


class Network(nn.Module):
    """What every network here says of itself: it takes float32 (N, channels, input_size, input_size), 0..1."""

    input_size: ClassVar[int]
    """One of `data.SIZES`."""

    channels: ClassVar[int] = 1
    """Of the images: 1 for grey, 3 for red, green and blue."""
