"""Find what a reader would not look up: words and turns that the course does not use, with what it writes for them."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

from course.lint.markdown import blocks

FINE_AFTER_NO = "longer|more|less|fewer|better|worse|one|different|other|need|such|way|point"
BEGINS = r"(?:^|(?<=[.!:] ))"
TURNS = {  # a pattern: what to write
    BEGINS + r"(?-i:Who) (?=[^.?!]*[.!])|\bwhoever\b": "if you …, anyone who …",
    BEGINS + r"(?-i:What) is [^.?!]*, (?:gets|is|has)\b": "who acts",
    r"\b(?:stands|stood|standing)\b(?! (?:for|in for|out|still|by)\b)": "is, is in",
    r"\bstand(?= (?:in|on|at|above|below|there|next)\b)": "are, are in",
    r"\b(?:lies|lay|lying)\b": "is, is stored in",
    r"\bmend(?:s|ed|ing)?\b": "fix, repair",
    r"\banew\b": "again",
    rf"(?<!there )\b(?:is|are|was|were) no (?!{FINE_AFTER_NO})[a-z]": "is not a …",
    r"\b(?:bear|bears|bore|borne)\b": "handle, take, support",
    r"\bin place of\b": "instead of",
    r"\bstore in use\b": "tracking store",
    r"\bcalls? of `|\b(?:forest|model|run|settings?) of chapter \d": "call to …; your chapter 01 …",
    r"\b(?:leave|leaves|leaving|left) [^.]{0,30}\baway\b": "leave off, omit",
    r"\bstop(?:s|ped)? the time\b": "time it",
    r"\bbeside\b": "next to, in addition to",
    r"\b(?:go|goes|went|gone|going) on\b": "continue, resume",
    r"\bdays that judge|\b(?:a|one|two|further|second) looks?\b(?!-| (?:at|like|in)\b)": "test years; an evaluation",
    r"\bhold(?:s|ing)? (?:it|them|this|that) against\b": "compare with",
    r"\bdearer\b": "more expensive",
    r"\bsays? on the channel\b": "prints to stderr",
}


def dialect_in(text: str) -> Iterator[str]:
    """Return a message for each such turn in a text."""
    for pattern, better in TURNS.items():
        for match in re.finditer(pattern, text, re.IGNORECASE | re.MULTILINE):
            yield f"{match[0].strip()!r}: write {better}"


def words_in(file: Path) -> Iterator[tuple[int, str]]:
    """Return the line and the text of each block in a Markdown file; of each message, docstring and comment in code."""
    source = file.read_text(encoding="utf-8")
    if file.suffix == ".md":
        yield from ((block.line, block.prose) for block in blocks(source))
        return
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield node.lineno, node.value
    yield from comments_in(source)


def comments_in(source: str) -> Iterator[tuple[int, str]]:
    """Return the line and the text of each comment in Python code."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return ((token.start[0], token.string) for token in tokens if token.type == tokenize.COMMENT)
