"""What chapters/contents.toml becomes: the line under a title, the map, the sections with minutes, the tables.

The parts of a chapter are added when its notebook is made (`course.notebooks.read`); maps and tables are committed
files, which `course navigation` writes and `course lint` compares.
"""

import re
import tomllib
from collections.abc import Iterator
from html import escape
from itertools import accumulate
from pathlib import Path
from typing import Any

from nbformat import NotebookNode

from course.chapters import Chapter, all_chapters
from course.paths import root

TABLES = ("README.md", "WORKSHOP.md")
BEGIN, END = "<!-- chapters: made by course navigation -->\n", "<!-- end of chapters -->"
NEEDS = re.compile(r"^## (?:You|What you) need$.*?(?=\n\n## |\Z)", re.MULTILINE | re.DOTALL)  # then come the sections
NO_STEP: tuple[str, ...] = (
    "",
    "You will learn to",
    "What you will be able to do",
    "You need",
    "What you need",
    "Key calls",
    "What you did",
)
NO_STEP += ("Further reading",)
PAGES = (
    "[all chapters](../README.md#the-chapters)",
    "[glossary](../book/glossary.md)",
    "[troubleshooting](../book/troubleshooting.md)",
)
WIDTH, HEIGHT, ACROSS, DOWN, MARGIN = 124, 40, 140, 68, 2  # of a box, and from one box to the next, in pixels


def contents() -> dict[str, Any]:
    """Return chapters/contents.toml: `part`, a list of parts with their chapters, and `map`; empty without the file."""
    file = root() / "chapters" / "contents.toml"
    return tomllib.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def entry(chapter: Chapter) -> tuple[int, dict[str, Any], dict[str, Any]] | None:
    """Return the number of the chapter's part, the part, and the chapter's entry; None if the list misses it."""
    for number, part in enumerate(contents().get("part", []), 1):
        for listed in part["chapter"]:
            if listed["name"] == chapter.name:
                return number, part, listed
    return None


def add_to(notebook: NotebookNode, chapter: Chapter) -> None:
    """Add the generated parts to the text cells of a chapter that is on the list."""
    found = entry(chapter)
    if not found:
        return
    number, part, listed = found
    cells = [cell for cell in notebook.cells if cell.cell_type == "markdown"]
    others = all_chapters()
    place = others.index(chapter)
    before, after = others[place - 1] if place else None, others[place + 1] if place + 1 < len(others) else None
    near = [f"previous: {_link(before)}"] * bool(before) + [f"next: {_link(after)}"] * bool(after)
    line = [f"Part {number}: {part['title']}", f"chapter {place + 1} of {len(others)}", f"{listed['minutes']} minutes"]
    picture = f"![{contents()['map']['alternative'].strip()} This chapter: {_named(listed['map'])}.]"
    picture += f"(../chapters/figures/{chapter.number}_map.svg)"
    title, _, rest = cells[0].source.partition("\n")
    steps = "\n".join(f"| {name} | {minutes} |" for name, minutes in minutes_of_sections(notebook, listed["minutes"]))
    cells[0].source = f"{title}\n\n{' · '.join([*line, *near])}\n\n{picture}\n{rest}"
    sections = f"\n\n| section | minutes |\n| --- | --- |\n{steps}"
    for cell in cells:
        cell.source = re.sub(NEEDS, lambda match: match[0].rstrip() + sections, cell.source)
    cells[
        -1
    ].source += f"\n\n---\n\nTo see which exercises you have solved, run `course check {chapter.number}` in a terminal."
    cells[-1].source += f"\n\n{' · '.join([*near, *PAGES])}"


def _link(chapter: Chapter | None) -> str:
    return f"[{chapter.number} {chapter.title}](../notebooks/{chapter.notebook.name})" if chapter else ""


def _named(boxes: list[str]) -> str:
    return ", ".join(contents()["map"]["boxes"][name][0] for name in boxes)


def minutes_of_sections(notebook: NotebookNode, minutes: int) -> list[tuple[str, int]]:
    """Return the sections of a chapter, each with its share of the chapter's minutes.

    A section counts by its length: 130 words, two code cells or a quarter of an exercise take about a minute.
    """
    lengths = {"": 0.0}  # of each section, in minutes; what comes before the first one has no name
    for cell in notebook.cells:
        if cell.cell_type == "code":
            lengths[[*lengths][-1]] += 0.5
            continue
        first, *sections = re.split(r"^## (.+)$", cell.source, flags=re.MULTILINE)
        for heading, text in zip([[*lengths][-1], *sections[::2]], [first, *sections[1::2]]):
            exercises = re.findall(r"^> \*\*Exercise ", text, re.MULTILINE)
            lengths[heading] = lengths.get(heading, 0) + len(text.split()) / 130 + 4 * len(exercises)
    steps = {name: length for name, length in lengths.items() if name not in NO_STEP}
    ends = [round(minutes * end / sum(steps.values())) for end in accumulate(steps.values())]
    return [(name, end - start) for name, start, end in zip(steps, [0, *ends], ends)]


def table() -> str:
    """Return the table of all chapters that README.md and WORKSHOP.md show."""
    known = {chapter.name: chapter for chapter in all_chapters()}
    lines = ["| chapter | what you do | minutes |", "| --- | --- | --- |"]
    for number, part in enumerate(contents()["part"], 1):
        lines.append(f"| **{number} {part['title']}** | | |")
        for listed in part["chapter"]:
            chapter = known[listed["name"]]
            link = f"[{chapter.number} {chapter.title}](notebooks/{chapter.notebook.name})"
            lines.append(f"| {link} | {listed['does']} | {listed['minutes']} |")
    return "\n".join(lines) + "\n"


def draw(highlighted: list[str]) -> str:
    """Return the map as SVG, with these boxes highlighted."""
    drawing = contents()["map"]
    boxes = {name: (text, column * ACROSS, row * DOWN) for name, (text, column, row) in drawing["boxes"].items()}
    size = [max(box[axis] for box in boxes.values()) + extent for axis, extent in ((1, WIDTH), (2, HEIGHT))]
    shapes = [_arrow(boxes[start][1:], boxes[end][1:], *turn) for start, end, *turn in drawing["arrows"]]
    for name, (text, x, y) in boxes.items():
        fill, ink, weight = ("#0b4f8a", "#ffffff", "bold") if name in highlighted else ("#eef1f4", "#1f2933", "normal")
        shapes.append(
            f'<rect x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="6" fill="{fill}" stroke="#52606d"/>'
            f'<text x="{x + WIDTH // 2}" y="{y + HEIGHT // 2 + 5}" fill="{ink}" font-weight="{weight}">'
            f"{escape(text)}</text>"
        )
    view = f"{-MARGIN * 4} {-MARGIN * 4} {size[0] + MARGIN * 8} {size[1] + MARGIN * 8}"
    width, height = view.split()[2:]
    body = "\n".join(shapes)
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="{view}" width="{width}" height="{height}" role="img">
<title>{escape(drawing["alternative"].strip())}</title>
<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">
<path d="M0 0 8 4 0 8z" fill="#52606d"/></marker></defs>
<rect x="{-MARGIN * 4}" y="{-MARGIN * 4}" width="{width}" height="{height}" rx="8" fill="#ffffff"/>
<g font-family="DejaVu Sans, Verdana, sans-serif" font-size="13" text-anchor="middle">
{body}
</g>
</svg>
"""


def _arrow(start: tuple[int, int], end: tuple[int, int], turn: str = "") -> str:
    """Return an arrow from the edge of one box to the edge of another: straight, or turning once."""
    (x1, y1), (x2, y2) = ((x + WIDTH // 2, y + HEIGHT // 2) for x, y in (start, end))
    side, level = (x2 > x1) - (x2 < x1), (y2 > y1) - (y2 < y1)  # the direction of the arrow, -1, 0 or 1
    half, middle = WIDTH // 2, HEIGHT // 2
    if turn == "down":
        points = [(x1, y1 + level * middle), (x1, y2), (x2 - side * half, y2)]
    elif turn == "across":
        points = [(x1 + side * half, y1), (x2, y1), (x2, y2 - level * middle)]
    else:
        points = [(x1 + side * half, y1 + level * middle), (x2 - side * half, y2 - level * middle)]
    path = " ".join(f"{x},{y}" for x, y in points)
    return f'<polyline points="{path}" fill="none" stroke="#52606d" stroke-width="1.5" marker-end="url(#tip)"/>'


def files() -> Iterator[tuple[Path, str]]:
    """Return each committed file that is made from the list, with what it should contain."""
    listed = contents()
    if not listed:
        return
    figures = root() / "chapters" / "figures"
    yield figures / "map.svg", draw([])
    for part in listed["part"]:
        for each in part["chapter"]:
            yield figures / f"{each['name'][:2]}_map.svg", draw(each["map"])
    for path in (root() / name for name in TABLES):
        if path.exists() and BEGIN in (text := path.read_text(encoding="utf-8")):
            before, _, rest = text.partition(BEGIN)
            yield path, f"{before}{BEGIN}{table()}{END}{rest.partition(END)[2]}"


def write() -> list[Path]:
    """Write the files that are out of date, and return them."""
    changed = []
    for path, text in files():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8", newline="\n")
            changed.append(path)
    return changed
