"""The command `accelsim list`."""

from __future__ import annotations

import argparse


def list_names(_: argparse.Namespace) -> int:
    """Print the names of workloads and presets."""
    from accelsim import workloads
    from accelsim.config import preset_names
    from accelsim.config.sweep import load_sweep

    print("workloads")
    for name in workloads.names():
        info = workloads.describe(name)
        accuracy = info.float_accuracy
        known = "seeded, not trained" if accuracy is None else f"float accuracy {100 * accuracy:.2f} %"
        print(f"  {name:<16} {info.summary} ({info.dataset}, {known})")
    for kind in ("hardware", "energy", "quantization", "studies"):
        print(f"{kind}\n  {'  '.join(preset_names(kind))}")
    print("sweeps")
    for name in preset_names("sweeps"):
        print(f"  {name:<20} {load_sweep(name).title}")
    return 0
