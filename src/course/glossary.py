"""The terms of book/glossary.md: an H3 each, with other names for it in parentheses."""

import re

from mdit_py_plugins.anchors.index import slugify

from course.paths import root


def text() -> str:
    """Return the glossary's text; empty if there is none."""
    file = root() / "book" / "glossary.md"
    return file.read_text(encoding="utf-8") if file.exists() else ""


def anchors(glossary: str) -> dict[str, str]:
    """Return the anchor of each term, by each of its spellings in lower case."""
    found: dict[str, str] = {}
    for heading in re.findall(r"^### (.+)$", glossary, re.MULTILINE):
        for name in re.split(r"[(),]+", heading):
            for spelling in spellings(name):
                found.setdefault(spelling, slugify(heading))
    return found


def spellings(term: str) -> set[str]:
    """Return a term as it may be spelled: in lower case, as a plural or a singular."""
    term = re.sub(r"\s+", " ", term).strip(" .,:;").casefold()
    return {term, term.removesuffix("s"), re.sub("ies$", "y", term)} - {""}


def link_terms(source: str, known: dict[str, str], linked: set[str]) -> str:
    """Return a text in which each term that is bold for the first time links to its anchor, which `linked` collects."""

    def link(match: re.Match[str]) -> str:
        anchor = next((known[name] for name in spellings(match[1]) if name in known), None)
        if anchor is None or anchor in linked or match[1].endswith((".", ":", "?", "!")):  # bold may lead a paragraph
            return match[0]
        linked.add(anchor)
        return f"[{match[0]}](../book/glossary.md#{anchor})"

    parts = re.split(r"(^```.*?^```|`[^`\n]+`)", source, flags=re.MULTILINE | re.DOTALL)
    parts[::2] = [re.sub(r"(?<!\[)\*\*([^*]+?)\*\*", link, outside_code) for outside_code in parts[::2]]
    return "".join(parts)
