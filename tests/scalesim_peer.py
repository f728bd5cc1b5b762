"""SCALE-Sim v3 itself as a peer: a topology run by the real package, in an environment of its own.

The package needs numpy<2.4, so it has its own interpreter:

    python -m venv peer && peer/bin/pip install 'scalesim==3.0.0' 'numpy<2.4'
"""

from __future__ import annotations

import resource
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

VARIABLE = "ACCELSIM_SCALESIM"
"""Names the interpreter that has the package."""

CONFIG = """[general]
run_name = run
[run_presets]
InterfaceBandwidth: CALC
UseRamulatorTrace: False
[architecture_presets]
ArrayHeight: {rows}
ArrayWidth: {columns}
IfmapSramSzkB: 8192
FilterSramSzkB: 8192
OfmapSramSzkB: 8192
IfmapOffset: 0
FilterOffset: 10000000
OfmapOffset: 20000000
Dataflow: {dataflow}
Bandwidth: 10
ReadRequestBuffer: 512
WriteRequestBuffer: 512
[layout]
IfmapCustomLayout: False
IfmapSRAMBankBandwidth: 10
IfmapSRAMBankNum: 10
IfmapSRAMBankPort: 2
FilterCustomLayout: False
FilterSRAMBankBandwidth: 10
FilterSRAMBankNum: 10
FilterSRAMBankPort: 2
[sparsity]
SparsitySupport: false
"""

SCRIPT = (
    "from scalesim.scale_sim import scalesim; scalesim(save_disk_space={quiet}, verbose=False, config='scale.cfg', "
    "topology='topology.csv', layout='layout.csv', input_type_gemm={gemm}).run_scale(top_path='out')"
)


@dataclass(frozen=True)
class PeerRun:
    """`cycles`: "Total Cycles" of each layer, as printed; `cpu_seconds`: of the whole process."""

    cycles: list[int]
    stalls: list[int]
    cpu_seconds: float


def run_scalesim(
    python: str, topology: str, *, rows: int, columns: int, dataflow: str, gemm: bool, traces: bool = False
) -> PeerRun:
    """Run the text of a topology file; with `traces` it writes them, as its own command line always does.

    Raises:
        RuntimeError: the process failed; with the end of what it said.
    """
    with tempfile.TemporaryDirectory(prefix="accelsim-peer-") as name:
        folder = Path(name)
        (folder / "scale.cfg").write_text(CONFIG.format(rows=rows, columns=columns, dataflow=dataflow))
        (folder / "topology.csv").write_text(topology)
        layers = [line.split(",")[0] for line in topology.splitlines()]
        (folder / "layout.csv").write_text("".join(f"{layer},{'1,' * 20}\n" for layer in layers))
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [python, "-c", SCRIPT.format(gemm=gemm, quiet=not traces)]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        if done.returncode:
            raise RuntimeError(f"SCALE-Sim failed:\n{done.stderr[-2000:]}")
        report = (folder / "out" / "run" / "COMPUTE_REPORT.csv").read_text().splitlines()[1:]
    # LayerID, Total Cycles (incl. prefetch), Total Cycles, Stall Cycles, ...
    figures = [[int(float(value)) for value in line.split(",")[2:4]] for line in report]
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return PeerRun([f[0] for f in figures], [f[1] for f in figures], seconds)
