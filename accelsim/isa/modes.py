"""Modes: what holds for a whole program and is set once, before its first instruction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from accelsim.errors import InputError
from accelsim.numerics import IntFormat, Requantization, Rounding, Scheme

MODES_BYTES = 8

_SCHEMES = tuple(Scheme)
_ROUNDINGS = tuple(Rounding)
_ORDERS: tuple[Literal["multiply_first", "shift_first"], ...] = ("multiply_first", "shift_first")
_OVERFLOWS: tuple[Literal["saturate", "wrap"], ...] = ("saturate", "wrap")
_ZERO_POINTS: tuple[Literal["folded", "subtracted"], ...] = ("folded", "subtracted")


@dataclass(frozen=True, kw_only=True, slots=True)
class Modes:
    """Mode registers of array and PPU.

    Attributes:
        activation: format of every activation (2..8 bits, one byte each).
        zero_points: "folded" feeds raw operands and pads with Z_x; "subtracted" takes zero points off at the edge.
        requantization: the PPU's scheme.
    """

    activation: IntFormat
    zero_points: Literal["folded", "subtracted"]
    requantization: Requantization

    @property
    def activation_bits(self) -> int:
        """Bits of an activation code."""
        return self.activation.bits

    def encode(self) -> bytes:
        """Eight bytes: activation bits, signed, zero points, scheme, rounding, multiplier bits, guard bits, order and
        output overflow (bits 0 and 1 of the last)."""
        how = self.requantization
        return bytes(
            (
                self.activation.bits,
                int(self.activation.signed),
                _ZERO_POINTS.index(self.zero_points),
                _SCHEMES.index(how.scheme),
                _ROUNDINGS.index(how.rounding),
                how.multiplier_bits,
                how.guard_bits,
                _ORDERS.index(how.order) | _OVERFLOWS.index(how.output_overflow) << 1,
            )
        )

    @classmethod
    def decode(cls, data: bytes) -> Modes:
        """Read eight bytes; `InputError` where a code is none of ours."""
        bits, signed, zero_points, scheme, rounding, multiplier, guard, last = data
        try:
            if not 2 <= bits <= 8 or signed > 1 or last > 3:
                raise ValueError("activation bits, sign or flags are out of range")
            return cls(
                activation=IntFormat(bits, signed=bool(signed)),
                zero_points=_ZERO_POINTS[zero_points],
                requantization=Requantization(
                    scheme=_SCHEMES[scheme],
                    rounding=_ROUNDINGS[rounding],
                    multiplier_bits=multiplier,
                    order=_ORDERS[last & 1],
                    guard_bits=guard,
                    output_overflow=_OVERFLOWS[last >> 1],
                ),
            )
        except (IndexError, ValueError) as error:
            raise InputError(f"modes {data.hex()} are not legal: {error}; compile the program again") from None
