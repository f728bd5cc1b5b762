"""Float graphs to integer graphs: calibration and post-training quantisation. Imports torch."""

from accelsim.quantization.equalization import absorb_bias, equalize, replace_relu6
from accelsim.quantization.lowering import CalibrationWarning, lower
from accelsim.quantization.observe import calibrate, evaluate
from accelsim.quantization.post_training import quantize
from accelsim.quantization.ranges import MinMaxObserver, Observer, Range
from accelsim.quantization.weights_only import with_quantized_weights

__all__ = [
    "CalibrationWarning",
    "MinMaxObserver",
    "Observer",
    "Range",
    "absorb_bias",
    "calibrate",
    "equalize",
    "evaluate",
    "lower",
    "quantize",
    "replace_relu6",
    "with_quantized_weights",
]
