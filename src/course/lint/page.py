"""Read a chapter as its readers see it: text blocks, code cells with their committed outputs, exercises."""

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import nbformat
from nbformat import NotebookNode

from course import glossary, notebooks
from course.chapters import Chapter, before
from course.checks import Exercise, exercises
from course.lint.dialect import comments_in
from course.lint.markdown import Block, blocks


class Cell:
    """A cell of a chapter, with the outputs of the committed notebook."""

    def __init__(self, number: int, node: NotebookNode, outputs: list[NotebookNode]) -> None:
        self.number, self.outputs = number, outputs
        self.source: str = node.source
        self.is_text, self.is_code = node.cell_type == "markdown", node.cell_type == "code"
        self.tags: list[str] = list(node.metadata.get("tags", []))
        self.hidden = bool(node.metadata.get("jupyter", {}).get("source_hidden"))
        self.ignored = "nbval-ignore-output" in self.tags
        self.blocks = list(blocks(self.source)) if self.is_text else []
        self.has_plot = any(kind.startswith("image/") for output in outputs for kind in output.get("data", {}))
        self.draws = self.has_plot and "load_image(" not in self.source  # that shows a picture which is stored in a run

    @cached_property
    def output(self) -> str:
        """All text that the cell shows."""
        shown: list[str] = []
        for output in self.outputs:
            data = output.get("data", {})
            html = re.sub(r"<style.*?</style>|<[^>]+>", " ", data.get("text/html", ""), flags=re.DOTALL)
            shown += [output.get("text", ""), data.get("text/plain", ""), data.get("text/markdown", ""), html]
            shown += output.get("traceback", [])
        return "\n".join(filter(None, shown))

    @cached_property
    def tree(self) -> ast.Module:
        """The syntax tree of a code cell."""
        return ast.parse(self.source)

    @property
    def prose(self) -> str:
        """The words of the author: the text of a text cell, the comments of a code cell."""
        if self.is_text:
            return "\n".join(block.prose for block in self.blocks)
        return "\n".join(comment for _, comment in comments_in(self.source))


@dataclass
class Page:
    """A chapter: its cells, its exercises, and what its numbers and terms may refer to."""

    name: str
    cells: list[Cell]
    exercises: list[Exercise]
    glossary: str
    earlier: dict[str, str]  # an earlier notebook's file name: all its outputs

    def __post_init__(self) -> None:
        self.number = self.name[:2]
        self.text_cells = [cell for cell in self.cells if cell.is_text]
        self.code_cells = [cell for cell in self.cells if cell.is_code]
        self.blocks = [(cell, block) for cell in self.text_cells for block in cell.blocks]
        self.words = sum(len(block.prose.split()) for _, block in self.blocks)  # without code
        self.headings = [(int(block.kind[1]), block.text) for _, block in self.blocks if block.kind.startswith("h")]
        self.sections = [text for level, text in self.headings if level == 2]

    def section(self, heading: str) -> list[tuple[Cell, Block]]:
        """Return the blocks under an H2, up to the next one."""
        inside, found = False, []
        for cell, block in self.blocks:
            if block.kind == "h2":
                inside = block.text == heading
            elif inside:
                found.append((cell, block))
        return found

    def next_text(self, cell: Cell, skip_code: int) -> Cell | None:
        """Return the first text cell after `cell`, with at most `skip_code` code cells between."""
        following = self.cells[cell.number : cell.number + skip_code + 1]
        return next((later for later in following if later.is_text), None)


def make_cells(source: NotebookNode, outputs: Iterable[list[NotebookNode]]) -> list[Cell]:
    """Return the cells of a chapter, with the outputs of its code cells."""
    left, nodes = iter(outputs), enumerate(source.cells, 1)
    return [Cell(number, node, next(left, []) if node.cell_type == "code" else []) for number, node in nodes]


def read_pages(chapters: list[Chapter]) -> Iterator[Page]:
    """Return the pages of these chapters. A notebook that does not exist yet has no outputs."""
    terms = glossary.text()
    earlier: dict[str, str] = {}
    for chapter in [*before(chapters[-1]), chapters[-1]]:
        built = nbformat.read(chapter.notebook, as_version=4).cells if chapter.notebook.exists() else []
        cells = make_cells(notebooks.read(chapter), [cell.outputs for cell in built if cell.cell_type == "code"])
        if chapter in chapters:
            yield Page(chapter.name, cells, exercises(chapter.number), terms, dict(earlier))
        earlier[chapter.notebook.name] = "\n".join(cell.output for cell in cells)
