"""The array, animated: one HTML page that needs no network, for the projector.

The page draws what `animation_frames` has recorded and says what `animation_captions` says; it computes nothing of
the machine's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from accelsim.report.animation_captions import Caption, captions, compared
from accelsim.report.animation_frames import Dataflow, Frame, Product, Recording, record
from accelsim.report.html import html_file


def animation_page(product: Product, dataflows: Sequence[Dataflow]) -> str:
    """The page: all of it in one string of HTML (`report.html`), a view for each dataflow.

    The same product gives the same bytes.
    """
    data = animation_data([record(product, dataflow) for dataflow in dataflows])
    return html_file("animation", title=data["title"], data=data)


def animation_data(recordings: Sequence[Recording]) -> dict[str, Any]:
    """What the page shows.

    Args:
        recordings: of one product.
    Returns:
        title: of the page.
        shape: M, K, N; rows, columns: of the array; words: of the accumulator memory in use.
        overflow: "saturate" or "wrap"; limits: least and greatest sum in `array` and `memory`.
        activations, weights: the operands; exact: their product without fitting.
        views: dataflow -> result, number of overflows and frames.
    """
    product = recordings[0].product
    m, k, n = product.shape
    array = product.array
    sums = product.width_bits if array.saturate_at == "end" else min(array.psum_bits, product.width_bits)
    return {
        "title": f"Y = X · W on {array.rows}×{array.columns} PEs: {_bits(product)}",
        "shape": [m, k, n],
        "rows": array.rows,
        "columns": array.columns,
        "words": m * -(-n // array.columns),
        "overflow": array.overflow,
        "limits": {"array": _limits(sums), "memory": _limits(product.width_bits)},
        "activations": product.activations.tolist(),
        "weights": product.weights.tolist(),
        "exact": product.exact.tolist(),
        "views": {
            one.dataflow: {
                "result": one.result.tolist(),
                "overflows": one.overflows,
                "frames": [
                    _frame(frame, captions(one, frame) + (compared(one, recordings) if frame is one.frames[-1] else []))
                    for frame in one.frames
                ],
            }
            for one in recordings
        },
    }


def _frame(frame: Frame, said: list[Caption]) -> dict[str, Any]:
    """One cycle; tokens as lists, in the order of their fields, without the last two where nothing is added."""
    return {
        "load": frame.load,
        "fetch": frame.fetch,
        "weight_read": frame.weight_read,
        "word_read": frame.word_read,
        "tokens": [list(token if token.exact is not None else token[:-2]) for token in frame.tokens],
        "switched": frame.switched,
        "words": frame.words,
        "write": frame.write,
        "macs": frame.macs,
        "overflows": frame.overflows,
        "captions": said,
    }


def _bits(product: Product) -> str:
    array, width = product.array, product.width_bits
    verb = "saturate" if array.overflow == "saturate" else "wrap"
    if array.saturate_at == "end":
        return f"{width}-bit sums {verb} at the end"
    if array.psum_bits == width:
        return f"{width}-bit sums {verb}"
    return f"{array.psum_bits}-bit partial sums and {width}-bit accumulators {verb}"


def _limits(bits: int) -> tuple[int, int]:
    return -(1 << bits - 1), (1 << bits - 1) - 1
