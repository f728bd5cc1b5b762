"""ResNet-18 at 224x224 beside SCALE-Sim v3: CPU time of whole processes, same network, array and dataflow.

    python benchmarks/scalesim_resnet18.py [--scalesim PYTHON] [--arrays 128,32] [--dataflows ws,os] [--repeat 3]

For each array and dataflow: `accelsim compile` once, its time stated beside; then `accelsim simulate DIR` with values,
every tensor checked against a second evaluation; with values alone (--no-check); and without values (--timing-only).
Where ``--scalesim PYTHON`` names an interpreter that has scalesim==3.0.0 (with numpy<2.4), SCALE-Sim runs the network's
layers, as `accelsim topology` writes them; it computes no values. Medians of user and system time of
the process, and the most memory it held; ratios are SCALE-Sim's time to ours. Targets: at least 100 with values under
1.5 GB, and 5 times that timing-only.

SCALE-Sim takes minutes a run: ``--peer-repeat`` says how many (default: 1). It writes no traces, which its own command
line always does; ``--peer-traces`` has it write them. ``--hardware`` is the rest of the machine.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))  # the peer, as the tests run it

from scalesim_peer import run_scalesim


@dataclass(frozen=True)
class Process:
    """What one process took: user and system seconds, and its largest resident set in bytes."""

    cpu_seconds: float
    peak_bytes: int


def accelsim(*words: str) -> Process:
    """Run one command in a process of its own; ends the benchmark where it fails."""
    command = [sys.executable, "-c", "import sys; from accelsim.cli import main; sys.exit(main())", *words]
    with tempfile.TemporaryFile() as said:
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=said)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            said.seek(0)
            sys.exit(f"accelsim {' '.join(words)}: exit code {child.returncode}\n{said.read().decode()[-2000:]}")
    return Process(usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)


def middle(runs: list[Process]) -> Process:
    """Median time and largest memory."""
    return Process(median(run.cpu_seconds for run in runs), max(run.peak_bytes for run in runs))


def measure(arguments: argparse.Namespace, array: int, dataflow: str, folder: Path) -> None:
    """Print the rows of one array and dataflow."""
    program, topology = str(folder / "program"), folder / "topology.csv"
    changes = [f"array.rows={array}", f"array.columns={array}", f"array.dataflow={dataflow}"]
    options = [word for change in changes for word in ("--set", change)]
    compiled = accelsim("compile", arguments.workload, "--hardware", arguments.hardware, *options, "-o", program)
    accelsim("topology", program, "-o", str(topology))
    ours = {
        f"accelsim simulate {option}": middle(
            [accelsim("simulate", program, *option.split()) for _ in range(arguments.repeat)]
        )
        for option in ("", "--no-check", "--timing-only")
    }
    peer = None
    if arguments.scalesim:
        text = topology.read_text()
        runs = [
            run_scalesim(
                arguments.scalesim,
                text,
                rows=array,
                columns=array,
                dataflow=dataflow,
                gemm=False,
                traces=arguments.peer_traces,
            )
            for _ in range(arguments.peer_repeat)
        ]
        peer = median(run.cpu_seconds for run in runs)
    print(f"{array}x{array} {dataflow}")
    for name, run in ours.items():
        ratio = "" if peer is None else f"{peer / run.cpu_seconds:9.1f}"
        print(f"  {name:32}{run.cpu_seconds:10.2f}{run.peak_bytes / 1e6:10.0f}{ratio}")
    if peer is not None:
        print(f"  {'SCALE-Sim v3':32}{peer:10.2f}{'':10}{1:9.1f}")
    print(f"  {'accelsim compile':32}{compiled.cpu_seconds:10.2f}{compiled.peak_bytes / 1e6:10.0f}", flush=True)


def main() -> None:
    """Print one table for each array and dataflow."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scalesim", metavar="PYTHON")
    parser.add_argument("--workload", default="resnet18")
    parser.add_argument("--hardware", default="tpu_like_32x32")
    parser.add_argument("--arrays", default="128,32")
    parser.add_argument("--dataflows", default="ws,os")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--peer-repeat", type=int, default=1)
    parser.add_argument("--peer-traces", action="store_true")
    arguments = parser.parse_args()
    print(f"{arguments.workload:34}{'CPU s':>10}{'peak MB':>10}{'ratio':>9}")
    for array in map(int, arguments.arrays.split(",")):
        for dataflow in arguments.dataflows.split(","):
            with tempfile.TemporaryDirectory(prefix="accelsim-bench-") as folder:
                measure(arguments, array, dataflow, Path(folder))


if __name__ == "__main__":
    main()
