"""Accuracy, confusions and agreement with the float network, as JSON and for a terminal."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from accelsim.config import Hardware
from accelsim.config.hardware import hardware_from_dict
from accelsim.pipeline import Classification
from accelsim.report.document import describe_hardware
from accelsim.report.text import table

Int64 = npt.NDArray[np.int64]


def evaluation_report(
    workload: str, found: Classification, labels: Int64, hardware: Hardware, float_predictions: Int64 | None
) -> dict[str, Any]:
    """What `accelsim evaluate` found, for JSON (docs/formats.md).

    Args:
        labels: int64 (N,).
        float_predictions: int64 (N,), classes that the float network gives the same images; None where it is not there.
    """
    agreement: dict[str, Any] | None = None
    if float_predictions is not None:
        agreement = {
            "accuracy": float(np.mean(float_predictions == labels)),
            "agree": int(np.sum(float_predictions == found.predictions)),
        }
    return {
        "format": "accelsim-evaluation",
        "version": 1,
        "workload": workload,
        "hardware": hardware.model_dump(mode="json"),
        "images": found.count,
        "accuracy": found.accuracy,
        "correct": int(np.sum(found.predictions == labels)),
        "confusion": found.confusion.tolist(),
        "float": agreement,
        "predictions": found.predictions.tolist(),
    }


def show_evaluation(report: dict[str, Any]) -> str:
    """The same for a terminal."""
    count, right = report["images"], report["correct"]
    lines = [
        f"{report['workload']} on {describe_hardware(hardware_from_dict(report['hardware'], report['workload']))}",
        f"accuracy        {100 * right / count:.2f} % ({right} of {count} images of {report['data']})",
    ]
    if (judged := report["float"]) is not None:
        lines += [
            f"float accuracy  {100 * judged['accuracy']:.2f} % of the same images",
            f"agreement       {100 * judged['agree'] / count:.2f} % ({judged['agree']} of {count} predictions are the "
            "float network's)",
        ]
    classes = range(len(report["confusion"]))
    rows = [
        [str(label), *(f"{n:,}" if n else "." for n in row)]
        for label, row in zip(classes, report["confusion"], strict=True)
    ]
    return "\n".join([*lines, "", "images of each label (row) by prediction", *table(["", *map(str, classes)], rows)])
