"""The documentation as a web site: `make docs` builds it into build/docs with Sphinx, warnings being errors.

The source folder is the checkout (docs/, notebooks/), so that a link that works in the files works in the site.
Settings: https://www.sphinx-doc.org/en/master/usage/configuration.html
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from sphinx.util.inspect import TypeAliasForwardRef

import accelsim
from accelsim.cli import build_parser

sys.path.insert(0, str(Path(__file__).parent))
from command_page import PLACE, command_page

project = "accelsim"
author = "The accelsim authors"
copyright = author
version = release = accelsim.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
    "notebook_pages",
]
root_doc = "docs/index"
include_patterns = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "docs/*.md", "notebooks/*.ipynb"]
exclude_patterns = [".*", "build", "accelsim", "benchmarks", "configs", "tests", "workloads", "results"]
source_suffix = {".md": "markdown", ".ipynb": "notebook"}
nitpicky = True
# Types of other projects, and short names for arrays: nothing here could define them.
nitpick_ignore_regex = [
    ("py:.*", r"(numpy|np|npt|torch|collections|os|pathlib|pydantic|pandas|pd)\..*"),
    ("py:.*", r"Int64|Images|FilePath|ExportedProgram"),
    # Types inside ours that no user makes or names.
    ("py:.*", r"accelsim\.energy\.(table\.Header|entries\.\w+)|accelsim\.vectors\.(manifest|coverage)\.\w+"),
    (
        "py:.*",
        r"(accelsim\.\w+\.\w+\.)?(Instruction|Observer|Unit|Scheme|Rounding|Source|Progress|Dumped|PsumStatistics|Divergence|Cause|\w+Energy)",
    ),
]

# Markdown: `:::` blocks, and headings that links of other pages reach.
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 4

# Docstrings say `name` for code, as Markdown does.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
autodoc_preserve_defaults = True
autodoc_class_signature = "separated"
autodoc_typehints_format = "short"
autodoc_type_aliases = {name: name for name in ("npt.ArrayLike", "Int64", "Images", "FilePath")}
TypeAliasForwardRef.__repr__ = lambda self: self.name  # how Sphinx shows one inside a union
napoleon_use_rtype = False

# Shown in examples, not copied.
copybutton_prompt_text = r">>> |\.\.\. "
copybutton_prompt_is_regexp = True

html_theme = "furo"
html_title = f"accelsim {version}"
html_static_path = ["static"]
html_css_files = ["accelsim.css"]
html_extra_path = ["extra"]  # index.html, which leads to docs/index.html
html_show_sphinx = False
html_copy_source = False
html_theme_options = {
    "navigation_with_keys": True,
    "light_css_variables": {"color-brand-primary": "#0b5cad", "color-brand-content": "#0b5cad"},
    "dark_css_variables": {"color-brand-primary": "#6cb2f7", "color-brand-content": "#6cb2f7"},
}


def _fill_in(app: Any, name: str, source: list[str]) -> None:
    """Put in place of a comment what a page takes from elsewhere.

    docs/index.md: pages that none of its lists names stand at the end of the how-to pages. docs/cli.md: the commands.
    """
    if name == root_doc:
        listed = set(re.findall(r"^([\w./]+)$", source[0], re.MULTILINE))
        pages = {page.stem for page in (Path(app.srcdir) / "docs").glob("*.md")}
        rest = sorted(pages - listed - {"index"})
        source[0] = source[0].replace("% the rest\n", "".join(f"{page}\n" for page in rest))
    elif name == "docs/cli":
        source[0] = source[0].replace(PLACE, command_page(build_parser()))


def setup(app: Any) -> None:
    app.connect("source-read", _fill_in)
