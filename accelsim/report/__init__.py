"""Reports of a run: JSON document, terminal text, page and figures."""

from accelsim.report.accumulator import show_study, study_csv, study_figure
from accelsim.report.comparison import Side, compare_networks, show_comparison
from accelsim.report.document import build_report, describe_hardware
from accelsim.report.evaluation import evaluation_report, show_evaluation
from accelsim.report.figures import write_figures
from accelsim.report.requantization import show_requantization_difference
from accelsim.report.run_page import html_report
from accelsim.report.scheme_study import scheme_study_csv, scheme_study_figure, show_scheme_study
from accelsim.report.tensors import dump_tensors
from accelsim.report.text import show, show_image
from accelsim.report.trace import write_trace
from accelsim.report.waveform import write_waveform

__all__ = [
    "Side",
    "build_report",
    "compare_networks",
    "dump_tensors",
    "evaluation_report",
    "show_comparison",
    "describe_hardware",
    "html_report",
    "scheme_study_csv",
    "scheme_study_figure",
    "show",
    "show_evaluation",
    "show_image",
    "show_requantization_difference",
    "show_scheme_study",
    "show_study",
    "study_csv",
    "study_figure",
    "write_figures",
    "write_trace",
    "write_waveform",
]
