"""Stores of made-up points, for tests of what is drawn from them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from accelsim.config import build, load_hardware
from accelsim.config.sweep import SweepFile
from accelsim.energy import PLACES
from accelsim.explore.bench import Answer, Figures
from accelsim.explore.space import Setting, Space
from accelsim.explore.store import Member, Store

AXES = {
    "hardware.array.rows": [4, 8, 16],
    "hardware.accumulator.width_bits": [12, 16, 32],
    "hardware.dram.bandwidth_bytes_per_cycle": [2, 8],
}


def figures_of(setting: Setting) -> Figures:
    """Figures with a true trade-off: more rows are faster and take more area; narrow accumulators save energy."""
    rows, bits = int(setting["hardware.array.rows"]), int(setting["hardware.accumulator.width_bits"])
    cycles = 64_000 // rows + 500 * 8 // int(setting["hardware.dram.bandwidth_bytes_per_cycle"])
    parts = dict.fromkeys(PLACES, 0.0) | {"adders": 10.0 * bits, "DRAM": 4000.0, "buffers": 9.0 * rows}
    return {
        "cycles": cycles,
        "utilization": 64_000 / (cycles * rows * 16),
        "dram_bytes_read": 8_000,
        "dram_bytes_written": 0,
        "energy": sum(parts.values()),
        **{f"energy.{place}": value for place, value in parts.items()},
        "accuracy": 99.0 if bits > 12 else 60.0 + rows / 4,
        "float": 99.5,
    }


def make_store(
    path: Path,
    *,
    name: str = "made up",
    axes: dict[str, list[Any]] = AXES,
    figures: Callable[[Setting], Figures] = figures_of,
    units: tuple[str, ...] = ("pJ",),
    workload: str = "lenet5_digits",
    **said: Any,
) -> Path:
    """A store with one more sweep of a grid whose points are all measured; units of their energies take turns."""
    measure = {"measure": ["cycles", "energy", "accuracy"], "images": 10}
    file = build(SweepFile, {"name": name, "axes": axes, **measure, **said}, "made up")
    with Store(path) as store:
        store._connection.execute("PRAGMA synchronous = OFF")  # nobody pulls the plug on a made-up store
        number = store.register(file)
        for position, setting in enumerate(Space(file, "made up").points()):
            key = f"{name} {position}"
            store.enrol(number, [Member(position, key, setting)])
            sets = [f"{key.removeprefix('hardware.')}={value}" for key, value in setting.items() if "hardware." in key]
            inputs = {
                "hardware": load_hardware("default_16x16", sets).model_dump(mode="json"),
                "energy": {"name": "table", "unit": units[position % len(units)], "entry": []},
                "workload": {"name": workload},
            }
            store.keep(Answer(key, "done", figures(setting), None, 0.1), inputs)
    return path
