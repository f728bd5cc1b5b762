"""Random networks under random schemes: what every method together must keep, and what is refused in one line.

    python tests/scheme_cases.py [--count 2000] [--seed 1] [--machine 0.05]

A case is a small float network (convolutions, depthwise ones, linear layers, sums, pools, ReLU, ReLU6, tanh, sigmoid,
batch norms) and a scheme drawn over all keys. Whatever `quantize` accepts must have the same codes on reference and
engine, and some on the machine; where training accepts the scheme, `QatModule` must start from that graph to the bit.
Prints counts and findings, and exits with 1 if there are findings.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import traceback
import warnings
from collections import Counter

import numpy as np
import torch

from accelsim.compiler import compile_graph
from accelsim.config import QuantizationScheme, load_hardware, load_quantization
from accelsim.engine import execute
from accelsim.errors import InputError
from accelsim.frontend import fold_batch_norm
from accelsim.ir import IntegerGraph, Multiplier, evaluate, quantize_input
from accelsim.ir.float_graph import (
    FloatActivation,
    FloatAdd,
    FloatAvgPool2d,
    FloatBatchNorm2d,
    FloatConv2d,
    FloatFlatten,
    FloatGraph,
    FloatInput,
    FloatLinear,
    FloatMaxPool2d,
    FloatNode,
)
from accelsim.numerics import Arithmetic
from accelsim.pipeline import run_checked
from accelsim.quantization import CalibrationWarning, quantize
from accelsim.quantization.fusion import plan_fusion
from accelsim.training import QatModule

WIDE = Arithmetic(psum_bits=32, width_bits=32, overflow="saturate", saturate_at="every_add", rows=4, dataflow="ws")


class NetworkMaker:
    """A random network, node by node."""

    def __init__(self, draw: np.random.Generator):
        self.draw = draw
        self.nodes: list[FloatNode] = []

    def chance(self, share: float) -> bool:
        return bool(self.draw.random() < share)

    def put(self, node: FloatNode) -> FloatNode:
        self.nodes.append(node)
        return node

    def name(self, kind: str) -> str:
        return f"{kind}{len(self.nodes)}"

    def conv(self, source: FloatNode, channels: int, *, size: int = 0, depthwise: bool = False) -> FloatNode:
        taken, height, width = source.shape
        size = size or int(self.draw.choice([1, 3]))
        pad = size // 2 if self.chance(0.6) or min(height, width) < size else 0
        channels, groups = (taken, taken) if depthwise else (channels, 1)
        weight = self.draw.normal(
            0, 1 / np.sqrt(taken // groups * size * size), (channels, taken // groups, size, size)
        )
        weight *= 2.0 ** self.draw.integers(-3, 4, (channels, 1, 1, 1))
        if self.chance(0.05):
            weight[self.draw.integers(channels)] = 0.0
        node = self.put(
            FloatConv2d(
                name=self.name("conv"),
                inputs=(source.name,),
                shape=(channels, height + 2 * pad - size + 1, width + 2 * pad - size + 1),
                weight=weight,
                bias=self.draw.normal(0, 0.5, channels) if self.chance(0.7) else None,
                stride=(1, 1),
                padding=(pad,) * 4,
                dilation=(1, 1),
                groups=groups,
            )
        )
        return self.norm(node) if self.chance(0.5) else node

    def norm(self, source: FloatNode) -> FloatNode:
        channels = source.shape[0]
        return self.put(
            FloatBatchNorm2d(
                name=self.name("norm"),
                inputs=(source.name,),
                shape=source.shape,
                gamma=self.draw.uniform(-0.5, 2, channels),
                beta=self.draw.normal(0, 1, channels),
                mean=self.draw.normal(0, 0.3, channels),
                variance=self.draw.uniform(0.2, 2, channels),
                eps=1e-5,
            )
        )

    def activation(self, source: FloatNode) -> FloatNode:
        kind = self.draw.choice(["relu", "relu", "relu", "relu6", "relu6", "tanh", "sigmoid", ""])
        if not kind:
            return source
        return self.put(FloatActivation(name=self.name(kind), inputs=(source.name,), shape=source.shape, kind=kind))

    def pool(self, source: FloatNode) -> FloatNode:
        channels, height, width = source.shape
        if min(height, width) < 2:
            return source
        pad = int(self.chance(0.3))
        window = {
            "inputs": (source.name,),
            "shape": (channels, (height + 2 * pad - 2) // 2 + 1, (width + 2 * pad - 2) // 2 + 1),
            "kernel": (2, 2),
            "stride": (2, 2),
            "padding": (pad,) * 4,
        }
        if self.chance(0.5):
            return self.put(FloatMaxPool2d(name=self.name("max"), **window))
        return self.put(FloatAvgPool2d(name=self.name("mean"), count_include_pad=self.chance(0.5), **window))

    def linear(self, source: FloatNode, outputs: int) -> FloatNode:
        inputs = source.shape[0]
        return self.put(
            FloatLinear(
                name=self.name("linear"),
                inputs=(source.name,),
                shape=(outputs,),
                weight=self.draw.normal(0, 1 / np.sqrt(inputs), (outputs, inputs)),
                bias=self.draw.normal(0, 0.5, outputs) if self.chance(0.7) else None,
            )
        )

    def graph(self) -> FloatGraph:
        size = int(self.draw.integers(4, 7))
        node = self.put(FloatInput(name="input", inputs=(), shape=(int(self.draw.integers(1, 4)), size, size)))
        for _ in range(int(self.draw.integers(1, 4))):
            match self.draw.integers(5):
                case 0 | 1:
                    node = self.activation(self.conv(node, int(self.draw.integers(2, 6))))
                case 2:
                    node = self.activation(self.conv(node, 3, depthwise=node.shape[0] > 1))
                case 3:
                    node = self.pool(node)
                case 4:
                    first = self.activation(self.conv(node, int(node.shape[0]), size=1))
                    if first.shape == node.shape:
                        first = self.put(
                            FloatAdd(name=self.name("add"), inputs=(first.name, node.name), shape=node.shape)
                        )
                    node = self.activation(first)
        if self.chance(0.8):
            flat = FloatFlatten(name=self.name("flat"), inputs=(node.name,), shape=(int(np.prod(node.shape)),))
            node = self.linear(self.put(flat), int(self.draw.integers(2, 6)))
            if self.chance(0.4):
                node = self.linear(self.activation(node), 4)
        if isinstance(node, FloatInput):
            node = self.conv(node, 3)
        return FloatGraph("case", tuple(self.nodes), node.name)


def random_scheme(draw: np.random.Generator, graph: FloatGraph) -> list[str]:
    """Overrides of the preset int8; in one case of six keys that contradict each other are left to be refused."""
    tame = bool(draw.random() < 0.85)
    chosen: list[str] = []

    def chance(share: float) -> bool:
        return bool(draw.random() < share)

    def pick(*values: object) -> object:
        return values[int(draw.integers(len(values)))]

    def maybe(share: float, *overrides: str) -> bool:
        taken = chance(share)
        chosen.extend(overrides if taken else ())
        return taken

    wrap = maybe(0.05, "requantization.output_overflow=wrap")
    fixed = not wrap and maybe(0.1, f"activation.fraction_bits={pick(-2, 0, 2, 4, 30)}")
    affine = not (fixed and tame) and maybe(0.5, "activation.symmetric=false")
    maybe(0.5, f"activation.bits={pick(2, 3, 4, 5, 8)}")
    maybe(0.5 if affine else 0.0, "activation.signed=false")
    maybe(0.0 if tame and (affine or fixed or wrap) else 0.2, "activation.full_range=false")
    maybe(0.0 if tame and fixed else 0.1, "activation.power_of_two=true")
    ranges = ["moving_average", "percentile", "mse", "mse"]
    if not tame or all(node.statistics is not None for node in graph.nodes if isinstance(node, FloatConv2d)):
        ranges.append("batch_norm")
    maybe(0.0 if tame and fixed else 0.5, f"activation.range={pick(*ranges)}")
    maybe(0.0 if tame and fixed else 0.1, "activation.logits=cross_entropy")
    fixed_weights = maybe(0.1, f"weight.fraction_bits={pick(-2, 0, 4, 7, 60)}")
    maybe(0.5, f"weight.bits={pick(2, 3, 4, 6)}")
    maybe(0.4, "weight.granularity=tensor")
    affine_weights = not (tame and fixed_weights) and maybe(
        0.15, "weight.granularity=tensor", "weight.symmetric=false", "zero_points=subtracted"
    )
    maybe(0.0 if tame and (fixed_weights or affine_weights) else 0.2, "weight.full_range=true")
    maybe(0.0 if tame and fixed_weights else 0.3, f"weight.range={pick('percentile', 'mse')}")
    maybe(0.2, "weight.rounding=adaround", "weight.adaround_iterations=5", "weight.adaround_samples=4")
    maybe(0.0 if tame and fixed_weights else 0.1, "weight.power_of_two=true")
    maybe(0.3, f"bias.bits={pick(8, 10, 16)}")
    maybe(0.3, f"bias.correction={pick('analytic', 'empirical', 'empirical', 'empirical')}")
    if maybe(0.2, "equalization.weights=true"):
        maybe(0.3, "equalization.relu6=replace")
        maybe(0.3, "equalization.absorb_bias=true")
    maybe(0.2, "zero_points=subtracted")
    maybe(0.2, "bias_at=accumulator")
    if maybe(0.3, "scale_format=float32"):
        maybe(0.5, "requantization.multiplier_arithmetic=float32")
    roundings = ["floor", "half_up", "half_away", "toward_zero"]
    if not maybe(0.5, f"requantization.scheme={pick('power_of_two', 'reciprocal', 'float32', 'float64')}"):
        maybe(0.2, "requantization.multiplier_bits=12")
        if maybe(0.1, "requantization.order=shift_first", "requantization.multiplier_bits=16"):
            maybe(0.5, "requantization.guard_bits=4")
        else:
            roundings.append("tflite_double")
    maybe(0.5, f"requantization.rounding={pick(*roundings)}")
    if wrap:
        return chosen
    fusion = plan_fusion(graph)
    for node in graph.nodes:
        if fusion.source[node.name] != node.name:
            continue
        if isinstance(node, FloatConv2d | FloatLinear):
            maybe(0.15, f"layers.{node.name}.weight_bits={pick(2, 4, 8)}")
            maybe(0.0 if affine_weights else 0.1, f"layers.{node.name}.weight_granularity={pick('tensor', 'channel')}")
            if not affine_weights:
                key = f"layers.{node.name}.weight"
                maybe(0.05, f"{key}_fraction_bits={pick(-1, 3, 62)}", f"{key}_bits={pick(1, 4)}")
        clip = isinstance(node, FloatActivation) and node.kind in ("relu", "relu6")
        if not clip and not isinstance(node, FloatMaxPool2d | FloatAvgPool2d):
            key = f"layers.{node.name}.activation"
            maybe(0.1, f"{key}_bits={pick(2, 4, 8)}")
            below = affine or isinstance(node, FloatInput) or getattr(fusion.activation.get(node.name), "kind", "")
            maybe(0.15 if below or not tame else 0.0, f"{key}_signed={pick('true', 'false')}")
            maybe(0.0 if affine else 0.04, f"{key}_fraction_bits={pick(-1, 3)}", f"{key}_bits={pick(1, 8)}")
    return chosen


class Cases:
    """Runs cases and keeps what should not have happened."""

    def __init__(self, machine: float):
        self.machine = machine
        self.counts: Counter[str] = Counter()
        self.refusals: Counter[str] = Counter()
        self.findings: list[str] = []

    def run(self, seed: int) -> None:
        """One case; all of it follows from the seed."""
        draw = np.random.default_rng(seed)
        graph = NetworkMaker(draw).graph()
        folded = fold_batch_norm(graph)
        overrides = random_scheme(draw, folded)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                warnings.simplefilter("ignore", CalibrationWarning)
                self._checked(draw, graph, folded, load_quantization("int8", overrides))
        except InputError as error:
            self.counts["refused"] += 1
            self.refusals[str(error)[-60:]] += 1
            if "\n" in str(error) or len(str(error)) > 600:
                self._found(seed, overrides, f"not one line: {error}")
        except Exception:
            self._found(seed, overrides, traceback.format_exc())

    def _found(self, seed: int, overrides: list[str], what: str) -> None:
        self.findings.append(f"seed {seed}: {' '.join(overrides)}\n{what}")

    def _checked(
        self, draw: np.random.Generator, graph: FloatGraph, folded: FloatGraph, scheme: QuantizationScheme
    ) -> None:
        calibration = draw.normal(0.2, 1, (6, *folded.input.shape)).astype(np.float32)
        if draw.random() < 0.5:
            calibration = np.abs(calibration)
        images = (1.3 * calibration[:2]).astype(np.float64)
        integers = quantize(folded, calibration, scheme)
        self.counts["quantised"] += 1
        codes = quantize_input(integers, images)
        wanted = evaluate(integers, codes, WIDE).tensors
        found = execute(integers, codes, WIDE, nodes=list(wanted), threads=1)
        for name, tensor in wanted.items():
            np.testing.assert_array_equal(found[name], tensor, err_msg=f"engine, {name}")
            low, high = integers.limits_of(name)
            assert low <= tensor.min() <= tensor.max() <= high, f"{name} leaves its limits"
        if draw.random() < self.machine:
            try:
                program = compile_graph(integers, load_hardware("edge_8x8"), len(images))
            except InputError:
                self.counts["refused by compile"] += 1
            else:
                assert run_checked(program, integers, codes).mismatch is None
                self.counts["on the machine"] += 1
        dtype = torch.float64 if draw.random() < 0.7 else torch.float32
        try:
            module = QatModule(graph, calibration, scheme, dtype=dtype, lsq_gradients=bool(draw.random() < 0.5))
        except InputError:
            self.counts["refused by training"] += 1
            return
        self._trained(module, integers, torch.from_numpy(images).to(dtype))

    def _trained(self, module: QatModule, integers: IntegerGraph, batch: torch.Tensor) -> None:
        if batch.dtype is torch.float64:  # float32 weights are others
            assert_same(module.to_graph(), integers)
        graph = module.to_graph()
        for _ in range(2):
            codes = quantize_input(graph, batch.numpy())
            expected = graph.to_pytorch(evaluate(graph, codes, WIDE).tensors[graph.output])
            np.testing.assert_array_equal(module.codes(batch).numpy(), expected, err_msg="QatModule")
            optimizer = torch.optim.SGD(module.parameters(), lr=1e-4)
            module(batch).square().mean().backward()
            torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            optimizer.step()
            try:
                graph = module.to_graph()
            except InputError:
                self.counts["no legal step"] += 1
                return
        self.counts["trained"] += 1


def assert_same(found: IntegerGraph, wanted: IntegerGraph) -> None:
    """Every field of every node."""
    for one, other in zip(found.nodes, wanted.nodes, strict=True):
        for field in dataclasses.fields(one):
            pair = getattr(one, field.name), getattr(other, field.name)
            for a, b in zip(*pair, strict=True) if field.name == "multipliers" else [pair]:
                for key in ("m0", "shift", "real") if isinstance(a, Multiplier) else ("",):
                    np.testing.assert_array_equal(
                        getattr(a, key) if key else a, getattr(b, key) if key else b, err_msg=f"{one.name}.{field.name}"
                    )


def main() -> int:
    """Print counts, what was refused most often, and findings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--machine", type=float, default=0.05, help="share of networks that the machine runs too")
    arguments = parser.parse_args()
    cases = Cases(arguments.machine)
    for seed in range(arguments.seed, arguments.seed + arguments.count):
        cases.run(seed)
    lines = [f"{count:6} {what}" for what, count in cases.counts.most_common()]
    lines += [f"{count:6} refused: ..{reason}" for reason, count in cases.refusals.most_common(40)]
    sys.stdout.write("\n".join([*lines, f"{len(cases.findings)} findings", *cases.findings[:20]]) + "\n")
    return 1 if cases.findings else 0


if __name__ == "__main__":
    sys.exit(main())
