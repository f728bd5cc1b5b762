"""Float graphs to integer graphs: calibration and post-training quantisation. Imports torch."""

from accelsim.quantization.lowering import lower
from accelsim.quantization.observe import calibrate, evaluate
from accelsim.quantization.post_training import CalibrationWarning, quantize, quantize_with_scales
from accelsim.quantization.ranges import MinMaxObserver, Observer, Range

__all__ = [
    "CalibrationWarning",
    "MinMaxObserver",
    "Observer",
    "Range",
    "calibrate",
    "evaluate",
    "lower",
    "quantize",
    "quantize_with_scales",
]
