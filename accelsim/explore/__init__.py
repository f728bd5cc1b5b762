"""Studies over many machines, schemes and images: the accumulator study, and studies of quantisation schemes."""

from accelsim.explore.accumulator import Question, Study, parse_widths
from accelsim.explore.scheme_study import SchemeStudy

__all__ = ["Question", "SchemeStudy", "Study", "parse_widths"]
