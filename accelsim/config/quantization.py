"""A quantisation scheme: how a float graph becomes an integer graph (docs/numerics.md, section 5)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from accelsim.config._model import Section, build, read_toml, set_key
from accelsim.config.presets import find_preset
from accelsim.numerics import IntFormat, Requantization, Rounding, Scheme


class ActivationScheme(Section):
    """Activations: one format and one kind of range for the whole graph."""

    bits: int = Field(8, ge=2, le=8)
    signed: bool = True
    symmetric: bool = True

    @property
    def format(self) -> IntFormat:
        """The integer format."""
        return IntFormat(self.bits, signed=self.signed)


class WeightScheme(Section):
    """Weights: signed integers, one scale for the tensor or for each output channel."""

    bits: int = Field(8, ge=2, le=8)
    symmetric: bool = True
    granularity: Literal["tensor", "channel"] = "channel"
    full_range: bool = False


class RequantizationScheme(Section):
    """How S_x * S_w / S_y is applied; the fields of `numerics.Requantization`, by their names in files."""

    scheme: Literal["fixed_point", "power_of_two", "reciprocal", "float32", "float64"] = "fixed_point"
    rounding: Literal["floor", "half_up", "half_even", "half_away", "toward_zero", "tflite_double"] = "half_even"
    multiplier_bits: int = Field(32, ge=8, le=32)
    order: Literal["multiply_first", "shift_first"] = "multiply_first"
    guard_bits: int = Field(0, ge=0, le=16)
    output_overflow: Literal["saturate", "wrap"] = "saturate"

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        self.numerics()
        return self

    def numerics(self) -> Requantization:
        """The same as `numerics.Requantization`, which holds the rules across fields."""
        return Requantization(
            scheme=Scheme(self.scheme),
            rounding=Rounding(self.rounding),
            multiplier_bits=self.multiplier_bits,
            order=self.order,
            guard_bits=self.guard_bits,
            output_overflow=self.output_overflow,
        )


class QuantizationScheme(Section):
    """A whole scheme; every key has a default, so an empty file is symmetric int8 per channel.

    `zero_points` and `bias_at` as in `ir.IntegerGraph`; `accumulator_width_bits` maps node names to narrower
    accumulators.
    """

    activation: ActivationScheme = ActivationScheme()
    weight: WeightScheme = WeightScheme()
    requantization: RequantizationScheme = RequantizationScheme()
    zero_points: Literal["folded", "subtracted"] = "folded"
    bias_at: Literal["ppu", "accumulator"] = "ppu"
    accumulator_width_bits: dict[str, int] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not self.weight.symmetric:
            if self.zero_points == "folded":
                raise ValueError(
                    "weight.symmetric = false needs zero_points = 'subtracted', because folding a weight zero point "
                    "would need every input summed; set zero_points = 'subtracted'"
                )
            if self.weight.granularity == "channel":
                raise ValueError(
                    "weight.symmetric = false needs weight.granularity = 'tensor', because the array holds one Z_w; "
                    "set weight.granularity = 'tensor'"
                )
        if not self.activation.signed and self.activation.symmetric:
            raise ValueError(
                "activation.signed = false needs activation.symmetric = false, because symmetric codes need negatives; "
                "set activation.symmetric = false"
            )
        for node, width in self.accumulator_width_bits.items():
            if not 8 <= width <= 64:
                raise ValueError(f"accumulator_width_bits.{node} = {width} is outside 8..64")
        return self


def load_quantization(
    name_or_path: str | Path, overrides: list[str] | None = None, option: str = "--quantization-set"
) -> QuantizationScheme:
    """Load a preset by name (`accelsim list`) or a TOML file; `overrides` are ``section.key=value``.

    `option` is what errors call an override.
    """
    data: dict[str, Any] = read_toml(find_preset("quantization", name_or_path))
    for assignment in overrides or []:
        set_key(data, assignment, QuantizationScheme, option)
    return build(QuantizationScheme, data, str(name_or_path))
