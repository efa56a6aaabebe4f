"""The rules for a chapter's text, cells and outputs, each a function from a Page to the problems found on it.

`RULES` lists them; test_chapters_text.py holds each chapter to each rule, and shows for each rule what it refuses.
"""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import median

import nbformat
from markdown_it import MarkdownIt
from markdown_it.token import Token

from course import notebooks
from course.chapters import Chapter
from course.checks import Exercise, exercises

MARKDOWN = MarkdownIt("commonmark").enable("table")

STAGES = ("ideation", "prototyping", "pilot", "production")
OPENING = ["What you will be able to do", "What you need"]
CLOSING = ["Exercises", "What you did", "What the system looks like now", "Further reading"]
TAGS = {"parameters", "exercise", "solution", "hide-input", "nbval-ignore-output"}
COLOUR_BLIND_SAFE = ("tableau-colorblind10", "seaborn-v0_8-colorblind", "petroff6", "petroff8", "petroff10")
RED_OR_GREEN = {"red", "green", "r", "g", "lime", "crimson", "firebrick", "C2", "C3"} | {
    f"{prefix}{colour}" for prefix in ("tab:", "dark", "light") for colour in ("red", "green")
}
CONFUSING_MAPS = ("jet", "rainbow", "hsv", "RdYlGn", "gist_rainbow", "turbo", "prism")
BANNED = (
    "simply",
    "just",
    "obviously",
    "powerful",
    r"let['’]s dive in",
    "in this section,? we will",
    "as we can see",
    "TODO",
    "FIXME",
)
BANNED_IN_TEXT = ("session",)
EMOJI = re.compile("[\U0001f000-\U0001faff\u2600-\u26ff\u2705\u274c\u2b50\ufe0f]")
MARKER = "In the picture:"
PRODUCTS = r"(?:Python|MLflow|scikit-learn|skops|XGBoost|Keras|TensorFlow|Optuna|pandas|NumPy|SQLAlchemy|Java)"
# a decimal number that is no part of a version (3.17.2), a name (x0.5) or an exercise (04.2; of 10.2 the word says it)
NUMBER = re.compile(r"(?<![\w.])([-−]?)(?!0\d\.)(\d+(?:,\d{3})*\.\d+)(?!\d|\.\d)")
RUN_ID = re.compile(r"\b(?:m-)?[0-9a-f]{32}\b")
MACHINE_PATH = re.compile(r"(?:^|[\s'\"=:/(])(/(?:root|home|tmp|work|Users|private/var|usr|opt|var)/|[A-Z]:\\)")


@dataclass(frozen=True)
class Block:
    """A paragraph, heading, list item or table cell: what stands in one stretch of running text."""

    kind: str  # "h2", "p", "td", "th"
    containers: tuple[str, ...]  # "blockquote", "list_item" … around it, outermost first
    inline: Token

    @cached_property
    def prose(self) -> str:
        """The text as it is read: without code, addresses and marks. The words for a picture are part of it."""
        shown = {"text": lambda t: t.content, "image": lambda t: t.content}
        parts = [shown.get(token.type, lambda t: " ")(token) for token in self.inline.children if token.nesting == 0]
        return re.sub(r"https?://\S+", " ", "".join(parts)).strip()

    @property
    def text(self) -> str:
        """The text with its code."""
        parts = [token.content or " " for token in self.inline.children if token.nesting == 0]
        return "".join(parts).strip()

    @cached_property
    def bold(self) -> list[tuple[str, bool]]:
        """What is set in bold, each with whether it leads the block."""
        found, depth, words, leads, begun = [], 0, "", False, False
        for token in self.inline.children:
            if token.type == "strong_open":
                depth, words, leads = depth + 1, "", not begun
            elif token.type == "strong_close":
                depth -= 1
                found.append((words.strip(), leads))
            elif depth and token.nesting == 0:
                words += token.content or " "
            begun = begun or bool(token.content.strip()) or token.type == "strong_close"
        return found

    @property
    def links(self) -> list[str]:
        return [token.attrGet("href") for token in self.inline.children if token.type == "link_open"]

    @property
    def pictures(self) -> list[tuple[str, str]]:
        """(address, text alternative) of each picture."""
        return [(token.attrGet("src"), token.content) for token in self.inline.children if token.type == "image"]


def blocks(text: str) -> Iterator[Block]:
    """The blocks of a Markdown text, in order."""
    containers: list[str] = []
    for token in MARKDOWN.parse(text):
        if token.type == "inline":
            yield Block(containers[-1], tuple(containers[:-1]), token)
        elif token.nesting == 1:
            kind = token.type.removesuffix("_open")
            containers.append({"paragraph": "p", "heading": token.tag}.get(kind, kind))
        elif token.nesting == -1:
            containers.pop()


def html(text: str) -> str:
    """All raw HTML in a Markdown text."""
    found = []
    for token in MARKDOWN.parse(text):
        if token.type == "html_block":
            found.append(token.content)
        found += [child.content for child in token.children or [] if child.type == "html_inline"]
    return "\n".join(found)


def targets(text: str) -> list[str]:
    """Where the links and pictures of a Markdown text lead."""
    found = re.findall(r"(?:href|src)=[\"']([^\"']+)[\"']", html(text))
    for block in blocks(text):
        found += [*block.links, *(address for address, _ in block.pictures)]
    return found


def slugs(text: str) -> set[str]:
    """The anchors of a Markdown text: its headings as GitHub spells them, and ids in raw HTML."""
    found = set(re.findall(r"(?:id|name)=[\"']([^\"']+)[\"']", html(text)))
    for block in blocks(text):
        if re.fullmatch("h[1-6]", block.kind):
            slug = re.sub(r"[^\w\- ]", "", block.text.lower()).replace(" ", "-")
            number = 0
            while (unique := f"{slug}-{number}" if number else slug) in found:
                number += 1
            found.add(unique)
    return found


@dataclass
class Cell:
    """A cell of a chapter, with the outputs of the committed notebook."""

    number: int
    kind: str
    source: str
    tags: list[str]
    source_hidden: bool = False
    outputs: list = field(default_factory=list)

    def __post_init__(self):
        self.blocks = list(blocks(self.source)) if self.is_text else []

    @property
    def is_text(self) -> bool:
        return self.kind == "markdown"

    @property
    def is_code(self) -> bool:
        return self.kind == "code"

    @property
    def ignored(self) -> bool:
        return "nbval-ignore-output" in self.tags

    @property
    def has_picture(self) -> bool:
        return any(kind.startswith("image/") for output in self.outputs for kind in output.get("data", {}))

    @cached_property
    def output(self) -> str:
        """All text that the cell shows."""
        shown = []
        for output in self.outputs:
            data = output.get("data", {})
            shown += [output.get("text", ""), data.get("text/plain", ""), data.get("text/markdown", "")]
            shown.append(re.sub(r"<style.*?</style>|<[^>]+>", " ", data.get("text/html", ""), flags=re.DOTALL))
            shown += output.get("traceback", [])
        return "\n".join(filter(None, shown))

    @property
    def on_stderr(self) -> str:
        return "".join(output.text for output in self.outputs if output.get("name") == "stderr")

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.source)

    @property
    def comments(self) -> list[str]:
        tokens = tokenize.generate_tokens(io.StringIO(self.source).readline)
        return [token.string for token in tokens if token.type == tokenize.COMMENT]


@dataclass
class Page:
    """A chapter as its readers see it: cells, outputs, exercises."""

    number: str
    cells: list[Cell]
    exercises: list[Exercise]
    earlier: dict[str, str] = field(default_factory=dict)  # notebook file name: all its outputs
    glossary: str = ""

    @property
    def text_cells(self) -> list[Cell]:
        return [cell for cell in self.cells if cell.is_text]

    @property
    def code_cells(self) -> list[Cell]:
        return [cell for cell in self.cells if cell.is_code]

    @property
    def blocks(self) -> list[tuple[Cell, Block]]:
        return [(cell, block) for cell in self.text_cells for block in cell.blocks]

    @property
    def headings(self) -> list[tuple[int, str]]:
        found = [(block.kind, block.text) for _, block in self.blocks if re.fullmatch("h[1-6]", block.kind)]
        return [(int(kind[1]), text) for kind, text in found]

    def section(self, heading: str) -> list[tuple[Cell, Block]]:
        """The blocks under an H2, up to the next one."""
        inside, found = False, []
        for cell, block in self.blocks:
            if block.kind == "h2":
                inside = block.text == heading
            elif inside:
                found.append((cell, block))
        return found

    def next_text(self, cell: Cell, skip_code: int) -> Cell | None:
        """The first text cell after `cell`, with at most `skip_code` code cells between."""
        for later in self.cells[cell.number : cell.number + skip_code + 1]:
            if later.is_text:
                return later
        return None


def cells(source: nbformat.NotebookNode, outputs: list[list]) -> list[Cell]:
    """The cells of a chapter, with the outputs of its code cells."""
    remaining = iter(outputs)
    return [
        Cell(
            number,
            cell.cell_type,
            cell.source,
            list(cell.metadata.get("tags", [])),
            bool(cell.metadata.get("jupyter", {}).get("source_hidden")),
            next(remaining, []) if cell.cell_type == "code" else [],
        )
        for number, cell in enumerate(source.cells, 1)
    ]


def committed_outputs(chapter: Chapter) -> list[list]:
    """The outputs of the code cells of notebooks/; none where the notebook was not made yet."""
    if not chapter.notebook.exists():
        return []
    notebook = nbformat.read(chapter.notebook, as_version=4)
    return [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]


def page(chapter: Chapter, earlier: list[Chapter], glossary: Path) -> Page:
    return Page(
        chapter.number,
        cells(notebooks.read(chapter), committed_outputs(chapter)),
        exercises(chapter.number),
        {
            other.notebook.name: "\n".join(c.output for c in cells(notebooks.read(other), committed_outputs(other)))
            for other in earlier
        },
        glossary.read_text(encoding="utf-8") if glossary.exists() else "",
    )


# --- the skeleton -----------------------------------------------------------------------------------------------------


def skeleton(page: Page) -> Iterator[str]:
    """The parts of a chapter stand in their order, and each holds what it must."""
    levels = [level for level, _ in page.headings]
    if levels.count(1) != 1 or levels[0] != 1:
        yield f"a chapter has one H1, as its first heading; this one has {levels.count(1)}"
    for (before, _), (after, text) in zip(page.headings, page.headings[1:]):
        if after > before + 1:
            yield f"heading levels skip from H{before} to H{after} at {text!r}"
    sections = [text for level, text in page.headings if level == 2]
    if sections[:2] != OPENING:
        yield f"the first sections are {OPENING}, not {sections[:2]}"
    if sections[-4:] != CLOSING:
        yield f"the last sections are {CLOSING}, not {sections[-4:]}"
    if len(sections) < len(OPENING + CLOSING) + 1:
        yield "the body has no section"

    parts = [(block.kind, block.prose) for _, block in page.blocks]
    stage = next((n for n, (kind, text) in enumerate(parts) if kind == "p" and text.startswith("Stage:")), None)
    if stage is None:
        yield "no paragraph begins with **Stage: …**"
    else:
        if not re.search("|".join(STAGES), parts[stage][1]):
            yield f"the stage is one of {', '.join(STAGES)}, and the line says {parts[stage][1]!r}"
        if any(kind == "h2" for kind, _ in parts[:stage]):
            yield "the stage stands before the first section"
    time = [text for _, block in page.section("What you need") for text in [block.prose] if text.startswith("Time to")]
    if not (time and re.match(r"Time to learn:?\s*(?:about )?\d+ (?:minutes|hours?)", time[-1])):
        yield "'What you need' has no paragraph that begins `**Time to learn:** 45 minutes`"

    items = [block for _, block in page.section(OPENING[0]) if "list_item" in block.containers]
    if not 3 <= len(items) <= 5:
        yield f"'{OPENING[0]}' has {len(items)} list items, not 3 to 5"
    for heading in [*OPENING, *CLOSING]:
        if heading in sections and not page.section(heading):
            yield f"the section '{heading}' is empty"
    if not any(block.pictures for _, block in page.section("What the system looks like now")):
        yield "'What the system looks like now' shows no figure"
    if not any(block.links for _, block in page.section("Further reading")):
        yield "'Further reading' has no link"
    if not any(_says_which_market(block) for _, block in page.blocks):
        yield "no paragraph says that the numbers are those of the default market"


def _says_which_market(block: Block) -> bool:
    return "numbers" in block.text and bool(re.search(r"default market|S&P 500|sp500", block.text))


# --- cells ------------------------------------------------------------------------------------------------------------


def rhythm(page: Page) -> Iterator[str]:
    """Text, a little code, text: never much code at once."""
    code, text = page.code_cells, page.text_cells
    if len(text) < len(code):
        yield f"{len(code)} code cells and only {len(text)} text cells"
    lengths = [sum(bool(line.strip()) for line in cell.source.splitlines()) for cell in code]
    if lengths and median(lengths) > 3:
        yield f"the median code cell has {median(lengths):g} lines, more than 3"
    long = [f"cell {cell.number} ({length} lines)" for cell, length in zip(code, lengths) if length > 10]
    if len(long) > 0.1 * len(code):
        yield f"more than one code cell in ten is longer than 10 lines: {', '.join(long)}"
    for first, second, third in zip(page.cells, page.cells[1:], page.cells[2:]):
        if first.is_code and second.is_code and third.is_code:
            yield f"three code cells in a row from cell {first.number} on"


def tags(page: Page) -> Iterator[str]:
    """Only tags that the course uses, and at least 90 % of the code cells compared."""
    for cell in page.cells:
        if unknown := set(cell.tags) - TAGS:
            yield f"cell {cell.number} has the tag {', '.join(unknown)}: the course uses {', '.join(sorted(TAGS))}"
        if cell.source_hidden and "solution" not in cell.tags:
            yield f"cell {cell.number} is folded and no solution"
    ignored = [cell.number for cell in page.code_cells if cell.ignored]
    if len(ignored) > 0.1 * len(page.code_cells):
        yield f"{len(ignored)} of {len(page.code_cells)} code cells are not compared (cells {ignored}): more than 10 %"


def beginning(page: Page) -> Iterator[str]:
    """First the parameters with the values they can take, then course.begin."""
    if len(page.code_cells) < 2:
        yield "a chapter begins with a parameters cell and a cell that calls course.begin"
        return
    parameters, begin = page.code_cells[:2]
    if parameters.tags != ["parameters"]:
        yield f"the first code cell has the tags {parameters.tags}, not [parameters]"
    if any("parameters" in cell.tags for cell in page.code_cells[1:]):
        yield "only the first code cell is tagged parameters"
    declared = {}
    for statement in parameters.tree.body:
        if not (isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Constant)):
            yield f"the parameters cell holds assignments of constants, not `{ast.unparse(statement)}`"
            continue
        name, value = statement.targets[0].id, statement.value.value
        declared[name] = value
        comment = parameters.source.splitlines()[statement.lineno - 1].partition("#")[2].strip()
        if isinstance(value, str) and (value not in comment.split(" or ") or len(comment.split(" or ")) < 2):
            yield f"the comment behind {name} names its values: `{name} = {value!r}  # {value} or …`"
    names = list(declared)
    if names[:1] != ["market"] or names[-1:] != ["tracking_uri"] or declared.get("tracking_uri") is not None:
        yield f"the parameters are market, target where it is used, tracking_uri = None; not {names}"
    calls = [node for node in ast.walk(begin.tree) if isinstance(node, ast.Call)]
    found = [call for call in calls if ast.unparse(call.func) == "course.begin"]
    if not found or ast.unparse(found[0].args[0]) != repr(page.number):
        yield f"the second code cell calls course.begin({page.number!r}, …)"
    else:
        given = {ast.unparse(value) for value in [*found[0].args, *(word.value for word in found[0].keywords)]}
        if missing := set(names) - given:
            yield f"course.begin is not given {', '.join(sorted(missing))}"


def code_without_magic_numbers(page: Page) -> Iterator[str]:
    """No ports, ids, versions, or this machine's paths in the code."""
    for cell in page.code_cells:
        for what, pattern in {
            "a port": r"(?:localhost|127\.0\.0\.1|0\.0\.0\.0):\d+|port[\"']?\s*[=:,]\s*[\"']?\d+|--port[= ]\d+",
            "an id": RUN_ID.pattern,
            "a version": r"(?<![\d.])\d+\.\d+\.\d+(?!\.?\d)|[=~><]=\s*\d+\.\d+[\"',]|models:/[^/\"'{]+/\d",
            "a path of one machine": MACHINE_PATH.pattern,
        }.items():
            if found := re.search(pattern, cell.source):
                yield f"cell {cell.number} holds {what}: {found[0].strip()!r}"


# --- plots and pictures -----------------------------------------------------------------------------------------------


def pictures(page: Page) -> Iterator[str]:
    """Every picture has a text alternative that says what it shows; every plot has labelled axes and its numbers."""
    for cell, block in page.blocks:
        for address, alternative in block.pictures:
            if len(alternative.strip()) < 20:
                yield f"cell {cell.number}: the picture {address} has the text alternative {alternative!r}, too short"
    for cell in page.text_cells:
        for tag in re.findall(r"<img\b[^>]*>", html(cell.source)):
            if not re.search(r"alt=[\"'][^\"']{20,}", tag):
                yield f"cell {cell.number}: {tag} has no text alternative of 20 characters or more"
    style_set = False
    for cell in page.code_cells:
        style_set = style_set or any(f'"{style}"' in cell.source for style in COLOUR_BLIND_SAFE)
        if not cell.has_picture:
            continue
        if not style_set:
            yield f"cell {cell.number} plots before plt.style.use({COLOUR_BLIND_SAFE[0]!r})"
        for axis in ("xlabel", "ylabel"):
            if not re.search(rf"{axis}\b[\"']?\s*[=(:]\s*f?[\"'][^\"']", cell.source):
                yield f"cell {cell.number}: the plot has no {axis}"
        following = [later for later in page.cells[cell.number :] if later.is_code][:1]
        if not any(re.search(r"\d", _without_figures(other.output)) for other in [cell, *following]):
            yield f"cell {cell.number}: neither it nor the next code cell prints the numbers of the plot"
        around = [page.next_text(cell, skip_code=1), *page.cells[max(cell.number - 2, 0) : cell.number - 1]]
        described = [block.prose for other in around if other and other.is_text for block in other.blocks]
        if not any(len(text.partition(MARKER)[2]) >= 40 for text in described if text.startswith(MARKER)):
            yield f"cell {cell.number}: no text cell beside the plot has a paragraph that begins with **{MARKER}**"


def _without_figures(output: str) -> str:
    return re.sub(r"<Figure size .*?>", "", output)


def colours(page: Page) -> Iterator[str]:
    """No red against green, and no rainbow."""
    for cell in page.code_cells:
        for node in ast.walk(cell.tree):
            if not isinstance(node, ast.Call):
                continue
            for word in node.keywords:
                strings = [n.value for n in ast.walk(word.value) if isinstance(n, ast.Constant)]
                if word.arg in ("cmap", "colormap", "palette"):
                    bad = [text for text in strings if str(text).removesuffix("_r") in CONFUSING_MAPS]
                elif word.arg and re.fullmatch(r"c|\w*colors?", word.arg):
                    bad = [text for text in strings if text in RED_OR_GREEN]
                else:
                    bad = []
                for text in bad:
                    yield f"cell {cell.number} sets {word.arg}={text!r}, which colour-blind readers cannot tell apart"
            if ast.unparse(node.func).endswith("plot"):
                for value in node.args:
                    if isinstance(value, ast.Constant) and re.fullmatch(r"[rg][-.:o^sx+*]*", str(value.value)):
                        yield f"cell {cell.number} plots in {value.value!r}: no red or green by name"


# --- outputs ----------------------------------------------------------------------------------------------------------

NEVER_SHOWN = {
    "an ANSI code": re.compile(r"\x1b\["),
    "a path of the author's machine": re.compile(r"/(?:root|home|tmp|work|Users)/\w"),
    "a log line with its time": re.compile(r"\d{4}[/-]\d\d[/-]\d\d[ T]\d\d:\d\d:\d\d.*(?:INFO|WARNING|ERROR)"),
}
NEVER_COMPARED = {
    "an id": RUN_ID,
    "a date of today": re.compile(r"\b20(?:19|[2-9]\d)[-/]\d\d[-/]\d\d"),
    "a clock time": re.compile(r"\b(?!00:00:00)\d{1,2}:\d\d:\d\d"),
    "an absolute path": MACHINE_PATH,
    "a port": re.compile(r"(?:localhost|127\.0\.0\.1):\d+"),
    "an object's address": re.compile(r"\b0x[0-9a-f]{6,}"),
}


def outputs(page: Page) -> Iterator[str]:
    """What a reader sees is the same tomorrow, and somebody explains each warning."""
    for cell in page.code_cells:
        for what, pattern in (NEVER_SHOWN if cell.ignored else NEVER_SHOWN | NEVER_COMPARED).items():
            if found := pattern.search(cell.output):
                yield f"cell {cell.number} shows {what}: {found[0].strip()!r}"
        if any(output.get("output_type") == "error" for output in cell.outputs):
            yield f"cell {cell.number} ends in an error"
        explanation = page.next_text(cell, skip_code=0)
        if cell.on_stderr and not (explanation and "warn" in explanation.source.lower()):
            yield f"cell {cell.number} warns, and the next text does not explain it: {cell.on_stderr.strip()[:80]!r}"


# --- words, numbers, terms --------------------------------------------------------------------------------------------


def words(page: Page) -> Iterator[str]:
    """No filler, no emoji, nothing left over from writing."""
    for cell in page.cells:
        text = "\n".join([block.prose for block in cell.blocks] if cell.is_text else cell.comments)
        for word in [*BANNED, *(BANNED_IN_TEXT if cell.is_text else ())]:
            if found := re.search(rf"\b{word}\b", text, re.IGNORECASE):
                yield f"cell {cell.number} says {found[0]!r}"
        if found := EMOJI.search(cell.source):
            yield f"cell {cell.number} holds {found[0]!r}"


def numbers(page: Page) -> Iterator[str]:
    """Each number with a decimal point stands in an output above it, or its source stands beside it."""
    above = ""
    for cell in page.cells:
        if cell.is_code and not cell.ignored:
            above += "\n" + cell.output
        for block in cell.blocks:
            if any(link.startswith("http") for link in block.links):
                continue
            elsewhere = "\n".join(
                page.earlier.get(link.rpartition("/")[2].partition("#")[0], "") for link in block.links
            )
            for number in decimals(block.prose):
                if not stands_in(number, above + "\n" + elsewhere):
                    yield f"cell {cell.number}: {number} stands in no compared output above, in {block.text[:60]!r}"


def decimals(prose: str) -> list[str]:
    """The numbers with a decimal point in a text, without versions and the numbers of exercises."""
    prose = re.sub(rf"{PRODUCTS} \d+\.\d+|\b(?:Exercise|Solution) \d\d\.\d\b", " ", prose, flags=re.IGNORECASE)
    return [sign.replace("−", "-") + digits for sign, digits in NUMBER.findall(prose)]


def stands_in(number: str, output: str) -> bool:
    """Digit for digit, as a number of its own."""
    output = output.replace("−", "-")
    without_commas = re.sub(r"(?<=\d),(?=\d{3}\b)", "", output)
    pattern = rf"(?<![\d.]){re.escape(number.replace(',', ''))}(?!\d|\.\d)"
    grouped = r"(?<!\d,)" if re.match(r"-?\d{3}\.", number) else ""  # 234.5 is no number of 1,234.5
    return bool(re.search(grouped + pattern, output) or re.search(pattern, without_commas))


def terms(page: Page) -> Iterator[str]:
    """What is set in bold stands in the glossary."""
    known = {name for names in glossary_terms(page.glossary) for name in names}
    for cell, block in page.blocks:
        for term in bold_terms(block):
            if not names_of(term) & known:
                yield f"cell {cell.number}: {term!r} is set in bold and does not stand in book/glossary.md"


def bold_terms(block: Block) -> list[str]:
    """The terms in a block: its bold words, without leads (**What this means.**), labels of exercises and headings."""
    if block.kind == "th" or block.kind.startswith("h"):
        return []
    return [
        words
        for words, leads in block.bold
        if re.search(r"[^\W\d]", words)
        and not (leads and words.endswith((".", ":", "?", "!")))
        and not re.fullmatch(r"(?:Exercise|Solution) \d\d\.\d", words)
    ]


def names_of(term: str) -> set[str]:
    """A term as it may be spelled: without case, one or many."""
    term = re.sub(r"\s+", " ", term).strip(" .,:;").casefold()
    return {term, term.removesuffix("s"), re.sub("ies$", "y", term)}


def glossary_terms(glossary: str) -> list[set[str]]:
    """The names of each term: bold at the beginning of a paragraph, item or table cell, or an H3; then (others)."""
    found = []
    for block in blocks(glossary):
        if block.kind == "h3":
            names = [block.text]
        elif block.bold and block.bold[0][1] and block.kind != "th":
            names = [block.bold[0][0]]
        else:
            continue
        if other := re.match(r"\s*\(([^)]+)\)", block.text.removeprefix(names[0])):
            names += re.split(r",\s*|\s+or\s+", other[1])
        found.append(set().union(*map(names_of, names)))
    return found


# --- exercises --------------------------------------------------------------------------------------------------------


def exercise_form(page: Page) -> Iterator[str]:
    """Question and hint, the learner's cell, its check, the announcement of the solution, the folded solution."""
    asked = [cell for cell in page.text_cells if _quoted(cell, "Exercise")]
    ids = [_quoted(cell, "Exercise") for cell in asked]
    expected = [f"{page.number}.{number}" for number in range(1, len(ids) + 1)]
    if not 2 <= len(ids) <= 4:
        yield f"{len(ids)} exercises, not 2 to 4"
    if ids != expected:
        yield f"the exercises are {ids}, not {expected}"
    listed = {exercise.id: exercise for exercise in page.exercises}
    if list(listed) != ids:
        yield f"chapters/checks/{page.number}.py lists {list(listed)}, the text {ids}"
    learners = [cell.number for cell in page.code_cells if "exercise" in cell.tags]
    if learners != [cell.number + 1 for cell in asked]:
        yield f"the cells tagged exercise are {learners}; they stand behind the questions, {[c.number for c in asked]}"
    solutions = [cell.number for cell in page.code_cells if "solution" in cell.tags]
    if solutions != [cell.number + 4 for cell in asked]:
        yield f"the cells tagged solution are {solutions}; each is the fourth after its question"
    titles = [text for level, text in page.headings if level == 2]
    if asked and "Exercises" in titles:
        inside = {id(block) for _, block in page.section("Exercises")}
        if not all(any(id(block) in inside for block in cell.blocks) for cell in asked):
            yield "all exercises stand under 'Exercises'"
    for cell, number in zip(asked, ids):
        yield from _one_exercise(page, cell, number, listed.get(number))


def _quoted(cell: Cell, label: str) -> str | None:
    """The number of the exercise or solution that a quote in this cell announces."""
    for block in cell.blocks:
        if "blockquote" in block.containers and block.bold and block.bold[0][1]:
            if found := re.fullmatch(rf"{label} (\d\d\.\d)", block.bold[0][0]):
                return found[1]
    return None


def _one_exercise(page: Page, question: Cell, number: str, listed: Exercise | None) -> Iterator[str]:
    parts = page.cells[question.number : question.number + 4]
    if [cell.kind for cell in parts] != ["code", "code", "markdown", "code"]:
        yield f"exercise {number} is text, learner's cell, check, text, solution; not {[cell.kind for cell in parts]}"
        return
    learner, check, announcement, solution = parts
    asked, hint = question_and_hint(question.source, number)
    if hint is None:
        yield f"exercise {number} has no hint in <details><summary>…</summary> … </details>"
    if listed and _plain(listed.question) != asked:
        yield f"exercise {number} asks {asked!r}, and chapters/checks {_plain(listed.question)!r}"
    if listed and _plain(listed.hint) != hint:
        yield f"exercise {number} hints {hint!r}, and chapters/checks {_plain(listed.hint)!r}"
    if listed and len(listed.wrong) != 2:
        yield f"exercise {number} lists {len(listed.wrong)} wrong answers, not two"
    lines = [line for line in learner.source.splitlines() if line.strip() and not line.startswith("#")]
    if lines != ["answer = ..."] or learner.tags != ["exercise"]:
        yield f"exercise {number}: the learner's cell is `answer = ...` with the tag exercise, not {lines}"
    if check.source.strip() != f'course.check("{number}", answer)' or check.tags:
        yield f'exercise {number}: the check cell is `course.check("{number}", answer)`, not {check.source!r}'
    if _quoted(announcement, "Solution") != number:
        yield f"exercise {number}: a quote that begins **Solution {number}** stands before the solution"
    if set(solution.tags) != {"solution", "hide-input"} or not solution.source_hidden:
        yield f"exercise {number}: the solution is tagged solution and hide-input, and its source is hidden"
    if not re.match(r"# \w", solution.source):
        yield f"exercise {number}: the first line of the solution is a comment (JupyterLab shows it when folded)"
    if solution.source.rstrip().splitlines()[-1] != f'course.check("{number}", solution)':
        yield f'exercise {number}: the solution ends with `course.check("{number}", solution)`'
    bound = {n.id for n in ast.walk(solution.tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    bound |= {n.name for n in solution.tree.body if isinstance(n, (ast.FunctionDef, ast.ClassDef))}
    if "answer" in bound or "solution" not in bound:
        yield f"exercise {number}: the solution sets `solution`, and leaves `answer` to the learner"
    if solution.outputs and f"Exercise {number}: right." not in solution.output:
        yield f"exercise {number}: the solution's own check says {solution.output.strip()!r}"
    if check.outputs and f"Exercise {number}: not answered yet" not in check.output:
        yield f"exercise {number}: the check of `...` says {check.output.strip()!r}"


def question_and_hint(source: str, number: str) -> tuple[str, str | None]:
    """What a question's cell asks in its quote, and the hint that it folds away."""
    quote, details = [], False
    for line in source.splitlines():
        details = details or "<details" in line
        if line.startswith(">") and not details:
            quote.append(line.removeprefix(">"))
    unquoted = re.sub(r"^> ?", "", source, flags=re.MULTILINE)
    folded = re.search(r"<details>\s*<summary>.*?</summary>(.*?)</details>", unquoted, re.DOTALL)
    asked = re.sub(rf"^\*\*Exercise {re.escape(number)}\*\*[.:]?\s*", "", _plain(" ".join(quote)))
    return asked, _plain(folded[1]) if folded else None


def _plain(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()


RULES = [
    skeleton,
    rhythm,
    tags,
    beginning,
    code_without_magic_numbers,
    pictures,
    colours,
    outputs,
    words,
    numbers,
    terms,
    exercise_form,
]
