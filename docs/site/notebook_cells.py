"""Running a notebook's cells without a kernel: they hold nothing but Python. Tests and the site's pages both do it."""

from __future__ import annotations

import ast
import contextlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Shown:
    """A code cell that was run: what it printed, and its last expression's value (None: nothing to show)."""

    cell: str
    printed: str
    value: Any


def run_cells(notebook: dict[str, Any], name: str, variables: dict[str, Any]) -> Iterator[Shown]:
    """Run the code cells in order, as a fresh kernel does; `variables` are those of the notebook, and are changed."""
    variables["__name__"] = "__main__"
    for cell in notebook["cells"]:
        if cell["cell_type"] != "code":
            continue
        where = f"{name}[{cell['id']}]"
        tree = ast.parse("".join(cell["source"]), where)
        last = ast.Expression(tree.body.pop().value) if isinstance(tree.body[-1], ast.Expr) else None
        value = None
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(compile(tree, where, "exec"), variables)
            if last is not None:
                value = eval(compile(last, where, "eval"), variables)
        yield Shown(cell["id"], printed.getvalue(), value)
