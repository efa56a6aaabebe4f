"""chapters/NN_name.md to notebooks/NN_name.ipynb: read with jupytext, execute in order on a fresh store, write.

Two builds of the same chapters give the same bytes: cells have fixed ids, no timings are recorded, and the outputs of
cells tagged nbval-ignore-output are carried over while the chapter, the lock and the data are unchanged.
"""

import hashlib
import tempfile
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from course.chapters import Chapter, all_chapters
from course.errors import CourseError
from course.paths import root
from course.runner import CELL_TIMEOUT, kernel_environment, place, reason, state_folder

KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def read(chapter: Chapter) -> nbformat.NotebookNode:
    """The chapter as a notebook without outputs."""
    notebook = jupytext.read(chapter.source)
    for number, cell in enumerate(notebook.cells, 1):
        cell["id"] = f"{chapter.number}-{number:03}"
    notebook.metadata = nbformat.from_dict({"kernelspec": KERNEL, "course": {"source": fingerprint(chapter)}})
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return notebook


def fingerprint(chapter: Chapter) -> str:
    """What a chapter's outputs come from: its text, the packages, the data."""
    digest = hashlib.sha256()
    for file in [chapter.source, root() / "requirements.lock", *sorted((root() / "data").glob("*.csv"))]:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def execute(notebook: nbformat.NotebookNode, chapter: Chapter) -> None:
    """Run the notebook's cells and keep their outputs in it."""
    begun = []
    client = NotebookClient(
        notebook,
        timeout=CELL_TIMEOUT,
        kernel_name="python3",
        record_timing=False,
        shutdown_kernel="immediate",  # asked to shut down, a kernel may write a traceback of its own while it does
        coalesce_streams=True,  # how often a cell's output is flushed differs from run to run
        on_cell_execute=lambda cell, cell_index: begun.append((cell_index + 1, cell.source)),
        resources={"metadata": {"path": str(root() / "notebooks")}},
    )
    with kernel_environment():
        try:
            client.execute()
        except (CellExecutionError, TimeoutError, RuntimeError) as error:
            why = (place(*begun[-1]) if begun else "its start: ") + reason(error, CELL_TIMEOUT)
            raise CourseError(f"Chapter {chapter.number} was not built, because of {why}") from None
    notebook.metadata.pop("language_info", None)  # it names this machine's Python version


def carry_over(chapter: Chapter, new: nbformat.NotebookNode) -> None:
    """Keep the old outputs of cells whose outputs differ each time."""
    try:
        old = nbformat.read(chapter.notebook, as_version=4)
    except (OSError, ValueError):  # there is none, or a merge has left its marks in it
        return
    if old.metadata.get("course") != new.metadata["course"]:
        return
    for before, after in zip(old.cells, new.cells):
        if "nbval-ignore-output" in after.metadata.get("tags", []):
            after.outputs = before.outputs


def build(chapters: list[Chapter]) -> None:
    """Renew the notebooks of these chapters. All chapters up to the last one run, since each needs those before it."""
    (root() / "notebooks").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, state_folder(Path(folder)):
        for chapter in all_chapters():
            if chapter.number > chapters[-1].number:
                break
            notebook = read(chapter)
            execute(notebook, chapter)
            if chapter not in chapters:
                continue
            carry_over(chapter, notebook)
            nbformat.validate(notebook)
            text = nbformat.writes(notebook) + "\n"
            chapter.notebook.write_text(text, encoding="utf-8", newline="\n")
            print(f"{chapter.notebook.relative_to(root())}  {len(text) / 1024:.0f} KB")
