"""Strict, frozen models from TOML with one adapter from their errors to the one-line error."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError

from accelsim.errors import InputError, did_you_mean, one_of
from accelsim.files import read_text


class Section(BaseModel):
    """Base of every configuration model: unknown keys refused, no coercion, immutable."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


M = TypeVar("M", bound=Section)


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file (a duplicated key is an error); `InputError` names the file, line and column."""
    text = read_text(path)
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path}: not valid TOML: {error}") from None
    except RecursionError:
        raise InputError(f"{path}: nested too deeply") from None


def build(model: type[M], data: dict[str, Any], source: str) -> M:
    """Validate `data`; the first broken rule becomes ``source [section]: key = value rule; remedy``."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise InputError(_first_line(model, error, source)) from None
    except RecursionError:
        raise InputError(f"{source}: nested too deeply") from None


def set_key(data: dict[str, Any], assignment: str, model: type[Section], option: str = "--set") -> None:
    """Apply one ``section.key=value`` override in place; the value is TOML, or a bare word taken as a string.

    `option` is what errors call it.
    """
    key, equals, text = assignment.partition("=")
    path = [part.strip() for part in key.split(".")]
    if not equals or not all(path):
        raise InputError(f"{option} {assignment}: must be section.key=value, for example array.dataflow=os")
    try:
        (value,) = tomllib.loads(f"value = {text.strip()}").values()  # and nothing behind a line break
    except (ValueError, RecursionError):
        value = text.strip()
    here = data
    kind: type[BaseModel] | None = model
    for depth, part in enumerate(path):
        known = list(kind.model_fields) if kind else []
        if part not in known:
            where = ".".join(path[: depth + 1])
            hint = (
                did_you_mean(part, known)
                or one_of(whole_keys(model, part))
                or f"; known here: {', '.join(known) or 'none'}"
            )
            raise InputError(f"{option} {assignment}: unknown key {where!r}{hint}")
        assert kind is not None
        annotation = kind.model_fields[part].annotation
        kind = annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None
        if depth == len(path) - 1:
            if kind is not None:
                raise InputError(
                    f"{option} {assignment}: {key.strip()!r} is a section; set one of its keys, such as "
                    f"{key.strip()}.{next(iter(kind.model_fields))}"
                )
            here[part] = value
        else:
            inner = here.setdefault(part, {})
            if not isinstance(inner, dict):
                raise InputError(f"{option} {assignment}: {part!r} holds a value, not keys")
            if get_origin(annotation) is dict:  # the user's own keys, such as names of layers, which may hold dots
                _set_user_key(inner, path[depth + 1 :], value, get_args(annotation)[1], f"{option} {assignment}")
                return
            here = inner


def whole_keys(model: type[BaseModel], key: str) -> list[str]:
    """Keys of a model, as overrides name them, that end in `key`: ``array.rows`` for ``rows``."""
    found = []
    for name, field in model.model_fields.items():
        kind = field.annotation
        below = [name]
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            below += [f"{name}.{one}" for one in kind.model_fields]
        found += [one for one in below if one == key or one.endswith(f".{key}")]
    return found


def _set_user_key(data: dict[str, Any], path: list[str], value: Any, kind: Any, said: str) -> None:
    """Set ``name = value``, or where values are sections ``name.key = value``; a name may hold dots."""
    if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
        data[".".join(path)] = value
        return
    *name, key = path
    if not name or key not in kind.model_fields:
        hint = did_you_mean(key, kind.model_fields) or f"; known here: {', '.join(kind.model_fields)}"
        raise InputError(f"{said}: must end in a name and a key{hint}")
    inner = data.setdefault(".".join(name), {})
    if not isinstance(inner, dict):
        raise InputError(f"{said}: {'.'.join(name)!r} holds a value, not keys")
    inner[key] = value


def _first_line(model: type[Section], error: ValidationError, source: str) -> str:
    errors = error.errors(include_url=False)
    # A mistyped key is both unknown and missing; the unknown one says what was typed.
    unknown = [one for one in errors if one["type"] == "extra_forbidden"] if errors[0]["type"] == "missing" else []
    first = (unknown or errors)[0]
    section, key = _split(first["loc"])
    kind, message, given = first["type"], str(first["msg"]), first.get("input")
    context = first.get("ctx", {})
    where = f"{source} [{'.'.join(section)}]" if section else source
    said = f"{where}: {key} = {_short(given)}"
    match kind:
        case "extra_forbidden":
            known = _keys_at(model, section)
            hint = did_you_mean(key, known) or f"; known here: {', '.join(known)}"
            return f"{where}: unknown key {key!r}{hint}"
        case "missing":
            if _keys_at(model, [*section, key]):
                return f"{source}: section [{'.'.join([*section, key])}] is missing; add it"
            return f"{where}: key {key!r} is missing; add it"
        case "value_error":
            text = message.removeprefix("Value error, ")
            return f"{source} [{'.'.join([*section, key])}]: {text}" if key else f"{source}: {text}"
        case "literal_error" | "enum":
            return f"{said} is not one of {context.get('expected', '')}; choose one of them"
        case "greater_than_equal" | "less_than_equal" | "greater_than" | "less_than":
            word = {
                "greater_than_equal": "at least",
                "less_than_equal": "at most",
                "greater_than": "above",
                "less_than": "below",
            }[kind]
            return f"{said} must be {word} {next(iter(context.values()))}"
        case "model_type" | "model_attributes_type" | "dict_type":
            return f"{said} must be a table of keys" if key else f"{source}: must hold keys"
        case "int_type":
            return f"{said} must be an integer, written without quotes or a point"
        case "float_type":
            return f"{said} must be a number, written without quotes"
        case "bool_type":
            return f"{said} must be true or false, written without quotes"
        case "string_type":
            return f"{said} must be text in quotes"
        case "too_short" | "too_long":
            word, limit = ("least", "min_length") if kind == "too_short" else ("most", "max_length")
            return f"{said} must hold at {word} {context[limit]}"
        case "tuple_type" | "list_type":
            return f"{said} must be an array in brackets, such as [{_short(given)}]"
        case _:
            rule = message[0].lower() + message[1:]
            return f"{said}: {rule}"


def _split(location: tuple[int | str, ...]) -> tuple[list[str], str]:
    """Sections and key; an element of an array belongs to its key: ``dataflows[1]``."""
    parts: list[str] = []
    for part in location:
        if parts and isinstance(part, int):
            parts[-1] += f"[{part}]"
        else:
            parts.append(str(part))
    return parts[:-1], parts[-1] if parts else ""


def _keys_at(model: type[BaseModel], section: Iterable[str]) -> list[str]:
    kind: Any = model
    for part, _, index in (step.partition("[") for step in section):
        if get_origin(kind) is dict:  # the user's own names
            kind = get_args(kind)[1]
            continue
        field = kind.model_fields.get(part) if isinstance(kind, type) and issubclass(kind, BaseModel) else None
        kind = field.annotation if field else None
        if index or get_origin(kind) is UnionType:  # an element of an array of tables; a table that may be absent
            kind = next((one for one in get_args(kind) if isinstance(one, type) and issubclass(one, BaseModel)), None)
    return list(kind.model_fields) if isinstance(kind, type) and issubclass(kind, BaseModel) else []


def _short(value: object) -> str:
    text = str(value).lower() if isinstance(value, bool) else repr(value)  # as TOML writes it
    return text if len(text) <= 60 else text[:57] + "..."
