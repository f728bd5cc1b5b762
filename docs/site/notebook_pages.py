"""Notebooks as pages of the site: their Markdown, their cells, and what these show when they are run.

They are run in the process of the build, without a kernel: their cells hold nothing but Python. With
`notebooks_run = False` (`sphinx-build -D notebooks_run=0`) the pages have no outputs and are built at once.
"""

from __future__ import annotations

import base64
import json
from html import escape
from pathlib import Path
from typing import Any

from docutils import nodes
from myst_parser.parsers.sphinx_ import MystParser
from notebook_cells import Shown, run_cells
from sphinx.application import Sphinx


def output_html(shown: Shown) -> str:
    """What a notebook shows below a cell: printed text, then the value as picture, table or text."""
    parts = [f"<pre>{escape(shown.printed.rstrip())}</pre>"] if shown.printed else []
    value = shown.value
    if hasattr(value, "_repr_png_"):
        data = base64.b64encode(value._repr_png_()).decode("ascii")
        parts.append(f'<img alt="what cell {escape(shown.cell)} draws" src="data:image/png;base64,{data}">')
    elif hasattr(value, "_repr_html_"):
        parts.append(value._repr_html_())
    elif value is not None:
        parts.append(f"<pre>{escape(repr(value))}</pre>")
    return "".join(parts)


def page_text(notebook: dict[str, Any]) -> str:
    """The notebook in Markdown; behind each code cell stands a comment with its id, where its output belongs."""
    parts = []
    for cell in notebook["cells"]:
        text = "".join(cell["source"])
        parts.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```\n\n% output of {cell['id']}")
    return "\n\n".join(parts) + "\n"


class NotebookParser(MystParser):
    """Reads `.ipynb` files of format 4.5."""

    supported = ("notebook",)

    def parse(self, inputstring: str, document: nodes.document) -> None:
        notebook = json.loads(inputstring)
        super().parse(page_text(notebook), document)
        outputs = {}
        if document.settings.env.config.notebooks_run:
            outputs = {
                shown.cell: output_html(shown) for shown in run_cells(notebook, Path(document["source"]).name, {})
            }
        for comment in list(document.findall(nodes.comment)):
            html = outputs.get(comment.astext().removeprefix("output of "), "")
            html = f'<div class="cell-output">{html}</div>' if html else ""
            comment.replace_self([nodes.raw("", html, format="html")] if html else [])


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_config_value("notebooks_run", True, "env", types=frozenset({bool}))
    app.add_source_parser(NotebookParser)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
