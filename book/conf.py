"""Sphinx's settings for the course as pages: `sphinx-build -W -b html -c book . .course/book`. Nothing is executed."""

from pathlib import Path

ROOT = Path(__file__).parents[1]

project = "From idea to production with MLflow"
extensions = ["myst_nb"]
root_doc = "README"
include_patterns = ["*.md", "book/*.md", "data/*.md", "notebooks/*.ipynb", "projects/*/README.md", "workbench/*.md"]
exclude_patterns = [".*", "work", "src", "tests"]  # never searched, so the links into them are those to files
html_theme = "basic"
myst_heading_anchors = 4
nb_execution_mode = "off"


def add_contents(app, name, source):
    """List all pages at the end of the first one: Sphinx warns of a page that no list names."""
    if name == root_doc:
        others = "\n".join(sorted(app.env.found_docs - {root_doc}))
        source[0] += f"\n\n```{{toctree}}\n{others}\n```\n"


def setup(app):
    """Connect the function above; Sphinx calls this."""
    app.connect("source-read", add_contents)
