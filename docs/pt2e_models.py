"""Networks quantised by the PT2E flow: `accelsim compare docs/pt2e_models.py:lenet5 --data mnist --images 1000`.

Each function returns what `convert_pt2e` makes and an example input. docs/interchange.md shows what comes out.
"""

from __future__ import annotations

import warnings

import torch
from accelsim.workloads.data import load_dataset
from torch import nn

from accelsim import workloads


class Block(nn.Module):
    """A residual block of the CIFAR ResNets, with a 1x1 convolution where the shape changes."""

    def __init__(self, before: int, after: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.bn1, self.relu1 = nn.BatchNorm2d(after), nn.ReLU()
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.bn2, self.relu2 = nn.BatchNorm2d(after), nn.ReLU()
        self.short: nn.Module = nn.Identity()
        if stride != 1 or before != after:
            self.short = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, before, H, W) to (N, after, H / stride, W / stride)."""
        out = self.relu1(self.bn1(self.conv1(x)))
        return self.relu2(self.bn2(self.conv2(out)) + self.short(x))


class ResNet(nn.Module):
    """ResNet-(6n + 2) for CIFAR (He et al. 2016, section 4.2)."""

    def __init__(self, n: int, width: int = 16):
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        self.bn, self.relu = nn.BatchNorm2d(width), nn.ReLU()
        sizes = [(width, width, 1)] * n
        for wide in (2 * width, 4 * width):
            sizes += [(wide // 2, wide, 2)] + [(wide, wide, 1)] * (n - 1)
        self.blocks = nn.Sequential(*(Block(*size) for size in sizes))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(4 * width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W) to (N, 10)."""
        return self.fc(self.pool(self.blocks(self.relu(self.bn(self.conv(x))))).flatten(1))


def with_statistics(model: nn.Module, images: torch.Tensor) -> nn.Module:
    """A seeded network whose batch norms have seen images, in evaluation mode."""
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.uniform_(part.bias, -0.3, 0.3)
    model.train()
    model(images)
    return model.eval()


def converted(model: nn.Module, images: torch.Tensor, quantizer: str = "xnnpack", *, qat: bool = False) -> nn.Module:
    """What the PT2E flow makes of a model, calibrated (or, for QAT, run) on images."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torchao's own making
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e, prepare_qat_pt2e
        from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86
        from torchao.testing.pt2e import _xnnpack_quantizer as xnnpack

        if quantizer == "xnnpack":
            made = xnnpack.XNNPACKQuantizer()
            made.set_global(xnnpack.get_symmetric_quantization_config(is_per_channel=True, is_qat=qat))
        else:
            made = x86.X86InductorQuantizer().set_global(x86.get_default_x86_inductor_quantization_config(is_qat=qat))
        exported = torch.export.export(model.train() if qat else model.eval(), (images[:4],), strict=False).module()
        prepared = (prepare_qat_pt2e if qat else prepare_pt2e)(exported, made)
        for start in range(0, len(images) - 3, 4):
            prepared(images[start : start + 4])
        program: nn.Module = convert_pt2e(prepared)
        return program


def lenet5(quantizer: str = "xnnpack") -> tuple[nn.Module, torch.Tensor]:
    """LeNet-5 with its weights for MNIST, calibrated on 256 training images."""
    images = torch.tensor(load_dataset("mnist", None, "train", 256, size=32).images, dtype=torch.float32)
    return converted(workloads.load("lenet5").module, images, quantizer), images


def lenet5_x86() -> tuple[nn.Module, torch.Tensor]:
    """The same by X86InductorQuantizer."""
    return lenet5("x86")


def resnet20(quantizer: str = "xnnpack") -> tuple[nn.Module, torch.Tensor]:
    """A seeded, untrained ResNet-20 whose batch norms have seen the 64 random images it is calibrated on."""
    torch.manual_seed(20)
    images = torch.rand(64, 3, 32, 32)
    return converted(with_statistics(ResNet(3), images), images, quantizer), images


def resnet20_x86() -> tuple[nn.Module, torch.Tensor]:
    """The same by X86InductorQuantizer."""
    return resnet20("x86")
