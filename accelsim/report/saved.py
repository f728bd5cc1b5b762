"""Reports of runs read back from their files: what is compared is checked, what is not is let through."""

from __future__ import annotations

import json
from typing import Annotated, Any, NoReturn

from pydantic import ConfigDict, Field, model_validator

from accelsim.config._model import Section, build
from accelsim.errors import InputError
from accelsim.files import FilePath, read_text

FORMAT, VERSION = "accelsim-report", 1
MOST_BYTES = 1 << 26
"""Of a report: its figures are some tens of KB, and outputs of 100,000 images with ten classes 20 MB."""

Count = Annotated[int, Field(ge=0, le=1 << 63)]
Amount = Annotated[float, Field(ge=0, le=1e30, allow_inf_nan=False)]
Bits = Annotated[int, Field(ge=1, le=64)]


class Part(Section):
    """Base of the models below: a report may hold more, which later versions of accelsim add."""

    model_config = ConfigDict(extra="ignore")


class SavedOperation(Part):
    """One operation type."""

    count: Amount
    energy: Amount


class SavedTotals(Part):
    """Of one batch. `busy_cycles` is None in reports of accelsim before it wrote them."""

    cycles: Count
    macs: Count
    energy: Amount
    energy_unit: str
    energy_table: str
    utilization: Amount
    latency_seconds: Amount
    images_per_second: Amount
    tops: Amount
    instructions: Count
    busy_cycles: dict[str, Count] | None = None


class SavedLayer(Part):
    """One layer of the batch; bits are None without products, and in older reports."""

    name: str
    op: str
    nodes: list[str]
    weight_bits: Bits | None = None
    accumulator_width_bits: Bits | None = None
    cycles: Count
    macs: Count
    stall_cycles: dict[str, Count]
    utilization: Amount
    dram_bytes_read: Count
    dram_bytes_written: Count
    energy: Amount
    overflows: Count | None


class SavedReport(Part):
    """What `--json` of a run wrote (docs/formats.md, section 3)."""

    workload: str
    hardware: dict[str, Any]
    batch: Annotated[int, Field(ge=1, le=1 << 63)]
    bit_exact: bool | None
    mismatch: str | None
    totals: SavedTotals
    energy_by_op: dict[str, SavedOperation]
    layers: list[SavedLayer]
    activation: dict[str, Any] | None = None
    requantization: dict[str, Any] | None = None
    zero_points: str
    bias_at: str
    accuracy: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None
    outputs: list[Any] | None

    @model_validator(mode="after")
    def _layers_have_names_of_their_own(self) -> SavedReport:
        names = [layer.name for layer in self.layers]
        if len(set(names)) < len(names):
            twice = next(name for number, name in enumerate(names) if name in names[:number])
            raise ValueError(f"two layers are called {twice!r}; each has a name of its own")
        return self

    def configuration(self) -> dict[str, Any]:
        """Every key that says on what and how it ran, by its place: ``hardware.array.rows``, ``layers.c1.weight_bits``.

        A key that an older report has not is left out.
        """
        found: dict[str, Any] = {"workload": self.workload, "batch": self.batch}
        _flatten("hardware", self.hardware, found)
        for key in ("activation", "requantization"):
            if getattr(self, key) is not None:
                _flatten(key, getattr(self, key), found)
        found |= {"zero_points": self.zero_points, "bias_at": self.bias_at, "energy_table": self.totals.energy_table}
        for layer in self.layers:
            for key in ("weight_bits", "accumulator_width_bits"):
                if getattr(layer, key) is not None:
                    found[f"layers.{layer.name}.{key}"] = getattr(layer, key)
        return found


def load_report(path: FilePath) -> SavedReport:
    """Read a report of `accelsim run` or `simulate`.

    Raises:
        InputError: there is no such file; it is not JSON (NaN and infinities are none), no report, or one of another
            version; a figure is missing, negative or of another type.
    """
    text = read_text(path, MOST_BYTES)
    try:
        data = json.loads(text, parse_constant=_refuse, object_pairs_hook=_unique)
    except RecursionError:
        raise InputError(f"{path}: nested too deeply for a report; give what 'accelsim run --json' wrote") from None
    except ValueError as error:  # JSONDecodeError, and numbers of thousands of digits
        raise InputError(f"{path}: not valid JSON: {error}; give what 'accelsim run --json' wrote") from None
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        found = data.get("format") if isinstance(data, dict) else None
        said = f"format {_short(found)} is not {FORMAT!r}" if found is not None else f"has no format {FORMAT!r}"
        raise InputError(f"{path}: {said}; give what 'accelsim run --json' wrote")
    version = data.get("version")
    if type(version) is not int or version != VERSION:
        raise InputError(f"{path}: report version {_short(version)} is not {VERSION}, which is read here; run it again")
    report = build(SavedReport, data, str(path))
    try:
        report.configuration()
    except RecursionError:
        raise InputError(f"{path} [hardware]: nested too deeply; give what 'accelsim run --json' wrote") from None
    return report


def _flatten(place: str, value: Any, found: dict[str, Any]) -> None:
    if isinstance(value, dict):
        for key, inner in value.items():
            _flatten(f"{place}.{key}", inner, found)
    else:
        found[place] = value


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number of JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"key {_short(key)} is there twice")
            seen.add(key)
    return found


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
