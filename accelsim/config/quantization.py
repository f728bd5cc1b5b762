"""A quantisation scheme: how a float graph becomes an integer graph (docs/numerics.md, section 5)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from accelsim.config._model import Section, build, read_toml, set_key
from accelsim.config.presets import find_preset
from accelsim.numerics import IntFormat, Requantization, Rounding, Scheme


def _refuse_unused(section: Section, where: str, key: str, method: str, user: str) -> None:
    """Raise where `key` is set and the method that reads it is not chosen: it would change nothing."""
    value = getattr(section, key)
    chosen = getattr(section, method)
    if chosen != user and value != type(section).model_fields[key].default:
        raise ValueError(
            f"{where}.{key} = {value} is read only where {where}.{method} = {user!r}, which is {chosen!r}; "
            f"set {where}.{method} = {user!r} or leave {key} out"
        )


class ActivationScheme(Section):
    """Activations: one format and one kind of range for the whole graph."""

    bits: int = Field(8, ge=2, le=8)
    signed: bool = True
    symmetric: bool = True
    range: Literal["min_max", "moving_average", "percentile", "mse", "batch_norm"] = "min_max"
    percentile: float = Field(99.99, gt=50.0, le=100.0)
    momentum: float = Field(0.1, gt=0.0, le=1.0)
    logits: Literal["same", "cross_entropy"] = "same"

    @model_validator(mode="after")
    def _used(self) -> Self:
        _refuse_unused(self, "activation", "percentile", "range", "percentile")
        _refuse_unused(self, "activation", "momentum", "range", "moving_average")
        return self

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
    range: Literal["min_max", "percentile", "mse"] = "min_max"
    percentile: float = Field(99.99, gt=50.0, le=100.0)
    rounding: Literal["nearest", "adaround"] = "nearest"
    adaround_iterations: int = Field(1000, ge=1, le=1_000_000)
    adaround_samples: int = Field(256, ge=1, le=1_000_000)
    seed: int = Field(0, ge=0, lt=2**32)

    @model_validator(mode="after")
    def _used(self) -> Self:
        _refuse_unused(self, "weight", "percentile", "range", "percentile")
        for key in ("adaround_iterations", "adaround_samples", "seed"):
            _refuse_unused(self, "weight", key, "rounding", "adaround")
        return self


class BiasScheme(Section):
    """Biases: whether the mean error that quantised weights leave behind is taken off them."""

    correction: Literal["none", "analytic", "empirical"] = "none"


class EqualizationScheme(Section):
    """What is done to the float graph before it is quantised."""

    weights: bool = False
    absorb_bias: bool = False
    relu6: Literal["keep", "replace"] = "keep"

    @model_validator(mode="after")
    def _used(self) -> Self:
        if self.relu6 != "keep" and not (self.weights or self.absorb_bias):
            raise ValueError(
                "equalization.relu6 = 'replace' is for networks that are equalised; set equalization.weights = true"
            )
        return self


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
    bias: BiasScheme = BiasScheme()
    equalization: EqualizationScheme = EqualizationScheme()
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


def load_quantization(name_or_path: str | Path, overrides: list[str] | None = None) -> QuantizationScheme:
    """Load a preset by name (`accelsim list`) or a TOML file; `overrides` are ``section.key=value``."""
    data: dict[str, Any] = read_toml(find_preset("quantization", name_or_path))
    for assignment in overrides or []:
        set_key(data, assignment, QuantizationScheme, "--quantization-set")
    return build(QuantizationScheme, data, str(name_or_path))
