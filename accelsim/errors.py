"""The one kind of error a user can cause: bad input, told in one line.

A message names, where they apply: file, key, value, rule and remedy. The command line prints it after
``accelsim: error:`` and exits with code 2; nothing is printed beside it, and no traceback.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from typing import Any


class InputError(Exception):
    """Bad input: a file, key, value, model or program that breaks a stated rule.

    The message is one line. Line breaks in what the user supplied (a TOML key may hold one) are folded, so that
    the promise holds whatever the input was.
    """

    def __init__(self, message: str):
        super().__init__(" ".join(message.split()))


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the known word nearest to `word`, else an empty string."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""


def printable(text: str) -> str:
    r"""Return text of the user's with what a terminal would obey, or could not show, as escapes.

    >>> printable("conv\x1b[31m\n")
    'conv\\x1b[31m\\n'
    """
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)


def one_of(words: Iterable[str]) -> str:
    """Return ``"; did you mean 'x' or 'y'?"``, or an empty string for no words.

    >>> one_of(["array.rows"]), one_of([])
    ("; did you mean 'array.rows'?", '')
    """
    quoted = " or ".join(map(repr, words))
    return f"; did you mean {quoted}?" if quoted else ""


def optional(module: str, what: str, extra: str) -> Any:
    """Import a module of a package that comes with an extra.

    Args:
        module: as in ``import module``.
        what: needs it, for the message; a plural.
        extra: of accelsim, that installs it.
    Raises:
        InputError: the package is not installed; the message names the extra.

    >>> optional("math", "roots", "none").sqrt(4)
    2.0
    """
    package = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ImportError as error:
        if error.name is None or error.name.partition(".")[0] != package:
            raise  # it is there, and broken
        raise InputError(
            f"{what} need {package}, which is not installed; install it with pip install 'accelsim[{extra}]'"
        ) from error
