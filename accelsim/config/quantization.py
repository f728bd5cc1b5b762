"""A quantisation scheme: how a float graph becomes an integer graph (docs/numerics.md, section 5)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self, TypeVar

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


def _refuse_scale_of_fixed_point(section: ActivationScheme | WeightScheme, where: str, *keys: str) -> None:
    """Raise where fixed point, whose S is given, has a key set that chooses S: it would change nothing."""
    for key in ("range", "power_of_two", *keys):
        value = getattr(section, key)
        if section.fraction_bits is not None and value != type(section).model_fields[key].default:
            shown = "true" if value is True else repr(value)
            raise ValueError(
                f"{where}.{key} = {shown} changes nothing with {where}.fraction_bits, which fixes every scale; "
                f"leave {where}.{key} out"
            )


class ActivationScheme(Section):
    """Activations: the format and the kind of scale of every tensor that `layers` does not name.

    Attributes:
        full_range: symmetric codes down to -2**(bits-1); false leaves that one out.
        power_of_two: every scale is rounded up to a power of two.
        fraction_bits: fixed point with word length `bits` and this fraction length: S = 2**-fraction_bits, Z = 0,
            whatever the range; `bits` may then be 1.
    """

    bits: int = Field(8, ge=1, le=8)
    signed: bool = True
    symmetric: bool = True
    full_range: bool = True
    power_of_two: bool = False
    fraction_bits: int | None = Field(None, ge=-64, le=64)
    range: Literal["min_max", "moving_average", "percentile", "mse", "batch_norm"] = "min_max"
    percentile: float = Field(99.99, gt=50.0, le=100.0)
    momentum: float = Field(0.1, gt=0.0, le=1.0)
    logits: Literal["same", "cross_entropy"] = "same"

    @model_validator(mode="after")
    def _used(self) -> Self:
        _refuse_unused(self, "activation", "percentile", "range", "percentile")
        _refuse_unused(self, "activation", "momentum", "range", "moving_average")
        _refuse_scale_of_fixed_point(self, "activation", "logits")
        return self

    @property
    def format(self) -> IntFormat:
        """The integer format."""
        return IntFormat(self.bits, signed=self.signed)


class WeightScheme(Section):
    """Weights: signed integers, one scale for the tensor or for each output channel.

    Attributes:
        full_range: symmetric codes down to -2**(bits-1), which then decides the scale; false leaves that one out.
        power_of_two: every scale is rounded up to a power of two.
        fraction_bits: fixed point with word length `bits` and this fraction length: S = 2**-fraction_bits and codes
            down to -2**(bits-1), whatever the weights; `bits` may then be 1.
    """

    bits: int = Field(8, ge=1, le=8)
    symmetric: bool = True
    granularity: Literal["tensor", "channel"] = "channel"
    full_range: bool = False
    range: Literal["min_max", "percentile", "mse"] = "min_max"
    percentile: float = Field(99.99, gt=50.0, le=100.0)
    rounding: Literal["nearest", "adaround"] = "nearest"
    adaround_iterations: int = Field(1000, ge=1, le=1_000_000)
    adaround_samples: int = Field(256, ge=1, le=1_000_000)
    seed: int = Field(0, ge=0, lt=2**32)
    power_of_two: bool = False
    fraction_bits: int | None = Field(None, ge=-64, le=64)

    @model_validator(mode="after")
    def _used(self) -> Self:
        _refuse_unused(self, "weight", "percentile", "range", "percentile")
        _refuse_scale_of_fixed_point(self, "weight")
        if self.full_range and (self.fraction_bits is not None or not self.symmetric):
            raise ValueError(
                "weight.full_range = true changes nothing of fixed-point and of affine codes, which reach down to "
                "-2^(bits-1) in any case; leave weight.full_range out"
            )
        for key in ("adaround_iterations", "adaround_samples", "seed"):
            _refuse_unused(self, "weight", key, "rounding", "adaround")
        return self


class BiasScheme(Section):
    """Biases: signed integers in units of S_x * S_w; beyond `bits` they saturate, before a zero point is folded in.

    `correction` takes off them the mean error that quantised weights leave behind.
    """

    bits: int = Field(32, ge=8, le=32)
    correction: Literal["none", "analytic", "empirical"] = "none"


class LayerScheme(Section):
    """What one node has in place of the scheme's: its weights, and the tensor it computes."""

    weight_bits: int | None = Field(None, ge=1, le=8)
    weight_granularity: Literal["tensor", "channel"] | None = None
    weight_fraction_bits: int | None = Field(None, ge=-64, le=64)
    activation_bits: int | None = Field(None, ge=1, le=8)
    activation_signed: bool | None = None
    activation_fraction_bits: int | None = Field(None, ge=-64, le=64)


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
    """How M = S_x * S_w / S_y is formed and applied.

    All but `multiplier_arithmetic` are the fields of `numerics.Requantization`, by their names in files.
    """

    scheme: Literal["fixed_point", "power_of_two", "reciprocal", "float32", "float64"] = "fixed_point"
    rounding: Literal["floor", "half_up", "half_even", "half_away", "toward_zero", "tflite_double"] = "half_even"
    multiplier_bits: int = Field(32, ge=8, le=32)
    order: Literal["multiply_first", "shift_first"] = "multiply_first"
    guard_bits: int = Field(0, ge=0, le=16)
    output_overflow: Literal["saturate", "wrap"] = "saturate"
    multiplier_arithmetic: Literal["float64", "float32"] = "float64"

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        self.numerics()
        return self

    def numerics(self) -> Requantization:
        """What decides the bits once M is there; `numerics.Requantization` holds the rules across fields."""
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

    `zero_points` and `bias_at` as in `ir.IntegerGraph`; `scale_format` is what every scale is rounded to, as files
    of TensorFlow Lite and ONNX hold them; `accumulator_width_bits` maps node names to narrower accumulators, `layers`
    to what they have in place of `activation` and `weight`.
    """

    activation: ActivationScheme = ActivationScheme()
    weight: WeightScheme = WeightScheme()
    bias: BiasScheme = BiasScheme()
    equalization: EqualizationScheme = EqualizationScheme()
    requantization: RequantizationScheme = RequantizationScheme()
    zero_points: Literal["folded", "subtracted"] = "folded"
    bias_at: Literal["ppu", "accumulator"] = "ppu"
    scale_format: Literal["float64", "float32"] = "float64"
    accumulator_width_bits: dict[str, int] = Field(default_factory=dict)
    layers: dict[str, LayerScheme] = Field(default_factory=dict)

    def activation_of(self, name: str) -> ActivationScheme:
        """The scheme of the tensor that a node computes."""
        return _overridden(self.activation, self.layers.get(name), "activation_")

    def weight_of(self, name: str) -> WeightScheme:
        """The scheme of a node's weights."""
        return _overridden(self.weight, self.layers.get(name), "weight_")

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
        if self.requantization.multiplier_arithmetic == "float32" and self.scale_format != "float32":
            raise ValueError(
                "requantization.multiplier_arithmetic = 'float32' needs scale_format = 'float32', because products of "
                "float32 take float32 factors; set scale_format = 'float32'"
            )
        for node, width in self.accumulator_width_bits.items():
            if not 8 <= width <= 64:
                raise ValueError(f"accumulator_width_bits.{node} = {width} is outside 8..64")
        _check_fixed_point("weight", self.weight)
        _check_fixed_point("activation", self.activation)
        if not (self.activation.full_range or self.activation.symmetric):
            raise ValueError(
                "activation.full_range = false needs activation.symmetric = true, because affine codes have no middle; "
                "leave it out"
            )
        for node in self.layers:
            self._check_layer(node)
        return self

    def _check_layer(self, node: str) -> None:
        """What an override leaves must be as legal as a scheme of its own."""
        weight, activation = self.weight_of(node), self.activation_of(node)
        _check_fixed_point(f"layers.{node}.weight", weight, "_")
        _check_fixed_point(f"layers.{node}.activation", activation, "_")
        if weight.granularity == "channel" and not weight.symmetric:
            raise ValueError(
                f"layers.{node}.weight_granularity = 'channel' needs weight.symmetric = true, because the array holds "
                "one Z_w; leave it out"
            )


S = TypeVar("S", ActivationScheme, WeightScheme)


def _overridden(scheme: S, layer: LayerScheme | None, prefix: str) -> S:
    """A scheme with those keys of a layer that begin with `prefix`, a fixed point covering all of its word."""
    if layer is None:
        return scheme
    own = {key.removeprefix(prefix): value for key, value in layer if key.startswith(prefix) and value is not None}
    if "fraction_bits" in own:  # two's complement, whatever the codes of the other layers
        own["full_range"] = True
    return scheme.model_copy(update=own)


def _check_fixed_point(where: str, scheme: ActivationScheme | WeightScheme, dot: str = ".") -> None:
    """Rules of (bits, fraction_bits); `dot` joins `where` and a key."""
    if scheme.fraction_bits is None:
        if scheme.bits < 2:
            raise ValueError(
                f"{where}{dot}bits = {scheme.bits} must be at least 2, because a sign alone has no scale; use 2, or "
                f"fixed point with {where}{dot}fraction_bits"
            )
        return
    section = where.rpartition(".")[2]
    if not scheme.symmetric:
        raise ValueError(
            f"{where}{dot}fraction_bits = {scheme.fraction_bits} needs {section}.symmetric = true, because fixed point "
            f"has no zero point; set {section}.symmetric = true"
        )
    if not scheme.full_range and "full_range" in scheme.model_fields_set:
        raise ValueError(
            f"{where}{dot}fraction_bits = {scheme.fraction_bits} contradicts {section}.full_range = false: fixed point "
            "is two's complement from -2^(bits-1); leave full_range out"
        )


def differing_keys(a: QuantizationScheme, b: QuantizationScheme) -> list[str]:
    """Dotted keys in which two schemes differ that decide the integer graph before its requantisation.

    Where sums are requantised by one scheme or another, S, Z, weights and biases are the same, and M too; but
    `multiplier_arithmetic` changes M, and the scheme power_of_two rounds every S.

    >>> differing_keys(load_quantization("int8"), load_quantization("coursework"))
    ['weight.granularity']
    """

    def decisive(scheme: QuantizationScheme) -> dict[str, Any]:
        values = _leaves(scheme.model_dump(exclude={"requantization"}))
        values["requantization.multiplier_arithmetic"] = scheme.requantization.multiplier_arithmetic
        values["requantization.scheme"] = scheme.requantization.scheme == "power_of_two"
        return values

    first, second = decisive(a), decisive(b)
    return [key for key in {**first, **second} if first.get(key) != second.get(key)]


def _leaves(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Values by dotted key."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= _leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def load_quantization(
    name_or_path: str | Path, overrides: list[str] | None = None, option: str = "--quantization-set"
) -> QuantizationScheme:
    """Load a preset by name (`accelsim list`) or a TOML file; `overrides` are ``section.key=value``.

    `option` is what errors call the overrides.
    """
    data: dict[str, Any] = read_toml(find_preset("quantization", name_or_path))
    for assignment in overrides or []:
        set_key(data, assignment, QuantizationScheme, option)
    return build(QuantizationScheme, data, str(name_or_path))
