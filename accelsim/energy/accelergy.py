"""Accelergy's energy reference tables (ERT): energies by component and action, taken into an energy table of ours.

An ERT is what Accelergy (Wu, Emer, Sze, ICCAD 2019) writes for an architecture: for each component the energy of each
of its actions, in pJ, for one instance. It states neither an action's width nor what an action is to another simulator,
so that the energy table says both: which component and action price which operation, and how many bits it works on.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from accelsim.energy.entries import LARGEST
from accelsim.errors import InputError, did_you_mean, optional
from accelsim.files import read_text

VERSIONS = ("0.2", "0.3", "0.4")
"""Those whose files have this form; 0.1 nests its actions otherwise."""
MOST_BYTES = 1 << 20
"""A larger file is no ERT; YAML takes seconds a megabyte."""
KEYS = ("component", "action", "arguments")
"""Keys of an entry that stand for its ``energy_per_action``."""

Arguments = Mapping[str, Any]


@dataclass(frozen=True)
class Action:
    """One line of an ERT: what one action of one instance costs, in the table's unit."""

    name: str
    arguments: Arguments
    energy: float

    def __str__(self) -> str:
        said = ", ".join(f"{key} = {value}" for key, value in self.arguments.items())
        return f"{self.name} ({said})" if said else self.name


@dataclass(frozen=True)
class Reference:
    """A validated ERT.

    Attributes:
        components: (name, actions) in the file's order.
        origin: names the file in errors.
    """

    components: tuple[tuple[str, tuple[Action, ...]], ...]
    origin: str

    def find(self, component: str, action: str, arguments: Arguments | None, where: str) -> tuple[str, Action]:
        """The full name of a component, and one of its actions.

        Args:
            component: as in the file, or without its ranges: ``chip.PE.mac`` of ``chip.PE[0..15].mac``.
            arguments: of the action, all of them; needed where several actions have its name.
        Raises:
            InputError: there is none, or more than one.
        """
        found = [one for one in self.components if one[0] == component]
        found = found or [one for one in self.components if _plain(one[0]) == _plain(component)]
        if not found:
            names = [name for name, _ in self.components]
            hint = did_you_mean(_plain(component), map(_plain, names)) or f"; it has {_listed(names)}"
            raise InputError(f"{where}: component = {component!r} is not in {self.origin}{hint}")
        if len(found) > 1:
            raise InputError(
                f"{where}: component = {component!r} is in {self.origin} {len(found)} times, as "
                f"{_listed([name for name, _ in found])}; write one of them with its ranges"
            )
        ((full, actions),) = found
        named = [one for one in actions if one.name == action]
        if not named:
            names = list(dict.fromkeys(one.name for one in actions))
            hint = did_you_mean(action, names) or f"; it has {_listed(names)}"
            raise InputError(f"{where}: action = {action!r} is none of {full} in {self.origin}{hint}")
        if arguments is not None or len(named) > 1:
            chosen = [one for one in named if arguments is not None and dict(one.arguments) == dict(arguments)]
            if len(chosen) != 1:
                said = "arguments is missing" if arguments is None else f"arguments = {dict(arguments)} fit"
                many = "" if arguments is None else (" none of" if not chosen else " more than one of")
                there = _listed([str(one) for one in named])
                raise InputError(f"{where}: {said}{many}: {full} has {there}; choose one")
            named = chosen
        return full, named[0]


def _plain(component: str) -> str:
    """A component's name without its ranges."""
    return re.sub(r"\[\d+\.\.\d+\]", "", component)


def _listed(names: list[str]) -> str:
    return ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")


def read_ert(path: Path) -> Reference:
    """Read an ERT, ``ERT.yaml`` or ``timeloop-mapper.ERT.yaml``.

    Raises:
        InputError: PyYAML is not installed; the file cannot be read or is no ERT; one line names what is wrong with it.
    """
    data = _yaml(path)
    if isinstance(data, dict) and "ERT_summary" in data:
        raise InputError(f"{path}: is a summary, which leaves arguments out; name Accelergy's ERT.yaml")
    table = data.get("ERT") if isinstance(data, dict) else None
    if not isinstance(table, dict):
        raise InputError(f"{path}: has no key 'ERT'; name the ERT.yaml that Accelergy wrote")
    if str(table.get("version")) not in VERSIONS:
        raise InputError(
            f"{path} [ERT]: version = {table.get('version')!r} is not one of {', '.join(VERSIONS)}; write the file "
            "with an Accelergy of one of them"
        )
    listed = table.get("tables")
    if not isinstance(listed, list) or not listed:
        raise InputError(f"{path} [ERT]: tables must be a list of components; name the ERT.yaml that Accelergy wrote")
    components = []
    for number, one in enumerate(listed, 1):
        where = f"{path} [ERT] table {number}"
        name = one.get("name") if isinstance(one, dict) else None
        if not isinstance(name, str):
            raise InputError(f"{where}: has no name; write the file with Accelergy")
        actions = one.get("actions")
        if not isinstance(actions, list):
            raise InputError(f"{where} ({name}): actions must be a list; write the file with Accelergy")
        components.append((name, tuple(_action(action, f"{where} ({name})") for action in actions)))
    return Reference(tuple(components), str(path))


def _action(data: Any, where: str) -> Action:
    if not isinstance(data, dict) or not isinstance(data.get("name"), str):
        raise InputError(f"{where}: has an action without a name; write the file with Accelergy")
    name, arguments = data["name"], data.get("arguments") or {}
    if not isinstance(arguments, dict) or not all(isinstance(key, str) for key in arguments):
        raise InputError(f"{where}: {name}: arguments must be a table of names; write the file with Accelergy")
    energy = _number(data.get("energy"))
    if isinstance(energy, bool) or not isinstance(energy, int | float) or not 0 <= energy <= LARGEST:
        raise InputError(f"{where}: {name}: energy = {data.get('energy')!r} must be a number of 0 to {LARGEST:g}")
    return Action(name, {key: _number(value) for key, value in arguments.items()}, float(energy))


def _number(value: Any) -> Any:
    """A value as YAML 1.2 has it: to PyYAML, which reads YAML 1.1, ``1e-09`` is text."""
    if isinstance(value, str):
        try:
            number = float(value)
        except ValueError:
            return value
        return number if math.isfinite(number) else value
    return value


def _yaml(path: Path) -> Any:
    """The file's content in lists, dictionaries, text and numbers; never an object of any other kind."""
    yaml = optional("yaml", "Accelergy's files", "ert")
    if path.exists() and not path.is_file():
        raise InputError(f"{path}: is no file; name the ERT.yaml that Accelergy wrote")
    if path.exists() and path.stat().st_size > MOST_BYTES:
        raise InputError(f"{path}: is larger than {MOST_BYTES:,} bytes, which no ERT is; name Accelergy's ERT.yaml")
    text = read_text(path)
    try:
        return yaml.load(text, Loader=_loader())
    except RecursionError:
        raise InputError(f"{path}: nested too deeply") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that is none
        raise InputError(f"{path}: is not valid YAML: {error}; name Accelergy's ERT.yaml") from None


@cache
def _loader() -> Any:
    """PyYAML's safe loader without aliases, whose merging doubles with every line, and without repeated keys."""
    import yaml

    class Loader(yaml.SafeLoader):  # type: ignore[misc]  # PyYAML carries no types
        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                event = self.peek_event()
                raise yaml.composer.ComposerError(None, None, "aliases (*) are not read", event.start_mark)
            return super().compose_node(parent, index)

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            twice = next((key for key in keys if keys.count(key) > 1), None) if len(keys) < 1000 else "too many keys"
            if twice is not None:
                raise yaml.constructor.ConstructorError(None, None, f"key {twice!r} twice", node.start_mark)
            return super().construct_mapping(node, deep)

    return Loader


def with_energies(data: dict[str, Any], folder: Path, origin: str) -> dict[str, Any]:
    """An energy table's keys with every component and action replaced by its energy.

    The result needs the ERT no longer: it can be hashed, kept and sent elsewhere.

    Args:
        data: the keys of the table's file.
        folder: that file's, where ``ert`` is looked for.
        origin: names the file in errors.
    """
    entries = data.get("entry", [])
    if "ert" not in data:
        for number, item in enumerate(entries if isinstance(entries, list) else [], 1):
            if isinstance(item, dict) and (key := next((key for key in KEYS if key in item), None)):
                raise InputError(f"{origin} entry {number}: {key} is of an ERT; add ert = 'ERT.yaml' to the table")
        return data
    name = data["ert"]
    if not isinstance(name, str) or not name:
        raise InputError(f"{origin}: ert = {name!r} must be the name of a file in quotes")
    reference = read_ert(folder / name)
    rest = {key: value for key, value in data.items() if key != "ert"}
    if not isinstance(entries, list) or not any(isinstance(item, dict) and "component" in item for item in entries):
        raise InputError(f"{origin}: ert = {name!r}: no entry names a component of it; add one, or leave ert out")
    rest["entry"] = [
        _resolved(item, data, reference, f"{origin} entry {number}") if isinstance(item, dict) else item
        for number, item in enumerate(entries, 1)
    ]
    return rest


def _resolved(item: dict[str, Any], table: dict[str, Any], reference: Reference, where: str) -> dict[str, Any]:
    """One entry with its energy, and with its source where it names none."""
    if not any(key in item for key in KEYS):
        return item
    if item.get("kind") != "action":
        raise InputError(f"{where}: component and action are for kind = 'action'; use it, or leave them out")
    if "energy_per_action" in item:
        raise InputError(f"{where}: both energy_per_action and a component of the ERT; keep one of them")
    for key in ("component", "action"):
        if not isinstance(item.get(key), str):
            raise InputError(f"{where}: key {key!r} is missing or no text; name the ERT's component and its action")
    arguments = item.get("arguments")
    if arguments is not None and not isinstance(arguments, dict):
        raise InputError(f"{where}: arguments = {arguments!r} must be a table of keys")
    component, action = reference.find(item["component"], item["action"], arguments, where)
    entry = {key: value for key, value in item.items() if key not in KEYS} | {"energy_per_action": action.energy}
    if "source" not in entry:
        # An entry with a source of its own inherits neither node nor voltage; these are the table's.
        entry |= {key: table[key] for key in ("node_nm", "voltage_v") if key in table and key not in entry}
        entry["source"] = f"Accelergy, {Path(reference.origin).name}: {component} {action}"
    return entry
