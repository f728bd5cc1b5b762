"""accelsim: golden model of an int8 systolic-array accelerator. Importing it is cheap; names load when first used.

A PyTorch model becomes a float graph (`capture`), an integer graph (`quantize`) and a program (`compile`), which runs
once (`simulate`), against the reference (`run_checked`) or on many images (`evaluate`); docs/api.md shows each.
"""

from __future__ import annotations

import importlib
import os as _os
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# In a checkout, `workloads` and `configs` lie beside the package; an installed accelsim has them inside.
if _os.path.isfile(_os.path.join(_os.path.dirname(__path__[0]), "setup.cfg")):
    __path__.append(_os.path.dirname(__path__[0]))

_HOMES = {
    "Accelerator": "accelsim.machine",
    "Classification": "accelsim.pipeline",
    "EngineModule": "accelsim.training",
    "Hardware": "accelsim.config",
    "InputError": "accelsim.errors",
    "IntegerGraph": "accelsim.ir",
    "Outcome": "accelsim.pipeline",
    "Program": "accelsim.isa",
    "QuantizationScheme": "accelsim.config",
    "capture": "accelsim.frontend",
    "compile": "accelsim.api",
    "evaluate": "accelsim.pipeline",
    "export_onnx": "accelsim.exporters",
    "import_pt2e": "accelsim.frontend",
    "load_energy": "accelsim.api",
    "load_graph": "accelsim.api",
    "load_hardware": "accelsim.api",
    "load_onnx": "accelsim.importers",
    "load_program": "accelsim.api",
    "load_quantization": "accelsim.api",
    "quantize": "accelsim.quantization",
    "quantize_input": "accelsim.ir",
    "run_checked": "accelsim.pipeline",
    "simulate": "accelsim.pipeline",
}

__all__ = [  # a literal, for tools; the same names as _HOMES
    "Accelerator",
    "Classification",
    "EngineModule",
    "Hardware",
    "InputError",
    "IntegerGraph",
    "Outcome",
    "Program",
    "QuantizationScheme",
    "__version__",
    "capture",
    "compile",
    "evaluate",
    "export_onnx",
    "import_pt2e",
    "load_energy",
    "load_graph",
    "load_hardware",
    "load_onnx",
    "load_program",
    "load_quantization",
    "quantize",
    "quantize_input",
    "run_checked",
    "simulate",
]

if TYPE_CHECKING:  # the same names once more, for type checkers and editors
    from accelsim.api import compile, load_energy, load_graph, load_hardware, load_program, load_quantization
    from accelsim.config import Hardware, QuantizationScheme
    from accelsim.errors import InputError
    from accelsim.exporters import export_onnx
    from accelsim.frontend import capture, import_pt2e
    from accelsim.importers import load_onnx
    from accelsim.ir import IntegerGraph, quantize_input
    from accelsim.isa import Program
    from accelsim.machine import Accelerator
    from accelsim.pipeline import Classification, Outcome, evaluate, run_checked, simulate
    from accelsim.quantization import quantize
    from accelsim.training import EngineModule

    workloads: Any  # mapped into the package at installation, where type checkers do not look
else:  # where a type checker saw __getattr__, a misspelt name would be Any to it

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module 'accelsim' has no attribute {name!r}")
        return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
