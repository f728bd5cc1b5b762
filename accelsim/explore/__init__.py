"""Studies over many machines and many images: the accumulator study."""

from accelsim.explore.accumulator import Question, Study, parse_widths

__all__ = ["Question", "Study", "parse_widths"]
