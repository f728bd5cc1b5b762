"""Expressions in sweep files, evaluated safely: arithmetic and comparisons over named figures, and nothing else."""

from __future__ import annotations

import ast
import math
from collections.abc import Mapping
from typing import Any

from accelsim.errors import InputError, did_you_mean

FUNCTIONS = {
    "min": min,
    "max": max,
    "abs": abs,
    "round": round,
    "ceil": math.ceil,
    "floor": math.floor,
    "log2": math.log2,
}


def evaluate(expression: str, names: Mapping[str, Any], where: str) -> Any:
    """The value of an expression.

    Args:
        expression: Python's arithmetic, comparisons, ``and``, ``or``, ``not``, ``a if b else c``, and `FUNCTIONS`.
        names: what names stand for; they may hold dots: ``hardware.array.rows``.
        where: names the file and key in errors.
    Raises:
        InputError: the expression is not one, uses a name that is not there, or has no value (division by zero).

    >>> evaluate("hardware.array.rows * 2 <= limit", {"hardware.array.rows": 8, "limit": 16}, "x.toml")
    True
    """
    import simpleeval

    names_in(expression, where)  # simpleeval would take an assignment for its value
    try:
        return _evaluator()(expression, names)
    except simpleeval.NameNotDefined as error:
        hint = did_you_mean(error.name, names) or f"; names here: {', '.join(names)}"
        raise InputError(f"{where}: {expression!r}: unknown name {error.name!r}{hint}") from None
    except (simpleeval.InvalidExpression, SyntaxError, TypeError, ValueError, ArithmeticError, RecursionError) as error:
        raise InputError(f"{where}: {expression!r}: {str(error).strip() or 'cannot be evaluated'}; mend it") from None


def names_in(expression: str, where: str) -> set[str]:
    """The names, with their dots, that an expression reads.

    Raises:
        InputError: it is not an expression.
    """
    try:
        tree = ast.parse(expression.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise InputError(f"{where}: {expression!r} is not an expression; write one such as 'area <= 200000'") from None
    found: set[str] = set()
    pending: list[ast.AST] = [tree.body]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Name | ast.Attribute) and (name := _dotted(node)):
            found.add(name)
        elif isinstance(node, ast.Call):
            pending.extend(node.args)
        else:
            pending.extend(ast.iter_child_nodes(node))
    return found


def _dotted(node: ast.AST) -> str | None:
    """``a.b.c`` as it is written, or None where it is no chain of names."""
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else None


def _evaluator() -> Any:
    """A `simpleeval.SimpleEval` to which a dotted name is one name: no attribute of any object is ever looked up."""
    import simpleeval

    class Evaluator(simpleeval.SimpleEval):  # type: ignore[misc]  # simpleeval carries no types
        def __call__(self, expression: str, names: Mapping[str, Any]) -> Any:
            self.names = dict(names)
            return self.eval(expression.strip())

        def _eval_attribute(self, node: ast.Attribute) -> Any:
            name = _dotted(node)
            if name is None:
                raise simpleeval.FeatureNotAvailable("attributes are not available")
            if name not in self.names:
                raise simpleeval.NameNotDefined(name, self.expr)
            return self.names[name]

    return Evaluator(functions=FUNCTIONS)
