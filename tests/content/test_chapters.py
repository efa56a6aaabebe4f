"""The committed chapters keep the rules for authors, and the notebooks are those of the chapters, packages and data."""

import subprocess

import nbformat
import pytest
from click.testing import CliRunner

from course import notebooks
from course.chapters import all_chapters
from course.cli import main
from course.paths import root

CHAPTERS = all_chapters()
by_chapter = pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda chapter: chapter.number)


def test_chapters_and_pages_keep_the_rules():
    result = CliRunner().invoke(main, ["lint"], catch_exceptions=False)
    assert result.output == f"{len(CHAPTERS)} chapters keep all rules.\n"


def described(cell):
    return cell.cell_type, cell.source, cell.metadata.get("tags", []), cell.metadata.get("jupyter", {})


@by_chapter
def test_notebook_is_its_executed_chapter(chapter):
    source, notebook = notebooks.read(chapter), nbformat.read(chapter.notebook, as_version=4)
    assert [described(cell) for cell in notebook.cells] == [described(cell) for cell in source.cells]
    assert all(cell.execution_count for cell in notebook.cells if cell.cell_type == "code")
    assert chapter.notebook.stat().st_size <= 500 * 1024


def test_repository_is_small():
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=root(), capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("this copy of the course is not a git checkout, so nothing tells which files belong to it")
    files = [root() / name for name in listed.stdout.split("\0") if name]
    assert 0 < sum(file.stat().st_size for file in files if file.is_file()) <= 25 * 1024 * 1024


def printed(name: str, code: str) -> list[str]:
    """Return the lines that the cell with this code prints or shows in a committed notebook."""
    (cell,) = [cell for cell in nbformat.read(root() / "notebooks" / f"{name}.ipynb", 4).cells if code in cell.source]
    return "".join(out.get("text") or out["data"]["text/plain"] for out in cell.outputs).splitlines()


def test_chapter_18_repeats_the_statuses_of_chapter_16():
    lines = printed("16_score_in_batches_and_serve", 'print(f"{what}: {answer.status_code}")')
    table = printed("18_build_the_inference_api", "of_mlflow = [")[1:]
    assert lines and dict(line.split(": ") for line in lines) == dict(line.rsplit(maxsplit=2)[:2] for line in table)
