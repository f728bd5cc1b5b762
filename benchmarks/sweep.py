"""What a sweep costs, what a second process saves, and what a search finds with a fifth of a grid's evaluations.

A 1,000-point sweep of LeNet-5 (hardware axes, cycles and energy, empty store) as a user starts it, in CPU seconds of
all its processes, with one process and with two. Then the grid of accumulator widths and array shapes, 336 points,
against searches of 67: the share of the grid's hypervolume that each seed reaches, objectives scaled to the grid's
range and the reference point a tenth of it beyond the worst.

    python benchmarks/sweep.py [--points 1000] [--sampler tpe] [--together 4]
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from accelsim.config import build
from accelsim.config.sweep import SweepFile
from accelsim.explore.pareto import hypervolume
from accelsim.explore.store import Store
from accelsim.explore.sweep import Row, Sweep

POINTS: dict[str, Any] = {
    "hardware.array.rows": [4, 8, 16, 24, 32],
    "hardware.array.columns": [4, 8, 16, 24, 32],
    "hardware.accumulator.width_bits": [16, 20, 24, 32],
    "hardware.activation.memory_bytes": [16384, 65536],
    "hardware.dram.bandwidth_bytes_per_cycle": [1, 2, 4, 8, 16],
}
SHAPES = [
    *([4, 4], [4, 8], [8, 4], [4, 16], [16, 4], [8, 8], [8, 16], [16, 8], [4, 32], [32, 4], [16, 16], [8, 32], [32, 8]),
    *([12, 12], [24, 24], [16, 32], [32, 16], [8, 64], [64, 8], [32, 32], [64, 64]),
]
STUDY: dict[str, Any] = {
    "name": "accumulator_array",
    "measure": ["cycles", "energy", "area"],
    "axes": {
        "hardware.accumulator.width_bits": {"from": 12, "to": 27, "step": 1},
        "hardware.array.rows, hardware.array.columns": SHAPES,
    },
    "derived": {
        "hardware.accumulator.memory_bytes": "1024 * hardware.array.columns",
        "hardware.weight.memory_bytes": "max(4096, 64 * hardware.array.rows * hardware.array.columns)",
    },
}
OBJECTIVES = (("cycles", "energy"), ("cycles", "energy", "area"))
SHARE, BEYOND, SEEDS = 0.2, 0.1, 5


def cost(points: int, folder: Path) -> None:
    """CPU and wall seconds of `accelsim sweep` with one process and with two."""
    file = folder / "points.toml"
    lines = ['workload = "lenet5_digits"', 'measure = ["cycles", "energy"]', "[axes]"]
    lines += [f'"{key}" = {values}' for key, values in POINTS.items()]
    if points != 1000:
        lines += ["[sampling]", 'method = "random"', f"samples = {points}"]
    file.write_text("\n".join(lines))
    walls = []
    for jobs in (1, 2):
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        command = [Path(sys.executable).with_name("accelsim"), "sweep", file, "-o", folder / f"{jobs}.db"]
        subprocess.run([*map(str, command), "--jobs", str(jobs)], check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        walls.append(time.perf_counter() - began)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        print(f"{points:,} points, {jobs} process(es): {cpu:.1f} CPU-s, {walls[-1]:.1f} s", flush=True)
    print(f"two processes take {walls[1] / walls[0]:.2f} of the time of one (limit 0.65)", flush=True)


def run(data: dict[str, Any], store: Path, folder: Path) -> list[Row]:
    """The rows of a sweep given as the keys of its file."""
    with Store(store) as opened:
        return Sweep(build(SweepFile, data, "benchmark"), opened, folder).run()


def values(rows: list[Row], names: tuple[str, ...]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Objectives of the feasible rows, float64 (rows, objectives)."""
    return np.array([[row.figures[name] for name in names] for row in rows if row.status == "done"], dtype=np.float64)


def searches(sampler: str, together: int, folder: Path) -> None:
    """The share of the grid's hypervolume by seed; the grid is measured once, and searches take its points."""
    store = folder / "grid.db"
    grid = run(STUDY, store, folder)
    evaluations = int(SHARE * len(grid))
    for names in OBJECTIVES:
        whole = values(grid, names)
        low, high = whole.min(axis=0), whole.max(axis=0)
        reference = [1 + BEYOND] * len(names)
        scaled = (whole - low) / (high - low)
        everything = hypervolume(scaled, reference)
        shares = []
        for seed in range(SEEDS):
            search = {
                "objectives": [f"min {name}" for name in names],
                "evaluations": evaluations,
                "sampler": sampler,
                "together": together,
                "seed": seed,
            }
            found = values(run({**STUDY, "search": search}, store, folder), names)
            shares.append(hypervolume((found - low) / (high - low), reference) / everything)
        chance = np.random.default_rng(0)
        drawn = [hypervolume(chance.permutation(scaled)[:evaluations], reference) / everything for _ in range(200)]
        each = ", ".join(f"{100 * share:.1f}" for share in shares)
        print(
            f"{' x '.join(names)}: {evaluations} of {len(grid)} points by {sampler}, {together} together, reach "
            f"{100 * median(shares):.1f} % of the grid's hypervolume (median; seeds: {each}); "
            f"drawn at random {100 * median(drawn):.1f} %",
            flush=True,
        )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=1000, help="of the first sweep; 0 leaves it out")
    parser.add_argument("--sampler", default="tpe", choices=["tpe", "nsga2"])
    parser.add_argument("--together", type=int, default=4)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        if arguments.points:
            cost(arguments.points, Path(name))
        searches(arguments.sampler, arguments.together, Path(name))


if __name__ == "__main__":
    main()
