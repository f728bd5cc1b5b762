"""Which codes each tensor has, and the one container format that holds those of all tensors."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from accelsim.config.quantization import ActivationScheme
from accelsim.numerics import IntFormat


def container_format(formats: Iterable[IntFormat]) -> IntFormat:
    """The narrowest format of 2 to 8 bits that holds the codes of every tensor, `placed` in it.

    Formats that agree are the container. Unsigned beside signed codes need a sign bit more, and those of 8 bits, for
    which there is none, are stored 128 lower.

    >>> container_format([IntFormat(4), IntFormat(8), IntFormat(4, signed=False)])
    IntFormat(bits=8, signed=True)
    >>> container_format([IntFormat(4), IntFormat(4, signed=False)])
    IntFormat(bits=5, signed=True)
    >>> container_format([IntFormat(4, signed=False), IntFormat(2, signed=False)])
    IntFormat(bits=4, signed=False)
    """
    forms = set(formats)
    signed = any(form.signed for form in forms)
    bits = max(form.bits + (signed and not form.signed) for form in forms)
    return IntFormat(min(max(bits, 2), 8), signed=signed)


@dataclass(frozen=True)
class Codes:
    """How the codes of one tensor lie in the container.

    Attributes:
        form: the tensor's own format, in which S and Z are chosen.
        offset: what is added to codes and Z to store them; 0, or -128 for unsigned 8 bits among signed tensors. Since
            real = S * (q - Z), nothing but the stored integers differs.
        limits: (smallest, largest) stored code.
    """

    form: IntFormat
    offset: int
    limits: tuple[int, int]


def placed(scheme: ActivationScheme, container: IntFormat) -> Codes:
    """The codes of a tensor with this scheme.

    >>> placed(ActivationScheme(full_range=False), IntFormat(8)).limits
    (-127, 127)
    >>> placed(ActivationScheme(signed=False, bits=8), IntFormat(8))
    Codes(form=IntFormat(bits=8, signed=False), offset=-128, limits=(-128, 127))
    """
    form = scheme.format
    offset = -(1 << (form.bits - 1)) if form.maximum > container.maximum else 0
    restricted = form.signed and not scheme.full_range
    return Codes(form, offset, (form.minimum + restricted + offset, form.maximum + offset))
