"""The notebooks as pages: Sphinx reads what is committed, runs nothing, and has nothing to warn of."""

import shutil
import subprocess
import sys

import pytest

from course.chapters import all_chapters
from course.paths import root

SETTINGS = {
    "project": "From idea to production with MLflow",
    "extensions": "myst_nb",
    "nb_execution_mode": "off",
    "myst_heading_anchors": "4",
    "exclude_patterns": "chapters/*.md",
    "html_theme": "basic",
}
PAGES = (
    "README.md",
    "WORKSHOP.md",
    "CONTRIBUTING.md",
    "LICENSE",
    "LICENSE-TEXT.md",
    "book",
    "data",
    "notebooks",
    "projects",
    "workbench",
    ".github",  # a page links to a workflow
    "chapters",
)


def build(source, target) -> str:
    """The warnings of a build of the pages in `source`."""
    command = [sys.executable, "-m", "sphinx", "-b", "html", "-C", "-q", "--fresh-env"]
    for name, value in SETTINGS.items():
        command += ["-D", f"{name}={value}"]
    done = subprocess.run([*command, str(source), str(target)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.fixture
def pages(tmp_path):
    """A copy of all pages under an index."""
    for name in PAGES:
        if (root() / name).is_dir():
            shutil.copytree(
                root() / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "*.csv", ".env")
            )
        elif (root() / name).exists():
            shutil.copyfile(root() / name, tmp_path / name)
    for file in (root() / "data").glob("*.csv"):
        (tmp_path / "data" / file.name).touch()
    names = [path.relative_to(tmp_path).with_suffix("").as_posix() for path in sorted(tmp_path.rglob("*.md"))]
    names += [f"notebooks/{chapter.name}" for chapter in all_chapters()]
    listed = "\n".join(name for name in names if not name.startswith("chapters/"))
    (tmp_path / "index.md").write_text(f"# The course\n\n```{{toctree}}\n{listed}\n```\n", encoding="utf-8")
    return tmp_path


def test_the_pages_build_without_a_warning(pages, tmp_path_factory):
    made = tmp_path_factory.mktemp("book")
    assert build(pages, made) == ""
    for chapter in all_chapters():
        page = (made / "notebooks" / f"{chapter.name}.html").read_text(encoding="utf-8")
        assert chapter.title in page


BAD = {
    "# A\n\n### B\n": "Non-consecutive header level",
    "# A\n\n```nosuchlanguage\nx\n```\n": "'nosuchlanguage' is not known",
    "# A\n\n[B](nowhere.md)\n": "'nowhere.md'",
    "# A\n\n![A picture of nothing](nowhere.svg)\n": "nowhere.svg",
    "No heading\n": "doesn't have a title",
}


def test_bad_pages_are_warned_of(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for number, text in enumerate(BAD):
        (source / f"page{number}.md").write_text(text, encoding="utf-8")
    pages = "\n".join(f"page{number}" for number in range(len(BAD)))
    (source / "index.md").write_text(f"# Index\n\n```{{toctree}}\n{pages}\n```\n", encoding="utf-8")
    warnings = build(source, tmp_path / "made")
    assert [complaint for complaint in BAD.values() if complaint not in warnings] == [], warnings
