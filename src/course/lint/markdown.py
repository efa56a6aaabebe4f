"""Read a Markdown text: its blocks, its links and the anchors that they lead to."""

import os.path
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from urllib.parse import unquote

import nbformat
from markdown_it import MarkdownIt
from markdown_it.token import Token
from mdit_py_plugins.anchors import anchors_plugin

parse = cache(MarkdownIt("commonmark").enable("table").use(anchors_plugin, max_level=6).parse)


class Block:
    """A paragraph, heading, list item or table cell."""

    def __init__(self, kind: str, containers: list[str], line: int, tokens: list[Token]) -> None:
        self.kind, self.line = kind, line  # "h2", "p", "td", "th"; lines count from 1
        self.containers = containers  # "blockquote", "li" … around it, outermost first
        self.links = [str(token.attrGet("href")) for token in tokens if token.type == "link_open"]
        self.pictures = [(str(token.attrGet("src")), token.content) for token in tokens if token.type == "image"]
        parts = [token for token in tokens if token.nesting == 0]
        self.text = "".join(token.content or " " for token in parts).strip()
        # what is read aloud: with the alternatives of pictures, without code and addresses
        prose = "".join(token.content if token.type in ("text", "image") else " " for token in parts)
        self.prose = re.sub(r"https?://\S+", " ", prose).strip()
        parts = [token for token in tokens if token.nesting == 0 or token.tag == "strong"]
        before, *words = "".join("\0" if token.tag == "strong" else token.content or " " for token in parts).split("\0")
        self.bold, self.opens_bold = [part.strip() for part in words[::2]], not before.strip()


def blocks(text: str) -> Iterator[Block]:
    """Return the blocks of a text, in order."""
    containers: list[str] = []
    for token in parse(text):
        if token.type == "inline":
            yield Block(containers[-1], containers[:-1], (token.map or [0])[0] + 1, token.children or [])
        elif token.nesting == 1:
            containers.append(token.tag)
        elif token.nesting == -1:
            containers.pop()


def _tokens(text: str) -> list[Token]:
    return [each for token in parse(text) for each in (token, *(token.children or []))]


def html(text: str) -> str:
    """Return all raw HTML in a text."""
    return "\n".join(token.content for token in _tokens(text) if token.type in ("html_block", "html_inline"))


def anchors(text: str) -> set[str]:
    """Return the anchors of a text: its headings as GitHub spells them, and the ids in raw HTML."""
    headings = [str(token.attrGet("id")) for token in parse(text) if token.type == "heading_open"]
    return {*headings, *re.findall(r"(?:id|name)=[\"']([^\"']+)[\"']", html(text))}


def broken_links(text: str, page: str, folders: list[Path]) -> list[str]:
    """Return a problem for each relative link in `text`, a part of `page`, that fails from one of `folders`."""
    problems = []
    addresses = re.findall(r"(?:href|src)=[\"']([^\"']+)[\"']", html(text))
    addresses += [str(token.attrGet("href") or token.attrGet("src") or "") for token in _tokens(text)]
    for target in filter(None, addresses):
        if target.startswith(("https://", "http://", "mailto:")):
            continue
        address, _, anchor = unquote(target).partition("#")
        for folder in folders:
            path = Path(os.path.normpath(folder / address)) if address else None
            if path and not path.exists():
                problems.append(f"{target} does not exist from {folder.name}/")
            elif anchor and anchor not in anchors(text_of(path) if path else page):
                problems.append(f"{target}: {path.name if path else 'this page'} has no heading #{anchor}")
    return list(dict.fromkeys(problems))


def text_of(path: Path) -> str:
    """Return the text of a page: Markdown, or the text cells of a notebook."""
    if path.suffix == ".ipynb":
        cells = nbformat.read(path, as_version=4).cells
        return "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    return path.read_text(encoding="utf-8")
