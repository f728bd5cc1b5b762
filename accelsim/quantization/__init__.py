"""Float graphs to integer graphs: calibration and post-training quantisation. Imports torch."""

from accelsim.quantization.lowering import lower
from accelsim.quantization.observe import calibrate, evaluate
from accelsim.quantization.post_training import CalibrationWarning, quantize
from accelsim.quantization.ranges import MinMaxObserver, Observer, Range
from accelsim.quantization.weights_only import with_quantized_weights

__all__ = [
    "CalibrationWarning",
    "MinMaxObserver",
    "Observer",
    "Range",
    "calibrate",
    "evaluate",
    "lower",
    "quantize",
    "with_quantized_weights",
]
