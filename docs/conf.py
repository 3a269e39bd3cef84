"""Builds the documentation: `make docs`."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import generate  # noqa: E402 - it lies beside this file

generate.write_all(HERE / "reference" / "generated")

project = "Fossa"
author = "The Fossa authors"
copyright = author
html_title = "Fossa"
html_theme = "furo"
html_show_copyright = False
html_show_sphinx = False
html_copy_source = False

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "reference/generated"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
default_role = "code"
napoleon_use_rtype = False
# `python`, `shell`, `json`, `text`: what tests/test_docs.py knows how to run or check.
highlight_language = "text"
