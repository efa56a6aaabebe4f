"""`course notebooks`: make notebooks/NN_name.ipynb from chapters/NN_name.md, executed in order on a fresh store.

Two builds of the same chapters give the same bytes: cells have fixed ids, no timings are recorded, and the outputs of
cells tagged nbval-ignore-output are carried over while everything that the chapter runs is unchanged.
"""

import tempfile
from pathlib import Path

import jupytext
import nbformat

from course import glossary, navigation
from course.chapters import Chapter, before
from course.errors import CourseError
from course.execute import fingerprint, run_chapter, state_folder
from course.paths import root

KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def read(chapter: Chapter) -> nbformat.NotebookNode:
    """Return the chapter as a notebook without outputs, with its navigation and its links to the glossary."""
    notebook: nbformat.NotebookNode = jupytext.read(chapter.source)
    known, linked = glossary.anchors(glossary.text()), set[str]()
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = glossary.link_terms(cell.source, known, linked)
    navigation.add_to(notebook, chapter)
    for number, cell in enumerate(notebook.cells, 1):
        cell["id"] = f"{chapter.number}-{number:03}"
    notebook.metadata = nbformat.from_dict({"kernelspec": KERNEL})
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return notebook


def execute(chapter: Chapter, folder: Path) -> nbformat.NotebookNode:
    """Return the chapter's notebook with the outputs of a run on the current store; raises CourseError if it fails."""
    notebook = read(chapter)
    nbformat.write(notebook, folder / chapter.notebook.name)
    notebook.metadata["course"] = {"made_from": fingerprint(chapter)}
    result = run_chapter(chapter, notebook=folder / chapter.notebook.name)
    if result.notebook is None:
        raise CourseError(f"Chapter {chapter.number} was not built, because of {result.failure}")
    for cell, executed in zip(notebook.cells, result.notebook.cells, strict=True):
        if cell.cell_type == "code":  # the executed copy's metadata tell when and for how long papermill ran it
            cell.outputs, cell.execution_count = executed.outputs, executed.execution_count
    return notebook


def carry_over(chapter: Chapter, new: nbformat.NotebookNode) -> None:
    """Keep the old outputs of cells whose outputs differ each time."""
    try:
        old = nbformat.read(chapter.notebook, as_version=4)
    except (OSError, ValueError):  # it does not exist, or has merge conflict markers
        return
    if old.metadata.get("course") != new.metadata["course"]:
        return
    for committed, cell in zip(old.cells, new.cells):
        if "nbval-ignore-output" in cell.metadata.get("tags", []):
            cell.outputs = committed.outputs


def build(chapters: list[Chapter]) -> None:
    """Renew the notebooks of these chapters. All chapters up to the last one run, since each needs those before it."""
    (root() / "notebooks").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, state_folder(Path(folder)):
        for chapter in [*before(chapters[-1]), chapters[-1]]:
            notebook = execute(chapter, Path(folder))
            if chapter not in chapters:
                continue
            carry_over(chapter, notebook)
            nbformat.validate(notebook)
            text = nbformat.writes(notebook) + "\n"
            chapter.notebook.write_text(text, encoding="utf-8", newline="\n")
            print(f"{chapter.notebook.relative_to(root())}  {len(text) / 1024:.0f} KB")
