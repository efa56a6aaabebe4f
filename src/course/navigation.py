"""What chapters/contents.toml becomes: the line under a title, the map, the sections with minutes, the tables.

A notebook gets its parts when it is made; `course navigation` writes maps and tables, and `course lint` compares them.
"""

import re
import tomllib
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
NO_STEP = re.compile("|(?:You|What you) (?:need|did|will .+)|Task: .+|Key calls|Further reading")  # no minutes
PAGES = (
    "[all chapters](../README.md#the-chapters)",
    "[glossary](../book/glossary.md)",
    "[troubleshooting](../book/troubleshooting.md)",
)
WIDTH, HEIGHT, ACROSS, DOWN, MARGIN = 124, 40, 140, 68, 8  # of a box, from one box to the next, around all, in pixels


def contents() -> dict[str, Any]:
    """Return chapters/contents.toml: `part`, a list of parts with their chapters, and `map`; empty without the file."""
    file = root() / "chapters" / "contents.toml"
    return tomllib.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def listed() -> dict[str, tuple[int, str, dict[str, Any]]]:
    """Return each chapter of the list by its name: the number and the title of its part, and its entry."""
    parts = enumerate(contents().get("part", []), 1)
    return {entry["name"]: (number, part["title"], entry) for number, part in parts for entry in part["chapter"]}


def add_to(notebook: NotebookNode, chapter: Chapter) -> None:
    """Add the generated parts to the text cells of a chapter that is on the list."""
    if chapter.name not in listed():
        return
    number, part, entry = listed()[chapter.name]
    cells = [cell for cell in notebook.cells if cell.cell_type == "markdown"]
    others = all_chapters()
    place = others.index(chapter)
    near = [f"previous: {_link(other)}" for other in others[:place][-1:]]
    near += [f"next: {_link(other)}" for other in others[place + 1 :][:1]]
    where = f"chapter {chapter.number} ({place + 1} of {len(others)})"  # numbers may have gaps
    line = [f"Part {number}: {part}", where, f"{entry['minutes']} minutes", *near]
    drawing = contents()["map"]
    here = ", ".join(drawing["boxes"][name][0] for name in entry["map"])
    picture = f"![{drawing['alternative'].strip()} This chapter: {here}.](../chapters/figures/{chapter.number}_map.svg)"
    title, _, rest = cells[0].source.partition("\n")
    cells[0].source = f"{title}\n\n{' · '.join(line)}\n\n{picture}\n{rest}"
    steps = [f"| {name} | {minutes} |" for name, minutes in minutes_of_sections(notebook, entry["minutes"])]
    sections = "\n".join(["\n\n| section | minutes |", "| --- | --- |", *steps])
    for cell in cells:
        cell.source = re.sub(NEEDS, lambda match: match[0].rstrip() + sections, cell.source)
    solved = f"To see which exercises you have solved, run `course check {chapter.number}` in a terminal."
    cells[-1].source += f"\n\n---\n\n{solved}\n\n{' · '.join([*near, *PAGES])}"


def _link(chapter: Chapter, notebooks: str = "../notebooks") -> str:
    return f"[{chapter.number} {chapter.title}]({notebooks}/{chapter.notebook.name})"


def minutes_of_sections(notebook: NotebookNode, minutes: int) -> list[tuple[str, int]]:
    """Return the sections of a chapter, each with its share of the chapter's minutes."""
    lengths = {"": 0.0}  # in minutes: 130 words, two code cells, a block for a shell, a quarter of an exercise: one
    for cell in notebook.cells:
        if cell.cell_type == "code":
            lengths[[*lengths][-1]] += 0.5
            continue
        first, *sections = re.split(r"^## (.+)$", cell.source, flags=re.MULTILINE)
        for heading, text in zip([[*lengths][-1], *sections[::2]], [first, *sections[1::2]]):
            exercises = re.findall(r"^> \*\*Exercise ", text, re.MULTILINE)
            blocks = text.count("\n```") / 2
            lengths[heading] = lengths.get(heading, 0) + len(text.split()) / 130 + blocks + 4 * len(exercises)
    steps = {name: length for name, length in lengths.items() if not NO_STEP.fullmatch(name)}
    ends = [round(minutes * end / sum(steps.values())) for end in accumulate(steps.values())]
    return [(name, end - start) for name, start, end in zip(steps, [0, *ends], ends)]


def table() -> str:
    """Return the table of all chapters that README.md and WORKSHOP.md show."""
    known = {chapter.name: chapter for chapter in all_chapters()}
    lines = ["| chapter | what you do | minutes |", "| --- | --- | --- |"]
    for name, (number, part, entry) in listed().items():
        lines.append(f"| **{number} {part}** | | |")
        lines.append(f"| {_link(known[name], 'notebooks')} | {entry['does']} | {entry['minutes']} |")
    return "\n".join(dict.fromkeys(lines)) + "\n"  # each part once


def draw(highlighted: list[str]) -> str:
    """Return the map as SVG, with these boxes highlighted."""
    drawing = contents()["map"]
    boxes = {name: (text, column * ACROSS, row * DOWN) for name, (text, column, row) in drawing["boxes"].items()}
    width = max(x for _, x, _ in boxes.values()) + WIDTH + 2 * MARGIN
    height = max(y for _, _, y in boxes.values()) + HEIGHT + 2 * MARGIN
    shapes = [_arrow(boxes[start][1:], boxes[end][1:], *turn) for start, end, *turn in drawing["arrows"]]
    for name, (text, x, y) in boxes.items():
        fill, ink, weight = ("#0b4f8a", "#ffffff", "bold") if name in highlighted else ("#eef1f4", "#1f2933", "normal")
        shapes.append(
            f'<rect x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="6" fill="{fill}" stroke="#52606d"/>'
            f'<text x="{x + WIDTH // 2}" y="{y + HEIGHT // 2 + 5}" fill="{ink}" font-weight="{weight}">'
            f"{escape(text)}</text>"
        )
    size, body = f'width="{width}" height="{height}"', "\n".join(shapes)
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="{-MARGIN} {-MARGIN} {width} {height}" {size} role="img">
<title>{escape(drawing["alternative"].strip())}</title>
<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">
<path d="M0 0 8 4 0 8z" fill="#52606d"/></marker></defs>
<rect x="{-MARGIN}" y="{-MARGIN}" {size} rx="8" fill="#ffffff"/>
<g font-family="DejaVu Sans, Verdana, sans-serif" font-size="13" text-anchor="middle">
{body}
</g>
</svg>
"""


def _arrow(start: tuple[int, int], end: tuple[int, int], turn: str = "") -> str:
    """Return an arrow from the edge of one box to the edge of another: straight, or turning once."""

    def edge(box: tuple[int, int], towards: tuple[int, int]) -> str:
        x, y = (1 + (there > here) - (there < here) for here, there in zip(box, towards))  # 0, 1 or 2 halves of the box
        return f"{box[0] + x * WIDTH // 2},{box[1] + y * HEIGHT // 2}"

    corners = {"down": [(start[0], end[1])], "across": [(end[0], start[1])]}.get(turn, [])
    route = [start, *corners, end]
    path = " ".join([edge(start, route[1]), *map(edge, corners, corners), edge(end, route[-2])])
    return f'<polyline points="{path}" fill="none" stroke="#52606d" stroke-width="1.5" marker-end="url(#tip)"/>'


def outdated() -> dict[Path, str]:
    """Return the committed files that differ from what the list makes of them, each with what it should contain."""
    if not contents():
        return {}
    maps = {"map": []} | {f"{name[:2]}_map": entry["map"] for name, (*_, entry) in listed().items()}
    made = {root() / "chapters" / "figures" / f"{name}.svg": draw(boxes) for name, boxes in maps.items()}
    for path in (root() / name for name in TABLES):
        if path.exists() and BEGIN in (text := path.read_text(encoding="utf-8")):
            before, _, after = text.partition(BEGIN)
            made[path] = f"{before}{BEGIN}{table()}{END}{after.partition(END)[2]}"
    return {path: text for path, text in made.items() if not path.exists() or path.read_text(encoding="utf-8") != text}
