"""Check the chapters, the other pages and the messages against the rules for authors: `course lint`."""

import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from course import navigation
from course.chapters import Chapter, all_chapters
from course.lint.dialect import dialect_in, words_in
from course.lint.markdown import broken_links
from course.lint.page import Page, read_pages
from course.lint.rules import OPENING, RULES
from course.paths import root

__all__ = ["exceptions", "lint", "problems"]

FILES = ["*.md", "book/*.md", "chapters/tasks/*.md", "data/*.md", "projects/*/README.md", "workbench/*.md"]
FILES += ["src/**/*.py", "projects/**/*.py", "chapters/checks/*.py", "chapters/tasks/*.py", "install.py"]


def lint(chapters: list[Chapter]) -> Iterator[str]:
    """Return what breaks a rule in these chapters; if they are all chapters, in pages, messages and docstrings too."""
    for page in read_pages(chapters):
        yield from problems(page, exceptions().get(page.name, []))
    if chapters == all_chapters():
        # all but this package, which quotes what it looks for
        files = {path for pattern in FILES for path in root().glob(pattern) if path.parent.name != "lint"}
        for path in sorted(files, key=lambda path: (path.suffix, path)):
            if path.suffix == ".md":
                text = path.read_text(encoding="utf-8")
                yield from (_at(path, problem) for problem in broken_links(text, text, [path.parent]))
            yield from (_at(path, turn, line) for line, words in words_in(path) for turn in dialect_in(words))
        for path in navigation.outdated():
            yield _at(path, "it differs from chapters/contents.toml: run `course navigation`")


@cache
def exceptions() -> dict[str, list[str]]:
    """Return the rules that each chapter of the first edition still breaks: chapters/first_edition.toml."""
    file = root() / "chapters" / "first_edition.toml"
    return tomllib.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def problems(page: Page, excepted: list[str]) -> Iterator[str]:
    """Return what breaks a rule in a chapter, each with its place. It has to break the `excepted` rules."""
    if excepted and page.section(OPENING[0]):
        yield f"chapters/{page.name}.md is rewritten: remove its line from first_edition.toml"
    for rule in RULES:
        found = list(rule(page))
        if rule.__name__ in excepted:
            if not found:
                yield f"chapters/{page.name}.md keeps the rule {rule.__name__}: remove it from first_edition.toml"
            continue
        for cell, message in found:
            yield f"chapters/{page.name}.md{f', cell {cell.number}' if cell else ''}: {message}"


def _at(path: Path, problem: str, line: int = 0) -> str:
    return f"{path.relative_to(root()).as_posix()}{f', line {line}' if line else ''}: {problem}"
