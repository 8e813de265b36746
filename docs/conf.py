"""Sphinx configuration. Each build first generates the pages for the families."""

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from generators import families, ports, structure

import cnnarch

project = "cnnarch"
author = "The cnnarch authors"
copyright = f"2026, {author}"
release = cnnarch.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "mathml",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
exclude_patterns = ["_build", "tutorials/*.md"]  # the tutorials are shown as stored
nb_execution_mode = "off"
nb_render_markdown_format = "myst"  # tables in outputs
html_math_renderer = "mathml"
html_theme = "furo"
html_static_path = ["_static"]
html_css_files = sorted(path.name for path in Path(__file__).parent.glob("_static/*.css"))
html_title = f"cnnarch {release}"
html_show_sourcelink = False

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "show-inheritance": False}
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
napoleon_custom_sections = ["Shape"]
suppress_warnings = ["config.cache"]


def typeset_formulas(app, what, name, obj, options, lines):  # noqa: ARG001 - signature required by Sphinx
    """Convert $x^2$ in docstrings to the math role of reStructuredText."""
    lines[:] = [re.sub(r"\$([^$\n]+)\$", r":math:`\1`", line) for line in lines]


def setup(app):
    for generator in (families, ports, structure):
        generator.write_pages(Path(app.srcdir) / "_generated")
    app.connect("autodoc-process-docstring", typeset_formulas)
