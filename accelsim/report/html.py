"""One HTML file that needs nothing beside it: style, script and data inside, and a policy that allows nothing else."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import zlib
from collections.abc import Mapping
from importlib import resources
from typing import Any


def html_file(name: str, *, title: str, data: Mapping[str, Any], packed: Mapping[str, Any] | None = None) -> str:
    """A page: all of it in one string of HTML.

    Nothing that a user or a file says becomes markup: the data hold no ``<``, ``>`` or ``&``, the script only ever
    sets text, and the page's own policy allows its one script and its one style by their digests, and nothing else.

    Args:
        name: of ``name.html``, ``name.css`` and ``name.js``; what the pages share is ``shared.css`` and ``shared.js``.
        title: of the document.
        data: what JSON can say, for the script to read from the element ``data``.
        packed: more of it, deflated, in the element ``packed``; for what would be long.
    """
    style, script = (_part(f"shared.{kind}") + _part(f"{name}.{kind}") for kind in ("css", "js"))
    elements = [f'<script type="application/json" id="data">{_as_script(data)}</script>']
    if packed is not None:
        elements.append(f'<script type="text/plain" id="packed">{_deflated(packed)}</script>')
    return _part("shell.html").format(
        title=html.escape(title),
        style_digest=_digest(style),
        script_digest=_digest(script),
        style=style,
        script=script,
        body=_part(f"{name}.html"),
        data="\n".join(elements),
    )


def _as_script(data: Mapping[str, Any]) -> str:
    """JSON in which no HTML parser finds anything: neither a tag nor an entity."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _deflated(data: Mapping[str, Any]) -> str:
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return base64.b64encode(zlib.compress(text.encode(), 9)).decode()


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _part(name: str) -> str:
    return (resources.files("accelsim.report") / name).read_text(encoding="utf-8")
