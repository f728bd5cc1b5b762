"""Area against accumulator width: a table of synthesised cells, as a proxy for ratios (docs/vectors.md, section 8)."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from accelsim.config import Hardware, Section, build, find_preset, read_toml
from accelsim.errors import InputError


class AreaPoint(Section):
    """One synthesis.

    Attributes:
        width_bits: of the sum.
        cells: generic gates and flip-flops.
        flip_flops: of the cells.
        transistors: the tool's estimate for static CMOS.
    """

    width_bits: int = Field(ge=1)
    cells: int = Field(ge=1)
    flip_flops: int = Field(ge=0)
    transistors: int = Field(ge=1)


class AreaTable(Section):
    """What a PE and a PPU lane take at each width.

    Attributes:
        tool: that measured it, with its version.
        source: files and flow.
    """

    name: str
    tool: str
    source: str
    pe_points: list[AreaPoint] = Field(min_length=1)
    ppu_lane_points: list[AreaPoint] = Field(min_length=1)

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        for key, points in (("pe_points", self.pe_points), ("ppu_lane_points", self.ppu_lane_points)):
            widths = [point.width_bits for point in points]
            if widths != sorted(set(widths)):
                raise ValueError(f"{key}: widths {widths} must rise")
        return self

    def pe(self, width_bits: int) -> AreaPoint:
        """The point of a PE whose partial sum has this width.

        Raises:
            InputError: the table has no such width; nothing is extrapolated.
        """
        return self._point("pe_points", self.pe_points, width_bits)

    def ppu_lane(self, width_bits: int) -> AreaPoint:
        """The point of a PPU lane for an accumulator of this width; raises as `pe`."""
        return self._point("ppu_lane_points", self.ppu_lane_points, width_bits)

    def _point(self, key: str, points: list[AreaPoint], width_bits: int) -> AreaPoint:
        for point in points:
            if point.width_bits == width_bits:
                return point
        widths = ", ".join(str(point.width_bits) for point in points)
        raise InputError(f"area table {self.name} [{key}]: has no width {width_bits}; it has {widths}")

    def machine_transistors(self, hardware: Hardware) -> int:
        """Transistors of a machine's PEs and PPU lanes: R * C PEs of the partial sum's width, C lanes of W.

        Memories, skew registers and control are not in it.
        """
        array = hardware.array
        lanes = array.columns * self.ppu_lane(hardware.accumulator.width_bits).transistors
        return array.rows * array.columns * self.pe(hardware.psum_bits).transistors + lanes


def load_area(name_or_path: str | Path = "generic_cells") -> AreaTable:
    """Load a shipped table by name, or a TOML file.

    Raises:
        InputError: one line with file, key, value, rule and remedy.
    """
    path = find_preset("area", name_or_path)
    data = read_toml(path)
    data.setdefault("name", path.stem)
    return build(AreaTable, data, str(name_or_path))
