"""Instructions to and from their 64 bytes, and to and from assembler text; both round-trip."""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterable

from accelsim.errors import InputError, did_you_mean
from accelsim.isa.instructions import (
    INSTRUCTION_BYTES,
    OPCODES,
    WORDS,
    Field,
    Instruction,
    Kind,
    Memory,
    Reduce,
    Source,
    Start,
    Unit,
)

_OPCODE = Field("opcode", 0, 28, 4)
_NAMED: dict[str, type[enum.IntEnum]] = {"memory": Memory, "start": Start, "source": Source, "reduce": Reduce}
_MNEMONICS = {kind.__name__.upper(): kind for kind in OPCODES.values()}


def encode(instruction: Instruction) -> bytes:
    """Return the 64 bytes of a valid instruction; `InputError` for a field outside its range."""
    instruction.validate()
    words = [0] * WORDS
    words[_OPCODE.word] |= instruction.OPCODE << _OPCODE.low
    for field in instruction.LAYOUT:
        value = int(getattr(instruction, field.name)) - (field.kind is Kind.MINUS_ONE)
        words[field.word] |= (value & ((1 << field.bits) - 1)) << field.low
    return struct.pack(f"<{WORDS}I", *words)


def decode(data: bytes) -> Instruction:
    """Read 64 bytes; `InputError` for an unknown opcode, a field outside its range or a set unused bit."""
    if len(data) != INSTRUCTION_BYTES:
        raise InputError(f"{len(data)} bytes are not an instruction of {INSTRUCTION_BYTES}")
    words = struct.unpack(f"<{WORDS}I", data)
    opcode = words[0] >> _OPCODE.low
    kind = OPCODES.get(opcode)
    if kind is None:
        raise InputError(f"opcode {opcode} is not an instruction; known: {', '.join(map(str, OPCODES))}")
    raw = {field.name: words[field.word] >> field.low & ((1 << field.bits) - 1) for field in kind.LAYOUT}
    signs = {"act_unsigned": bool(raw.get("act_unsigned")), "weight_unsigned": bool(raw.get("weight_unsigned"))}
    values = {}
    for field in kind.LAYOUT:
        value = raw[field.name] + (field.kind is Kind.MINUS_ONE)
        low, high = field.limits(**signs)
        if low < 0 and value > high:
            value -= 1 << field.bits
        values[field.name] = value
    instruction = kind(**values)
    if encode(instruction) != data:
        raise InputError(f"{kind.__name__.upper()}: an unused bit is set")
    return instruction


def encode_all(instructions: Iterable[Instruction]) -> bytes:
    """Concatenate the encodings in order."""
    return b"".join(encode(instruction) for instruction in instructions)


def decode_all(data: bytes) -> tuple[Instruction, ...]:
    """Read a whole number of instructions; errors name the instruction's position."""
    if len(data) % INSTRUCTION_BYTES:
        raise InputError(f"{len(data)} bytes are not a whole number of {INSTRUCTION_BYTES}-byte instructions")
    result = []
    for position in range(0, len(data), INSTRUCTION_BYTES):
        try:
            result.append(decode(data[position : position + INSTRUCTION_BYTES]))
        except InputError as error:
            raise InputError(f"instruction {position // INSTRUCTION_BYTES}: {error}") from None
    return tuple(result)


def to_text(instruction: Instruction) -> str:
    """One line of assembler: mnemonic and ``field=value`` for every field that is not its default.

    >>> from accelsim.isa import Load, Memory
    >>> to_text(Load(memory=Memory.WEIGHT, dram_address=64, buffer_address=0, row_bytes=96, signal=1 << Unit.COMPUTE))
    'LOAD    signal=COMPUTE memory=WEIGHT dram_address=64 buffer_address=0 row_bytes=96'
    """
    parts = []
    for field in instruction.LAYOUT:
        value = int(getattr(instruction, field.name))
        if value == _default(type(instruction), field.name):
            continue
        if field.name in ("wait", "signal"):
            text = ",".join(unit.name for unit in Unit if value >> unit & 1)
        elif field.name in _NAMED:
            text = _NAMED[field.name](value).name
        else:
            text = str(value)
        parts.append(f"{field.name}={text}")
    return f"{type(instruction).__name__.upper():<7} " + " ".join(parts)


def from_text(line: str) -> Instruction:
    """Assemble one line; `InputError` names the mnemonic, field or value that is wrong."""
    mnemonic, *parts = line.split() or [""]
    kind = _MNEMONICS.get(mnemonic)
    if kind is None:
        raise InputError(f"{mnemonic!r} is not an instruction{did_you_mean(mnemonic, _MNEMONICS)}")
    names = {field.name for field in kind.LAYOUT}
    values: dict[str, int] = {}
    for part in parts:
        name, equals, text = part.partition("=")
        if name not in names:
            raise InputError(f"{mnemonic}: unknown field {name!r}{did_you_mean(name, names)}")
        if not equals:
            raise InputError(f"{mnemonic}: field {name!r} has no value; write {name}=value")
        if name in values:
            raise InputError(f"{mnemonic}: field {name!r} is given twice")
        values[name] = _parse(mnemonic, name, text)
    try:
        instruction = kind(**values)
    except TypeError:
        missing = [n for n in names if n not in values and _default(kind, n) is None]
        raise InputError(f"{mnemonic}: field {min(missing)!r} is missing") from None
    instruction.validate()
    return instruction


def assemble(text: str) -> tuple[Instruction, ...]:
    """Assemble lines; ``#`` begins a comment, blank lines are skipped, errors name the line."""
    result = []
    for number, line in enumerate(text.splitlines(), 1):
        code = line.partition("#")[0].strip()
        if code:
            try:
                result.append(from_text(code))
            except InputError as error:
                raise InputError(f"line {number}: {error}") from None
    return tuple(result)


def _parse(mnemonic: str, name: str, text: str) -> int:
    try:
        if name in ("wait", "signal"):
            units = [Unit[word] for word in text.split(",")] if text else []
            if len(set(units)) < len(units):
                raise InputError(f"{mnemonic}: {name} = {text!r} names a unit twice; a mask holds each once")
            return sum(1 << unit for unit in units)
        if name in _NAMED:
            return int(_NAMED[name][text])
        return int(text)
    except (KeyError, ValueError):
        known = Unit if name in ("wait", "signal") else _NAMED.get(name)
        choices = ", ".join(member.name for member in known) if known else "an integer"
        raise InputError(f"{mnemonic}: {name} = {text!r} must be {choices}") from None


def _default(kind: type[Instruction], name: str) -> int | None:
    value = kind.__dataclass_fields__[name].default
    return int(value) if isinstance(value, int) else None
