"""How Sphinx builds these pages: `make docs`, then build/docs/index.html."""

from __future__ import annotations

import shutil
import sys
from contextlib import redirect_stderr, redirect_stdout
from importlib import import_module
from importlib.util import find_spec
from io import StringIO
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE / "_ext"), str(HERE.parent)]

from hetsyn_plugins import __version__  # noqa: E402  the line above says where it is

project = "hetsyn_plugins"
author = "The hetsyn_plugins authors"
copyright = author
release = version = __version__

NOTEBOOKS = HERE / "notebooks"  # copies: Sphinx reads what lies in this folder
shutil.rmtree(NOTEBOOKS, ignore_errors=True)
shutil.copytree(HERE.parent / "notebooks", NOTEBOOKS, ignore=shutil.ignore_patterns(".*"))

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.viewcode", "plain_docstrings", "outside", "commands"]
exclude_patterns = ["_ext"]
nitpicky = True

nb_execution_mode = "off"  # `make notebooks` has executed them
myst_heading_anchors = 4  # as GitHub has them, so that a link is the same in both

autodoc_member_order = "bysource"
autodoc_mock_imports = [name for name in ("lava", "norse", "snntorch") if find_spec(name) is None]
add_module_names = False
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
NAMED_TYPES = ("AnyBackend", "AnyBatch", "Array", "ArrayLike", "Integers", "NDArray", "Tensor")
autodoc_type_aliases = {name: name for name in NAMED_TYPES}  # or signatures would have what they stand for, in full
nitpick_ignore_regex = [
    ("py:class", "|".join(NAMED_TYPES)),
    ("py:class", r"(?!hetsyn_plugins\.)\w+\..*|InitVar"),  # their pages are elsewhere
    ("py:class", r"hetsyn_plugins\..*\.(ArrayFile|Job|Record|Run|Way)|Evidence|Index|Share"),  # not public
]
suppress_warnings = ["ref.python"]  # a Network is plain data here and a process there
if find_spec("lava") is not None:  # once, with what it says of libraries that nothing here needs
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        import_module("lava.lib.dl.slayer")
else:
    suppress_warnings.append("autodoc.import_object")  # netx refuses other Pythons than Lava's, also with a mock

html_theme = "furo"
html_title = f"hetsyn_plugins {release}"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
html_theme_options = {"navigation_with_keys": True}
html_copy_source = False
html_show_sourcelink = False
