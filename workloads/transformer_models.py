"""A transformer encoder block on patches of small images, as a plain ``torch.nn`` module."""

from __future__ import annotations

import math

from torch import Tensor, nn

from .network import Network


class TransformerBlock(Network):
    """One encoder block with ReLU attention on the 8x8 patches of a 32x32 image.

    ========= =============================== ============== ========= ==============
    layer     operation                       output (C,H,W) weights   MACs per image
    ========= =============================== ============== ========= ==============
    embed     conv 3->128, 4x4, stride 4      (128, 8, 8)    6,144     393,216
    query     1x1 conv 128->128               (128, 8, 8)    16,384    1,048,576
    key       1x1 conv 128->128               (128, 8, 8)    16,384    1,048,576
    value     1x1 conv 128->128               (128, 8, 8)    16,384    1,048,576
    scores    4 heads, 64x32 by 32x64         (256, 8, 8)              524,288
    mixed     4 heads, 64x64 by 64x32         (128, 8, 8)              524,288
    project   1x1 conv 128->128               (128, 8, 8)    16,384    1,048,576
    expand    1x1 conv 128->256               (256, 8, 8)    32,768    2,097,152
    contract  1x1 conv 256->128               (128, 8, 8)    32,768    2,097,152
    avgpool   average over the tokens         (128, 1, 1)
    output    fully connected 128->10         (10,)          1,280     1,280
    ========= =============================== ============== ========= ==============

    Tokens are the positions of the image, and a linear layer of every token is a 1x1 convolution. Attention is
    relu(q k / sqrt(d)) / tokens, without softmax; a batch norm behind every convolution, folded into it, stands in the
    place of layer norm; the MLP has ReLU. Both branches are added to what they read. There is no embedding of the
    position. 140,554 parameters: the weights above, 1,024 channels of batch norm, twice, and 10 biases.
    Source: Vaswani et al., "Attention is all you need", NIPS 2017, for the block; Dosovitskiy et al., ICLR 2021, for
    patches; Wortsman et al., "Replacing softmax with ReLU in vision transformers", 2023 (arXiv 2309.08586).

    Args:
        channels: Of a token.
        heads: Into which they are cut.
        patch: Height and width of the part of the image that a token is made of.
        ratio: Hidden channels of the MLP for each channel of a token.
        classes: Outputs.
    """

    input_size = 32
    channels = 3

    def __init__(
        self, *, channels: int = 128, heads: int = 4, patch: int = 4, ratio: int = 2, classes: int = 10
    ) -> None:
        super().__init__()
        self.heads = heads
        self.embed = _convolution(3, channels, patch)
        self.query = _convolution(channels, channels)
        self.key = _convolution(channels, channels)
        self.value = _convolution(channels, channels)
        self.relu_scores = nn.ReLU()
        self.project = _convolution(channels, channels)
        self.expand = _convolution(channels, ratio * channels)
        self.relu_hidden = nn.ReLU()
        self.contract = _convolution(ratio * channels, channels)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.output = nn.Linear(channels, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits, float32 (N, classes), of `images`, float32 (N, 3, H, W) with pixels in 0..1."""
        x = self.embed(images)
        x = x + self.project(self._attention(x))
        x = x + self.contract(self.relu_hidden(self.expand(x)))
        logits: Tensor = self.output(self.flatten(self.avgpool(x)))
        return logits

    def _attention(self, x: Tensor) -> Tensor:
        """Return (N, C, H, W): for every token the values of all, weighted by how query and key match."""
        count, channels, height, width = x.shape
        tokens, depth = height * width, channels // self.heads
        query, key, value = (
            layer(x).view(count, self.heads, depth, tokens) for layer in (self.query, self.key, self.value)
        )
        scores = self.relu_scores(query.transpose(2, 3) @ key / math.sqrt(depth)) / tokens
        mixed = scores @ value.transpose(2, 3)
        return mixed.transpose(2, 3).reshape(count, channels, height, width)


def _convolution(channels_in: int, channels: int, patch: int = 1) -> nn.Sequential:
    """A convolution of patches that do not overlap, with batch norm."""
    convolution = nn.Conv2d(channels_in, channels, kernel_size=patch, stride=patch, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(channels))
