"""The hardware description: one TOML file drives compiler, simulator, energy and the RTL's parameters."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from accelsim.config._model import Section, build, read_toml, set_key
from accelsim.config.presets import find_preset
from accelsim.errors import InputError
from accelsim.numerics import Arithmetic, Rounding, Scheme

MAX_LANES = 256
"""An instruction's `lanes` field holds 1..256."""
RECORD_BYTES = 16
"""One parameter record: bias, shift and multiplier of one channel."""
TABLE_ENTRIES = 256
MAX_MAC_CYCLES = 64
"""More than any multiply-add's pipeline; bounds what the register-level grid steps."""


FLOAT32_BYTES = 4
FLOAT32_BITS = 32


class ElementBytes(NamedTuple):
    """Bytes of one operand in the buffers and in DRAM; results take an activation's."""

    activation: int = 1
    weight: int = 1


OPEN_ROWS = ("row_bytes", "banks", "t_rcd_cycles", "t_rp_cycles", "t_cas_cycles")
REFRESH = ("refresh_interval_cycles", "refresh_cycles")


class ArraySection(Section):
    """The PE array.

    Attributes:
        arithmetic: activation x weight of a PE. With a float32 operand products, sums and results are float32; such
            an array runs matrix products alone (`accelsim arithmetic`).
        psum_bits: width of the partial sum inside it; absent, the accumulator's width.
        serial_tiles: a tile begins only after the last product of the tile before, as SCALE-Sim counts; by default its
            load and first words overlap that tile's wave.
        mac_latency_cycles: from operands that enter a PE's multiply-add to the sum in its register, both included.
        mac_interval_cycles: a PE takes a new pair of operands every so many cycles.
        add_latency_cycles: the last cycles of the latency, in which the partial sum is added; absent, all of them.
    """

    rows: int = Field(ge=1, le=MAX_LANES)
    columns: int = Field(ge=1, le=MAX_LANES)
    dataflow: Literal["ws", "os", "is"] = "ws"
    arithmetic: Literal["int8xint8", "float32xint8", "float32xfloat32"] = "int8xint8"
    psum_bits: int | None = Field(None, ge=8, le=64)
    serial_tiles: bool = False
    mac_latency_cycles: int = Field(1, ge=1, le=MAX_MAC_CYCLES)
    mac_interval_cycles: int = Field(1, ge=1, le=MAX_MAC_CYCLES)
    add_latency_cycles: int | None = Field(None, ge=1, le=MAX_MAC_CYCLES)


class AccumulatorSection(Section):
    """The accumulator memory: words of `columns` x width_bits, as many as fit memory_bytes."""

    width_bits: int = Field(ge=8, le=64)
    memory_bytes: int = Field(ge=1, le=1 << 26)
    overflow: Literal["saturate", "wrap"] = "saturate"
    saturate_at: Literal["every_add", "end"] = "every_add"


class BufferSection(Section):
    """An on-chip buffer."""

    memory_bytes: int = Field(ge=1, le=1 << 23)


class DramSection(Section):
    """The DRAM: `latency_cycles` to the first beat of a transfer, then one beat a cycle, each way.

    The model "simple" is that and no more. "open_rows" adds rows that are opened and closed and, if asked for, refresh;
    its keys are needed there and refused beside "simple".

    Attributes:
        row_bytes: of one row of one bank; consecutive rows are in consecutive banks.
        banks: each keeps one row open.
        t_rcd_cycles: from activating a row to its column command.
        t_rp_cycles: closing a row (precharge).
        t_cas_cycles: from a column command to its first beat.
        refresh_interval_cycles: from one refresh to the next; absent, there is none.
        refresh_cycles: what one refresh takes.
    """

    bandwidth_bytes_per_cycle: int = Field(ge=1, le=256)
    latency_cycles: int = Field(ge=0, le=65535)
    memory_bytes: int = Field(1 << 30, ge=1, le=1 << 32)
    model: Literal["simple", "open_rows"] = "simple"
    row_bytes: int | None = Field(None, ge=1, le=1 << 20)
    banks: int | None = Field(None, ge=1, le=1024)
    t_rcd_cycles: int | None = Field(None, ge=0, le=4095)
    t_rp_cycles: int | None = Field(None, ge=0, le=4095)
    t_cas_cycles: int | None = Field(None, ge=0, le=4095)
    refresh_interval_cycles: int | None = Field(None, ge=1, le=1 << 24)
    refresh_cycles: int | None = Field(None, ge=1, le=1 << 20)

    def check(self) -> None:
        """Raise `ValueError` for a rule across keys that is broken."""
        needed = {key: getattr(self, key) for key in OPEN_ROWS}
        refresh = {key: getattr(self, key) for key in REFRESH}
        if self.model == "simple":
            for key, value in {**needed, **refresh}.items():
                if value is not None:
                    raise ValueError(
                        f"dram.{key} = {value} is read by dram.model = 'open_rows' alone; set that, or leave it out"
                    )
            return
        missing = [f"dram.{key}" for key, value in needed.items() if value is None]
        if missing:
            raise ValueError(f"dram.model = 'open_rows' needs {', '.join(missing)}; add what is missing")
        missing = [f"dram.{key}" for key, value in refresh.items() if value is None]
        if len(missing) == 1:
            raise ValueError(f"refresh needs interval and duration, but {missing[0]} is missing; set both or none")
        if not missing:
            least = sum(getattr(self, key) for key in ("refresh_cycles", "t_rcd_cycles", "t_cas_cycles")) + 1
            if refresh["refresh_interval_cycles"] < least:
                raise ValueError(
                    f"dram.refresh_interval_cycles = {self.refresh_interval_cycles} must be at least {least}, so that "
                    "after a refresh a row can be opened and a beat moved before the next"
                )


class SupportsSection(Section):
    """What array and PPU implement; `compile` refuses a graph or mode that asks for anything else."""

    dataflows: tuple[Literal["ws", "os", "is"], ...] = ("ws", "os", "is")
    overflows: tuple[Literal["saturate", "wrap"], ...] = ("saturate", "wrap")
    saturate_at: tuple[Literal["every_add", "end"], ...] = ("every_add", "end")
    zero_points: tuple[Literal["folded", "subtracted"], ...] = ("folded", "subtracted")
    bias_at: tuple[Literal["ppu", "accumulator"], ...] = ("ppu", "accumulator")
    schemes: tuple[Literal["fixed_point", "power_of_two", "reciprocal", "float32", "float64"], ...] = tuple(
        scheme.value for scheme in Scheme
    )
    roundings: tuple[Literal["floor", "half_up", "half_even", "half_away", "toward_zero", "tflite_double"], ...] = (
        tuple(rounding.value for rounding in Rounding)
    )


class Hardware(Section):
    """A whole machine. Sizes are bytes, times are cycles, the clock turns cycles into seconds.

    Attributes:
        name: the preset's or file's name, shown in reports.
        clock_mhz: clock frequency; decides latency, images/s and TOPS, never cycles.
    """

    name: str = Field("custom", min_length=1, max_length=200)
    clock_mhz: float = Field(gt=0, le=100_000, allow_inf_nan=False)
    array: ArraySection
    accumulator: AccumulatorSection
    activation: BufferSection
    weight: BufferSection
    parameter: BufferSection
    table: BufferSection
    dram: DramSection
    supports: SupportsSection = SupportsSection()

    @model_validator(mode="before")
    @classmethod
    def _lists_to_tuples(cls, data: Any) -> Any:
        """TOML has arrays only; the frozen model holds tuples."""
        if isinstance(data, dict) and isinstance(data.get("supports"), dict):
            supports = {k: tuple(v) if isinstance(v, list) else v for k, v in data["supports"].items()}
            return {**data, "supports": supports}
        return data

    @model_validator(mode="after")
    def _across_fields(self) -> Self:
        array, accumulator = self.array, self.accumulator
        if array.psum_bits is not None and array.psum_bits > accumulator.width_bits:
            raise ValueError(
                f"array.psum_bits = {array.psum_bits} must not exceed accumulator.width_bits = "
                f"{accumulator.width_bits}, because a sum the memory cannot hold would be cut when stored; "
                f"use array.psum_bits <= {accumulator.width_bits}, or leave it out"
            )
        self.dram.check()
        if self.is_float:
            for key, found, wanted in (
                ("accumulator.width_bits", accumulator.width_bits, FLOAT32_BITS),
                ("array.psum_bits", self.psum_bits, FLOAT32_BITS),
                ("accumulator.overflow", accumulator.overflow, "saturate"),
                ("accumulator.saturate_at", accumulator.saturate_at, "every_add"),
            ):
                if found != wanted:
                    raise ValueError(
                        f"{key} = {found!r} does not go with array.arithmetic = {array.arithmetic!r}, whose sums are "
                        f"float32 and know no other; use {wanted!r}"
                    )
            if array.dataflow == "is":
                raise ValueError(
                    f"array.dataflow = 'is' does not go with array.arithmetic = {array.arithmetic!r}; use 'ws' or 'os'"
                )
        for key, why in (
            ("mac_interval_cycles", "a unit that has given its sum takes the next operands"),
            ("add_latency_cycles", "the addition is the end of the multiply-add"),
        ):
            if (getattr(array, key) or 0) > array.mac_latency_cycles:
                raise ValueError(
                    f"array.{key} = {getattr(array, key)} must not exceed array.mac_latency_cycles = "
                    f"{array.mac_latency_cycles}, because {why}; use at most {array.mac_latency_cycles}, or a longer "
                    "latency"
                )
        if self.accumulator_depth < 2:
            need = -(-2 * array.columns * accumulator.width_bits // 8)
            raise ValueError(
                f"accumulator.memory_bytes = {accumulator.memory_bytes} must hold two words of {array.columns} x "
                f"{accumulator.width_bits} bits, so that one fills while one drains; use at least {need}"
            )
        for name, buffer, unit, what in (
            ("weight", self.weight, 2 * array.columns, "two rows of one byte a column"),
            ("parameter", self.parameter, 2 * RECORD_BYTES, "two records of 16 bytes"),
            ("table", self.table, TABLE_ENTRIES, "one table of 256 entries"),
        ):
            if buffer.memory_bytes < unit:
                raise ValueError(f"{name}.memory_bytes = {buffer.memory_bytes} must hold {what}; use at least {unit}")
        for key, value, allowed in (
            ("array.dataflow", array.dataflow, self.supports.dataflows),
            ("accumulator.overflow", accumulator.overflow, self.supports.overflows),
            ("accumulator.saturate_at", accumulator.saturate_at, self.supports.saturate_at),
        ):
            if value not in allowed:
                raise ValueError(
                    f"{key} = {value!r} is not implemented by this machine, which supports "
                    f"{', '.join(map(repr, allowed)) or 'nothing'}; choose one of them or another machine"
                )
        return self

    @property
    def accumulator_depth(self) -> int:
        """Words in the accumulator memory: its width has a price in capacity."""
        return 8 * self.accumulator.memory_bytes // (self.array.columns * self.accumulator.width_bits)

    @property
    def psum_bits(self) -> int:
        """Width of the partial sum in the array."""
        return self.array.psum_bits or self.accumulator.width_bits

    @property
    def is_float(self) -> bool:
        """Whether products and sums are float32."""
        return self.array.arithmetic != "int8xint8"

    @property
    def element_bytes(self) -> ElementBytes:
        """Bytes of an activation and of a weight."""
        left, _, right = self.array.arithmetic.partition("x")
        return ElementBytes(*(FLOAT32_BYTES if kind == "float32" else 1 for kind in (left, right)))

    @property
    def add_latency_cycles(self) -> int:
        """Cycles in which a PE adds: those that a partial sum takes from one row to the next."""
        return self.array.add_latency_cycles or self.array.mac_latency_cycles

    @property
    def bank_count(self) -> int:
        """P: byte banks of the activation and weight memories."""
        widest = max(self.array.rows, self.array.columns, self.dram.bandwidth_bytes_per_cycle)
        return 1 << (widest - 1).bit_length()

    @property
    def peak_tops(self) -> float:
        """Peak tera-operations a second, a multiply and an add counted as two."""
        return 2 * self.array.rows * self.array.columns * self.clock_mhz * 1e-6

    def arithmetic(self) -> Arithmetic:
        """What a bit-exact evaluation needs to know of this machine.

        Raises:
            InputError: its sums are no integers.
        """
        if self.is_float:
            raise InputError(
                f"{self.name}: array.arithmetic = {self.array.arithmetic!r} runs matrix products alone, with "
                "'accelsim arithmetic'; use 'int8xint8'"
            )
        return Arithmetic(
            psum_bits=self.psum_bits,
            width_bits=self.accumulator.width_bits,
            overflow=self.accumulator.overflow,
            saturate_at=self.accumulator.saturate_at,
            rows=self.array.rows,
            dataflow=self.array.dataflow,
        )

    def with_accumulator(self, width_bits: int) -> Hardware:
        """The same machine with another accumulator width; a partial sum that would be wider becomes as narrow.

        Raises:
            InputError: the accumulator memory cannot hold two words of that width.
        """
        data = self.model_dump(mode="json")
        data["accumulator"]["width_bits"] = width_bits
        if self.array.psum_bits is not None:
            data["array"]["psum_bits"] = min(self.array.psum_bits, width_bits)
        return build(Hardware, data, self.name)

    def fingerprint(self) -> bytes:
        """SHA-256 of the fields a program depends on; name and clock change neither bits nor cycles."""
        fields = self.model_dump(mode="json", exclude={"name", "clock_mhz", "supports"})
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).digest()


def load_hardware(
    name_or_path: str | Path = "default_16x16", overrides: list[str] | None = None, option: str = "--set"
) -> Hardware:
    """Load a preset by name (`accelsim list`) or a TOML file; `overrides` are ``section.key=value``.

    `option` is what errors call an override.

    Raises:
        InputError: one line with file, key, value, rule and remedy.
    """
    path = find_preset("hardware", name_or_path)
    data = read_toml(path)
    data.setdefault("name", path.stem)
    for assignment in overrides or []:
        set_key(data, assignment, Hardware, option)
    return build(Hardware, data, str(name_or_path))


def hardware_from_dict(data: dict[str, Any], source: str) -> Hardware:
    """Validate a hardware description that came with a program; `source` names the file in errors."""
    return build(Hardware, data, source)
