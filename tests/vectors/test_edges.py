"""What a pack says crosses the array's edges, cycle by cycle, against the grid that steps every register."""

from __future__ import annotations

import numpy as np
import pytest
from graphs import random_graph, random_hardware

from accelsim.isa import Compute, Start
from accelsim.machine import pe_grid
from accelsim.machine.pe_grid import FIRST, GridConfig
from accelsim.vectors.edges import cycles_of, edges, leaves, word_at
from accelsim.vectors.layers import Layer, make_layers


def layers_of(seed: int, dataflow: str) -> list[Layer]:
    rng = np.random.default_rng(seed)
    maker = random_graph(rng)
    graph = maker.graph()
    hardware = random_hardware(rng, graph, dataflow)
    policy = "wrapping" if hardware.accumulator.overflow == "wrap" else "saturating"
    found = make_layers(graph, hardware, maker.codes(1), policy=policy)
    return [layer for layer in found if layer.entry.sums is not None]


def step_grid(layer: Layer, block: int) -> tuple[pe_grid.GridRun, list[dict], list[int]]:
    """One block as a COMPUTE on the grid: activations already gathered, word after word, so that no mask is needed."""
    entry, sums = layer.entry, layer.entry.sums
    channel, lanes, chosen = sums.blocks[block]
    subtract = sums.zero_points == "subtracted"
    z_x, z_w = (entry.numerics.z_x[0], sums.z_w) if subtract else (0, 0)
    # Runs of equal length: the chunks between two that begin a run.
    if sums.diagonal:
        runs, run = len(sums.chunks), lanes
    elif entry.op == "linear":
        runs, run = 1, sum(length for _, length in sums.chunks)
    else:
        packed = entry.geometry.groups == 1 and entry.geometry.dilation[1] == 1
        taps = entry.geometry.kernel[0] if packed else entry.geometry.kernel[0] * entry.geometry.kernel[1]
        runs, run = taps, sum(length for _, length in sums.chunks) // taps
    words, rows = [], []
    for number, (_, length) in enumerate(sums.chunks):
        used = lanes if sums.diagonal else length
        words.append(layer.arrays["tile.activation"][chosen, number, :, :used] + z_x)
        weight = layer.arrays["tile.weight"][block, number]
        rows.append(np.diag(weight)[None, :lanes] if sums.diagonal else weight[:used, :lanes])
    activation = np.concatenate(words, axis=1)
    weights = np.concatenate(rows) + z_w
    if sums.diagonal and subtract:  # off the diagonal there is no weight at all
        weights = np.concatenate(
            [np.diag(layer.arrays["tile.weight"][block, n])[None, :lanes] + z_w for n in range(len(rows))]
        )
    in_accumulator = sums.bias_at == "accumulator"
    compute = Compute(
        act_base=0, weight_base=0, acc_base=0, width=sums.width_bits, weight_bits=8, z_x=z_x, z_w=z_w,
        act_unsigned=int(not entry.numerics.activation_signed), lanes=lanes, run_bytes=run, r_count=runs, dilation_y=0,
        x_count=sums.words, x_step=activation.shape[1], r_step=run, in_row_bytes=activation.size,
        start=Start.BIAS if in_accumulator else Start.ZERO, output_stationary=int(sums.running),
        diagonal=int(sums.diagonal), param=0,
    )  # fmt: skip
    config = GridConfig(
        rows=sums.rows, columns=sums.columns, psum_bits=sums.psum_bits, saturate_at="every_add",
        overflow="saturate" if sums.policy == "saturating" else "wrap", subtract_zero_points=subtract,
    )  # fmt: skip
    seen: list[dict] = []
    run_ = pe_grid.run(
        [compute],
        config,
        activation=(activation & 0xFF).astype(np.uint8).ravel(),
        weight=(weights & 0xFF).astype(np.uint8).ravel(),
        accumulators=np.zeros((sums.words, sums.columns), dtype=np.int64),
        bias=layer.arrays["bias"][channel : channel + lanes],
        observe=lambda _, registers: seen.append(registers),
    )
    return run_, seen, [run_.done[0]]


@pytest.mark.parametrize("dataflow", ["ws", "os"])
@pytest.mark.parametrize("seed", range(7))
def test_every_edge_shows_in_every_cycle_what_the_registers_show(seed, dataflow):
    checked = 0
    for layer in layers_of(seed, dataflow):
        sums = layer.entry.sums
        if sums.width_bits > 62 or sums.psum_bits > 62:
            continue  # wider than the grid's registers
        found = edges(sums, layer.arrays)
        total = cycles_of(sums).total
        for block, (_, lanes, _) in enumerate(sums.blocks[:2]):
            if total > 1200:
                continue
            run, seen, _ = step_grid(layer, block)
            own = {name: array[block] for name, array in found.items()}
            assert (run.accumulators[:, :lanes] == layer.arrays["tile.accumulator"][block, -1][:, :lanes]).all()
            assert len(seen) >= total
            for t in range(total):
                now, after = seen[t], seen[t + 1] if t + 1 < len(seen) else None
                compare_cycle(sums, own, t, now, after, lanes)
            checked += 1
    assert checked, f"seed {seed}: no layer small enough"


def compare_cycle(sums, own, t, now, after, lanes):
    R, C = sums.rows, sums.columns
    valid = {name.removesuffix("_valid"): own[name][t] > 0 for name in own if name.endswith("_valid")}
    if after is not None:
        there = valid["cycle.activation"]
        assert (after["pe.activation"][there, 0] == own["cycle.activation"][t][there]).all(), t
        switched = (after["pe.wave"][:, 0] >= 0) & (after["pe.flags"][:, 0] & FIRST > 0)
        assert (switched == (own["cycle.switch"][t] > 0)).all(), t
    # Column j of the weights, j > 0, comes out of its skew's last register.
    top, there = own["cycle.weight"][t], valid["cycle.weight"]
    for column in range(1, C):
        if there[column] and not sums.diagonal:
            assert now["skew.weight"][column - 1, column] == top[column], (t, column)
    if after is not None and sums.running:
        assert (after["pe.weight"][0][there] == top[there]).all(), t
    # Sums: below the array in t, in the deskew's first register or the accumulator's in t + 1.
    out, leaves_now = own["cycle.psum"][t], valid["cycle.psum"]
    if not sums.running:
        below = (now["pe.wave"][R - 1] >= 0) & (np.arange(C) < lanes)
        assert (below == leaves_now).all(), t
        assert (now["pe.psum"][R - 1][below] == out[below]).all(), t
    if after is not None and C > 1:
        came = after["deskew.wave"][0] >= 0
        assert (came[: C - 1] == leaves_now[: C - 1]).all(), t
        assert (
            after["deskew.psum"][0][: C - 1] == np.where(leaves_now, out, after["deskew.psum"][0])[: C - 1]
        ).all(), t
    if "cycle.start" in own and after is not None:
        starts = valid["cycle.start"]
        assert (after["pe.preload"][0][starts] == own["cycle.start"][t][starts]).all(), t


@pytest.mark.parametrize("dataflow", ["ws", "os"])
def test_a_cycle_and_a_column_lead_back_to_the_chunk_and_word(dataflow):
    for layer in layers_of(3, dataflow):
        sums = layer.entry.sums
        cycles = cycles_of(sums)
        for chunk in range(len(sums.chunks)) if not sums.running else [len(sums.chunks) - 1]:
            for word in {0, sums.words // 2, sums.words - 1}:
                cycle = leaves(sums, cycles, chunk, word, 0)
                assert word_at(sums, cycles, cycle, 0) == (chunk, word)


def test_the_worked_example_9_1_of_the_microarchitecture():
    """R = C = K = N = M = 2: L = 0, T = 2; 19 and 22 leave columns 0 and 1 in cycles 4 and 5, 43 and 50 in 5 and 6."""
    from accelsim.vectors.manifest import Sums

    sums = Sums(
        policy="saturating", psum_bits=32, width_bits=32, zero_points="folded", weight_bits=8, z_w=0, bias_at="ppu",
        running=False, diagonal=False, rows=2, columns=2, words=2, sets=1, chunks=[[0, 2]], blocks=[[0, 2, 0]],
    )  # fmt: skip
    tiles = {
        "tile.activation": np.array([[[[1, 2], [3, 4]]]]),
        "tile.weight": np.array([[[[5, 6], [7, 8]]]]),
        "tile.psum": np.array([[[[19, 22], [43, 50]]]]),
    }
    found = edges(sums, tiles)
    assert cycles_of(sums).total == 7
    assert found["cycle.weight"][0].tolist() == [[5, 0], [7, 6], [0, 8], [0, 0], [0, 0], [0, 0], [0, 0]]
    assert found["cycle.activation"][0].tolist() == [[0, 0], [0, 0], [1, 0], [3, 2], [0, 4], [0, 0], [0, 0]]
    assert found["cycle.psum"][0].tolist() == [[0, 0], [0, 0], [0, 0], [0, 0], [19, 0], [43, 22], [0, 50]]
    assert found["cycle.switch"][0].tolist() == [[0, 0], [0, 0], [1, 0], [0, 1], [0, 0], [0, 0], [0, 0]]
