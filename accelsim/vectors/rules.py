"""What must hold in a layer's entry beyond its types, so that whoever computes with it need not ask."""

from __future__ import annotations

from collections.abc import Iterator

from accelsim.vectors.manifest import LayerEntry, Sums

_WITH_SUMS = ("conv2d", "linear")
_LAYER_TENSORS = {
    "conv2d": ("input", "weight", "bias", "m0", "shift", "accumulator", "ppu_input", "output"),
    "linear": ("input", "weight", "bias", "m0", "shift", "accumulator", "ppu_input", "output"),
    "max_pool2d": ("input", "output"),
    "avg_pool2d": ("input", "output"),
    "add": ("input0", "input1", "m0_0", "m0_1", "shift_0", "shift_1", "output"),
    "clip": ("input", "output"),
    "table": ("input", "entries", "output"),
}


def broken_rule(layer: LayerEntry) -> str | None:
    """The first rule a layer's entry breaks, or None."""
    return next(_broken(layer), None)


def _broken(layer: LayerEntry) -> Iterator[str]:
    geometry, numerics, sums = layer.geometry, layer.numerics, layer.sums
    for name, values, count, least in (
        ("input", geometry.input, 4, 1),
        ("output", geometry.output, 4, 1),
        ("kernel", geometry.kernel, 2, 1),
        ("stride", geometry.stride, 2, 1),
        ("dilation", geometry.dilation, 2, 1),
        ("padding", geometry.padding, 4, 0),
    ):
        if len(values) != count or min(values) < least:
            yield f"geometry.{name} = {values} must be {count} numbers of at least {least}"
    if len(numerics.z_x) != (2 if layer.op == "add" else 1) or len(numerics.clip) != 2:
        yield f"z_x = {numerics.z_x} and clip = {numerics.clip} do not fit {layer.op}"
    try:
        _ = numerics.requantization
    except ValueError as error:
        yield str(error)
    if (sums is not None) != (layer.op in _WITH_SUMS):
        yield f"a {layer.op} layer has {'no' if sums is None else 'a'} [layer.sums]"
    shapes = {tensor.name: tensor.shape for tensor in layer.tensor}
    if missing := [name for name in _LAYER_TENSORS[layer.op] if name not in shapes]:
        yield f"tensor {missing[0]} is missing"
    for name, shape in shapes.items():
        wanted = _shape(layer, name)
        if wanted is not None and shape != wanted:
            yield f"tensor {name} has shape {shape}, and the layer's is {wanted}"
    if sums is None:
        extent = list(zip(geometry.input[1:3], geometry.output[1:3], strict=True))
        if (
            layer.op not in ("max_pool2d", "avg_pool2d")
            and geometry.kernel == [1, 1]
            and any(a != b for a, b in extent)
        ):
            yield f"output {geometry.output} does not follow from input {geometry.input}"
        return
    yield from _broken_sums(layer, sums)


def _shape(layer: LayerEntry, name: str) -> list[int] | None:
    geometry, sums = layer.geometry, layer.sums
    channels = geometry.output[3]
    if name in ("input", "input0", "input1"):
        return geometry.input
    if name in ("output", "accumulator", "ppu_input"):
        return geometry.output
    if name in ("bias", "m0", "shift"):
        return [channels]
    if sums is None:
        return None
    B, K, M, R, C = len(sums.blocks), len(sums.chunks), sums.words, sums.rows, sums.columns
    total = layer.cycles.total if layer.cycles is not None else 0
    per_output = geometry.input[1] * geometry.input[2] * geometry.input[3]
    inner = [*geometry.kernel, geometry.input[3] // max(geometry.groups, 1)]
    return {
        "weight": [channels, per_output] if layer.op == "linear" else [channels, *inner],
        "tile.activation": [sums.sets, K, M, R],
        "tile.weight": [B, K, R, C],
        "tile.psum": [B, K, M, C],
        "tile.accumulator": [B, K, M, C],
        "tile.ppu_input": [B, M, C],
        "tile.output": [B, M, C],
        **{f"tile.{one}": [B, C] for one in ("start", "bias", "m0", "shift")},
        **{f"cycle.{one}{v}": [B, total, C] for one in ("weight", "psum", "start") for v in ("", "_valid")},
        **{f"cycle.{one}": [B, total, R] for one in ("activation", "activation_valid", "switch")},
    }.get(name)


def _broken_sums(layer: LayerEntry, sums: Sums) -> Iterator[str]:
    geometry = layer.geometry
    try:
        _ = sums.arithmetic
    except ValueError as error:
        yield str(error)
    images, height, width, channels = geometry.output
    if sums.words != images * height * width or geometry.input[0] != images:
        yield f"words = {sums.words} is not images x height x width of output {geometry.output}"
    if geometry.groups < 1 or channels % geometry.groups or geometry.input[3] % geometry.groups:
        yield f"groups = {geometry.groups} does not divide {geometry.input[3]} and {channels} channels"
    per_output = geometry.kernel[0] * geometry.kernel[1] * geometry.input[3] // max(geometry.groups, 1)
    if layer.op == "linear":
        per_output = geometry.input[1] * geometry.input[2] * geometry.input[3]
    at = 0
    for chunk in sums.chunks:
        if len(chunk) != 2 or chunk[0] != at or not 1 <= chunk[1] <= sums.rows:
            yield f"chunk {chunk} does not follow k {at} with a length of 1..{sums.rows}"
            return
        at += chunk[1]
    if at != per_output:
        yield f"chunks end at k {at}, not at {per_output}"
    at = 0
    most = min(sums.rows, sums.columns) if sums.diagonal else sums.columns
    for block in sums.blocks:
        if len(block) != 3 or block[0] != at or not 1 <= block[1] <= most or not 0 <= block[2] < sums.sets:
            yield f"block {block} does not follow channel {at} with 1..{most} lanes and a set below {sums.sets}"
            return
        at += block[1]
    if at != channels:
        yield f"blocks end at channel {at}, not at {channels}"
    if sums.sets != (len(sums.blocks) if sums.diagonal else geometry.groups):
        yield f"sets = {sums.sets} fits neither groups nor blocks"
    if sums.diagonal and (geometry.groups != channels or per_output * channels != len(sums.chunks) * channels):
        yield "a diagonal layer has one channel a group and one tap a chunk"
    cycles, tiles = layer.cycles, -(-sums.words // sums.rows)
    if cycles is not None:
        counts = (0, tiles) if sums.running else (len(sums.chunks), len(sums.chunks))
        if (len(cycles.load), len(cycles.stream)) != counts:
            yield f"[layer.cycles] has {len(cycles.load)} loads and {len(cycles.stream)} streams, not {counts}"
