"""Expressions in sweep files, evaluated safely: arithmetic and comparisons over named figures, and nothing else."""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Mapping
from typing import Any

from accelsim.errors import InputError, did_you_mean, optional

FUNCTIONS = {
    "min": min,
    "max": max,
    "abs": abs,
    "round": round,
    "ceil": math.ceil,
    "floor": math.floor,
    "log2": math.log2,
}
LARGEST = 1 << 63
"""No value of an expression is larger: nothing that a sweep sets or compares is."""


def evaluate(expression: str, names: Mapping[str, Any], where: str) -> Any:
    """The value of an expression.

    Args:
        expression: Python's arithmetic, comparisons, ``and``, ``or``, ``not``, ``a if b else c``, and `FUNCTIONS`.
        names: what names stand for; they may hold dots: ``hardware.array.rows``.
        where: names the file and key in errors.
    Returns:
        A bool, int, finite float or string. Strings can be compared, and no more.
    Raises:
        InputError: the expression is not one, uses a name that is not there, or has no such value (division by zero);
            or simpleeval is not installed.

    >>> evaluate("hardware.array.rows * 2 <= limit", {"hardware.array.rows": 8, "limit": 16}, "x.toml")
    True
    """
    simpleeval = optional("simpleeval", "expressions in sweep files", "sweep")
    names_in(expression, where)  # simpleeval would take an assignment for its value
    try:
        value = _evaluator()(expression, names)
    except simpleeval.NameNotDefined as error:
        hint = did_you_mean(error.name, names) or f"; names here: {', '.join(names)}"
        raise InputError(f"{where}: {expression!r}: unknown name {error.name!r}{hint}") from None
    except (simpleeval.InvalidExpression, SyntaxError, TypeError, ValueError, ArithmeticError, RecursionError) as error:
        raise InputError(f"{where}: {expression!r}: {str(error).strip() or 'cannot be evaluated'}; mend it") from None
    if not isinstance(value, bool | int | float | str):
        raise InputError(f"{where}: {expression!r}: gives no number, text or truth value; mend it")
    if not isinstance(value, str) and not abs(value) <= LARGEST:
        raise InputError(f"{where}: {expression!r}: gives a number beyond 2**63, or none; mend it")
    return value


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


def _of_numbers(operator: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """The operator, refusing text, whose products and formats may be as long as anyone likes."""

    def apply(left: Any, right: Any) -> Any:
        if isinstance(left, str) or isinstance(right, str):
            raise TypeError("text can be compared, but not calculated with")
        return operator(left, right)

    return apply


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

    arithmetic = {
        kind: _of_numbers(operator) if issubclass(kind, ast.operator) else operator
        for kind, operator in simpleeval.DEFAULT_OPERATORS.items()
    }
    evaluator = Evaluator(operators=arithmetic, functions=FUNCTIONS)
    evaluator.nodes.pop(ast.JoinedStr, None)  # and f-strings, whose widths have no bound
    return evaluator
