"""Where two requantisation schemes differ: over a sweep of sums and multipliers, and inside a network.

docs/requantization.md states what is swept and what each figure is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from accelsim.engine import execute, execute_apart
from accelsim.errors import InputError
from accelsim.explore.differences import CodeDifference, count_differences
from accelsim.ir import Add, IntegerGraph, Mac, MatMul, Multiplier, Node
from accelsim.numerics import Arithmetic, IntFormat, Requantization, Scheme, requantize, to_output

FORMAT, VERSION = "accelsim-requantization-difference", 1
SMALLEST_SHIFT, LARGEST_SHIFT = 1, 12
"""Multipliers of the sweep lie in 2**-12..1: those of networks whose scales fit their data."""
SUMS_A_MULTIPLIER = 64
EXAMPLES = 3
IMAGES_AT_ONCE = 256

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Family:
    """Pairs of one kind: sums `acc` int64 (n,) inside int32, and a multiplier float64 (n,), 0 < M < 1, for each."""

    name: str
    acc: Int64
    multiplier: Float64


def families(form: IntFormat, *, samples: int, seed: int, powers_of_two: bool) -> list[Family]:
    """The pairs of a sweep, the same for the same arguments.

    Args:
        form: of the results; sums are aimed at it and a little beyond.
        samples: pairs of each family (rounded up to a multiple of `SUMS_A_MULTIPLIER`), but for `limits`, where each
            multiplier has 12.
        seed: of the random numbers.
        powers_of_two: no other multipliers.

    >>> [family.name for family in families(IntFormat(8), samples=64, seed=0, powers_of_two=False)]
    ['random', 'ties', 'near ties', 'limits']
    """
    rng = np.random.default_rng(seed)
    count = -(-samples // SUMS_A_MULTIPLIER)
    zero = middle(form)
    low, high = form.minimum - zero, form.maximum - zero

    def multipliers() -> Float64:
        shift = rng.integers(SMALLEST_SHIFT, LARGEST_SHIFT + 1, count)
        mantissa = np.ones(count) if powers_of_two else rng.uniform(1, 2, count)
        return mantissa * 2.0**-shift

    def aimed(shape: tuple[int, int]) -> Float64:
        return rng.uniform(1.1 * low, 1.1 * high, shape)

    shape = (count, SUMS_A_MULTIPLIER)
    found = []
    m = multipliers()
    found.append(_family("random", np.rint(aimed(shape) / m[:, None]), m))
    # M = k / 2**s and acc = a * 2**(s - 1) with a and k odd: acc * M = a * k / 2, a tie, exactly.
    k = np.ones(count, np.int64) if powers_of_two else rng.integers(0, 16, count) * 2 + 1
    s = np.maximum(rng.integers(SMALLEST_SHIFT, LARGEST_SHIFT + 1, count), np.ceil(np.log2(k + 1)).astype(np.int64))
    a = np.floor(aimed(shape) / k[:, None]).astype(np.int64) * 2 + 1
    found.append(_family("ties", a << (s - 1)[:, None], k / 2.0**s))
    m = multipliers()
    half = np.floor(aimed((count, SUMS_A_MULTIPLIER // 2))) + 0.5
    below = np.floor(half / m[:, None])
    found.append(_family("near ties", np.concatenate([below, below + 1], axis=1), m))
    m = multipliers()
    steps = np.array([low - 1, low - 0.5, low, low + 0.5, low + 1, high - 1, high - 0.5, high, high + 0.5, high + 1])
    ends = np.broadcast_to(np.array([-(2.0**31), 2.0**31 - 1]), (count, 2))
    found.append(_family("limits", np.concatenate([np.rint(steps / m[:, None]), ends], axis=1), m))
    return found


def _family(name: str, acc: npt.NDArray[Any], multiplier: Float64) -> Family:
    return Family(name, acc.astype(np.int64).ravel(), np.repeat(multiplier, acc.shape[1]))


def middle(form: IntFormat) -> int:
    """The zero point of the sweep's results: 0, or the middle of an unsigned format, so that both signs occur."""
    return 0 if form.signed else 1 << (form.bits - 1)


def compare_sweep(a: Requantization, b: Requantization, form: IntFormat, *, samples: int, seed: int) -> dict[str, Any]:
    """Requantise every pair of the sweep with both schemes; what docs/formats.md calls a sweep.

    Raises:
        InputError: a multiplier that a scheme cannot hold.
    """
    powers_of_two = Scheme.POWER_OF_TWO in (a.scheme, b.scheme)
    rows = []
    for family in families(form, samples=samples, seed=seed, powers_of_two=powers_of_two):
        first, second = (_codes(how, form, family) for how in (a, b))
        (difference,) = count_differences({family.name: first}, {family.name: second})
        exact = family.acc * family.multiplier + middle(form)
        inside = (exact >= form.minimum) & (exact <= form.maximum)
        rows.append(
            {
                "name": family.name,
                **_counts(difference),
                "error": {
                    name: {"mean": float(np.mean(error)), "largest": float(np.max(np.abs(error)))}
                    for name, error in (("a", (first - exact)[inside]), ("b", (second - exact)[inside]))
                },
                "examples": [
                    {
                        "acc": int(family.acc[i]),
                        "multiplier": float(family.multiplier[i]),
                        "exact": float(exact[i]),
                        "a": int(first[i]),
                        "b": int(second[i]),
                    }
                    for i in _shown(second - first, family)
                ],
            }
        )
    return {
        "bits": form.bits,
        "signed": form.signed,
        "zero_point": middle(form),
        "multipliers": "powers of two" if powers_of_two else "any",
        "smallest_multiplier": 2.0**-LARGEST_SHIFT,
        "samples": samples,
        "seed": seed,
        "families": rows,
    }


def _codes(how: Requantization, form: IntFormat, family: Family) -> Int64:
    pairs: dict[float, tuple[int, int]] = {}
    for one in np.unique(family.multiplier).tolist():
        try:
            pairs[one] = how.derive(one)
        except ValueError as error:
            raise InputError(f"sweep: {how.scheme.value}: {error}") from None
    table = np.array([pairs[one] for one in family.multiplier.tolist()], dtype=np.int64)
    scaled = requantize(family.acc, table[:, 0], table[:, 1], how)
    return to_output(scaled, middle(form), form.limits, form, how.output_overflow)


def _shown(steps: Int64, family: Family) -> list[int]:
    """Positions of the first differences, each pair once, and behind them the first of the largest."""
    found: dict[tuple[int, float], int] = {}
    for i in np.flatnonzero(steps)[: 4 * EXAMPLES].tolist():
        if len(found) < EXAMPLES:
            found.setdefault((int(family.acc[i]), float(family.multiplier[i])), i)
    if found:
        worst = int(np.argmax(np.abs(steps)))
        found.setdefault((int(family.acc[worst]), float(family.multiplier[worst])), worst)
    return list(found.values())


def _counts(difference: CodeDifference) -> dict[str, Any]:
    return {
        "values": difference.values,
        "differing": difference.differing,
        "steps": {str(step): count for step, count in difference.steps.items() if step},
        "largest": difference.largest,
    }


# Networks -------------------------------------------------------------------------------------------------------


def with_requantization(graph: IntegerGraph, how: Requantization) -> IntegerGraph:
    """The same integer graph under another requantisation: multipliers derived anew from `Multiplier.real`.

    Scales, zero points, weights, biases, tables and clips stay, so every sum of products stays; average pools take the
    new rounding.

    Raises:
        InputError: a multiplier that the scheme cannot hold, by node.
    """
    return replace(graph, nodes=tuple(_node_under(graph, node, how) for node in graph.nodes), requantization=how)


def _node_under(graph: IntegerGraph, node: Node, how: Requantization) -> Node:
    if isinstance(node, Mac | MatMul):
        return replace(node, multiplier=_derived(graph, node, node.multiplier, how))
    if isinstance(node, Add):
        first, second = (_derived(graph, node, one, how) for one in node.multipliers)
        return replace(node, multipliers=(first, second))
    return node


def _derived(graph: IntegerGraph, node: Node, stored: Multiplier, how: Requantization) -> Multiplier:
    try:
        pairs = {one: how.derive(one) for one in set(stored.real.tolist())}
    except ValueError as error:
        remedy = (
            "quantise under a scheme with power-of-two scales (--quantization)"
            if how.scheme is Scheme.POWER_OF_TWO
            else "compare under another base scheme (--quantization)"
        )
        raise InputError(f"{graph.name}: node {node.name}: {how.scheme.value}: {error}; {remedy}") from None
    table = np.array([pairs[one] for one in stored.real.tolist()], dtype=np.int64)
    return Multiplier(m0=table[:, 0].copy(), shift=table[:, 1].copy(), real=stored.real)


def compare_networks(
    a: IntegerGraph,
    b: IntegerGraph,
    codes_a: npt.NDArray[np.integer[Any]],
    codes_b: npt.NDArray[np.integer[Any]],
    labels: Int64 | None,
    arithmetic: Arithmetic,
    *,
    same_inputs: bool,
    threads: int | None = None,
    progress: Callable[[int], object] = lambda _: None,
) -> dict[str, Any]:
    """Run two graphs of one network on the same images; what docs/formats.md calls a network.

    Args:
        codes_a, codes_b: the images, quantised for each graph, integers (N, H, W, C).
        labels: int64 (N,), or None.
        same_inputs: b is a under another requantisation (`with_requantization`): also run each of its nodes on the
            tensors of a, so that a layer's count holds nothing that layers before it did.
    """
    apart: dict[str, CodeDifference] = {}
    through: dict[str, CodeDifference] = {}
    predictions: list[tuple[Int64, Int64]] = []
    names = [node.name for node in a.nodes]
    alike = [name for name in names if name in b.by_name and _same_codes(a, b, name)]
    done = 0
    while done < len(codes_a):
        images = slice(done, done + IMAGES_AT_ONCE)
        first = execute(a, codes_a[images], arithmetic, nodes=names, threads=threads)
        second = execute(b, codes_b[images], arithmetic, nodes=[node.name for node in b.nodes], threads=threads)
        _add(through, {name: first[name] for name in alike}, second, done)
        if same_inputs:
            _add(apart, first, execute_apart(b, first, arithmetic, threads=threads), done)
        classes = (_predicted(a, first), _predicted(b, second))
        if classes[0] is not None and classes[1] is not None:
            predictions.append((classes[0], classes[1]))
        done += len(first[a.output])
        progress(done)
    return {
        "images": done,
        "layers": [
            {
                "node": node.name,
                "op": node.op,
                "same_inputs": _counts(apart[node.name]) if node.name in apart else None,
                "end_to_end": _counts(through[node.name]) if node.name in through else None,
            }
            for node in a.nodes[1:]
        ],
        "classification": _classification(predictions, labels),
    }


def _same_codes(a: IntegerGraph, b: IntegerGraph, name: str) -> bool:
    """Whether equal codes of a node mean equal real values in both graphs."""
    first, second = a.by_name[name].output, b.by_name[name].output
    return a.activation == b.activation and first == second


def _add(total: dict[str, CodeDifference], a: dict[str, Any], b: dict[str, Any], done: int) -> None:
    for found in count_differences(a, b):
        total[found.node] = total[found.node].then(found, done) if found.node in total else found


def _predicted(graph: IntegerGraph, tensors: dict[str, Any]) -> Int64 | None:
    """The class of each image: of equal codes the first; None where the output is no vector."""
    if len(graph.output_shape) != 1:
        return None
    outputs = graph.to_pytorch(tensors[graph.output])
    return np.asarray(outputs.argmax(axis=1), dtype=np.int64)


def _classification(predictions: list[tuple[Int64, Int64]], labels: Int64 | None) -> dict[str, Any] | None:
    if not predictions:
        return None
    a, b = (np.concatenate([pair[i] for pair in predictions]) for i in (0, 1))
    found: dict[str, Any] = {"predictions_differ": int(np.sum(a != b)), "accuracy": None}
    if labels is not None:
        right_a, right_b = a == labels, b == labels
        found["accuracy"] = {
            "a": float(np.mean(right_a)),
            "b": float(np.mean(right_b)),
            "only_a_right": int(np.sum(right_a & ~right_b)),
            "only_b_right": int(np.sum(right_b & ~right_a)),
        }
    return found
