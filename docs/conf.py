"""Sphinx configuration. Each build first generates the pages for the families."""

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from generators import (
    block_pages,
    commands,
    explorer,
    families,
    gallery,
    ports,
    reference,
    structure,
)

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
html_title = f"cnnarch {release}"
html_show_sourcelink = False
html_static_path = ["_static"]
html_css_files = ["shell.css", "blocks.css", "coming_from.css", "families.css", "gallery.css"]
html_extra_path = ["_generated/gallery/report"]
html_js_files = ["sortable.js"]

maximum_signature_line_length = 88  # longer signatures have one argument per line
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True}
default_role = "code"  # `x` in docstrings
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
napoleon_custom_sections = ["Shape"]
suppress_warnings = ["config.cache"]


def typeset_formulas(app, what, name, obj, options, lines):  # noqa: ARG001 - signature required by Sphinx
    """Convert $x^2$ and $$x^2$$ in docstrings to reStructuredText."""
    text = re.sub(r"\$\$(.+?)\$\$", display, "\n".join(lines), flags=re.DOTALL)
    lines[:] = re.sub(r"\$([^$\n]+)\$", r":math:`\1`", text).split("\n")


def display(formula):
    return f".. math:: {' '.join(formula[1].split())}"


def name_defaults(app, what, name, obj, options, signature, returned):  # noqa: ARG001 - signature required by Sphinx
    """Write defaults as BatchNorm2d instead of <class 'torch.nn.modules.batchnorm.BatchNorm2d'>.

    Sphinx can then parse the signature, and shortens and links its types.
    """
    if signature:
        signature = re.sub(r"<class '(?:\w+\.)*(\w+)'>|<function (\w+)>", r"\1\2", signature)
    return signature, returned


def skip_fields(app, what, name, obj, skip, options):  # noqa: ARG001 - signature required by Sphinx
    """Omit the fields of named tuples, which the arguments of the class document."""
    return True if type(obj).__name__ == "_tuplegetter" else None


def remove_backlinks(app, pagename, templatename, context, doctree):  # noqa: ARG001 - signature required by Sphinx
    """Remove the links from source files to the reference.

    viewcode assumes that all names in a file are documented under one module, as ours are not.
    """
    if pagename.startswith("_modules/"):
        pattern = r'<a class="viewcode-back"[^>]*>\[docs\]</a>'
        context["body"] = re.sub(pattern, "", context["body"])


def setup(app):
    # `-D only_generators=ports` builds a few pages without waiting for all of them.
    app.add_config_value("only_generators", [], "", types=[list])
    for generator in (
        block_pages,
        commands,
        explorer,
        families,
        gallery,
        ports,
        reference,
        structure,
    ):
        name = generator.__name__.rpartition(".")[2]
        if name in (app.config.only_generators or [name]):
            generator.write_pages(Path(app.srcdir) / "_generated")
    app.connect("autodoc-process-docstring", typeset_formulas)
    app.connect("autodoc-process-signature", name_defaults)
    app.connect("autodoc-skip-member", skip_fields)
    app.connect("html-page-context", remove_backlinks)
