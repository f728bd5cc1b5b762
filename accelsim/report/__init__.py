"""Reports of a run: JSON document and terminal text."""

from accelsim.report.document import build_report, describe_hardware, layer_cycles, price
from accelsim.report.text import show, show_image

__all__ = ["build_report", "describe_hardware", "layer_cycles", "price", "show", "show_image"]
