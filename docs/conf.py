"""The docs site: ``.ci/docs`` builds it, with every warning an error."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version as installed
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

project = "lightning-gradcam"
author = "The lightning-gradcam founders"
project_copyright = author
version = release = installed("lightning-gradcam")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
exclude_patterns = ["_build"]
nitpicky = False

myst_enable_extensions = ["colon_fence"]
# GitHub's anchors of headings, so that a link works in both places.
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the signatures have them, and the descriptions say what matters
autodoc_class_signature = "mixed"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_custom_sections = ["Logged"]

html_theme = "furo"
html_title = "lightning-gradcam"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False


def make_sample(app: Sphinx) -> None:
    """Writes the page that sample.md embeds; a process of its own, so that its training leaves nothing here."""
    if app.builder.format == "html":
        script, target = Path(__file__).with_name("make_sample.py"), Path(app.outdir, "sample", "report.html")
        done = subprocess.run([sys.executable, script, target], capture_output=True, text=True, check=False)
        if done.returncode:
            raise ExtensionError(f"docs/make_sample.py failed:\n{done.stdout[-1000:]}\n{done.stderr[-3000:]}")


def setup(app: Sphinx) -> None:
    """Runs the sample before the pages are read."""
    app.connect("builder-inited", make_sample)
