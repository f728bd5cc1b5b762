"""Networks for 224x224 colour images and 1000 classes, and a VGG-style stack, as plain ``torch.nn`` modules.

The layers are those of the papers; `width` and, for VGG, `size` make small ones of the same shape for tests.
Activations and pooling are submodules, so a captured graph names each of them. Pixels come in 0..1, as in
`cifar_models`.
"""

from __future__ import annotations

from torch import Tensor, nn

from .cifar_models import InvertedResidual, ResidualBlock
from .network import Network


class ResNet18(Network):
    """ResNet-18: a 7x7 convolution, an overlapping max pool, four stages of two residual blocks, average pooling.

    ======== ============================ ============== ========= ==============
    layer    operation                    output (C,H,W) weights   MACs per image
    ======== ============================ ============== ========= ==============
    conv     conv 3->64, 7x7, stride 2    (64, 112, 112) 9,408     118,013,952
    maxpool  max 3x3, stride 2, padding 1 (64, 56, 56)
    stage1   2 residual blocks            (64, 56, 56)   147,456   462,422,016
    stage2   2 residual blocks, stride 2  (128, 28, 28)  524,288   411,041,792
    stage3   2 residual blocks, stride 2  (256, 14, 14)  2,097,152 411,041,792
    stage4   2 residual blocks, stride 2  (512, 7, 7)    8,388,608 411,041,792
    avgpool  average over the whole 7x7   (512, 1, 1)
    output   fully connected 512->1000    (1000,)        512,000   512,000
    ======== ============================ ============== ========= ==============

    A batch norm follows every convolution, a 1x1 projection stands where a stage changes the shape. 11,689,512
    parameters: the weights above, 4,800 channels of batch norm, twice, and 1,000 biases.
    Source: He et al., "Deep residual learning for image recognition", CVPR 2016, table 1.

    Args:
        width: Channels of the first stage.
        classes: Outputs.
    """

    input_size = 224
    channels = 3

    def __init__(self, *, width: int = 64, classes: int = 1000) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, width, kernel_size=7, stride=2, padding=3, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        self.stage1 = _stage(width, width, stride=1)
        self.stage2 = _stage(width, 2 * width, stride=2)
        self.stage3 = _stage(2 * width, 4 * width, stride=2)
        self.stage4 = _stage(4 * width, 8 * width, stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.output = nn.Linear(8 * width, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits, float32 (N, classes), of `images`, float32 (N, 3, H, W) with pixels in 0..1."""
        x = self.maxpool(self.relu(self.norm(self.conv(images))))
        x = self.stage4(self.stage3(self.stage2(self.stage1(x))))
        logits: Tensor = self.output(self.flatten(self.avgpool(x)))
        return logits


def _stage(channels_in: int, channels: int, stride: int) -> nn.Sequential:
    return nn.Sequential(ResidualBlock(channels_in, channels, stride), ResidualBlock(channels, channels, stride=1))


class MobileNetV2(Network):
    """MobileNetV2 1.0: a 3x3 convolution, 17 inverted residuals with linear bottlenecks, a 1x1 convolution.

    ======== =============================== ============== ========= ==============
    layer    operation                       output (C,H,W) weights   MACs per image
    ======== =============================== ============== ========= ==============
    conv     conv 3->32, 3x3, stride 2       (32, 112, 112) 864       10,838,016
    stage1   1 block, 1x                     (16, 112, 112) 800       10,035,200
    stage2   2 blocks, 6x, stride 2          (24, 56, 56)   12,912    54,942,720
    stage3   3 blocks, 6x, stride 2          (32, 28, 28)   37,392    37,443,840
    stage4   4 blocks, 6x, stride 2          (64, 14, 14)   177,984   38,497,536
    stage5   3 blocks, 6x                    (96, 14, 14)   296,448   58,103,808
    stage6   3 blocks, 6x, stride 2          (160, 7, 7)    784,320   46,560,192
    stage7   1 block, 6x                     (320, 7, 7)    469,440   23,002,560
    last     conv 320->1280, 1x1             (1280, 7, 7)   409,600   20,070,400
    avgpool  average over the whole 7x7      (1280, 1, 1)
    output   fully connected 1280->1000      (1000,)        1,280,000 1,280,000
    ======== =============================== ============== ========= ==============

    A batch norm follows every convolution, and a ReLU6 all but the projections that end the blocks. 3,504,872
    parameters: the weights above, 17,056 channels of batch norm, twice, and 1,000 biases.
    Source: Sandler et al., "MobileNetV2: Inverted residuals and linear bottlenecks", CVPR 2018, table 2.

    Args:
        width: Channels of the first convolution; all others scale with it, to whole multiples of 8.
        classes: Outputs.
    """

    input_size = 224
    channels = 3

    def __init__(self, *, width: int = 32, classes: int = 1000) -> None:
        super().__init__()

        def scaled(channels: int) -> int:
            return max(8, (channels * width // 32 + 4) // 8 * 8)

        def stage(before: int, after: int, blocks: int, stride: int, expansion: int = 6) -> nn.Sequential:
            wide, narrow = scaled(before), scaled(after)
            first = InvertedResidual(wide, narrow, expansion, stride, nn.ReLU6)
            return nn.Sequential(
                first, *(InvertedResidual(narrow, narrow, expansion, 1, nn.ReLU6) for _ in range(blocks - 1))
            )

        self.conv = nn.Conv2d(3, scaled(32), kernel_size=3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(scaled(32))
        self.relu = nn.ReLU6()
        self.stage1 = stage(32, 16, blocks=1, stride=1, expansion=1)
        self.stage2 = stage(16, 24, blocks=2, stride=2)
        self.stage3 = stage(24, 32, blocks=3, stride=2)
        self.stage4 = stage(32, 64, blocks=4, stride=2)
        self.stage5 = stage(64, 96, blocks=3, stride=1)
        self.stage6 = stage(96, 160, blocks=3, stride=2)
        self.stage7 = stage(160, 320, blocks=1, stride=1)
        self.last = nn.Conv2d(scaled(320), scaled(1280), kernel_size=1, bias=False)
        self.last_norm = nn.BatchNorm2d(scaled(1280))
        self.last_relu = nn.ReLU6()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.dropout = nn.Dropout(0.2)
        self.output = nn.Linear(scaled(1280), classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits, float32 (N, classes), of `images`, float32 (N, 3, H, W) with pixels in 0..1."""
        x = self.relu(self.norm(self.conv(images)))
        x = self.stage4(self.stage3(self.stage2(self.stage1(x))))
        x = self.stage7(self.stage6(self.stage5(x)))
        x = self.last_relu(self.last_norm(self.last(x)))
        logits: Tensor = self.output(self.dropout(self.flatten(self.avgpool(x))))
        return logits


class VGG11(Network):
    """VGG-11 (configuration A) with batch norm on a 64x64 image: eight 3x3 convolutions, five max pools.

    ========= =========================== ============== ========== ==============
    layer     operation                   output (C,H,W) weights    MACs per image
    ========= =========================== ============== ========== ==============
    stage1    1 conv 3->64, max pool      (64, 32, 32)   1,728      7,077,888
    stage2    1 conv ->128, max pool      (128, 16, 16)  73,728     75,497,472
    stage3    2 convs ->256, max pool     (256, 8, 8)    884,736    226,492,416
    stage4    2 convs ->512, max pool     (512, 4, 4)    3,538,944  226,492,416
    stage5    2 convs ->512, max pool     (512, 2, 2)    4,718,592  75,497,472
    fc1       fully connected 2048->4096  (4096,)        8,388,608  8,388,608
    fc2       fully connected 4096->4096  (4096,)        16,777,216 16,777,216
    output    fully connected 4096->1000  (1000,)        4,096,000  4,096,000
    ========= =========================== ============== ========== ==============

    At 224x224 the first fully connected layer alone has 103 million weights and hides the stack of convolutions, which
    is what this workload is for. 38,494,248 parameters: the weights above, 2,752 channels of batch norm, twice, and
    9,096 biases.
    Source: Simonyan and Zisserman, "Very deep convolutional networks for large-scale image recognition", ICLR 2015,
    table 1; with batch norm, of 2015 too, after each convolution.

    Args:
        size: Height and width of the images, a multiple of 32.
        width: Channels of the first stage.
        hidden: Outputs of fc1 and fc2.
        classes: Outputs of the last layer.
    """

    input_size = 64
    channels = 3

    def __init__(self, *, size: int = 64, width: int = 64, hidden: int = 4096, classes: int = 1000) -> None:
        super().__init__()
        self.stage1 = _convolutions(3, width)
        self.stage2 = _convolutions(width, 2 * width)
        self.stage3 = _convolutions(2 * width, 4 * width, 4 * width)
        self.stage4 = _convolutions(4 * width, 8 * width, 8 * width)
        self.stage5 = _convolutions(8 * width, 8 * width, 8 * width)
        self.flatten = nn.Flatten()
        self.fc1 = nn.Linear(8 * width * (size // 32) ** 2, hidden)
        self.relu1 = nn.ReLU()
        self.dropout1 = nn.Dropout()
        self.fc2 = nn.Linear(hidden, hidden)
        self.relu2 = nn.ReLU()
        self.dropout2 = nn.Dropout()
        self.output = nn.Linear(hidden, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits, float32 (N, classes), of `images`, float32 (N, 3, size, size) with pixels in 0..1."""
        x = self.stage5(self.stage4(self.stage3(self.stage2(self.stage1(images)))))
        x = self.dropout1(self.relu1(self.fc1(self.flatten(x))))
        x = self.dropout2(self.relu2(self.fc2(x)))
        logits: Tensor = self.output(x)
        return logits


def _convolutions(channels_in: int, *channels: int) -> nn.Sequential:
    """3x3 convolutions with batch norm and ReLU, then a max pool that halves height and width."""
    layers: list[nn.Module] = []
    for before, after in zip((channels_in, *channels), channels, strict=False):
        layers += [nn.Conv2d(before, after, kernel_size=3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.MaxPool2d(kernel_size=2))
