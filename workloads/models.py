"""Network definitions, as plain ``torch.nn`` modules whose attribute names become the layer names in reports.

How a network was trained is in `train`; its trained weights are in ``weights/``. Activations and pooling are
submodules, so a captured graph names each of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from accelsim.errors import InputError, did_you_mean
from accelsim.files import read_bytes

from .cards import AnyCard, Card
from .cifar_models import CifarCnn, CifarMobileNet, CifarResNet
from .data import CHANNELS
from .imagenet_models import VGG11, MobileNetV2, ResNet18
from .network import Network
from .transformer_models import TransformerBlock


class LeNet5(Network):
    """LeNet-5 on a 32x32 single-channel image, with ReLU and max pooling.

    ======== ======================== ============== ================= ================
    layer    operation                output (C,H,W) weights (no bias) MACs per image
    ======== ======================== ============== ================= ================
    c1       conv 1->6, 5x5           (6, 28, 28)    150               117,600
    s2       max pool 2x2, stride 2   (6, 14, 14)
    c3       conv 6->16, 5x5          (16, 10, 10)   2,400             240,000
    s4       max pool 2x2, stride 2   (16, 5, 5)
    c5       conv 16->120, 5x5        (120, 1, 1)    48,000            48,000
    f6       fully connected 120->84  (84,)          10,080            10,080
    output   fully connected 84->10   (10,)          840               840
    ======== ======================== ============== ================= ================

    A ReLU follows c1, c3, c5 and f6; c3 sees all six input maps. Without biases 61,470 parameters, with them
    61,706.
    Source: LeCun et al., "Gradient-based learning applied to document recognition", Proc. IEEE 86(11), 1998,
    for the layers' names and sizes; ReLU, max pooling, the full c3 and the plain last layer are today's usual
    replacements of tanh, trainable subsampling, the partial c3 and the radial basis functions.

    Args:
        bias: Whether the three convolutions and the two fully connected layers have a bias.
    """

    input_size = 32

    def __init__(self, *, bias: bool) -> None:
        super().__init__()
        self.c1 = nn.Conv2d(1, 6, kernel_size=5, bias=bias)
        self.relu1 = nn.ReLU()
        self.s2 = nn.MaxPool2d(kernel_size=2)
        self.c3 = nn.Conv2d(6, 16, kernel_size=5, bias=bias)
        self.relu3 = nn.ReLU()
        self.s4 = nn.MaxPool2d(kernel_size=2)
        self.c5 = nn.Conv2d(16, 120, kernel_size=5, bias=bias)
        self.relu5 = nn.ReLU()
        self.flatten = nn.Flatten()
        self.f6 = nn.Linear(120, 84, bias=bias)
        self.relu6 = nn.ReLU()
        self.output = nn.Linear(84, 10, bias=bias)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits, float32 (N, 10), of `images`, float32 (N, 1, 32, 32) with pixels in 0..1."""
        x = self.s2(self.relu1(self.c1(images)))
        x = self.s4(self.relu3(self.c3(x)))
        x = self.relu5(self.c5(x))
        x = self.relu6(self.f6(self.flatten(x)))
        logits: Tensor = self.output(x)
        return logits


class MLP(Network):
    """Fully connected 784-256-128-10 on a 28x28 single-channel image, with tanh after the hidden layers.

    ======== ======================== ============== ================ ======= ==============
    layer    operation                output         weights          biases  MACs per image
    ======== ======================== ============== ================ ======= ==============
    fc1      fully connected 784->256 (256,)         200,704          256     200,704
    fc2      fully connected 256->128 (128,)         32,768           128     32,768
    output   fully connected 128->10  (10,)          1,280            10      1,280
    ======== ======================== ============== ================ ======= ==============

    A tanh follows fc1 and fc2: in integers, a table of 256 entries. With biases 235,146 parameters, without
    them 234,752.

    Args:
        bias: Whether the three layers have a bias.
    """

    input_size = 28

    def __init__(self, *, bias: bool) -> None:
        super().__init__()
        self.flatten = nn.Flatten()
        self.fc1 = nn.Linear(28 * 28, 256, bias=bias)
        self.tanh1 = nn.Tanh()
        self.fc2 = nn.Linear(256, 128, bias=bias)
        self.tanh2 = nn.Tanh()
        self.output = nn.Linear(128, 10, bias=bias)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits, float32 (N, 10), of `images`, float32 (N, 1, 28, 28) with pixels in 0..1."""
        x = self.tanh1(self.fc1(self.flatten(images)))
        x = self.tanh2(self.fc2(x))
        logits: Tensor = self.output(x)
        return logits


MODELS: Mapping[str, type[Network]] = {
    model.__name__: model
    for model in (LeNet5, MLP, CifarCnn, CifarResNet, CifarMobileNet, ResNet18, MobileNetV2, VGG11, TransformerBlock)
}
"""The classes a card may name as ``[model] class``; their keyword arguments are its ``arguments``."""


NOT_KEPT = "num_batches_tracked"
"""The part of a network's state, by its name's end, that a weights file does not hold."""


def load_trained(card: Card, path: Path) -> nn.Module:
    """Return the network of a card with the weights in `path`: float32, on the CPU, in eval mode.

    Raises:
        InputError: The file is unreadable, not the one the card was written for, or no safetensors file; a
            tensor is missing, too many, of the wrong shape or type, or holds NaN or an infinity; the card's
            model is not known or takes images of another size.
    """
    tensors = _tensors(card, path)
    # The initial weights are drawn only to be replaced; the caller's random numbers stay as they were.
    with torch.random.fork_rng(devices=[]):
        module = build(card, path.with_suffix(".toml"))
    _fill(card, path, module, tensors, {key for key in module.state_dict() if not key.endswith(NOT_KEPT)})
    return module.eval()


def load_statistics(card: AnyCard, path: Path, module: nn.Module) -> None:
    """Copy the batch norms' statistics in `path` into a network.

    Raises:
        InputError: As for `load_trained`.
    """
    _fill(card, path, module, _tensors(card, path), statistics_names(module))


def statistics_names(module: nn.Module) -> set[str]:
    """Names, in a network's state, of the batch norms' running means and variances."""
    return {key for key in module.state_dict() if key.endswith(("running_mean", "running_var"))}


def _tensors(card: AnyCard, path: Path) -> dict[str, Tensor]:
    """The contents of the file that the card was written for."""
    content = read_bytes(path)
    digest = hashlib.sha256(content).hexdigest()
    if digest != card.sha256:
        raise InputError(
            f"{path}: sha256 = {digest[:12]}.. does not match its card's {card.sha256[:12]}..; "
            "install accelsim again, or train it again"
        )
    try:
        return safetensors.torch.load(content)
    except (SafetensorError, KeyError) as error:  # KeyError: a type of elements that torch does not have
        raise InputError(f"{path}: not a safetensors file ({error}); train it again") from error


def _fill(card: AnyCard, path: Path, module: nn.Module, tensors: Mapping[str, Tensor], names: set[str]) -> None:
    """Copy exactly the tensors of these names into a network."""
    # Batch norm counts its batches for an average that no network here takes; the count is not kept with the weights.
    expected = {key: tensor for key, tensor in module.state_dict().items() if key in names}
    for name in sorted(expected.keys() | tensors.keys()):
        where = f"{path}: tensor {name!r}"
        if name not in tensors:
            raise InputError(f"{where} is missing; {card.model} with {_spelled(card)} has it")
        if name not in expected:
            raise InputError(f"{where} is unknown; {card.model} with {_spelled(card)} has none of that name")
        tensor, shape = tensors[name], tuple(expected[name].shape)
        if tuple(tensor.shape) != shape or tensor.dtype != torch.float32:
            kind = f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
            raise InputError(f"{where} is {kind}; {card.model} with {_spelled(card)} has float32 {shape}")
        if not bool(torch.isfinite(tensor).all()):
            raise InputError(f"{where} holds NaN or an infinity; weights must be finite, train it again")
    module.load_state_dict(tensors, strict=False)  # all names are compared above


def build(card: AnyCard, path: Path) -> Network:
    """Return the network of a card, whose file is `path`, with initial weights of no meaning.

    Raises:
        InputError: The card's model is not known, takes other arguments or images of another kind or size.
    """
    if card.model not in MODELS:
        raise InputError(
            f"{path} [model]: class = {card.model!r} is not known; use one of {', '.join(MODELS)}"
            f"{did_you_mean(card.model, MODELS)}"
        )
    if card.dataset not in CHANNELS or CHANNELS[card.dataset] != MODELS[card.model].channels:
        raise InputError(
            f"{path}: dataset = {card.dataset!r} has no images for {card.model}, which takes "
            f"{MODELS[card.model].channels} channels; train again, which writes the card"
        )
    size = MODELS[card.model].input_size
    if card.input_size != size:
        raise InputError(
            f"{path}: input_size = {card.input_size} is not {card.model}'s {size}; train again, which writes the card"
        )
    try:
        return MODELS[card.model](**card.arguments)
    except TypeError as error:
        raise InputError(f"{path} [model]: arguments do not fit {card.model}: {error}") from error


def _spelled(card: AnyCard) -> str:
    return ", ".join(f"{key} = {str(value).lower()}" for key, value in card.arguments.items())
