"""Hardware and quantisation descriptions: validated, frozen, loaded from TOML."""

from accelsim.config._model import Section, build, read_toml, whole_keys
from accelsim.config.hardware import (
    FLOAT32_BITS,
    MAX_LANES,
    RECORD_BYTES,
    TABLE_ENTRIES,
    DramSection,
    ElementBytes,
    Hardware,
    hardware_from_dict,
    load_hardware,
)
from accelsim.config.presets import find_preset, preset_folder, preset_names
from accelsim.config.quantization import QuantizationScheme, load_quantization
from accelsim.config.study import Row, StudyPlan, Trial, check_seeds, load_study

__all__ = [
    "FLOAT32_BITS",
    "MAX_LANES",
    "RECORD_BYTES",
    "TABLE_ENTRIES",
    "DramSection",
    "ElementBytes",
    "Hardware",
    "QuantizationScheme",
    "Row",
    "Section",
    "StudyPlan",
    "Trial",
    "build",
    "check_seeds",
    "find_preset",
    "hardware_from_dict",
    "load_hardware",
    "load_quantization",
    "load_study",
    "preset_folder",
    "preset_names",
    "read_toml",
    "whole_keys",
]
