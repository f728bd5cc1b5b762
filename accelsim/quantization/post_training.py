"""Post-training quantisation: observe ranges on examples, then choose scales and integers."""

from __future__ import annotations

import warnings

import numpy as np
import numpy.typing as npt

from accelsim.config.quantization import QuantizationScheme
from accelsim.errors import InputError
from accelsim.ir.float_graph import FloatArray, FloatGraph
from accelsim.ir.integer_graph import IntegerGraph
from accelsim.quantization.lowering import lower_with_scales
from accelsim.quantization.observe import calibrate


class CalibrationWarning(UserWarning):
    """The calibration set is legal and probably too poor to give good ranges."""


def quantize(graph: FloatGraph, calibration: npt.ArrayLike, scheme: QuantizationScheme) -> IntegerGraph:
    """Quantise a float graph with ranges seen on examples (min-max).

    Args:
        graph: without batch norms, as `frontend.capture` gives it.
        calibration: (N, C, H, W) or (N, K) as the model's input, N >= 1, finite; any real type. About a hundred
            examples of what the network will see.
        scheme: from `config.load_quantization`.
    Raises:
        InputError: calibration of the wrong shape, empty or not finite; a graph that the scheme cannot hold
            (see `lowering.lower`).
    Warns:
        CalibrationWarning: a lone example.
    """
    return quantize_with_scales(graph, calibration, scheme)[0]


def quantize_with_scales(
    graph: FloatGraph, calibration: npt.ArrayLike, scheme: QuantizationScheme
) -> tuple[IntegerGraph, dict[str, FloatArray]]:
    """`quantize`, and the weights' scales, which training starts from (see `lowering.lower_with_scales`)."""
    examples = _checked(graph, calibration)
    if len(examples) == 1:
        warnings.warn(
            f"{graph.name}: calibration on a lone example gives ranges that other inputs leave; use a hundred or more",
            CalibrationWarning,
            stacklevel=3,
        )
    return lower_with_scales(graph, calibrate(graph, examples), scheme)


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
    return examples
