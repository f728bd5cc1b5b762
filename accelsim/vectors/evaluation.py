"""A layer of a pack computed from its own operands, and the same with one thing done otherwise.

Export computes expected values here and compares them with the reference evaluation; `vectors check` computes what a
faulty design would have given. Both start from a layer's entry and its arrays alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from accelsim.numerics import Overflow, Rounding, accumulate, divide_rounded, fit, requantize, to_output
from accelsim.vectors.manifest import Geometry, LayerEntry, Sums

Int64 = npt.NDArray[np.int64]
Arrays = dict[str, Int64]
Tiles = Callable[[Int64], Int64]


@dataclass(frozen=True, kw_only=True)
class Variant:
    """What is done otherwise; the default is what the manifest says.

    Attributes:
        overflow: of every addition; None is the policy's.
        fit_at_end: sums are exact and fitted once, after the last chunk.
        rounding: of the requantisation; None is the declared one.
        biases: how often the bias is added.
        weights: applied to each tile's weights (R, C) in memory, where `only` says so.
        activations: applied to each chunk's words (M, R).
        weight_order: K of the weights is in the order (c, r, s) while activations keep (r, s, c).
        only: (block, chunk) of the one tile whose weights are touched; None is all.
    """

    overflow: Overflow | None = None
    fit_at_end: bool = False
    rounding: Rounding | None = None
    biases: int = 1
    weights: Tiles | None = None
    activations: Tiles | None = None
    weight_order: Literal["rsc", "crs"] = "rsc"
    only: tuple[int, int] | None = None


AS_SAID = Variant()


def compute(layer: LayerEntry, arrays: Arrays, variant: Variant = AS_SAID) -> Arrays:
    """Every expected tensor of a layer, from its operands and parameters.

    Args:
        layer: its entry.
        arrays: the layer-level operands and parameters, int64.
        variant: what to do otherwise.
    Returns:
        int64 arrays by tensor name; tiles too, for a convolution or linear layer.
    Raises:
        OverflowError: a value the requantisation scheme does not take (docs/numerics.md, "Limits").
    """
    if layer.sums is None:
        return {"output": _without_sums(layer, arrays, variant)}
    tiles = operands(layer, arrays, variant)
    psums, accumulators = add_up(layer.sums, tiles, variant)
    found = {**tiles, "tile.accumulator": accumulators}
    if not layer.sums.running:
        found["tile.psum"] = psums
    return {**found, **_post_process(layer, arrays, tiles, accumulators[:, -1], variant)}


# --- operands ----------------------------------------------------------------------------------------------


def operands(layer: LayerEntry, arrays: Arrays, variant: Variant = AS_SAID) -> Arrays:
    """The tiles' operands and parameters, padded with zeros to R rows and C columns.

    Returns:
        tile.activation (sets, chunks, M, R), tile.weight (blocks, chunks, R, C): what the multipliers see, zero
        points taken off where they are subtracted; tile.start, tile.bias, tile.m0, tile.shift (blocks, C).
    """
    sums = layer.sums
    assert sums is not None
    subtract = sums.zero_points == "subtracted"
    taken = arrays["input"] - (layer.numerics.z_x[0] if subtract else 0)
    weight = arrays["weight"] - (sums.z_w if subtract else 0)
    if variant.weight_order == "crs" and weight.ndim == 4:
        weight = np.moveaxis(weight, 3, 1).reshape(weight.shape)
    elif variant.weight_order == "crs":  # a linear layer that was given (c, h, w)
        _, height, width, channels = layer.geometry.input
        weight = np.moveaxis(weight.reshape(-1, height, width, channels), 3, 1).reshape(weight.shape)
    taps = _taps(taken, layer, 0 if subtract else layer.numerics.z_x[0])
    R, C, M = sums.rows, sums.columns, sums.words
    activation = np.zeros((sums.sets, len(sums.chunks), M, R), dtype=np.int64)
    weights = np.zeros((len(sums.blocks), len(sums.chunks), R, C), dtype=np.int64)
    kernels = weight.reshape(weight.shape[0], -1)
    per_set = taps.shape[2] // sums.sets
    for number, (first, length) in enumerate(sums.chunks):
        if sums.diagonal:
            for channel, lanes, chosen in sums.blocks:
                activation[chosen, number, :, :lanes] = taps[:, first, channel : channel + lanes]
        else:
            for chosen in range(sums.sets):
                own = taps[:, :, chosen * per_set : (chosen + 1) * per_set].reshape(M, -1)
                activation[chosen, number, :, :length] = own[:, first : first + length]
        for block, (channel, lanes, _) in enumerate(sums.blocks):
            rows = kernels[channel : channel + lanes, first : first + length].T
            if sums.diagonal:
                weights[block, number, :lanes, :lanes] = np.diag(rows[0])
            else:
                weights[block, number, :length, :lanes] = rows
    if variant.weights is not None:
        for block, number in np.ndindex(*weights.shape[:2]):
            if variant.only in (None, (block, number)):
                weights[block, number] = variant.weights(weights[block, number])
    if variant.activations is not None:
        for chosen, number in np.ndindex(*activation.shape[:2]):
            activation[chosen, number] = variant.activations(activation[chosen, number])
    in_accumulator = sums.bias_at == "accumulator"
    bias = variant.biases * _lanes(sums, arrays["bias"])
    start_bits = sums.psum_bits if sums.running else sums.width_bits
    begin = fit(bias, start_bits, _overflow(sums, variant)) if in_accumulator else np.zeros_like(bias)
    return {
        "tile.activation": activation,
        "tile.weight": weights,
        "tile.start": begin,
        "tile.bias": np.zeros_like(bias) if in_accumulator else bias,
        "tile.m0": _lanes(sums, arrays["m0"]),
        "tile.shift": _lanes(sums, arrays["shift"]),
    }


def _lanes(sums: Sums, values: Int64) -> Int64:
    """(N,) as (blocks, C), zeros in lanes no block has."""
    result = np.zeros((len(sums.blocks), sums.columns), dtype=np.int64)
    for block, (channel, lanes, _) in enumerate(sums.blocks):
        result[block, :lanes] = values[channel : channel + lanes]
    return result


def _taps(values: Int64, layer: LayerEntry, padding: int) -> Int64:
    """What each output position sees: (M, kernel positions in (r, s) order, input channels)."""
    shape = layer.geometry
    if layer.op == "linear":
        return values.reshape(values.shape[0], 1, -1)
    windows, _ = _windows(values, shape, padding)
    return windows.reshape(-1, shape.kernel[0] * shape.kernel[1], shape.input[3])


def _windows(values: Int64, shape: Geometry, padding: int) -> tuple[Int64, npt.NDArray[np.bool_]]:
    """Inputs under each window (image, y, x, taps, channel), and which are inside (y, x, taps)."""
    top, _, left, _ = shape.padding
    _, height, width, _ = shape.input
    _, rows, columns, _ = shape.output
    r, s = (part.ravel() for part in np.indices(shape.kernel))
    y = np.arange(rows)[:, None] * shape.stride[0] + r * shape.dilation[0] - top
    x = np.arange(columns)[:, None] * shape.stride[1] + s * shape.dilation[1] - left
    inside = ((y >= 0) & (y < height))[:, None] & ((x >= 0) & (x < width))[None]
    seen = values[:, np.clip(y, 0, height - 1)[:, None], np.clip(x, 0, width - 1)[None]]
    return np.where(inside[None, ..., None], seen, padding), inside


# --- sums --------------------------------------------------------------------------------------------------


def _overflow(sums: Sums, variant: Variant) -> Overflow:
    return variant.overflow or sums.arithmetic.overflow


def add_up(sums: Sums, tiles: Arrays, variant: Variant = AS_SAID) -> tuple[Int64, Int64]:
    """Partial sums and accumulators after each chunk: two arrays (blocks, chunks, M, C).

    For a running sum both are the sum in the PE after the chunk.
    """
    how = replace(sums.arithmetic, overflow=_overflow(sums, variant))
    if variant.fit_at_end:
        how = replace(how, psum_bits=64, width_bits=64)
    R, M, C = sums.rows, sums.words, sums.columns
    psums = np.zeros((len(sums.blocks), len(sums.chunks), M, C), dtype=np.int64)
    totals = np.zeros_like(psums)
    for block, (_, _, chosen) in enumerate(sums.blocks):
        total = np.broadcast_to(tiles["tile.start"][block], (M, C)).astype(np.int64)
        for number in range(len(sums.chunks)):
            x, w = tiles["tile.activation"][chosen, number], tiles["tile.weight"][block, number]
            start = total if sums.running else None
            psum = accumulate(x, w, [range(R)], how, start=start, resumed=sums.running)
            total = psum if sums.running else fit(total + psum, how.width_bits, how.overflow)
            psums[block, number], totals[block, number] = psum, total
    if variant.fit_at_end:
        totals[:, -1] = fit(totals[:, -1], sums.width_bits, _overflow(sums, variant))
    return psums, totals


def from_blocks(layer: LayerEntry, values: Int64) -> Int64:
    """(blocks, M, C) as (image, y, x, channel)."""
    sums = layer.sums
    assert sums is not None
    result = np.zeros((sums.words, layer.geometry.output[3]), dtype=np.int64)
    for block, (channel, lanes, _) in enumerate(sums.blocks):
        result[:, channel : channel + lanes] = values[block, :, :lanes]
    return result.reshape(layer.geometry.output)


def _post_process(
    layer: LayerEntry, arrays: Arrays, tiles: Arrays, accumulators: Int64, variant: Variant
) -> dict[str, Any]:
    """What the PPU makes of final accumulators (blocks, M, C), by tile and by layer."""
    sums, how = layer.sums, _requantization(layer, variant)
    assert sums is not None
    value = accumulators + tiles["tile.bias"][:, None]
    outputs = np.zeros_like(value)
    low, high = layer.numerics.clip
    for block, (channel, lanes, _) in enumerate(sums.blocks):
        own = slice(channel, channel + lanes)
        scaled = requantize(value[block, :, :lanes], arrays["m0"][own], arrays["shift"][own], how)
        outputs[block, :, :lanes] = to_output(
            scaled, layer.numerics.z_y, (low, high), layer.numerics.activation, how.output_overflow
        )
    return {
        "accumulator": from_blocks(layer, accumulators),
        "ppu_input": from_blocks(layer, value),
        "output": from_blocks(layer, outputs),
        "tile.ppu_input": value,
        "tile.output": outputs,
    }


def _requantization(layer: LayerEntry, variant: Variant) -> Any:
    how = layer.numerics.requantization
    return how if variant.rounding is None else replace(how, rounding=variant.rounding)


# --- operations without sums of products -------------------------------------------------------------------


def _without_sums(layer: LayerEntry, arrays: Arrays, variant: Variant) -> Int64:
    numerics, shape = layer.numerics, layer.geometry
    form, how = numerics.activation, _requantization(layer, variant)
    low, high = numerics.clip
    match layer.op:
        case "max_pool2d":
            windows, _ = _windows(arrays["input"], shape, form.minimum)
            return windows.max(axis=3)
        case "avg_pool2d":
            windows, inside = _windows(arrays["input"] - numerics.z_x[0], shape, 0)
            count = inside.sum(axis=2)[None, :, :, None]
            if shape.count_include_pad:
                count = np.full_like(count, shape.kernel[0] * shape.kernel[1])
            mean = divide_rounded(windows.sum(axis=3), count, how.pool_rounding)
            return to_output(mean, numerics.z_x[0], (low, high), form, how.output_overflow)
        case "add":
            total = sum(
                requantize(arrays[f"input{n}"] - numerics.z_x[n], arrays[f"m0_{n}"], arrays[f"shift_{n}"], how)
                for n in (0, 1)
            )
            return to_output(np.asarray(total), numerics.z_y, (low, high), form, how.output_overflow)
        case "clip":
            return np.clip(arrays["input"], low, high)
        case "table":
            return arrays["entries"][arrays["input"] - form.minimum]
    raise TypeError(f"{layer.op} has no evaluation")
