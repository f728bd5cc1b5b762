"""AdaRound: each weight rounded down or up, whichever keeps its layer's output, learned layer after layer.

Source: Nagel et al. 2020 (arXiv 2004.10568), section 3; equations are that paper's.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from accelsim.config.quantization import QuantizationScheme
from accelsim.ir.float_graph import FloatActivation, FloatArray, FloatConv2d, FloatGraph, FloatLinear
from accelsim.ir.integer_graph import Conv2d, IntegerGraph, Mac
from accelsim.quantization.fusion import plan_fusion
from accelsim.quantization.integer_path import Place, Slices, rewrite
from accelsim.quantization.layers import bias_of, to_float_layout
from accelsim.quantization.observe import ACTIVATIONS, batches, walk
from accelsim.quantization.scales import weight_limits

Int64 = npt.NDArray[np.int64]

ROWS = 8192
"""Output positions of a layer that are reconstructed, drawn from all positions of all samples."""
ROWS_BYTES = 1 << 27
"""What the operands of these positions may take; fewer positions where the layer's K is long."""
BATCH_ROWS = 256
"""Positions of one iteration."""
ZETA, GAMMA = 1.1, -0.1
"""Stretch of the rectified sigmoid (equation 23)."""
LEARNING_RATE = 1e-2
MOMENT_1, MOMENT_2 = 0.9, 0.999
"""Decay of Adam's two moments."""
WARM_UP = 0.2
"""Share of iterations before the regulariser sets in."""
BETA_FIRST, BETA_LAST = 20.0, 2.0
REGULARISATION = 20.0
"""Lambda: weight of the regulariser's mean against a reconstruction error that is 1 for round-to-nearest."""


def learn_rounding(
    graph: IntegerGraph,
    floats: FloatGraph,
    examples: npt.NDArray[np.number],
    scheme: QuantizationScheme,
    weight_scales: Mapping[str, FloatArray],
) -> dict[str, Int64]:
    """Return codes for every layer's weights that reconstruct its float output better than round-to-nearest.

    Layers are taken in the graph's order. A layer reads what the integer layers before it, already rounded, give on the
    examples, and is to give what the float layer gives in the float network, ReLU included where it is fused
    (equation 25, asymmetric reconstruction). A convolution is reconstructed at output positions drawn at random, so
    that an iteration is one matrix product.

    Args:
        graph: lowered with round-to-nearest.
        floats: the float graph it was lowered from.
        examples: (N, *input shape); the first `weight.adaround_samples` are used.
        scheme: `weight`, with `adaround_iterations`, `adaround_samples` and `seed`, and what layers have of their own.
        weight_scales: S_w of each layer, (N,), as `lower_with_scales` gives them.
    Returns:
        int64 codes in the float weight's shape, by layer, for `lower(..., weights=...)`: each is floor(w / S) + Z or
        one more, inside the limits. The same seed gives the same codes on the same machine and PyTorch build.
    """
    keys = scheme.weight
    used = examples[: keys.adaround_samples]
    draw = np.random.default_rng(keys.seed)
    positions = {node.name: _positions(draw, len(used), node) for node in graph.nodes if isinstance(node, Mac)}
    wanted = _float_rows(floats, used, positions)
    activations = plan_fusion(floats).activation
    learned: dict[str, Int64] = {}

    def edit(place: Place, inputs: Slices) -> Mac:
        node, layer = place.node, floats.by_name[place.node.name]
        assert isinstance(layer, FloatConv2d | FloatLinear)
        problem = Problem(
            rows=_integer_rows(place, inputs, positions[node.name]),
            wanted=wanted.pop(node.name),
            weight=layer.weight.reshape(
                layer.groups if isinstance(layer, FloatConv2d) else 1, -1, layer.weight[0].size
            ),
            nearest=to_float_layout(node.weight, place.source),
            scale=weight_scales[node.name],
            zero_point=node.weight_zero_point,
            limits=weight_limits(scheme.weight_of(node.name)),
            bias=bias_of(layer),
            activation=activations.get(node.name),
        )
        learned[node.name] = solve(problem, keys.adaround_iterations, keys.seed).reshape(layer.weight.shape)
        return place.with_weight(learned[node.name])

    with one_torch_thread():
        rewrite(graph, used.astype(np.float64), edit)
    return learned


@dataclass(frozen=True, eq=False)
class Problem:
    """One layer to reconstruct; G groups of N / G output channels with K inputs each, M positions.

    Attributes:
        rows: float32 (G, M, K), what the quantised layer reads, dequantised.
        wanted: float32 (M, N), what the float layer gives, before its activation.
        weight: float64 (G, N / G, K).
        nearest: int64, the codes of round-to-nearest, as many.
        scale: float64 (N,), S_w.
        zero_point: Z_w.
        limits: lowest and highest code.
        bias: float64 (N,).
        activation: the ReLU or ReLU6 fused behind the layer.
    """

    rows: npt.NDArray[np.float32]
    wanted: npt.NDArray[np.float32]
    weight: FloatArray
    nearest: Int64
    scale: FloatArray
    zero_point: int
    limits: tuple[int, int]
    bias: FloatArray
    activation: FloatActivation | None

    def base(self) -> tuple[Int64, FloatArray]:
        """(floor of w / S + Z, what is left above it in 0..1), both (G, N / G, K); at most a step beyond the limits."""
        real = self.weight / self.scale.reshape(*self.weight.shape[:2], 1) + self.zero_point
        held = np.clip(real, self.limits[0] - 1, self.limits[1] + 1)  # fixed point may leave int64
        low = np.floor(held).astype(np.int64)
        return low, held - low


def solve(problem: Problem, iterations: int, seed: int) -> Int64:
    """Return the codes of one layer, int64 (G, N / G, K).

    Minimises, over V by Adam, with h(V) = clamp(sigmoid(V) (zeta - gamma) + gamma, 0, 1) and the weights
    S (clamp(floor(w / S) + Z + h(V), limits) - Z):

        |f(y) - f(W(V) x)|^2 / (the same at round-to-nearest) + lambda mean(1 - |2 h(V) - 1|^beta)

    (equations 21 to 25). V begins where W(V) = w; the second term is off for a fifth of the iterations, then beta falls
    from 20 to 2 along a cosine, which lets h settle at 0 or 1 little by little. At the end h is rounded. The first
    term is relative, unlike the paper's, so that one lambda suits layers of any scale and size; and as the error of an
    output channel depends on its own weights alone, a channel whose learned codes reconstruct all M positions worse
    than round-to-nearest keeps the latter.
    """
    generator = torch.Generator().manual_seed(seed)
    low, fraction = problem.base()
    groups, per_group, _ = low.shape
    first, last = (float(limit) for limit in problem.limits)
    rows, wanted = torch.from_numpy(problem.rows), torch.from_numpy(problem.wanted)
    floor = torch.from_numpy(low.astype(np.float32))
    scale = torch.from_numpy(problem.scale.astype(np.float32))
    bias = torch.from_numpy(problem.bias.astype(np.float32))
    activation = ACTIVATIONS[problem.activation.kind] if problem.activation else _identity
    zero = float(problem.zero_point)

    def error(codes: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """Squared error of each position and channel, (M, N)."""
        sums = torch.bmm(x, (codes - zero).transpose(1, 2))
        given = sums.permute(1, 0, 2).reshape(len(y), groups * per_group) * scale + bias
        return (activation(given) - activation(y)).square()

    nearest = torch.from_numpy(problem.nearest.reshape(low.shape).astype(np.float32))
    at_nearest = error(nearest, rows, wanted).mean(dim=0)
    unit = float(at_nearest.mean())
    if unit == 0.0:
        return problem.nearest.reshape(low.shape)
    start = torch.from_numpy(fraction.astype(np.float32))
    soft = (-torch.log((ZETA - GAMMA) / (start - GAMMA) - 1.0)).requires_grad_()
    adam = _Adam(soft)
    count = len(wanted)
    for iteration in range(iterations):
        chosen = torch.randint(count, (min(BATCH_ROWS, count),), generator=generator)
        up = _rectified(soft)
        codes = torch.clamp(floor + up, first, last)
        loss = error(codes, rows[:, chosen], wanted[chosen]).mean() / unit
        beta = _beta(iteration / iterations)
        if beta is not None:
            loss = loss + REGULARISATION * (1.0 - (2.0 * up - 1.0).abs().pow(beta)).mean()
        (gradient,) = torch.autograd.grad(loss, soft)
        adam.step(gradient)
    with torch.no_grad():
        rounded = torch.clamp(floor + (_rectified(soft) >= 0.5), first, last)
        better = error(rounded, rows, wanted).mean(dim=0) < at_nearest
        kept = torch.where(better.reshape(groups, per_group, 1), rounded, nearest)
    return kept.numpy().astype(np.int64)


class _Adam:
    """Adam (Kingma and Ba 2015, arXiv 1412.6980, algorithm 1), as torch.optim has it, whose import takes seconds."""

    def __init__(self, values: Tensor) -> None:
        self.values = values
        self.first, self.second = torch.zeros_like(values), torch.zeros_like(values)
        self.steps = 0

    def step(self, gradient: Tensor) -> None:
        """Move the values once, in place."""
        self.steps += 1
        with torch.no_grad():
            self.first.lerp_(gradient, 1.0 - MOMENT_1)
            self.second.mul_(MOMENT_2).addcmul_(gradient, gradient, value=1.0 - MOMENT_2)
            spread = (self.second / (1.0 - MOMENT_2**self.steps)).sqrt_().add_(1e-8)
            self.values.addcdiv_(self.first, spread, value=-LEARNING_RATE / (1.0 - MOMENT_1**self.steps))


def _rectified(soft: Tensor) -> Tensor:
    """h(V), equation 23."""
    return torch.clamp(torch.sigmoid(soft) * (ZETA - GAMMA) + GAMMA, 0.0, 1.0)


def _beta(done: float) -> float | None:
    """The regulariser's exponent when a share of the iterations is done; None where it is off."""
    if done < WARM_UP:
        return None
    along = (done - WARM_UP) / (1.0 - WARM_UP)
    return BETA_LAST + 0.5 * (BETA_FIRST - BETA_LAST) * (1.0 + math.cos(math.pi * along))


def _identity(x: Tensor) -> Tensor:
    return x


def _positions(draw: np.random.Generator, images: int, node: Mac) -> Int64:
    """Which (image, y, x) of a layer's output are reconstructed, (M, 3), ascending."""
    height, width = node.output.height, node.output.width
    if not isinstance(node, Conv2d):
        height = width = 1
    total = images * height * width
    bytes_per_row = 4 * node.weight[0].size * (node.groups if isinstance(node, Conv2d) else 1)
    count = min(total, ROWS, max(BATCH_ROWS, ROWS_BYTES // bytes_per_row))
    flat = np.sort(draw.choice(total, count, replace=False))
    return np.stack([flat // (height * width), flat // width % height, flat % width], axis=1)


def _float_rows(
    graph: FloatGraph, examples: npt.NDArray[np.number], positions: dict[str, Int64]
) -> dict[str, npt.NDArray[np.float32]]:
    """Float outputs before the activation at the positions of each layer, float32 (M, N)."""
    found: dict[str, list[npt.NDArray[np.float32]]] = {name: [] for name in positions}
    first = 0
    for batch in batches(graph, examples):
        for name, tensor in walk(graph, batch):
            if name in positions:
                image, y, x = positions[name].T
                inside = (image >= first) & (image < first + len(batch))
                maps = tensor.reshape(*tensor.shape[:2], *(tensor.shape[2:] or (1, 1)))
                found[name].append(maps[image[inside] - first, :, y[inside], x[inside]].astype(np.float32))
        first += len(batch)
    return {name: np.concatenate(parts) for name, parts in found.items()}


def _integer_rows(place: Place, inputs: Slices, positions: Int64) -> npt.NDArray[np.float32]:
    """What the layer reads at each position, dequantised: float32 (G, M, K), k in (c, r, s) order."""
    node, source = place.node, place.source
    codes = np.concatenate(inputs, axis=3)
    image, y, x = positions.T
    if not isinstance(node, Conv2d):
        vectors = np.moveaxis(codes, (3, 2), (0, 1))[image].reshape(1, len(image), -1)
        return np.asarray(source.scale * (vectors - source.zero_point), dtype=np.float32)
    height, width, channels, _ = codes.shape
    _, kernel_h, kernel_w, _ = node.weight.shape
    rows = np.zeros((len(image), channels, kernel_h, kernel_w), dtype=np.float32)
    for r in range(kernel_h):
        for s in range(kernel_w):
            at_y = y * node.stride[0] + r * node.dilation[0] - node.padding[0]
            at_x = x * node.stride[1] + s * node.dilation[1] - node.padding[2]
            inside = (at_y >= 0) & (at_y < height) & (at_x >= 0) & (at_x < width)
            seen = codes[at_y[inside], at_x[inside], :, image[inside]]
            rows[inside, :, r, s] = source.scale * (seen - source.zero_point)
    grouped = rows.reshape(len(image), node.groups, -1)
    return np.ascontiguousarray(grouped.transpose(1, 0, 2))


@contextlib.contextmanager
def one_torch_thread() -> Iterator[None]:
    """Inside, PyTorch adds in one order whatever the machine's cores; products this small gain nothing from more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
