"""Check the chapters and the other pages against the rules for authors: `course lint`."""

from collections.abc import Iterator

from course.chapters import Chapter, all_chapters
from course.lint.markdown import broken_links
from course.lint.page import Page, read_pages
from course.lint.rules import RULES, glossary_terms
from course.paths import root

__all__ = ["lint", "problems", "unused_terms"]

PAGES = ("*.md", "book/*.md", "data/*.md", "projects/*/README.md", "workbench/*.md")


def lint(chapters: list[Chapter]) -> Iterator[str]:
    """Return what breaks a rule in these chapters; if they are all chapters, in the glossary and other pages too."""
    pages = list(read_pages(chapters))
    for page in pages:
        yield from problems(page)
    if chapters == all_chapters():
        yield from (f"book/glossary.md: no chapter uses the term {term!r}" for term in unused_terms(pages))
        for path in sorted(path for pattern in PAGES for path in root().glob(pattern)):
            text = path.read_text(encoding="utf-8")
            for problem in broken_links(text, text, [path.parent]):
                yield f"{path.relative_to(root()).as_posix()}: {problem}"


def problems(page: Page) -> Iterator[str]:
    """Return what breaks a rule in a chapter, each with its place: `chapters/NN_name.md, cell 14: …`."""
    for rule in RULES:
        for cell, message in rule(page):
            yield f"chapters/{page.name}.md{f', cell {cell.number}' if cell else ''}: {message}"


def unused_terms(pages: list[Page]) -> list[str]:
    """Return the terms of the glossary that no page uses."""
    text = " ".join(block.text for page in pages for _, block in page.blocks).casefold()
    terms = glossary_terms(pages[0].glossary)
    return [min(names) for names in terms if not any(name in text for name in names)]
