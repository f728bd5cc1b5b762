"""Studies over many machines, schemes and images: sweeps, the accumulator study, studies of quantisation schemes."""

from accelsim.explore.accumulator import Question, Study, parse_widths
from accelsim.explore.frames import front, read_store, run_sweep
from accelsim.explore.scheme_study import SchemeStudy

__all__ = ["Question", "SchemeStudy", "Study", "front", "parse_widths", "read_store", "run_sweep"]
