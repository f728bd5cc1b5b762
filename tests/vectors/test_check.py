"""Each known mistake is planted into a dump by plain Python, and must be found: the place and the cause."""

from __future__ import annotations

import contextlib
import hashlib
from fractions import Fraction
from math import floor
from pathlib import Path

import numpy as np
import pytest
from graphs import GraphMaker
from refusals import refusal

from accelsim.cli import main
from accelsim.config import load_hardware
from accelsim.errors import InputError
from accelsim.numerics import Requantization, Rounding, Scheme
from accelsim.vectors import Request, check, export_corners, export_network, load_pack, read_dump
from accelsim.vectors.causes import MOST_TILES
from accelsim.vectors.pack import Pack
from accelsim.vectors.text import decode, encode

VERSIONS = {"accelsim": "test"}
EDGE = ["array.rows=4", "array.columns=4", "accumulator.width_bits=16"]


def request(level: str = "cycle", **more: object) -> Request:
    return Request(level=level, command="test", versions=VERSIONS, **more)


def small_graph():
    """conv1: K = 27 in runs of 9, N = 6 in two blocks of 4; then a pool, and a linear layer on (2, 2, 6)."""
    how = Requantization(scheme=Scheme.FIXED_POINT, rounding=Rounding.HALF_EVEN)
    maker = GraphMaker(np.random.default_rng(11), how)
    conv = maker.conv(maker.input(4, 4, 3, 3), 6, (3, 3), padding=(1, 1, 1, 1))
    maker.linear(maker.pool(conv, "avg", (2, 2), (2, 2)), 5)
    return maker


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
    folder = tmp_path_factory.mktemp("check") / "pack"
    maker = small_graph()
    export_network(maker.graph(), load_hardware("edge_8x8", EDGE), maker.codes(2), folder, request())
    return load_pack(folder)


@pytest.fixture(scope="module")
def corner_pack(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corners") / "pack"
    export_corners(load_hardware("edge_8x8", EDGE), folder, request("tile"))
    return load_pack(folder)


def tensors(pack, layer):
    """Every tensor of a layer by name."""
    entry = next(entry for entry in pack.manifest.layer if entry.name == layer)
    return entry, {tensor.name: pack.read(tensor) for tensor in entry.tensor}


def dump(pack, folder: Path, layer: str, arrays: dict[str, np.ndarray], *, form: str = "npy") -> Path:
    folder.mkdir(exist_ok=True)
    entry = next(entry for entry in pack.manifest.layer if entry.name == layer)
    for tensor in entry.tensor:
        if tensor.name in arrays:
            array = arrays[tensor.name]
            if form == "npy":
                np.save(folder / f"{tensor.file}.npy", array.astype(tensor.dtype))
            else:
                (folder / f"{tensor.file}.hex").write_text(encode(array.reshape(-1, tensor.per_line), tensor.bits))
    return folder


def checked(pack, folder: Path):
    return check(pack, read_dump(pack, folder))


# --- plain Python: what a layer gives, one thing being otherwise -------------------------------------------


def clamp(value, bits):
    return max(-(1 << (bits - 1)), min((1 << (bits - 1)) - 1, value))


def wrap(value, bits):
    return (value + (1 << (bits - 1))) % (1 << bits) - (1 << (bits - 1))


def half_up(exact):
    return floor(exact + Fraction(1, 2))


ROUND = {
    "floor": floor,
    "half_up": half_up,
    "half_even": round,
    "half_away": lambda exact: half_up(exact) if exact >= 0 else -half_up(-exact),
    "toward_zero": int,
}


def double(value, m0, n):
    high = half_up(Fraction(wrap(value << max(-n, 0), 32) * m0, 1 << 31))
    return ROUND["half_away"](Fraction(high, 1 << max(n, 0)))


def plain_sums(entry, found, fit, weight=None):
    """Partial sums and accumulators (blocks, chunks, words, C) of a layer, from its tiles."""
    sums = entry.sums
    x, w = found["tile.activation"], found["tile.weight"] if weight is None else weight
    psum = np.zeros((len(sums.blocks), len(sums.chunks), sums.words, sums.columns), dtype=np.int64)
    total = np.zeros_like(psum)
    for block, (_, lanes, chosen) in enumerate(sums.blocks):
        for word in range(sums.words):
            for column in range(lanes):
                running = int(found["tile.start"][block, column])
                for chunk in range(len(sums.chunks)):
                    s = 0
                    for row in range(sums.rows):
                        product = int(x[chosen, chunk, word, row]) * int(w[block, chunk, row, column])
                        s = fit(s + product, sums.psum_bits)
                    running = fit(running + s, sums.width_bits)
                    psum[block, chunk, word, column], total[block, chunk, word, column] = s, running
    return {"tile.psum": psum, "tile.accumulator": total}


def plain_outputs(entry, found, total, *, rounding=None, bias=1):
    """Codes (image, y, x, channel) from accumulators (blocks, chunks, words, C)."""
    sums, numerics = entry.sums, entry.numerics
    mode = rounding or numerics.rounding
    result = np.zeros((sums.words, entry.geometry.output[3]), dtype=np.int64)
    for block, (first, lanes, _) in enumerate(sums.blocks):
        for word in range(sums.words):
            for column in range(lanes):
                channel = first + column
                v = int(total[block, -1, word, column]) + bias * int(found["bias"][channel])
                m0, n = int(found["m0"][channel]), int(found["shift"][channel])
                fraction = numerics.multiplier_bits - 1 if numerics.scheme == "fixed_point" else 0
                if mode == "tflite_double":
                    r = double(v, m0, n)
                elif numerics.order == "shift_first":
                    a = ROUND[mode](Fraction(v << numerics.guard_bits) / Fraction(2) ** n)
                    r = ROUND[mode](Fraction(a * m0, 1 << (fraction + numerics.guard_bits)))
                else:
                    r = ROUND[mode](Fraction(v * m0) / Fraction(2) ** (fraction + n))
                low, high = numerics.clip
                result[word, channel] = max(low, min(high, numerics.z_y + r))
    return result.reshape(entry.geometry.output)


def test_plain_python_agrees_where_nothing_is_planted(pack, tmp_path):
    for layer in ("conv1", "linear3"):
        entry, found = tensors(pack, layer)
        sums = plain_sums(entry, found, clamp)
        outputs = {"output": plain_outputs(entry, found, sums["tile.accumulator"])}
        dump(pack, tmp_path / "dump", layer, sums | outputs)
    result = checked(pack, tmp_path / "dump")
    assert result.passed
    assert result.text.startswith("PASS: ")


# --- each cause ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("declared, planted", [(a.value, b.value) for a in Rounding for b in Rounding if a is not b])
def test_another_rounding_is_named(corner_pack, tmp_path, declared, planted):
    layer = f"scales_{declared}"
    entry, found = tensors(corner_pack, layer)
    output = plain_outputs(entry, found, found["tile.accumulator"], rounding=planted)
    different = np.argwhere(output != found["output"])
    result = checked(corner_pack, dump(corner_pack, tmp_path / "dump", layer, {"output": output}))
    if not len(different):  # these scales cannot tell the two apart
        assert result.passed
        return
    assert (result.first.layer.name, result.first.tensor.name) == (layer, "output")
    assert result.first.index == tuple(different[0])
    assert result.causes[0].left == 0
    vanishing = [cause.text for cause in result.causes if not cause.left]
    assert f"rounding: {planted} instead of {declared}" in vanishing


def test_every_two_roundings_are_told_apart_by_some_corner(corner_pack):
    """So that the test above does not pass by finding nothing."""
    for declared in Rounding:
        for planted in Rounding:
            if planted is not declared:
                told = []
                for kind in ("ties", "scales"):
                    entry, found = tensors(corner_pack, f"{kind}_{declared.value}")
                    output = plain_outputs(entry, found, found["tile.accumulator"], rounding=planted.value)
                    told.append((output != found["output"]).any())
                assert any(told), (declared, planted)


def test_wrapping_instead_of_saturating_is_named_with_tile_row_column_and_cycle(pack, tmp_path):
    entry, found = tensors(pack, "conv1")
    wrong = plain_sums(entry, found, wrap)
    result = checked(pack, dump(pack, tmp_path / "dump", "conv1", wrong, form="hex"))
    # The tile in which something first differs; in it, the array's sum before the accumulator's.
    tile = min(tuple(np.argwhere(wrong[name] != found[name])[0][:2]) for name in wrong)
    name = next(name for name in ("tile.psum", "tile.accumulator") if (wrong[name][tile] != found[name][tile]).any())
    block, chunk, word, column = np.argwhere(wrong[name] != found[name])[0]
    first = result.first
    assert first.tensor.name == name
    assert (first.place.block, first.place.chunk, first.place.word, first.place.column) == (block, chunk, word, column)
    # Section 4.2 of the microarchitecture: T of the chunk + m + R + j.
    assert first.place.cycle == entry.cycles.stream[chunk] + word + 4 + column
    assert first.expected in (32767, -32768)
    assert first.got == wrong[name][block, chunk, word, column]
    assert result.causes[0].text == "overflow: additions wrap instead of saturating"
    assert "!" in result.text  # the addition that left its range is marked
    assert f"chunk {chunk}" in result.text


@pytest.mark.parametrize("every", [True, False], ids=["every tile", "one tile"])
def test_a_transposed_weight_tile_is_named(pack, tmp_path, every):
    entry, found = tensors(pack, "conv1")
    weight = found["tile.weight"].copy()
    for block, chunk in np.ndindex(*weight.shape[:2]):
        if every or (block, chunk) == (1, 3):
            weight[block, chunk] = weight[block, chunk].T
    wrong = plain_sums(entry, found, clamp, weight)
    wrong = {name: np.where(np.arange(4) < np.array([4, 2])[:, None, None, None], a, 0) for name, a in wrong.items()}
    result = checked(pack, dump(pack, tmp_path / "dump", "conv1", wrong))
    place = result.first.place
    assert result.first.tensor.name == "tile.psum"
    assert (place.block, place.chunk) == ((0, 0) if every else (1, 3))
    expected = "transposed tile: every weight tile" if every else "transposed tile: weights of block 1, chunk 3 only"
    assert result.causes[0].text == expected
    assert result.causes[0].left == 0


@pytest.mark.parametrize("most", [3, 4, 128])
def test_tiles_that_were_not_tried_are_said(pack, tmp_path, monkeypatch, most):
    """Of conv1's nine taps in chunks, one tile of block 1 is transposed and only the layer's sums are dumped."""
    entry, found = tensors(pack, "conv1")
    chunks = len(entry.sums.chunks)
    assert 4 < chunks <= 128
    weight = found["tile.weight"].copy()
    weight[1, 3] = weight[1, 3].T
    total = plain_sums(entry, found, clamp, weight)["tile.accumulator"][:, -1]
    whole = np.concatenate([total[0], total[1, :, :2]], axis=-1).reshape(found["accumulator"].shape)
    monkeypatch.setattr("accelsim.vectors.causes.MOST_TILES", most)
    result = checked(pack, dump(pack, tmp_path / "dump", "conv1", {"accumulator": whole}))
    text = "transposed tile: weights of block 1, chunk 3 only"
    assert (text in [cause.text for cause in result.causes if not cause.left]) == (most > 3)
    said = f"of the {chunks} tiles whose weights alone might be transposed, the first {most} were tried; dump tile.psum"
    assert (said in result.text) == (most < chunks)


def test_the_page_states_how_many_tiles_are_tried():
    page = (Path(__file__).resolve().parents[2] / "docs" / "vectors.md").read_text(encoding="utf-8")
    assert f"among the first {MOST_TILES} tiles of the block that differs" in page


def test_a_tile_written_column_by_column_is_named(pack, tmp_path):
    _, found = tensors(pack, "conv1")
    wrong = found["tile.accumulator"].copy()
    wrong[0, 2] = wrong[0, 2].T.reshape(wrong[0, 2].shape)
    result = checked(pack, dump(pack, tmp_path / "dump", "conv1", {"tile.accumulator": wrong}))
    assert (result.first.place.block, result.first.place.chunk) == (0, 2)
    assert result.causes[0].text == "transposed tile: block 0, chunk 2 is written column by column"


def test_reversed_bytes_are_named(pack, tmp_path):
    _, found = tensors(pack, "conv1")
    swapped = found["accumulator"].astype("<i2").byteswap().astype(np.int64)
    result = checked(pack, dump(pack, tmp_path / "dump", "conv1", {"accumulator": swapped}, form="hex"))
    assert result.first.tensor.name == "accumulator"
    assert result.causes[0].text == "byte order: bytes of an element reversed"


def test_an_activation_line_read_from_the_wrong_end_is_named(pack, tmp_path):
    entry, found = tensors(pack, "conv1")
    wrong = plain_sums(entry, {**found, "tile.activation": found["tile.activation"][..., ::-1]}, clamp)
    result = checked(pack, dump(pack, tmp_path / "dump", "conv1", {"tile.psum": wrong["tile.psum"]}))
    assert result.causes[0].text == "byte order: element 0 of an activation line taken from its most significant end"


@pytest.mark.parametrize(
    "order, text",
    [
        ([0, 1, 4, 3, 2, 5], "channels 2 and 4 exchanged"),
        ([5, 4, 3, 2, 1, 0], "channels in reverse order"),
        ([1, 2, 3, 4, 5, 0], "channels rotated by 5"),
    ],
)
def test_channels_in_another_order_are_named(pack, tmp_path, order, text):
    _, found = tensors(pack, "conv1")
    wrong = {name: found[name][..., order] for name in ("ppu_input", "output")}
    result = checked(pack, dump(pack, tmp_path / "dump", "conv1", wrong))
    first = int(np.argmax(np.array(order) != np.arange(6)))
    assert (result.first.tensor.name, result.first.place.channel) == ("ppu_input", first)
    assert result.causes[0].text == f"channel order: {text}"


def into_blocks(entry, values):
    """(image, y, x, channel) as the tiles (blocks, words, C)."""
    sums = entry.sums
    tiles = np.zeros((len(sums.blocks), sums.words, sums.columns), dtype=np.int64)
    for block, (first, lanes, _) in enumerate(sums.blocks):
        for lane in range(lanes):
            tiles[block, :, lane] = values[..., first + lane].ravel()
    return tiles


@pytest.mark.parametrize(
    "order, text",
    [
        ([1, 0, 2, 3, 5, 4], "channels permuted (0 is in 1's place, 1 is in 0's place, 4 is in 5's place, 5 is in"),
        ([0, 1, 4, 3, 2, 5], "channels 2 and 4 exchanged"),  # from one block to the other
    ],
)
@pytest.mark.parametrize("given", [("output", "tile.output"), ("tile.output",), ("tile.output", "tile.accumulator")])
def test_channels_in_another_order_are_named_in_whole_tensors_and_tiles_at_once(pack, tmp_path, order, text, given):
    entry, found = tensors(pack, "conv1")
    whole = found["output"][..., order]
    wrong = {"output": whole, "tile.output": into_blocks(entry, whole)}
    chunks = found["tile.accumulator"]
    flat = np.concatenate([chunks[0], chunks[1, ..., :2]], axis=-1)[..., order]
    wrong["tile.accumulator"] = np.stack([flat[..., :4], np.pad(flat[..., 4:], ((0, 0), (0, 0), (0, 2)))])
    result = checked(pack, dump(pack, tmp_path / "dump", "conv1", {name: wrong[name] for name in given}))
    assert result.causes[0].left == 0
    assert result.causes[0].text.startswith(f"channel order: {text}")


def test_columns_in_another_order_that_takes_in_empty_lanes_are_named(pack, tmp_path):
    """The second block has two channels in four columns; a rotation of the columns brings padding into them."""
    _, found = tensors(pack, "conv1")
    turned = np.roll(found["tile.psum"], 1, axis=-1)
    result = checked(pack, dump(pack, tmp_path / "dump", "conv1", {"tile.psum": turned}))
    assert result.causes[0].text == "channel order: columns rotated by 1"


def test_channels_first_is_named(pack, tmp_path):
    _, found = tensors(pack, "conv1")
    wrong = np.moveaxis(found["output"], 3, 1).reshape(found["output"].shape)
    result = checked(pack, dump(pack, tmp_path / "dump", "conv1", {"output": wrong}))
    assert result.causes[0].text == "channel order: (image, channel, y, x) instead of (image, y, x, channel)"


def test_weights_with_k_in_another_order_are_named(pack, tmp_path):
    """k of the linear layer's weights over (c, h, w), as PyTorch flattens, with inputs in (h, w, c)."""
    entry, found = tensors(pack, "linear3")
    _, height, width, channels = entry.geometry.input
    weight = found["weight"].reshape(-1, height, width, channels).transpose(0, 3, 1, 2).reshape(found["weight"].shape)
    tiles = np.zeros_like(found["tile.weight"])
    for block, (channel, lanes, _) in enumerate(entry.sums.blocks):
        for chunk, (k, length) in enumerate(entry.sums.chunks):
            tiles[block, chunk, :length, :lanes] = weight[channel : channel + lanes, k : k + length].T
    wrong = plain_sums(entry, found, clamp, tiles)["tile.accumulator"]
    result = checked(pack, dump(pack, tmp_path / "dump", "linear3", {"tile.accumulator": wrong}))
    assert (result.first.place.block, result.first.place.chunk) == (0, 0)
    assert result.causes[0].text.startswith("channel order: k of the weights runs over (c, h, w)")


def exact_then_clamped(pack, entry, found):
    """An adder tree without limit, and one register that saturates behind it."""
    totals = {}
    for name, fit in (("exact", lambda value, bits: value), ("stepwise", clamp)):
        totals[name] = plain_sums(entry, found, fit)["tile.accumulator"]
    last = np.vectorize(clamp)(totals["exact"][:, -1:], entry.sums.width_bits)
    assert (last != totals["stepwise"][:, -1:]).any()
    return {"output": plain_outputs(entry, found, last)}


def weights_from_the_left(pack, entry, found):
    """The hex file of the weights, each line cut into elements from its most significant end."""
    tensor = next(tensor for tensor in entry.tensor if tensor.name == "tile.weight")
    digits = tensor.bits // 4
    lines = (pack.folder / f"{tensor.file}.hex").read_text().split()
    rows = [[int(line[at : at + digits], 16) for at in range(0, len(line), digits)] for line in lines]
    signed = [[value - (1 << tensor.bits) * (value >> (tensor.bits - 1)) for value in row] for row in rows]
    return plain_sums(entry, found, clamp, np.array(signed).reshape(tensor.shape))


def result_lines_reversed(pack, entry, found):
    """Each line of the hex file with its elements from right to left."""
    tensor = next(tensor for tensor in entry.tensor if tensor.name == "tile.accumulator")
    digits = tensor.bits // 4
    turned = []
    for line in (pack.folder / f"{tensor.file}.hex").read_text().split():
        elements = [line[at : at + digits] for at in range(0, len(line), digits)]
        turned.append("".join(reversed(elements)))
    text = "\n".join(turned)
    values = decode(text, tensor.lines, tensor.per_line, tensor.bits, signed=True, where="planted").values
    return {"tile.accumulator": values.reshape(tensor.shape)}


def results_column_by_column(pack, entry, found):
    """Word m of column j is element j * M + m of its tile's memory, which is read out C elements a line."""
    wrong = {}
    for name in ("tile.psum", "tile.accumulator"):
        wrong[name] = np.zeros_like(found[name])
        for block, chunk, word, column in np.ndindex(*found[name].shape):
            line, element = divmod(column * entry.sums.words + word, entry.sums.columns)
            wrong[name][block, chunk, line, element] = found[name][block, chunk, word, column]
    return wrong


def kernel_channels_outermost(pack, entry, found):
    """Weights stored as PyTorch has them, (c, r, s), read as if k ran over (r, s, c)."""
    tiles = np.zeros_like(found["tile.weight"])
    height, width = entry.geometry.kernel
    for block, (first, lanes, _) in enumerate(entry.sums.blocks):
        for chunk, (start, length) in enumerate(entry.sums.chunks):
            for row, lane in np.ndindex(length, lanes):
                c, rest = divmod(start + row, height * width)
                r, s = divmod(rest, width)
                tiles[block, chunk, row, lane] = found["weight"][first + lane, r, s, c]
    return plain_sums(entry, found, clamp, tiles)


@pytest.mark.parametrize(
    "plant, text",
    [
        (exact_then_clamped, "overflow: sums saturate once at the end, not at every addition"),
        (weights_from_the_left, "byte order: element 0 of a weight line taken from its most significant end"),
        (result_lines_reversed, "byte order: elements of a line reversed, element 0 in the most significant bits"),
        (results_column_by_column, "transposed tile: every tile is written column by column"),
        (kernel_channels_outermost, "channel order: k of the weights runs over (c, r, s) instead of (r, s, c)"),
    ],
)
def test_each_other_cause_of_the_page_is_named(pack, tmp_path, plant, text):
    entry, found = tensors(pack, "conv1")
    result = checked(pack, dump(pack, tmp_path / "dump", "conv1", plant(pack, entry, found)))
    assert result.first.layer.name == "conv1"
    assert (result.causes[0].text, result.causes[0].left) == (text, 0)


def test_saturating_instead_of_wrapping_is_named(tmp_path):
    maker = small_graph()
    hardware = load_hardware("edge_8x8", EDGE)
    export_network(maker.graph(), hardware, maker.codes(2), tmp_path / "pack", request("tile", policy="wrapping"))
    pack = load_pack(tmp_path / "pack")
    entry, found = tensors(pack, "conv1")
    assert (plain_sums(entry, found, wrap)["tile.accumulator"] == found["tile.accumulator"]).all()
    result = checked(pack, dump(pack, tmp_path / "dump", "conv1", plain_sums(entry, found, clamp)))
    assert (result.causes[0].text, result.causes[0].left) == ("overflow: additions saturate instead of wrapping", 0)


@pytest.mark.parametrize("times, text", [(0, "bias: not added"), (2, "bias: added twice")])
def test_a_bias_added_twice_or_not_at_all_is_named(pack, tmp_path, times, text):
    entry, found = tensors(pack, "conv1")
    output = plain_outputs(entry, found, found["tile.accumulator"], bias=times)
    wrong = {"output": output, "tile.accumulator": found["tile.accumulator"]}
    result = checked(pack, dump(pack, tmp_path / "dump", "conv1", wrong))
    assert (result.first.tensor.name, result.causes[0].text) == ("output", text)
    index = tuple(np.argwhere(output != found["output"])[0])
    assert result.first.index == index
    assert "+ bias" in result.text
    assert "requantise" in result.text


def test_a_wrong_average_pool_is_named(pack, tmp_path):
    _, found = tensors(pack, "avg2")
    x = found["input"].reshape(2, 2, 2, 2, 2, 6).sum(axis=(2, 4))
    result = checked(pack, dump(pack, tmp_path / "dump", "avg2", {"output": x // 4}))
    vanishing = [cause.text for cause in result.causes if not cause.left]
    assert "rounding: floor instead of half_even" in vanishing
    assert "operands:" in result.text


def test_a_sum_in_the_wrong_cycle_is_placed(pack, tmp_path):
    entry, found = tensors(pack, "linear3")
    late = np.roll(found["cycle.psum"], 1, axis=1)
    result = checked(pack, dump(pack, tmp_path / "dump", "linear3", {"cycle.psum": late}))
    block, cycle, column = (
        int(n) for n in np.argwhere((late != found["cycle.psum"]) & (found["cycle.psum_valid"] > 0))[0]
    )
    place = result.first.place
    assert (place.block, place.cycle, place.column) == (block, cycle, column)
    chunk = next(n for n, t in enumerate(entry.cycles.stream) if 0 <= cycle - t - 4 - column < 2)
    assert (place.chunk, place.word) == (chunk, cycle - entry.cycles.stream[chunk] - 4 - column)


# --- what is said --------------------------------------------------------------------------------------------


def test_the_first_divergence_is_the_earliest_in_the_data_and_others_are_counted_by_layer(pack, tmp_path, capsys):
    """Planted in an output of conv1, in its accumulators of the second block, and in the linear layer."""
    _, found = tensors(pack, "conv1")
    accumulator, output = found["tile.accumulator"].copy(), found["output"].copy()
    accumulator[1, 5, 7, 1] ^= 64
    output[0, 0, 0, 0] ^= 1
    dump(pack, tmp_path / "dump", "conv1", {"tile.accumulator": accumulator, "output": output})
    _, last = tensors(pack, "linear3")
    dump(pack, tmp_path / "dump", "linear3", {"output": last["output"] ^ 1})
    assert main(["vectors", "check", str(pack.folder), str(tmp_path / "dump")]) == 1
    said = capsys.readouterr().out
    value = int(found["tile.accumulator"][1, 5, 7, 1])
    assert "first at block 1, chunk 5, word 7, column 1" in said
    assert "block 1 (channels 4..5), chunk 5 (k 17..17)" in said
    assert "word 7: image 0, y 1, x 3" in said
    assert f"expected  {value}  0x{value & 0xFFFF:04x}" in said
    assert f"got       {value ^ 64}  0x{(value ^ 64) & 0xFFFF:04x}" in said
    assert "layer conv1: tile.accumulator 1, output 1\n" in said
    assert "layer linear3: output 10 (may follow from the first)" in said
    assert "cause: none of those that are known" in said
    assert "dump the layer's input, or the layers before it, as well" in said


def test_the_trace_adds_up_to_the_expected_value(pack, tmp_path):
    _, found = tensors(pack, "conv1")
    wrong = found["tile.psum"].copy()
    wrong[0, 1, 3, 2] += 1
    result = checked(pack, dump(pack, tmp_path / "dump", "conv1", {"tile.psum": wrong}))
    table = [line.split() for line in result.text.splitlines() if line.strip().startswith("1 ") and "(" in line]
    x, w = found["tile.activation"][0, 1, 3], found["tile.weight"][0, 1, :, 2]
    assert [(int(row[-5]), int(row[-4])) for row in table] == list(zip(x[: len(table)], w[: len(table)], strict=True))
    assert int(table[-1][-1]) == found["tile.psum"][0, 1, 3, 2]


def test_values_never_written_are_called_unknown(pack, tmp_path):
    _, found = tensors(pack, "linear3")
    folder = dump(pack, tmp_path / "dump", "linear3", {"output": found["output"]}, form="hex")
    (file,) = folder.iterdir()
    lines = file.read_text().splitlines()
    file.write_text("\n".join([*lines[:3], "xx", *lines[4:8]]) + "\n")  # one unknown, two missing
    result = checked(pack, folder)
    assert result.first.got is None
    assert "got       x (unknown)" in result.text
    assert result.counts == {"linear3": {"output": 3}}


def test_a_whole_line_that_begins_like_a_prefix_has_an_unknown_digit():
    """$writememh writes 0x for 8 bits of which the lower four are unknown."""
    values, unknown = decode("0x\n1a\n", 2, 1, 8, signed=False, where="x.hex")
    assert (values.tolist(), unknown.tolist()) == ([[0], [26]], [[True], [False]])


def test_padding_of_tiles_is_not_compared(pack, tmp_path):
    _, found = tensors(pack, "conv1")
    changed = found["tile.accumulator"].copy()
    changed[1, :, :, 2:] = 99
    assert checked(pack, dump(pack, tmp_path / "dump", "conv1", {"tile.accumulator": changed})).passed


# --- bad input -----------------------------------------------------------------------------------------------


def test_bad_dumps_are_refused_in_one_line(pack, tmp_path):
    folder = tmp_path / "dump"
    assert "is no folder" in refusal(read_dump, pack, folder)
    folder.mkdir()
    assert "holds no .hex and no .npy file" in refusal(read_dump, pack, folder)
    file = folder / "001_conv1.output.hex"
    for text, said in (
        ("zz\nqq\n", ":2: 'q' is not a hexadecimal digit, x or z"),
        ("123\n", ":1: '123' has 3 digits; a line of 1 elements of 8 bits has 2"),
        *(
            (
                f"00\n@{address} 55\n",
                f":2: {f'@{address}'[:20]!r} is not an address; write @ and up to 16 hexadecimal "
                "digits, of the line's number from 0",
            )
            for address in ("zz", "-1", "+5", "0x10", "", "0" * 17, "1" * 6000)
        ),
        ("@" + "f" * 16 + " 55\n", ":1: line 18446744073709551615 is one too many; 192 lines belong here"),
        ("0x1a\n", ":1: '0x1a' has a prefix; write the digits alone"),
        ("0Xa\n", ":1: '0xa' has a prefix; write the digits alone"),
        ("00\n" * 193, ":193: line 192 is one too many; 192 lines belong here"),
    ):
        file.write_text(text)
        assert refusal(read_dump, pack, folder) == f"{file}{said}"
    file.unlink()
    for array, said in (
        (np.zeros((2, 2)), "holds no array of integers"),
        (np.zeros((2, 2), dtype=np.int8), "shape (2, 2) is not the pack's (2, 4, 4, 6)"),
    ):
        np.save(folder / "001_conv1.output.npy", array)
        assert said in refusal(read_dump, pack, folder)
    np.save(folder / "001_conv1.output.npy", np.full((2, 4, 4, 6), 2**64 - 1, dtype=np.uint64))
    assert "holds 18446744073709551615, beyond any of the pack's values; save it as int8" in refusal(
        read_dump, pack, folder
    )
    (folder / "001_conv1.output.npy").rename(folder / "001_conv1.outputs.npy")
    assert "did you mean '001_conv1.output'?" in refusal(read_dump, pack, folder)


def test_a_damaged_npy_file_is_refused_in_one_line(pack, tmp_path):
    """Its header is Python text: what the tokenizer and the parser make of rubbish is no traceback either."""
    file = tmp_path / "001_conv1.output.npy"
    np.save(file, np.zeros((2, 4, 4, 6), dtype=np.int8))
    whole = file.read_bytes()
    rng = np.random.default_rng(3)
    damaged = [b"\x93NUMPY\x01\x00\x0a\x00{garb((   ", b"PK\x03\x04rubbish", b"", whole[:7], whole[:100], whole[:-1]]
    damaged += [whole.replace(b"(2, 4, 4, 6)", text) for text in (b"(2, 4, 4, -6)", b"(2**60,)", b"((((((((((((")]
    damaged.append(whole.replace(b"'|i1'", b"'|O8'"))
    for data in damaged:
        file.write_bytes(data)
        said = refusal(read_dump, pack, tmp_path)
        assert said.startswith(f"{file}: cannot be read as .npy: ")
        assert said.endswith("; save it with numpy.save")
    for _ in range(400):
        data = bytearray(whole)
        for place in rng.integers(0, 128, 2):
            data[place] = rng.integers(256)
        file.write_bytes(data)
        with contextlib.suppress(InputError):  # one line, by construction
            read_dump(pack, tmp_path)
    # The same bytes in a pack whose manifest vouches for them.
    _, tensor = pack.by_file["001_conv1.output"]
    (tmp_path / "001_conv1.output.npy").write_bytes(damaged[0])
    digest = hashlib.sha256(damaged[0]).hexdigest()
    moved = Pack(tmp_path, pack.manifest)
    assert "export the pack again" in refusal(moved.read, tensor.model_copy(update={"npy_sha256": digest}))


def test_both_forms_of_one_tensor_are_refused(pack, tmp_path):
    _, found = tensors(pack, "conv1")
    for form in ("hex", "npy"):
        dump(pack, tmp_path / "dump", "conv1", {"output": found["output"]}, form=form)
    assert "is there as .hex and as .npy; give one of them" in refusal(read_dump, pack, tmp_path / "dump")
