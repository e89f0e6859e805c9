"""The only owner of how the site is built: `sphinx-build -W --keep-going -n docs site`, without network."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import rendering.docstrings  # noqa: E402
import rendering.listings  # noqa: E402
import robustcl  # noqa: E402

project = "robustcl"
author = project_copyright = "The robustcl developers"
version = release = robustcl.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode", "sphinx_copybutton"]
exclude_patterns = ["results/*/*", "benchmarks/*/*", "rendering"]
nitpicky = True
# What other libraries and the standard one define is not looked up: that would need the network.
nitpick_ignore_regex = [("py:.*", r"(?!robustcl\.).*|.*\._\w+")]

highlight_language = "text"
smartquotes = False
suppress_warnings = ["ref.python"]  # a name in an annotation that two modules have

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
copybutton_prompt_text = "$ "

autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 88
python_display_short_literal_types = True

html_theme = "furo"
html_title = f"robustcl {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = html_copy_source = html_show_sphinx = False


def setup(app):  # type: ignore[no-untyped-def]
    """Docstrings are plain text, and lists of what there is are written when the site is built."""
    app.connect("autodoc-process-docstring", rendering.docstrings.on_docstring)
    app.connect("autodoc-process-signature", rendering.docstrings.on_signature)
    app.connect("source-read", rendering.listings.on_source)
