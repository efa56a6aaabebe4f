"""Every relative link and picture leads somewhere: those of a chapter from chapters/, notebooks/ and work/ alike."""

import os.path
from pathlib import Path
from urllib.parse import unquote

import nbformat
import pytest
from chapter_text import slugs, targets

from course import notebooks
from course.chapters import all_chapters
from course.paths import root

FOLDERS = ("chapters", "notebooks", "work")
PAGES = ["README.md", "WORKSHOP.md", "CONTRIBUTING.md", "data/README.md", "book/glossary.md", "book/troubleshooting.md"]


def pages() -> list[str]:
    """The pages that are no chapters: those that must exist, and all others beside them."""
    more = [
        path
        for pattern in ("book/*.md", "projects/*/README.md", "workbench/*.md")
        for path in sorted(root().glob(pattern))
    ]
    return list(dict.fromkeys([*PAGES, *(path.relative_to(root()).as_posix() for path in more)]))


def text_of(path: Path) -> str:
    """The text of a page: Markdown, or the text cells of a notebook."""
    if path.suffix == ".ipynb":
        cells = nbformat.read(path, as_version=4).cells
        return "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    return path.read_text(encoding="utf-8")


def broken(text: str, folders: list[Path]) -> list[str]:
    """The relative links in `text` that do not lead to a file, or to a heading of it, from each of `folders`."""
    found = []
    for target in targets(text):
        if target.startswith(("https://", "http://", "mailto:")):
            continue
        address, _, anchor = unquote(target).partition("#")
        for folder in folders:
            path = Path(os.path.normpath(folder / address)) if address else None
            if path and not path.exists():
                found.append(f"{target} does not exist from {folder.name}/")
            elif anchor and anchor not in slugs(text_of(path) if path else text):
                found.append(f"{target}: {path.name if path else 'this page'} has no heading #{anchor}")
    return list(dict.fromkeys(found))


@pytest.mark.parametrize("chapter", all_chapters(), ids=lambda chapter: chapter.number)
def test_the_links_of_a_chapter(chapter):
    text = "\n\n".join(cell.source for cell in notebooks.read(chapter).cells if cell.cell_type == "markdown")
    assert targets(text)
    assert broken(text, [root() / folder for folder in FOLDERS]) == []


@pytest.mark.parametrize("page", pages())
def test_the_links_of_a_page(page):
    path = root() / page
    assert path.exists(), f"{page} is missing"
    assert broken(text_of(path), [path.parent]) == []


@pytest.fixture
def checkout(tmp_path):
    for folder in ("chapters", "notebooks", "book"):
        (tmp_path / folder).mkdir()
    (tmp_path / "book" / "glossary.md").write_text('# Glossary\n\n### Brier score & skill\n\n<a id="here"></a>\n')
    (tmp_path / "chapters" / "a picture.svg").touch()
    return [tmp_path / folder for folder in FOLDERS]


GOOD = [
    "[g](../book/glossary.md)",
    "[g](../book/glossary.md#brier-score--skill)",
    "[g](../book/glossary.md#here)",
    "![a picture](<../chapters/a picture.svg>)",
    '<img src="../chapters/a%20picture.svg" alt="a picture">',
    "[elsewhere](https://example.org/nothing)",
    "## Here\n\n[up](#here)",
    "`[no link](nowhere.md)`",
]
BAD = [
    "[g](../book/glosary.md)",
    "[g](../book/glossary.md#brier)",
    "![a picture](figures/x.svg)",
    "![a picture](<a picture.svg>)",
    '<img src="../chapters/picture.svg" alt="a picture">',
    '<a href="../nowhere.md">there</a>',
    "## Here\n\n[up](#there)",
]


@pytest.mark.parametrize("text", GOOD)
def test_a_good_link_is_found(text, checkout):
    assert broken(text, checkout) == []


@pytest.mark.parametrize("text", BAD)
def test_a_bad_link_is_refused(text, checkout):
    assert broken(text, checkout)


def test_a_link_must_hold_from_all_three_folders(checkout):
    """It exists beside the source, and nowhere else."""
    assert broken("![a picture](<a picture.svg>)", checkout[:1]) == []
    assert [line.split()[-1] for line in broken("![a picture](<a picture.svg>)", checkout)] == ["notebooks/", "work/"]
