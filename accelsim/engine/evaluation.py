"""A whole integer graph over any number of images: slices of bounded memory, one thread a core."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from accelsim.engine.layer import Lanes, Layer, form_sums
from accelsim.engine.matmul import matmul
from accelsim.engine.nodes import apply, finish
from accelsim.errors import InputError
from accelsim.ir import Input, IntegerGraph, Kind, Mac, MatMul, products_of
from accelsim.numerics import Arithmetic

Codes = npt.NDArray[np.int16]
"""int32 or float32 where the node's kind is."""
Int64 = npt.NDArray[np.int64]
Result = TypeVar("Result")

MEMORY_BYTES = 1 << 29
"""Working memory of an evaluation unless the caller states another; results come on top."""
SLICE_IMAGES = 512
"""More images in a slice gain nothing: 512 lanes fill the vector registers and leave the sums in the cache."""


def execute(
    graph: IntegerGraph,
    codes: npt.NDArray[np.integer[Any]],
    arithmetic: Arithmetic,
    *,
    nodes: Sequence[str] | None = None,
    threads: int | None = None,
    memory_bytes: int = MEMORY_BYTES,
    progress: Callable[[int], object] = lambda _: None,
) -> dict[str, Codes]:
    """Evaluate a graph: the same bits as the machine and `ir.evaluate`, without a clock.

    Args:
        graph: a legal integer graph.
        codes: the input's codes, integers (N, H, W, C), inside the activation format, N >= 1.
        arithmetic: what the hardware contributes; a layer's own width narrows it.
        nodes: whose tensors to return; None is the graph's output alone.
        threads: slices under way at a time; None takes every core this process may use.
        memory_bytes: what the working memory of all threads together is planned for, by sizes of slices of images; a
            slice has one image at least. Weights and results come on top.
        progress: called with the number of images done.
    Returns:
        int16 (N, H, W, C) of each node asked for; int32 or float32 of what the host alone holds.
    Raises:
        InputError: codes of another shape or outside the format, an unknown node, a sum that the requantisation
            scheme does not take, or threads or memory_bytes below 1.
    """
    wanted = (graph.output,) if nodes is None else tuple(nodes)
    check_codes(graph, codes)
    for name in wanted:
        if name not in graph.by_name:
            raise InputError(f"graph {graph.name}: has no node {name!r}")
    layers = _layers(graph, arithmetic)
    outputs = {name: graph.by_name[name].output for name in wanted}
    found = {name: np.empty((len(codes), *one.shape), dtype=lane_dtype(one.kind)) for name, one in outputs.items()}

    def one(images: slice) -> None:
        tensors = run_nodes(graph, to_lanes(codes[images], graph.input.output.kind), layers, wanted)
        for name in wanted:
            found[name][images] = np.moveaxis(tensors[name], 3, 0)

    over_slices(one, len(codes), slice_images(graph, threads, memory_bytes), threads, progress)
    return found


def execute_apart(
    graph: IntegerGraph,
    tensors: Mapping[str, npt.NDArray[np.integer[Any]]],
    arithmetic: Arithmetic,
    *,
    threads: int | None = None,
    memory_bytes: int = MEMORY_BYTES,
) -> dict[str, Codes]:
    """Evaluate every node on tensors given for its inputs, whatever the graph itself would feed it.

    Args:
        tensors: codes (N, H, W, C) inside the activation format, by name, of every node that another one reads.
        arithmetic, threads, memory_bytes: as in `execute`.
    Returns:
        int16 (N, H, W, C) of every node but the input.
    Raises:
        InputError: as in `execute`.
    """
    check_codes(graph, tensors[graph.input.name])
    layers = _layers(graph, arithmetic)
    count = len(tensors[graph.input.name])
    nodes = graph.nodes[1:]
    found = {node.name: np.empty((count, *node.output.shape), dtype=np.int16) for node in nodes}

    def one(images: slice) -> None:
        lanes = {name: to_lanes(tensors[name][images]) for name in last_uses(graph)}
        for node in nodes:
            sources = [lanes[name] for name in node.inputs]
            found[node.name][images] = np.moveaxis(run_node(graph, node, sources[0], sources, layers), 3, 0)

    over_slices(one, count, slice_images(graph, threads, memory_bytes), threads)
    return found


Layers = dict[str, tuple[Layer | None, Arithmetic]]
"""Of each node with products: its operands, where they are known beforehand, and its arithmetic."""


def _layers(graph: IntegerGraph, arithmetic: Arithmetic) -> Layers:
    return {
        node.name: (
            Layer(graph, node, arithmetic) if isinstance(node, Mac) else None,
            arithmetic.at_width(node.accumulator_width_bits),
        )
        for node in graph.nodes
        if isinstance(node, Mac | MatMul)
    }


def run_nodes(
    graph: IntegerGraph, codes: Lanes, layers: Mapping[str, tuple[Layer | None, Arithmetic]], wanted: Sequence[str]
) -> dict[str, Lanes]:
    """Tensors of one slice: those wanted, the others dropped when nobody reads them any more."""
    tensors: dict[str, Lanes] = {}
    last_use = last_uses(graph)
    for position, node in enumerate(graph.nodes):
        tensors[node.name] = run_node(graph, node, codes, [tensors[name] for name in node.inputs], layers)
        for name in node.inputs:
            if last_use[name] == position and name not in wanted:
                tensors.pop(name, None)
    return tensors


def run_node(
    graph: IntegerGraph,
    node: Any,
    codes: Lanes,
    sources: list[Lanes],
    layers: Mapping[str, tuple[Layer | None, Arithmetic]],
) -> Lanes:
    """One node of one slice."""
    if isinstance(node, Input):
        return codes
    with named(node.name):
        if isinstance(node, Mac):
            layer, arithmetic = layers[node.name]
            assert layer is not None
            return finish(graph, node, form_sums(layer, sources[0], arithmetic))
        if isinstance(node, MatMul):
            return matmul(graph, node, sources, layers[node.name][1])
        return apply(graph, node, sources)


@contextmanager
def named(node: str) -> Iterator[None]:
    """Turn what a scheme cannot take into the one-line error that names the node."""
    try:
        yield
    except OverflowError as error:
        raise InputError(f"node {node}: {error}") from None


def check_codes(graph: IntegerGraph, codes: npt.NDArray[np.integer[Any]]) -> None:
    """Refuse codes that are no input of the graph."""
    tensor, (low, high) = graph.input.output, graph.limits_of(graph.input.name)
    if codes.ndim != 4 or codes.shape[1:] != tensor.shape or not len(codes):
        raise InputError(
            f"input: shape {codes.shape} is not (N, H, W, C) with (H, W, C) = {tensor.shape} and N of at least 1"
        )
    if tensor.kind == "float32":
        if codes.dtype != np.float32 or not np.isfinite(codes).all():
            raise InputError("input: must be finite float32 numbers")
        return
    if codes.dtype.kind not in "iu" or codes.min() < low or codes.max() > high:
        raise InputError(f"input: codes must be integers in {low}..{high}")


def to_lanes(codes: npt.NDArray[Any], kind: Kind = "codes") -> Lanes:
    """(B, H, W, C) to (H, W, C, B), int16 unless of another kind."""
    return np.ascontiguousarray(np.moveaxis(codes, 0, 3), dtype=lane_dtype(kind))


def lane_dtype(kind: Kind) -> Any:
    """What elements of a kind are held as."""
    return {"codes": np.int16, "int32": np.int32, "float32": np.float32}[kind]


def slice_images(
    graph: IntegerGraph, threads: int | None, memory_bytes: int, *, arrays: int = 1, scenarios: int = 0
) -> int:
    """Images of a slice such that all threads stay within the budget, as far as slices of one image allow.

    Args:
        arrays: of sums held at a time.
        scenarios: whose tensors of the nodes at hand are held besides.
    Raises:
        InputError: threads or memory_bytes below 1.
    """
    if memory_bytes < 1:
        raise InputError(f"memory_bytes = {memory_bytes} must be at least 1")
    macs = [node for node in graph.nodes if isinstance(node, Mac | MatMul)]
    sums = max((node.output.size for node in macs), default=1)
    depth = max(
        (node.weight[0].size if isinstance(node, Mac) else products_of(graph, node) for node in macs), default=1
    )
    live = _live_elements(graph)
    # Sums and the temporaries of the requantisation as 8 bytes, gathered operands as 8, codes as 2.
    per_image = (arrays + 5) * 8 * sums + 8 * depth + 2 * live * (1 + scenarios)
    return max(1, min(SLICE_IMAGES, memory_bytes // (per_image * thread_count(threads))))


def _live_elements(graph: IntegerGraph) -> int:
    """The most elements that tensors which are still read have together."""
    last = last_uses(graph)
    live, most = 0, 0
    for position, node in enumerate(graph.nodes):
        live += node.output.size
        most = max(most, live)
        live -= sum(graph.by_name[name].output.size for name in {*node.inputs} if last[name] == position)
    return most


def last_uses(graph: IntegerGraph) -> dict[str, int]:
    """Position of the last node that reads each tensor."""
    return {name: position for position, node in enumerate(graph.nodes) for name in node.inputs}


def thread_count(threads: int | None) -> int:
    """`threads`, or the cores this process may use."""
    if threads is not None and threads < 1:
        raise InputError(f"threads = {threads} must be at least 1")
    return len(os.sched_getaffinity(0)) if threads is None else threads


def over_slices(
    work: Callable[[slice], Result],
    count: int,
    size: int,
    threads: int | None,
    progress: Callable[[int], object] = lambda _: None,
) -> list[Result]:
    """Run `work` on slices of `size` images, several at a time; results in order of the images."""
    slices = [slice(first, min(first + size, count)) for first in range(0, count, size)]
    workers = min(thread_count(threads), len(slices))
    results: list[Result] = []

    def collect(each: Iterator[Result]) -> None:
        for images, result in zip(slices, each, strict=True):
            results.append(result)
            progress(images.stop)

    with one_blas_thread():
        if workers == 1:
            collect(map(work, slices))
            return results
        with ThreadPoolExecutor(workers) as pool:
            try:
                collect(pool.map(work, slices))
            except BaseException:  # Ctrl-C and errors alike: what has not begun is not begun
                pool.shutdown(wait=True, cancel_futures=True)
                raise
    return results


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """One thread a matrix product: our own threads use the cores already."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=1, user_api="blas"):
        yield
