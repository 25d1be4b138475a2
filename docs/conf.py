"""The site: `pip install -e '.[docs]' && sphinx-build -W docs docs/_build`, then open docs/_build/index.html.

Its pages are the Markdown files of this folder, which read as well where they lie; `pages.py` has what the site needs
of them beside, `verbs.py` the page of commands, `settings.py` that of settings, `search_excerpts.py` what the search
shows.
"""

import os
import sys
from pathlib import Path

FOLDER = Path(__file__).parent
sys.path[:0] = [str(FOLDER / "extensions"), str(FOLDER.parent)]
# Before JAX is imported, by the build and by the notebook's kernel: nothing here needs an accelerator, and no cell
# shows a warning that there is none.
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import numpy.typing  # noqa: E402

# In the API a name, not the dozen types that it stands for; before a module of the package has taken it.
numpy.typing.ArrayLike = type("ArrayLike", (), {"__module__": "numpy.typing"})

from transfer import __version__  # noqa: E402

project = "transfer"
version = release = __version__
copyright = "the authors of transfer, Apache-2.0"

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "pages",
    "verbs",
    "settings",
    "search_excerpts",
]
# Kept tables are pages only where one is linked (`pages.py` gives it a title); the others stand in results.md itself.
exclude_patterns = ["_build", "results/digits.md", "results/vgg16.md", "results/vgg16_224.md", "results/slim.md"]

# Markdown: GitHub's anchors for headings, so that a link is right on both.
myst_heading_anchors = 4
myst_enable_extensions = ["dollarmath", "deflist"]
# A command that is shown with what it prints, `$ command`, is copied without either.
copybutton_prompt_text = r"\$ "
copybutton_prompt_is_regexp = True
# A command that goes on in the next line is copied to its end.
copybutton_line_continuation_character = "\\"
# What a block without a language holds: commands.
highlight_language = "bash"
# Blocks with a file's path behind the language, and commands of a shell, are not all of a language that is known.
suppress_warnings = ["misc.highlighting_failure"]

# The notebook has no outputs in the repository: the build runs it, and a cell that fails fails the build.
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 120
nb_merge_streams = True

# Docstrings: Google's sections, and `code` in single backticks.
default_role = "code"
napoleon_numpy_docstring = False
napoleon_use_ivar = True
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
# of a signature, `axis=AXIS` rather than its value
autodoc_preserve_defaults = True
# scikit-learn gives its estimators these, with docstrings that link into its own site
METADATA = ("set_fit_request", "set_score_request", "set_predict_request", "set_predict_proba_request")
autodoc_default_options = {"members": True, "exclude-members": ", ".join(("__init__", "__new__", "program", *METADATA))}

html_theme = "furo"
html_title = "transfer"
html_static_path = ["site"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0b5cad", "color-brand-content": "#0b5cad"},
    "dark_css_variables": {"color-brand-primary": "#7db8f0", "color-brand-content": "#7db8f0"},
}
