"""Post-training quantisation: repair the float graph, set ranges, choose scales and integers, repair these."""

from __future__ import annotations

import warnings

import numpy as np
import numpy.typing as npt

from accelsim.config.quantization import QuantizationScheme
from accelsim.errors import InputError
from accelsim.ir.float_graph import FloatArray, FloatGraph
from accelsim.ir.integer_graph import IntegerGraph
from accelsim.quantization.adaround import learn_rounding
from accelsim.quantization.bias_correction import correct_analytically, correct_empirically
from accelsim.quantization.equalization import repaired
from accelsim.quantization.formats import placed
from accelsim.quantization.lowering import CalibrationWarning, lower, lower_with_scales
from accelsim.quantization.observe import calibrate
from accelsim.quantization.observers import Quantiser, logits, scheme_observers
from accelsim.quantization.ranges import Range
from accelsim.quantization.scales import activation_scale
from accelsim.quantization.statistics import batch_norm_ranges, propagate


def quantize(graph: FloatGraph, calibration: npt.ArrayLike, scheme: QuantizationScheme) -> IntegerGraph:
    """Quantise a float graph as a scheme says, in this order; docs/quantization.md tells how each step works.

    1. `equalization`: ReLU6 replaced, weights equalised, high biases absorbed, on the float graph.
    2. `activation.range` and `logits`: the range of every tensor of that graph.
    3. `lower`: scales (weights: `weight.range`), round-to-nearest, biases, multipliers.
    4. `weight.rounding` = adaround: weights rounded anew, layer after layer, and lowered again with these codes.
    5. `bias.correction`: on the integer layers.

    Args:
        graph: without batch norms, as `frontend.capture` gives it.
        calibration: (N, C, H, W) or (N, K) as the model's input, N >= 1, finite; any real type. About a hundred
            examples of what the network will see.
        scheme: from `config.load_quantization`.
    Raises:
        InputError: calibration of the wrong shape, empty or not finite; a graph that the scheme cannot hold
            (see `lowering.lower`); a repair without what it needs, such as batch-norm statistics.
    Warns:
        CalibrationWarning: a lone example; or as `lowering.lower`.
    """
    examples = _checked(graph, calibration)
    graph = repaired(graph, scheme.equalization)
    ranges = choose_ranges(graph, examples, scheme)
    lowered, weight_scales = lower_with_scales(graph, ranges, scheme)
    if scheme.weight.rounding == "adaround":
        codes = learn_rounding(lowered, graph, examples, scheme, weight_scales)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CalibrationWarning)  # of biases, which the first lowering has told
            lowered = lower(graph, ranges, scheme, weights=codes)
    match scheme.bias.correction:
        case "analytic":
            return correct_analytically(lowered, graph, propagate(graph, examples), scheme.bias.bits)
        case "empirical":
            return correct_empirically(lowered, graph, examples, scheme.bias.bits)
        case "none":
            return lowered


def quantize_with_scales(
    graph: FloatGraph, calibration: npt.ArrayLike, scheme: QuantizationScheme
) -> tuple[IntegerGraph, dict[str, FloatArray]]:
    """`quantize`, and the weights' scales, from which training starts (see `lowering.lower_with_scales`).

    Raises:
        InputError: as `quantize`; or the scheme repairs weights or biases, which training learns.
    """
    examples = _checked(graph, calibration)
    for key, value, plain in (
        ("equalization.weights", scheme.equalization.weights, False),
        ("equalization.absorb_bias", scheme.equalization.absorb_bias, False),
        ("weight.rounding", scheme.weight.rounding, "nearest"),
        ("bias.correction", scheme.bias.correction, "none"),
    ):
        if value != plain:
            shown = str(value).lower() if isinstance(value, bool) else repr(value)
            raise InputError(
                f"{graph.name}: {key} = {shown} repairs what training learns by itself; leave it out of a scheme to "
                "train with"
            )
    return lower_with_scales(graph, choose_ranges(graph, examples, scheme), scheme)


def choose_ranges(graph: FloatGraph, examples: npt.NDArray[np.number], scheme: QuantizationScheme) -> dict[str, Range]:
    """Return each node's range as `activation.range` and `activation.logits` say.

    Args:
        graph: without batch norms, equalised where it is to be.
        examples: (N, *input shape), N >= 1, finite.
    Raises:
        InputError: as `calibrate`, `scheme_observers` and `batch_norm_ranges`.
    """
    power_of_two = scheme.requantization.scheme == "power_of_two"

    def quantiser(name: str) -> Quantiser:
        own = scheme.activation_of(name)
        codes = placed(own, own.format)

        def quantised(values: FloatArray, within: Range) -> FloatArray:
            scale, zero = activation_scale(
                within,
                codes.form,
                symmetric=own.symmetric,
                power_of_two=power_of_two or own.power_of_two,
                fraction_bits=own.fraction_bits,
                single=scheme.scale_format == "float32",
            )
            return np.asarray(scale * (np.clip(np.rint(values / scale) + zero, *codes.limits) - zero))

        return quantised

    ranges = calibrate(graph, examples, by_node=scheme_observers(graph, scheme, quantiser))
    if scheme.activation.range == "batch_norm":
        seen = ranges
        ranges = ranges | batch_norm_ranges(graph, propagate(graph, examples))
        if scheme.activation.logits == "cross_entropy":
            ranges[logits(graph)] = seen[logits(graph)]
    return ranges


def _checked(graph: FloatGraph, calibration: npt.ArrayLike) -> npt.NDArray[np.number]:
    """The examples as an array; their conversion to float64 is left to the batches."""
    examples = np.asarray(calibration)
    expected = graph.input.shape
    where = f"{graph.name}: calibration"
    if examples.dtype.kind not in "fiub":
        raise InputError(f"{where} has type {examples.dtype}; it must hold real numbers")
    if examples.ndim != len(expected) + 1 or examples.shape[1:] != expected:
        wanted = ", ".join(str(size) for size in expected)
        raise InputError(f"{where} has shape {examples.shape}; it must be (N, {wanted})")
    if not len(examples):
        raise InputError(f"{where} is empty; give a hundred examples or more")
    if not np.isfinite(examples).all():
        raise InputError(f"{where} holds NaN or infinite values; remove them")
    if len(examples) == 1:
        warnings.warn(
            f"{graph.name}: calibration on a lone example gives ranges that other inputs leave; use a hundred or more",
            CalibrationWarning,
            stacklevel=3,
        )
    return examples
