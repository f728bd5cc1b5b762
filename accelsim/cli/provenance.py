"""How the files of a run were made: its command, and the versions of what computed it."""

from __future__ import annotations

import argparse
import sys

from accelsim import __version__

_DESTINATIONS = frozenset({"json", "html", "figures", "dump_tensors", "trace"})
"""Options of a run that say where something is written, and change nothing of it."""


def run_command(arguments: argparse.Namespace) -> str:
    """The command of a run without its destinations, so that the same run has the same page wherever it lies."""
    import shlex

    words = arguments.parser.prog.split()
    for action in arguments.parser._actions:
        value = getattr(arguments, action.dest, None)
        if action.dest in _DESTINATIONS or value is None or value == action.default:
            continue
        if not action.option_strings:
            words.append(str(value))
        elif value is True:
            words.append(action.option_strings[-1])
        else:
            for one in value if isinstance(value, list) else [value]:
                words += [action.option_strings[-1], str(one)]
    return shlex.join(words)


def run_versions() -> dict[str, str]:
    """Versions of what a run's numbers come from; torch where it was asked for anything."""
    python = ".".join(map(str, sys.version_info[:3]))
    return {**versions("simpy", *(("torch",) if "torch" in sys.modules else ())), "python": python}


def versions(*optional: str) -> dict[str, str]:
    """Versions of what made the numbers; `optional` where installed."""
    from importlib import metadata

    found = {"accelsim": __version__}
    for name in ("numpy", *optional):
        try:
            found[name] = metadata.version(name).split("+")[0]
        except metadata.PackageNotFoundError:
            continue
    return found
