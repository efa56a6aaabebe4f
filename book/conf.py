"""Sphinx's settings for the site: `make site` builds it into .course/site, offline, and without running a cell.

While Sphinx reads the pages, the functions below add the sidebar, the cards of the landing page, and the box under the
title of a chapter. Where GITHUB_REPOSITORY is set, as in a workflow on GitHub, the pages link to that repository.
"""

import os
from fnmatch import fnmatch
from pathlib import Path

import nbformat
from docutils import nodes

from course.chapters import all_chapters
from course.copies import fold_solutions
from course.navigation import contents

project = "From idea to production with MLflow"
project_copyright = "the pystock course contributors. Code: Apache License 2.0. Text and figures: CC BY 4.0"
extensions = ["myst_nb", "sphinx_copybutton"]
root_doc = "book/index"
include_patterns = ["*.md", "book/*.md", "chapters/tasks/*.md", "data/*.md", "notebooks/*.ipynb"]
include_patterns += ["projects/*/README.md", "workbench/*.md"]
exclude_patterns = [".*", "work", "src", "tests"]  # never searched, so the links into them are those to files

myst_heading_anchors = 4
nb_execution_mode = "off"
nb_merge_streams = True
copybutton_selector = "div.highlight pre:not(.cell_output pre)"  # code, not its output

repository = os.environ.get("GITHUB_REPOSITORY", "")  # owner/name
html_theme = "sphinx_book_theme"
html_title = project
html_logo = html_favicon = "static/logo.svg"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_context = {"default_mode": "auto"}  # light or dark, as the reader's system
html_theme_options = {
    "logo": {"text": project},
    "navbar_persistent": [],  # the sidebar has the search
    "search_as_you_type": True,
    "pygments_dark_style": "a11y-dark",
    "repository_url": f"https://github.com/{repository}" if repository else "",
    "use_repository_button": bool(repository),
    "use_issues_button": bool(repository),
    "footer_content_items": "copyright.html",
}

CARDS = "<!-- book/conf.py adds the chapters here -->"
BEFORE = {"Begin": ["README"]}  # sections of the sidebar above the parts, and the pages in them
AFTER = {  # and below the parts. The last section takes what is left
    "Look it up": ["book/glossary", "book/troubleshooting", "data/*", "book/*"],
    "Teach it, use it at work": ["WORKSHOP", "workbench/*", "projects/*"],
    "About the course": ["CONTRIBUTING", "*"],
}
# titles in the sidebar, where a page's own is too long
SHORT = {"README": "Set up and run", "WORKSHOP": "Teach a workshop", "data/README": "Data card"}


def parts():
    """Return the title of each part, with its chapters and the minutes that each takes."""
    known = {chapter.name: chapter for chapter in all_chapters()}
    return {
        f"{number} {part['title']}": [(known[listed["name"]], listed["minutes"]) for listed in part["chapter"]]
        for number, part in enumerate(contents().get("part", []), 1)
    }


def cards():
    """Return a card for each part, as Markdown."""
    minutes = [minutes for listed in parts().values() for _, minutes in listed]
    lines = [f"{len(minutes)} chapters take about {round(sum(minutes) / 60)} hours.", "", "````{container} parts"]
    for title, listed in parts().items():
        lines += ["```{container} part", f"**{title}**", ""]
        for chapter, minutes in listed:
            link = f"[{chapter.number} {chapter.title}](../notebooks/{chapter.notebook.name})"
            lines.append(f"- {link} {minutes}\N{NO-BREAK SPACE}min")
        lines.append("```")
    return "\n".join([*lines, "````"])


def short_titles():
    """Return the pages that have another title in the sidebar than their own, with that title."""
    listed = [chapter for chapters in parts().values() for chapter, _ in chapters]
    return SHORT | {f"notebooks/{chapter.name}": f"{chapter.number} {chapter.title}" for chapter in listed}


def sidebar(pages):
    """Return the sections of the sidebar as lists of contents, which hold each of the pages once."""
    chapters = {
        title: [*(f"notebooks/{chapter.name}" for chapter, _ in listed), f"chapters/tasks/part_{title.split()[0]}"]
        for title, listed in parts().items()
    }
    left, titles, text = sorted(pages - {root_doc}), short_titles(), ""
    for section, patterns in (BEFORE | chapters | AFTER).items():
        names = list(dict.fromkeys(name for pattern in patterns for name in left if fnmatch(name, pattern)))
        left = [name for name in left if name not in names]
        entries = [f"{titles[name]} </{name}>" if name in titles else f"/{name}" for name in names]
        text += "\n".join(["", "```{toctree}", ":hidden:", f":caption: {section}", *entries, "```", ""])
    return text


def run_box(name):
    """Return how to open a notebook on one's own machine and in a devcontainer, as Markdown."""
    codespaces = f", or in [Codespaces](https://codespaces.new/{repository})" if repository else ""
    return f"""```{{container}} run-it
Run it [on your machine](../book/index.md#on-your-machine): type `make lab` and open `work/{name}.ipynb`.
Or run it [in a devcontainer](../book/index.md#in-a-devcontainer){codespaces}.
```"""


def complete(app, docname, source):
    """Add to the text of a page what the site has and the repository doesn't."""
    if docname == root_doc:
        source[0] = source[0].replace(CARDS, cards()) + sidebar(app.env.found_docs)
    elif docname.startswith("notebooks/"):
        notebook = nbformat.reads(source[0], as_version=4)
        fold_solutions(notebook)
        title, _, rest = notebook.cells[0].source.partition("\n")
        notebook.cells[0].source = f"{title}\n\n{run_box(Path(docname).name)}\n{rest}"
        source[0] = nbformat.writes(notebook)


def shorten(app, env):
    """Give the links to the previous and the next page the titles of the sidebar."""
    for name, title in short_titles().items():
        if name in env.titles:
            env.titles[name] = nodes.title(title, title)


def add_start(app, error):
    """Lead from the site's address to the landing page."""
    if not error:
        start = f"""<meta charset="utf-8"><link rel="icon" href="_static/logo.svg">
<meta http-equiv="refresh" content="0; url={root_doc}.html"><a href="{root_doc}.html">{project}</a>
"""
        (Path(app.outdir) / "index.html").write_text(start, encoding="utf-8")


def setup(app):
    """Connect the functions above; Sphinx calls this."""
    app.connect("source-read", complete)
    app.connect("env-updated", shorten)
    app.connect("build-finished", add_start)
