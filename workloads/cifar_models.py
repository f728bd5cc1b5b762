"""Networks for 32x32 colour images (CIFAR-10), as plain ``torch.nn`` modules.

As in `models`, activations, additions' branches and pooling are submodules, so a captured graph names each of them.
Pixels come in 0..1 with no mean taken off: the first layer learns what a normalisation would do, and a padded zero
is black in the integer network too.
"""

from __future__ import annotations

from torch import Tensor, nn

from .network import Network


class CifarCnn(Network):
    """Two convolutions and three fully connected layers, as in PyTorch's "Training a classifier" tutorial.

    ======== ======================== ============== ======= ====== ==============
    layer    operation                output (C,H,W) weights biases MACs per image
    ======== ======================== ============== ======= ====== ==============
    conv1    conv 3->6, 5x5           (6, 28, 28)    450     6      352,800
    pool1    max pool 2x2, stride 2   (6, 14, 14)
    conv2    conv 6->16, 5x5          (16, 10, 10)   2,400   16     240,000
    pool2    max pool 2x2, stride 2   (16, 5, 5)
    fc1      fully connected 400->120 (120,)         48,000  120    48,000
    fc2      fully connected 120->84  (84,)          10,080  84     10,080
    fc3      fully connected 84->10   (10,)          840     10     840
    ======== ======================== ============== ======= ====== ==============

    A ReLU follows conv1, conv2, fc1 and fc2. With biases 62,006 parameters, without them 61,770.

    Args:
        bias: Whether the five layers have a bias.
    """

    input_size = 32
    channels = 3

    def __init__(self, *, bias: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, kernel_size=5, bias=bias)
        self.relu1 = nn.ReLU()
        self.pool1 = nn.MaxPool2d(kernel_size=2)
        self.conv2 = nn.Conv2d(6, 16, kernel_size=5, bias=bias)
        self.relu2 = nn.ReLU()
        self.pool2 = nn.MaxPool2d(kernel_size=2)
        self.flatten = nn.Flatten()
        self.fc1 = nn.Linear(16 * 5 * 5, 120, bias=bias)
        self.relu3 = nn.ReLU()
        self.fc2 = nn.Linear(120, 84, bias=bias)
        self.relu4 = nn.ReLU()
        self.fc3 = nn.Linear(84, 10, bias=bias)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits, float32 (N, 10), of `images`, float32 (N, 3, 32, 32) with pixels in 0..1."""
        x = self.pool1(self.relu1(self.conv1(images)))
        x = self.pool2(self.relu2(self.conv2(x)))
        x = self.relu3(self.fc1(self.flatten(x)))
        x = self.relu4(self.fc2(x))
        logits: Tensor = self.fc3(x)
        return logits


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions, each with batch norm, added to the input or, where the shape changes, to its 1x1
    projection; ReLU after the first and after the addition.

    Source: He et al., "Deep residual learning for image recognition", CVPR 2016, figure 2 left; the projection is
    their option B.

    Args:
        channels_in, channels: Of the input and of the output.
        stride: Of the first convolution and of the projection.
    """

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, kernel_size=3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, kernel_size=3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels, kernel_size=1, stride=stride, bias=False), nn.BatchNorm2d(channels)
            )
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Return float32 (N, channels, H / stride, W / stride) of float32 (N, channels_in, H, W)."""
        y = self.norm2(self.conv2(self.relu1(self.norm1(self.conv1(x)))))
        out: Tensor = self.relu2(y + self.shortcut(x))
        return out


class CifarResNet(Network):
    """ResNet-14: a 3x3 convolution, two stages of three residual blocks, global average pooling.

    ======== ============================ ============== ======= ==============
    layer    operation                    output (C,H,W) weights MACs per image
    ======== ============================ ============== ======= ==============
    conv     conv 3->16, 3x3              (16, 32, 32)   432     442,368
    stage1   3 residual blocks, stride 2  (32, 16, 16)   51,200  13,107,200
    stage2   3 residual blocks, stride 2  (64, 8, 8)     204,800 13,107,200
    pool     average over the whole 8x8   (64, 1, 1)
    output   fully connected 64->10       (10,)          640     640
    ======== ============================ ============== ======= ==============

    A batch norm follows every convolution and is folded into it when the network is captured. 258,458 parameters:
    the weights above, 688 channels of batch norm, twice (scale and shift), and 10 biases.
    Source: He et al., CVPR 2016, section 4.2: their ResNet-20 for CIFAR-10 (n = 3) without its first stage, which has a
    third of its MACs and a twentieth of its weights, three blocks of 16 channels at 32x32; with a projection (option
    B) where the shape changes.

    Args:
        bias: Whether the fully connected layer has a bias; batch norm gives the convolutions theirs.
    """

    input_size = 32
    channels = 3

    def __init__(self, *, bias: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, kernel_size=3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.relu = nn.ReLU()
        self.stage1 = _stage(16, 32)
        self.stage2 = _stage(32, 64)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.output = nn.Linear(64, 10, bias=bias)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits, float32 (N, 10), of `images`, float32 (N, 3, 32, 32) with pixels in 0..1."""
        x = self.relu(self.norm(self.conv(images)))
        x = self.stage2(self.stage1(x))
        logits: Tensor = self.output(self.flatten(self.pool(x)))
        return logits


def _stage(channels_in: int, channels: int) -> nn.Sequential:
    """Three blocks, the first of which changes the channels and halves height and width."""
    return nn.Sequential(
        ResidualBlock(channels_in, channels, stride=2),
        ResidualBlock(channels, channels, stride=1),
        ResidualBlock(channels, channels, stride=1),
    )


class InvertedResidual(nn.Module):
    """1x1 expansion, 3x3 depthwise convolution, 1x1 projection, each with batch norm; an activation after the first
    two.

    The input is added to the output where both have one shape. In `CifarMobileNet` ReLU stands where the paper has
    ReLU6: a clip at 6 would forbid to scale channels against each other, which cross-layer equalisation does (Nagel et
    al., ICCV 2019).
    Source: Sandler et al., "MobileNetV2: Inverted residuals and linear bottlenecks", CVPR 2018, section 3.

    Args:
        channels_in, channels: Of the input and of the output.
        expansion: Hidden channels per input channel; with 1 there is no expansion layer.
        stride: Of the depthwise convolution.
        activation: What stands after the expansion and after the depthwise convolution.
    """

    def __init__(
        self, channels_in: int, channels: int, expansion: int, stride: int, activation: type[nn.Module] = nn.ReLU
    ) -> None:
        super().__init__()
        hidden = channels_in * expansion
        self.expand = nn.Sequential()
        if expansion != 1:
            self.expand = nn.Sequential(
                nn.Conv2d(channels_in, hidden, kernel_size=1, bias=False), nn.BatchNorm2d(hidden), activation()
            )
        self.depthwise = nn.Sequential(
            nn.Conv2d(hidden, hidden, kernel_size=3, stride=stride, padding=1, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden),
            activation(),
        )
        self.project = nn.Sequential(nn.Conv2d(hidden, channels, kernel_size=1, bias=False), nn.BatchNorm2d(channels))
        self.adds_input = stride == 1 and channels_in == channels

    def forward(self, x: Tensor) -> Tensor:
        """Return float32 (N, channels, H / stride, W / stride) of float32 (N, channels_in, H, W)."""
        y: Tensor = self.project(self.depthwise(self.expand(x)))
        return x + y if self.adds_input else y


class CifarMobileNet(Network):
    """A small MobileNetV2: a 3x3 convolution, six inverted residuals, a 1x1 convolution, global average pooling.

    ======== ================================= ============== ======= ==============
    layer    operation                         output (C,H,W) weights MACs per image
    ======== ================================= ============== ======= ==============
    conv     conv 3->16, 3x3                   (16, 32, 32)   432     442,368
    block1   inverted residual 1x, stride 2    (16, 16, 16)   400     102,400
    block2   inverted residual 4x              (24, 16, 16)   3,136   802,816
    block3   inverted residual 4x, stride 2    (64, 8, 8)     9,312   1,038,336
    block4   inverted residual 4x, adds        (64, 8, 8)     35,072  2,244,608
    block5   the same                          (64, 8, 8)     35,072  2,244,608
    block6   the same                          (64, 8, 8)     35,072  2,244,608
    last     conv 64->256, 1x1                 (256, 8, 8)    16,384  1,048,576
    pool     average over the whole 8x8        (256, 1, 1)
    output   fully connected 256->10           (10,)          2,560   2,560
    ======== ================================= ============== ======= ==============

    A batch norm follows every convolution, and a ReLU all but the projections that end the blocks. Between a block's
    layers stand only ReLUs, so channels of very different sizes, which one scale for a whole tensor serves badly, can
    be scaled against each other without a change of the network. 142,330 parameters: the weights above, 2,440 channels
    of batch norm, twice, and 10 biases.

    Args:
        bias: Whether the fully connected layer has a bias; batch norm gives the convolutions theirs.
    """

    input_size = 32
    channels = 3

    def __init__(self, *, bias: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, kernel_size=3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.relu = nn.ReLU()
        self.block1 = InvertedResidual(16, 16, expansion=1, stride=2)
        self.block2 = InvertedResidual(16, 24, expansion=4, stride=1)
        self.block3 = InvertedResidual(24, 64, expansion=4, stride=2)
        self.block4 = InvertedResidual(64, 64, expansion=4, stride=1)
        self.block5 = InvertedResidual(64, 64, expansion=4, stride=1)
        self.block6 = InvertedResidual(64, 64, expansion=4, stride=1)
        self.last = nn.Conv2d(64, 256, kernel_size=1, bias=False)
        self.last_norm = nn.BatchNorm2d(256)
        self.last_relu = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.output = nn.Linear(256, 10, bias=bias)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits, float32 (N, 10), of `images`, float32 (N, 3, 32, 32) with pixels in 0..1."""
        x = self.block1(self.relu(self.norm(self.conv(images))))
        x = self.block6(self.block5(self.block4(self.block3(self.block2(x)))))
        x = self.last_relu(self.last_norm(self.last(x)))
        logits: Tensor = self.output(self.flatten(self.pool(x)))
        return logits
