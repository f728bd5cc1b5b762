"""accelsim: golden model of an int8 systolic-array accelerator. Importing it is cheap; names load when first used."""

from __future__ import annotations

import importlib
import os as _os
from typing import Any

__version__ = "0.1.0"

# In a checkout, `workloads` and `configs` lie beside the package; an installed accelsim has them inside.
if _os.path.isfile(_os.path.join(_os.path.dirname(__path__[0]), "setup.cfg")):
    __path__.append(_os.path.dirname(__path__[0]))

_HOMES = {
    "Accelerator": "accelsim.machine",
    "Hardware": "accelsim.config",
    "InputError": "accelsim.errors",
    "QuantizationScheme": "accelsim.config",
    "capture": "accelsim.frontend",
    "compile": "accelsim.compiler",
    "load_energy": "accelsim.energy",
    "load_graph": "accelsim.ir",
    "load_hardware": "accelsim.config",
    "load_program": "accelsim.isa",
    "load_quantization": "accelsim.config",
    "quantize": "accelsim.quantization",
    "simulate": "accelsim.pipeline",
}

__all__ = [  # a literal, for tools; the same names as _HOMES
    "Accelerator",
    "Hardware",
    "InputError",
    "QuantizationScheme",
    "__version__",
    "capture",
    "compile",
    "load_energy",
    "load_graph",
    "load_hardware",
    "load_program",
    "load_quantization",
    "quantize",
    "simulate",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'accelsim' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), {"compile": "compile_graph"}.get(name, name))
