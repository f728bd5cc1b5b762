"""Hardware and quantisation descriptions: validated, frozen, loaded from TOML."""

from accelsim.config._model import Section, build, read_toml
from accelsim.config.hardware import (
    MAX_LANES,
    RECORD_BYTES,
    TABLE_ENTRIES,
    Hardware,
    hardware_from_dict,
    load_hardware,
)
from accelsim.config.presets import find_preset, preset_folder, preset_names
from accelsim.config.quantization import QuantizationScheme, load_quantization

__all__ = [
    "MAX_LANES",
    "RECORD_BYTES",
    "TABLE_ENTRIES",
    "Hardware",
    "QuantizationScheme",
    "Section",
    "build",
    "find_preset",
    "hardware_from_dict",
    "load_hardware",
    "load_quantization",
    "preset_folder",
    "preset_names",
    "read_toml",
]
