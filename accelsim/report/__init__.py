"""Reports of a run: JSON document, terminal text and figures."""

from accelsim.report.comparison import compare_graphs, show_comparison
from accelsim.report.document import build_report, describe_hardware, layer_cycles, price
from accelsim.report.figures import write_figures
from accelsim.report.tensors import dump_tensors
from accelsim.report.text import show, show_image
from accelsim.report.waveform import write_waveform

__all__ = [
    "build_report",
    "compare_graphs",
    "dump_tensors",
    "show_comparison",
    "describe_hardware",
    "layer_cycles",
    "price",
    "show",
    "show_image",
    "write_figures",
    "write_waveform",
]
