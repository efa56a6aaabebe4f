"""The learner's copies in work/: the notebooks without outputs, each solution folded into a text cell."""

import hashlib
import re
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from course.chapters import Chapter, all_chapters, select
from course.errors import CourseError
from course.paths import kept_name


def make_copy(chapter: Chapter) -> NotebookNode:
    """Return the learner's copy of a chapter."""
    notebook: NotebookNode = nbformat.read(chapter.built(), as_version=4)
    fold_solutions(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
        else:  # links lead to the learner's other copies, which show no results either
            cell.source = cell.source.replace("](../notebooks/", "](")
    notebook.metadata["course"] = {"copied": _digest(notebook)}
    return notebook


def fold_solutions(notebook: NotebookNode) -> None:
    """Move the code of each solution into the folded text before it."""
    cells: list[NotebookNode] = []
    for cell in notebook.cells:
        if "solution" in cell.metadata.get("tags", []):
            code, end = f"\n\n```python\n{cell.source}\n```", "\n\n</details>"
            cells[-1].source = cells[-1].source.replace(end, code + end)
        else:
            cells.append(cell)
    notebook.cells = cells


def _digest(notebook: NotebookNode) -> str:
    sources = "\0".join(cell.source for cell in notebook.cells)
    return hashlib.sha256(sources.encode()).hexdigest()[:16]


def is_untouched(path: Path) -> bool:
    """Return whether a copy is as the course made it: no text changed, and nothing run."""
    try:
        notebook = nbformat.read(path, as_version=4)
        worked = any(cell.get("execution_count") or cell.get("outputs") for cell in notebook.cells)
        return not worked and notebook.metadata["course"]["copied"] == _digest(notebook)
    except Exception:  # not a notebook of the course, half-saved, or made by an older version: it is the learner's
        return False


def copy_notebooks() -> list[str]:
    """Make the copies that are missing in work/, renew those that nobody has touched, and return the names of both."""
    copied = []
    for chapter in all_chapters():
        path = chapter.working_copy
        if chapter.notebook.exists() and (not path.exists() or is_untouched(path)):
            copy = make_copy(chapter)
            if not path.exists() or nbformat.read(path, as_version=4) != copy:
                path.parent.mkdir(exist_ok=True)
                nbformat.write(copy, path)
                copied.append(chapter.name)
    return copied


def renew(chapter: Chapter) -> Path | None:
    """Copy the chapter to work/ again. Returns the name under which the learner's own copy is kept."""
    copy, path = make_copy(chapter), chapter.working_copy
    kept = path.rename(kept_name(path)) if path.exists() else None
    path.parent.mkdir(exist_ok=True)
    nbformat.write(copy, path)
    return kept


def solution(id: str) -> str:
    """Return the solution of an exercise, such as "06.2". Raises CourseError if there is no such exercise."""
    text = "\n\n".join(cell.source for cell in make_copy(select(id.partition(".")[0])[0]).cells)
    solutions = dict(re.findall(r"<summary>Solution ([\d.]+)</summary>\s+(.*?)\s+</details>", text, re.DOTALL))
    if id not in solutions:
        raise CourseError(f"There is no exercise {id}: this chapter has {', '.join(solutions) or 'none'}.")
    return re.sub(r"^```(?:python)?\n?", "", solutions[id], flags=re.MULTILINE).rstrip()
