"""The rules for a chapter's text, cells and outputs: each is a function from a Page to its problems."""

import ast
import re
from collections.abc import Iterable, Iterator
from math import ceil

from course.checks import Exercise, hint_in
from course.glossary import anchors, spellings
from course.lint.dialect import dialect_in
from course.lint.markdown import Block, broken_links, html
from course.lint.page import Cell, Page
from course.paths import root

Problems = Iterator[tuple[Cell | None, str]]  # the cell, unless the chapter as a whole is meant, and a message

OPENING = ["You will learn to", "You need"]
CLOSING = ["Key calls", "What you did", "Further reading"]
ANYWHERE = ("Outside this course", "Exercises")  # sections that are neither core nor an excursion
WORDS, CODE_CELLS, PICTURES = 2600, 42, 2.5  # of a chapter: at most, at most, and at least for each 1,000 words
TAGS = {"parameters", "exercise", "solution", "hide-input", "nbval-ignore-output"}
SAFE_STYLES = ("tableau-colorblind10", "seaborn-v0_8-colorblind", "petroff6", "petroff8", "petroff10")
COLOUR_KEYWORDS = r"c|\w*colors?|cmap|colormap|palette"
CONFUSING = r"(?:tab:|dark|light)?(?:red|green)|[rg]|lime|crimson|firebrick|C[23]"
CONFUSING += r"|(?:jet|rainbow|hsv|RdYlGn|gist_rainbow|turbo|prism)(?:_r)?"
BANNED = r"simply|just|obviously|powerful|let['’]s dive in|in this section,? we will|as we can see|TODO|FIXME"
EMOJI = re.compile("[\U0001f000-\U0001faff\u2600-\u26ff\u2705\u274c\u2b50\ufe0f]")

PRODUCTS = r"(?:Python|MLflow|scikit-learn|skops|XGBoost|Keras|TensorFlow|Optuna|pandas|NumPy|SQLAlchemy|Java)"
EXERCISE = r"(?:Exercise|Solution) \d\d\.\d"
QUESTION = re.compile(r"^> \*\*Exercise (\d\d\.\d)\*\* *\S", re.MULTILINE)
# a decimal number outside of a version (3.17.2), a name (x0.5) and an exercise (06.2; for 16.2 its label is needed)
NUMBER = re.compile(r"(?<![\w.])([-−]?)(?!0\d\.)(\d+(?:,\d{3})*\.\d+)(?!\d|\.\d)")
RUN_ID = r"\b(?:m-)?[0-9a-f]{32}\b"
MACHINE_PATH = r"(?:^|[\s'\"=:/(])(/(?:root|home|tmp|work|Users|private/var|usr|opt|var)/|[A-Z]:\\)"
NEVER_IN_CODE = {
    "a port": r"(?:localhost|127\.0\.0\.1|0\.0\.0\.0):\d+|port[\"']?\s*[=:,]\s*[\"']?[1-9]|--port[= ][1-9]",
    "an id": RUN_ID,
    "a version": r"(?<![\d.])\d+\.\d+\.\d+(?!\.?\d)|[=~><]=\s*\d+\.\d+[\"',]|models:/[^/\"'{]+/\d",
    "a path of one machine": MACHINE_PATH,
}
NEVER_SHOWN = {
    "an ANSI code": r"\x1b\[",
    "a path of the author's machine": r"/(?:root|home|tmp|work|Users)/\w",
    "a log line with its time": r"\d{4}[/-]\d\d[/-]\d\d[ T]\d\d:\d\d:\d\d.*(?:INFO|WARNING|ERROR)",
}
NEVER_COMPARED = {
    "an id": RUN_ID,
    "a date of today": r"\b20(?:19|[2-9]\d)[-/]\d\d[-/]\d\d",
    "a clock time": r"\b(?!00:00:00)\d{1,2}:\d\d:\d\d",
    "an absolute path": MACHINE_PATH,
    "a port": r"(?:localhost|127\.0\.0\.1):\d+",
    "an object's address": r"\b0x[0-9a-f]{6,}",
}


def unmet(*requirements: tuple[Cell | None, str, object]) -> Problems:
    """Return each cell and message whose requirement is not true."""
    return ((cell, message) for cell, message, holds in requirements if not holds)


def headings(page: Page) -> Problems:
    """A chapter has one H1, as its first heading, and no level is left out."""
    titles = [place for place, (level, _) in enumerate(page.headings) if level == 1]
    for (before, _), (after, text) in zip(page.headings, page.headings[1:]):
        if after > before + 1:
            yield None, f"heading levels skip from H{before} to H{after} at {text!r}"
    empty = [heading for heading in page.sections if not page.section(heading)]
    yield from unmet(
        (None, f"a chapter has one H1, as its first heading; this one has {len(titles)}", titles == [0]),
        (None, f"sections without content: {', '.join(empty)}", not empty),
    )


def skeleton(page: Page) -> Problems:
    """The sections come in their order: opening, core, excursions, closing. A core section has an exercise."""
    known = (*OPENING, *CLOSING, *ANYWHERE)
    body = [text for text in page.sections if text not in known and not text.startswith("Task: ")]
    excursion = [text.endswith("(excursion)") for text in body]
    core = [text for text, skipped in zip(body, excursion) if not skipped]
    items = [block for _, block in page.section(OPENING[0]) if "li" in block.containers]
    calls = [block for _, block in page.section(CLOSING[0]) if "li" in block.containers]
    tools = [block for _, block in page.blocks if block.text.startswith("At work you would use")]
    tried = {text for text in core for _, block in page.section(text) if re.match(EXERCISE, block.text)}
    untried = [text for text in core if text not in tried]
    yield from unmet(
        (None, f"the first sections are {OPENING}, not {page.sections[:2]}", page.sections[:2] == OPENING),
        (None, f"the last sections are {CLOSING}, not {page.sections[-3:]}", page.sections[-3:] == CLOSING),
        (None, f"{len(core)} core sections ({', '.join(core)}), not 2 to 5", 2 <= len(core) <= 5),
        (None, "an excursion is before a core section", excursion == sorted(excursion)),
        (None, f"core sections without an exercise: {', '.join(untried)}", not untried),
        (None, f"'{OPENING[0]}' has {len(items)} list items, not 3 or 4", 3 <= len(items) <= 4),
        (None, f"'{CLOSING[0]}' lists {len(calls)} calls, not 5 to 10", 5 <= len(calls) <= 10),
        (None, "no note begins **At work you would use …**", tools),
        (None, "'Further reading' has no link", [b for _, b in page.section("Further reading") if b.links]),
    )


def length(page: Page) -> Problems:
    """A chapter fits one sitting."""
    cells = len(page.code_cells)
    yield from unmet(
        (None, f"{page.words} words, more than {WORDS}", page.words <= WORDS),
        (None, f"{cells} code cells, more than {CODE_CELLS}", cells <= CODE_CELLS),
    )


def picture_share(page: Page) -> Problems:
    """A chapter has enough pictures: figures, screenshots and plots."""
    shown = sum(len(block.pictures) for _, block in page.blocks) + sum(cell.has_plot for cell in page.code_cells)
    needed = ceil(PICTURES * page.words / 1000)
    if shown < needed:
        yield None, f"{shown} pictures for {page.words} words: {PICTURES} for each 1,000 words are {needed}"


def tags(page: Page) -> Problems:
    """A cell has only tags that the course uses, and at least 90 % of the code cells are compared."""
    for cell in page.cells:
        if unknown := set(cell.tags) - TAGS:
            yield cell, f"the tag {', '.join(unknown)} is unknown: the course uses {', '.join(sorted(TAGS))}"
        if cell.hidden and "solution" not in cell.tags:
            yield cell, "the cell is folded, and only solutions are"
    ignored = [cell.number for cell in page.code_cells if cell.ignored]
    if len(ignored) > 0.1 * len(page.code_cells):
        yield None, f"{len(ignored)} of {len(page.code_cells)} code cells are not compared ({ignored}): more than 10 %"


def beginning(page: Page) -> Problems:
    """The first code cell has the parameters with the values they can take, the second calls course.begin."""
    if len(page.code_cells) < 2:
        yield None, "a chapter begins with a parameters cell and a cell that calls course.begin"
        return
    parameters, begin = page.code_cells[:2]
    tagged = [cell.number for cell in page.code_cells if "parameters" in cell.tags]
    if parameters.tags != ["parameters"] or tagged != [parameters.number]:
        yield parameters, f"only the first code cell is tagged [parameters]; here the cells {tagged} are"
    declared: dict[str, object] = {}
    for statement in parameters.tree.body:
        if not (isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Constant)):
            yield parameters, f"a parameter is a constant, unlike `{ast.unparse(statement)}`"
            continue
        name, value = ast.unparse(statement.targets[0]), statement.value.value
        declared[name] = value
        comment = parameters.source.splitlines()[statement.lineno - 1].partition("#")[2].strip().split(" or ")
        if isinstance(value, str) and (value not in comment or len(comment) < 2):
            yield parameters, f"the comment names the values of {name}: `{name} = {value!r}  # {value} or …`"
    names = list(declared)
    if names[:1] != ["market"] or names[-1:] != ["tracking_uri"] or declared["tracking_uri"] is not None:
        yield parameters, f"the parameters are market, target if needed, tracking_uri = None; not {names}"
    calls = [n for n in ast.walk(begin.tree) if isinstance(n, ast.Call) and ast.unparse(n.func) == "course.begin"]
    given = [ast.unparse(value) for call in calls for value in [*call.args, *(word.value for word in call.keywords)]]
    if given[:1] != [repr(page.number)]:
        yield begin, f"the second code cell calls course.begin({page.number!r}, …)"
    elif missing := set(names) - set(given):
        yield begin, f"course.begin is not given {', '.join(sorted(missing))}"


def pictures(page: Page) -> Problems:
    """A picture has a text alternative; a plot has labelled axes, a safe palette, and a text after it."""
    for cell in page.cells:
        alternatives = [pair for block in cell.blocks for pair in block.pictures]
        images = re.findall(r"<img\b[^>]*>", html(cell.source) if cell.is_text else "")
        alternatives += [(image, "".join(re.findall(r"alt=[\"']([^\"']+)", image))) for image in images]
        for picture, alternative in alternatives:
            if len(alternative.strip()) < 20:
                yield cell, f"{picture} has the text alternative {alternative!r}, shorter than 20 characters"
        if cell.draws:
            labels = set(re.findall(r"([xy]label)\b[\"']?\s*[=(:]\s*f?[\"'][^\"']", cell.source))
            missing = sorted({"xlabel", "ylabel"} - labels)
            code = "\n".join(each.source for each in page.code_cells if each.number <= cell.number)
            styled = any(f'"{style}"' in code for style in SAFE_STYLES)
            yield from unmet(
                (cell, f"the plot has no {' and no '.join(missing)}", not missing),
                (cell, f"plt.style.use({SAFE_STYLES[0]!r}) is missing before the plot", styled),
                (cell, "no text after the plot says what it means", page.next_text(cell, skip_code=1)),
            )


def plot_titles(page: Page) -> Problems:
    """A plot has a title, which states its finding."""
    for cell in page.code_cells:
        if cell.draws and not re.search(r"\b(?:sup)?title\b[\"']?\s*[=(:]\s*f?[\"']|\bset_title\(", cell.source):
            yield cell, "the plot has no title: let one state what it shows"


def colours(page: Page) -> Problems:
    """A plot has no red or green by name and no rainbow, which colour-blind readers cannot tell apart."""
    for cell in page.code_cells:
        for node in ast.walk(cell.tree):
            values: Iterable[ast.AST] = []
            if isinstance(node, ast.keyword) and re.fullmatch(COLOUR_KEYWORDS, node.arg or ""):
                values, pattern = ast.walk(node.value), CONFUSING
            elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("plot"):
                values, pattern = node.args, r"[rg][-.:o^sx+*]*"
            for value in values:
                if isinstance(value, ast.Constant) and re.fullmatch(pattern, str(value.value)):
                    yield cell, f"colour-blind readers cannot tell {value.value!r} from other colours: choose another"


def code_and_outputs(page: Page) -> Problems:
    """The code names no port, id, version or place; an output is the same tomorrow; the text explains each warning."""
    for cell in page.code_cells:
        shown = NEVER_SHOWN | ({} if cell.ignored else NEVER_COMPARED)
        for place, text, never in ("code contains", cell.source, NEVER_IN_CODE), ("output shows", cell.output, shown):
            for what, pattern in never.items():
                if match := re.search(pattern, text):
                    yield cell, f"the {place} {what}: {match[0].strip()!r}"
        if any(output.get("output_type") == "error" for output in cell.outputs):
            yield cell, "the cell ends in an error"
        warning = "".join(output.text for output in cell.outputs if output.get("name") == "stderr")
        explanation = page.next_text(cell, skip_code=0)
        if warning and not (explanation and "warn" in explanation.source.lower()):
            yield cell, f"the next text does not explain the warning {warning.strip()[:80]!r}"


def words(page: Page) -> Problems:
    """The text has no filler, no emoji, nothing left over from writing."""
    for cell in page.cells:
        banned = rf"\b(?:{BANNED}{'|session' if cell.is_text else ''})\b"
        for found in [*re.findall(banned, cell.prose, re.IGNORECASE), *EMOJI.findall(cell.source)]:
            yield cell, f"the text contains {found!r}: leave it out"


def dialect(page: Page) -> Problems:
    """The text uses the words of the trade."""
    for cell in page.cells:
        yield from ((cell, message) for message in dialect_in(cell.prose))


def numbers(page: Page) -> Problems:
    """A number with a decimal point is in an output above it, or next to a link to its source."""
    above = ""
    for cell in page.cells:
        if cell.is_code and not cell.ignored:
            above += "\n" + cell.output
        for block in cell.blocks:
            if any(link.startswith("http") for link in block.links):
                continue
            names = [link.rpartition("/")[2].partition("#")[0] for link in block.links]
            printed = "\n".join([above, *(page.earlier.get(name, "") for name in names)])
            for number in decimals(block.prose):
                if not is_printed(number, printed):
                    yield cell, f"no compared output above prints {number}, which is in {block.text[:60]!r}"


def decimals(prose: str) -> list[str]:
    """Return the numbers with a decimal point in a text, without versions and the numbers of exercises."""
    prose = re.sub(rf"{PRODUCTS} \d+\.\d+|\b{EXERCISE}\b", " ", prose, flags=re.IGNORECASE)
    return [sign.replace("−", "-") + digits for sign, digits in NUMBER.findall(prose)]


def is_printed(number: str, output: str) -> bool:
    """Return whether an output has this number, digit for digit and as a number of its own."""
    output = output.replace("−", "-")
    without_commas = re.sub(r"(?<=\d),(?=\d{3}\b)", "", output)
    pattern = rf"(?<![\d.]){re.escape(number.replace(',', ''))}(?!\d|\.\d)"
    grouped = r"(?<!\d,)" if re.match(r"-?\d{3}\.", number) else ""  # 234.5 is a part of 1,234.5, not a number in it
    return bool(re.search(grouped + pattern, output) or re.search(pattern, without_commas))


def terms(page: Page) -> Problems:
    """A term that is set in bold is in the glossary."""
    known = anchors(page.glossary)
    for cell, block in page.blocks:
        for term in bold_terms(block):
            if not spellings(term) & known.keys():
                yield cell, f"{term!r} is set in bold and is missing in book/glossary.md"


def bold_terms(block: Block) -> list[str]:
    """Return the bold words of a block, without headings, leads (**What this means.**) and labels of exercises."""
    if block.kind == "th" or block.kind.startswith("h"):
        return []
    leads = bool(block.bold) and block.opens_bold and block.bold[0].endswith((".", ":", "?", "!", "…"))
    return [words for words in block.bold[leads:] if re.search(r"[^\W\d]", words) and not re.fullmatch(EXERCISE, words)]


def links(page: Page) -> Problems:
    """A relative link leads somewhere from chapters/, notebooks/ and work/."""
    whole = "\n\n".join(cell.source for cell in page.text_cells)
    for cell in page.text_cells:
        for problem in broken_links(cell.source, whole, [root() / name for name in ("chapters", "notebooks", "work")]):
            yield cell, problem


def exercise_form(page: Page) -> Problems:
    """An exercise is a question with its hint, the learner's cell, the check, the announcement, the folded solution."""
    questions = [(cell, match[1]) for cell in page.text_cells if (match := QUESTION.search(cell.source))]
    ids = [label for _, label in questions]
    expected = [f"{page.number}.{number}" for number in range(1, len(ids) + 1)]
    listed = {exercise.id: exercise for exercise in page.exercises}
    asked = [cell.number for cell, _ in questions]
    learners = [cell.number for cell in page.code_cells if "exercise" in cell.tags]
    solutions = [cell.number for cell in page.code_cells if "solution" in cell.tags]
    first, fourth = ([number + distance for number in asked] for distance in (1, 4))
    yield from unmet(
        (None, f"{len(ids)} exercises, not 2 to 6", 2 <= len(ids) <= 6),
        (None, f"the exercises are {ids}, not {expected}", ids == expected),
        (None, f"chapters/checks/{page.number}.py lists {list(listed)}, the text {ids}", list(listed) == ids),
        (None, f"the cells tagged exercise are {learners}, not {first}, right after the questions", learners == first),
        (None, f"the cells tagged solution are {solutions}, not {fourth}, after the checks", solutions == fourth),
    )
    for cell, label in questions:
        yield from _one_exercise(page, cell, label, listed.get(label))


def _one_exercise(page: Page, question: Cell, id: str, listed: Exercise | None) -> Problems:
    parts = page.cells[question.number : question.number + 4]
    if [cell.is_code for cell in parts] != [True, True, False, True]:
        yield question, f"after the question {id} come the learner's cell, the check, a text and the solution"
        return
    learner, check, announcement, solution = parts
    code = [line for line in learner.source.splitlines() if line.strip() and not line.startswith("#")]
    call, fold = f'course.check("{id}", {{}})'.format, f"<details><summary>Solution {id}</summary>"
    last = solution.source.rstrip().splitlines()[-1]
    bound = {n.id for n in ast.walk(solution.tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    bound |= {n.name for n in solution.tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef)}
    folded = {"solution", "hide-input"} <= set(solution.tags) and solution.hidden
    untried = not check.outputs or f"Exercise {id}: not answered yet" in check.output
    solved = not solution.outputs or f"Exercise {id}: right." in solution.output
    wrong = len(listed.wrong) if listed else 2
    yield from unmet(
        (question, "the question has no hint in <details><summary>…</summary> … </details>", hint_in(question.source)),
        (question, f"chapters/checks/{page.number}.py lists {wrong} wrong answers for it, not two", wrong == 2),
        (learner, f"the learner's cell must be `answer = ...`, not {code}", code == ["answer = ..."]),
        (learner, f"the learner's cell has the tags {learner.tags}, not [exercise]", learner.tags == ["exercise"]),
        (check, f"the check must be `{call('answer')}`", check.source.strip() == call("answer")),
        (check, f"the check has the tags {check.tags}: remove them", not check.tags),
        (check, f"the check of `...` prints {check.output.strip()!r}", untried),
        (announcement, f"{fold} … </details> does not follow the check", fold in announcement.source),
        (solution, "the solution must be tagged solution and hide-input, and its source hidden", folded),
        (solution, "the solution must begin with a comment, its title when folded", solution.source.startswith("# ")),
        (solution, f"the solution must end with `{call('solution')}`", last == call("solution")),
        (solution, "the solution does not set `solution`", "solution" in bound),
        (solution, "the solution sets `answer`, which is the learner's", "answer" not in bound),
        (solution, f"the check of the solution prints {solution.output.strip()!r}", solved),
    )


RULES = [
    *(headings, skeleton, length, picture_share, tags, beginning, pictures, plot_titles, colours, code_and_outputs),
    *(words, dialect, numbers, terms, links, exercise_form),
]
