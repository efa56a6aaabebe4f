"""`course lint`: a good chapter passes, and each rule refuses what breaks it and names the cell."""

import jupytext
import pytest
from click.testing import CliRunner
from fake_course import HEADER, FakeCourse
from nbformat.v4 import new_output

from course import lint
from course.checks import Exercise
from course.cli import main
from course.lint.markdown import blocks
from course.lint.page import Page, make_cells
from course.lint.rules import bold_terms, decimals, glossary_terms, is_printed

CELL = "```{code-cell}\n"  # what opens a code cell
FOLDED = ":tags: [solution, hide-input]\n:jupyter:\n:  source_hidden: true\n"


def code(source: str, options: str = "") -> str:
    return f"{CELL}{options}{source}\n```"


def exercise(id: str) -> list[str]:
    return [
        f"> **Exercise {id}** How many,\n> in all?\n\n<details><summary>Hint</summary>\nCount them.\n</details>\n",
        code("answer = ...", ":tags: [exercise]\n"),
        code(f'course.check("{id}", answer)'),
        f"> **Solution {id}** is folded below.",
        code(f'# what is left\nsolution = tosses - heads\ncourse.check("{id}", solution)', FOLDED),
    ]


GOOD = [
    f"{HEADER}# Measure a coin\n**Stage:** prototyping. You measure one coin.",
    "## What you will be able to do\n- Toss.\n- Count.\n- Plot.",
    "## What you need\nNothing.\n\n**Time to learn:** 10 minutes.",
    "+++\nThe numbers in the text are those of the default market, the S&P 500.",
    code('market = "sp500"  # sp500 or nasdaq\ntracking_uri = None', ":tags: [parameters]\n"),
    "Begin.",
    code('import course\n\ncourse.begin("09", tracking_uri, market=market)'),
    "## Toss it\nThe **share** of heads is what you want to know.",
    code("heads / tosses"),
    "It is 0.505, near `0.5`, a number of Python 3.11 and of MLflow 3.17.2; see exercise 09.1.",
    code("losses"),
    "The loss is −0.014, or 1234.5 in all. Look at it.",
    code('plt.style.use("petroff6")\nax.plot(tosses, label="heads")\nax.set(xlabel="toss", ylabel="share of heads")'),
    "**In the picture:** the share of heads swings at first and settles near one half after 200 tosses.",
    code("print(time.time())"),
    "Now you.",
    code("heads"),
    "## Exercises",
    *exercise("09.1"),
    *exercise("09.2"),
    "## What you did\nYou counted.",
    "## What the system looks like now\n![One coin, which is tossed and counted](../chapters/figures/09_system.svg)",
    "## Further reading\n- [Bernoulli](https://example.org)",
]
GLOSSARY = "# Glossary\n\n**shares** (portion, part): how much of a whole.\n"


def shown(text: str, name: str = "stdout") -> list:
    return [new_output("stream", name=name, text=text)]


PLOT = [new_output("display_data", data={"image/png": "aGk=", "text/plain": "<Figure size 64x48 with 1 Axes>"})]
OUTPUTS = {  # of the cell that contains the code
    "heads / tosses": shown("0.505"),
    "losses": shown("[-0.014 1,234.5]\n2014-12-31 00:00:00"),
    "ax.plot": PLOT + shown("after 200 tosses: 0.51"),
    'course.check("09.1", answer)': shown("Exercise 09.1: not answered yet: …"),
    'course.check("09.1", solution)': shown("Exercise 09.1: right."),
    'course.check("09.2", answer)': shown("Exercise 09.2: not answered yet: …"),
    'course.check("09.2", solution)': shown("Exercise 09.2: right."),
}


@pytest.fixture(scope="module", autouse=True)
def files(tmp_path_factory):
    """The files that links of the good chapter lead to."""
    course = FakeCourse(tmp_path_factory.mktemp("files"))
    for path in ("chapters/figures/09_system.svg", "notebooks/08_x.ipynb", "book/glossary.md"):
        (course.root / path).parent.mkdir(exist_ok=True)
        (course.root / path).write_text('# Glossary\n\n### Brier score & skill\n\n<a id="here"></a>\n')
    with course.here():
        yield


def problems(*changes: tuple[str, str], outputs: dict[str, list] | None = None, wrong: int = 2) -> list[str]:
    """Return the problems of the good chapter with these changes."""
    text = "\n".join(GOOD)
    for good, bad in changes:
        assert good in text
        text = text.replace(good, bad, 1)
    source, outputs = jupytext.reads(text, fmt="md:myst"), OUTPUTS | (outputs or {})
    code = [cell.source for cell in source.cells if cell.cell_type == "code"]
    found = [next((output for part, output in outputs.items() if part in each), []) for each in code]
    exercises = [Exercise(f"09.{number}", print, [None] * wrong) for number in (1, 2)]
    page = Page("09_coin", make_cells(source, found), exercises, GLOSSARY, {"08_x.ipynb": "0.77"})
    return list(lint.problems(page))


def test_lint_passes_a_good_chapter():
    assert problems() == []


def test_lint_prints_each_problem_with_its_place(fake):
    fake.chapter("01", "x = '/tmp/x'")
    fake.chapter("02", "x = 1")
    (fake.root / "README.md").write_text("[there](nowhere.md)")
    (fake.root / "book").mkdir()
    (fake.root / "book" / "glossary.md").write_text("**zebra**: an animal.")
    with fake.here():
        everything, one = CliRunner().invoke(main, ["lint"]), CliRunner().invoke(main, ["lint", "1"])
    assert (everything.exit_code, one.exit_code) == (1, 1)
    assert "chapters/01_step.md: the body has no section\n" in one.output
    assert "chapters/01_step.md, cell 2: the code contains a path of one machine: " in one.output
    assert everything.output.startswith(one.output) and "chapters/02_step.md: " in everything.output
    assert "\nbook/glossary.md: no chapter uses the term 'zebra'\n" in everything.output
    assert everything.output.endswith("\nREADME.md: nowhere.md does not exist from course/\n")


# what is replaced, by what, and the problem that follows
BROKEN_TEXTS = [
    ("# Measure a coin", "## Measure a coin", "one H1, as its first heading; this one has 0"),
    ("## Toss it", "# Toss it", "one H1, as its first heading; this one has 2"),
    ("## Toss it", "## Toss it\n\n#### Deep", "skip from H2 to H4 at 'Deep'"),
    ("## What you need", "## What is needed", "the first sections are"),
    ("## What you did", "## What we did", "the last sections are"),
    ("## Toss it\n", "", "the body has no section"),
    ("**Stage:** prototyping. You", "You", "begins `**Stage: …**`"),
    ("**Stage:** prototyping", "**Stage:** bliss", "begins `**Stage: …**`, one of ideation, prototyping,"),
    ("# Measure a coin", "# Measure a coin\n\n## First", "no paragraph above the first section"),
    ("**Time to learn:** 10 minutes.", "", "`**Time to learn:** 45 minutes`"),
    ("- Toss.\n", "", "has 2 list items, not 3 to 5"),
    ("You counted.", "", "sections without content: What you did"),
    ("![One", "[One", "shows no figure"),
    ("[Bernoulli](https://example.org)", "Bernoulli", "'Further reading' has no link"),
    ("The numbers in the text are those of", "Look at", "those of the default market"),
    ("Now you.\n", "", "13 code cells and only 12 text cells"),
    ("Now you.", CELL + "1\n```", "cell 13: three code cells follow each other"),
    (CELL + "losses", CELL + ":tags: [raises-exception]\nlosses", "cell 9: the tag raises-exception is unknown"),
    (CELL + "losses", CELL + ":jupyter:\n:  source_hidden: true\nlosses", "cell 9: the cell is folded"),
    (":tags: [parameters]\n", "", "cell 3: only the first code cell is tagged [parameters]"),
    (CELL + "heads\n", CELL + ":tags: [parameters]\nheads\n", "here the cells [3, 15] are"),
    ("# sp500 or nasdaq", "# a market", "cell 3: the comment names the values of market"),
    ("# sp500 or nasdaq", "# dow or nasdaq", "cell 3: the comment names the values of market"),
    ("tracking_uri = None", 'tracking_uri = "http://x"', "cell 3: the parameters are market, target"),
    ("tracking_uri = None", "tracking_uri = min(3)", "cell 3: a parameter is a constant, unlike `tracking_uri = min"),
    ('course.begin("09"', 'course.begin("08"', "cell 5: the second code cell calls course.begin('09'"),
    (", market=market", "", "cell 5: course.begin is not given market"),
    ("heads / tosses", f'get("http://127.0.0.1:5000/{"0a" * 16}")', "cell 7: the code contains a port", "an id"),
    ("heads / tosses", 'start(port=8080, file="/home/ada/x.csv")', "contains a port", "contains a path of one machine"),
    ("heads / tosses", 'install("mlflow==3.17")', "cell 7: the code contains a version"),
    ("heads / tosses", 'version == "3.17.2"', "cell 7: the code contains a version"),
    ("heads / tosses", 'load("models:/champion/3")', "cell 7: the code contains a version"),
    ("![One coin, which is tossed and counted]", "![coin]", "09_system.svg has the text alternative 'coin', shorter"),
    ("You counted.", 'You <img src="x.svg" alt="x"> counted.', "has the text alternative 'x', shorter"),
    ('xlabel="toss", ylabel="share of heads"', 'xlabel=""', "cell 11: the plot has no xlabel and no ylabel"),
    ('plt.style.use("petroff6")\n', "", "cell 11: plt.style.use('tableau-colorblind10') is missing"),
    ("**In the picture:** the", "The", "cell 11: no text next to the plot"),
    ("the share of heads swings at first and settles near one half after 200 tosses.", "A line.", "cell 11: no text"),
    ('label="heads"', '"r--", c="g", color="tab:red"', "cell 11: colour-blind readers", "'r--'", "'g'", "'tab:red'"),
    ('label="heads"', 'edgecolors=["black", "green"], cmap="RdYlGn_r"', "cannot tell 'green'", "tell 'RdYlGn_r'"),
    ("You counted.", "Just do it simply. Let’s dive in: TODO", "'Just'", "'simply'", "'Let’s dive in'", "'TODO'"),
    ("You counted.", "In this section, we will begin.", "'In this section, we will'"),
    ("You counted.", "A \u2b50 session.", "'session'", "'\u2b50'"),
    ("# what is left", "# obviously", "cell 20: the text contains 'obviously'"),
    ("0.505, near", "0.506, near", "cell 8: no compared output above prints 0.506"),
    ("Begin.", "Begin with 0.505.", "cell 4: no compared output above prints 0.505"),
    ("Look at it.", "[07](../notebooks/07_x.ipynb) had 0.77.", "prints 0.77"),
    ("One coin, which is tossed", "One coin, tossed 0.999 times", "prints 0.999"),
    ("**share**", "**luck**", "cell 6: 'luck' is set in bold and is missing in book/glossary.md"),
    ("**share**", "**Exercises 09.1**", "'Exercises 09.1' is set in bold"),
    ("figures/09_system.svg", "figures/08_system.svg", "figures/08_system.svg does not exist from chapters/"),
    ("../chapters/figures", "figures", "09_system.svg does not exist from notebooks/", "does not exist from work/"),
    ("Now you.", "[Up](#there)", "cell 14: #there: this page has no heading #there"),
    ("Now you.", "[g](../book/glossary.md#brier)", "glossary.md#brier: glossary.md has no heading #brier"),
    ("Now you.", '<a href="no.md">x</a> <img src="no.svg">', "cell 14: no.md does not exist", "no.svg does not exist"),
    ("**Exercise 09.2**", "**Exercise 09.3**", "the exercises are ['09.1', '09.3'], not ['09.1', '09.2']"),
    ("**Exercise 09.1** How many,\n> in all?", "**Exercise 09.1**", "the text ['09.2']"),
    ("> **Exercise 09.2** How", "> How", "1 exercises, not 2 to 4"),
    ("You counted.", "> **Exercise 09.3** Once more.", "cell 26: after the question 09.3 come"),
    ("<summary>Hint</summary>\nCount", "Count", "cell 16: the question has no hint"),
    ("## Exercises\n", "## Count\n\n## Exercises\n\nNone.\n\n## More\n", "outside the section 'Exercises'"),
    (":tags: [exercise]\nanswer", "answer", "the cells tagged exercise are [22], not [17, 22]"),
    ("answer = ...", "answer = 7", "cell 17: the learner's cell must be `answer = ...`, not ['answer = 7']"),
    ('course.check("09.1", answer)', 'course.check("09.2", answer)', 'cell 18: the check must be `course.check("09.1"'),
    ("> **Solution 09.1** is", "The solution is", "cell 19: no quote begins **Solution 09.1**"),
    (":jupyter:\n:  source_hidden: true\n", "", "cell 20: the solution must be tagged"),
    ("[solution, hide-input]", "[solution]", "cell 20: the solution must be tagged solution and hide-input"),
    ("# what is left\n", "", "cell 20: the solution must begin with a comment"),
    ("solution = tosses - heads", "solution = answer = 3", "cell 20: the solution sets `answer`"),
    ("solution = tosses - heads", "heads", "cell 20: the solution does not set `solution`"),
    ('course.check("09.1", solution)', "", "cell 20: the solution must end with"),
]
UNSTABLE = f"run {'0f' * 16} on 2026-11-23 at 12:03:59 in /opt/x, port 127.0.0.1:5000, <object at 0x7f00aa00bb>"
KINDS = ["an id", "a date of today", "a clock time", "an absolute path", "a port", "an object's address"]
BROKEN_OUTPUTS = [
    ("heads / tosses", shown(UNSTABLE), *(f"cell 7: the output shows {kind}: " for kind in KINDS)),
    ("heads / tosses", shown(f"\x1b[3m file:///root/m-{'0f' * 16}"), "an ANSI code", "a path of the author's", "an id"),
    ("heads / tosses", shown("2026/11/23 12:00:00 WARNING mlflow: x"), "cell 7: the output shows a log line"),
    ("heads / tosses", shown("old", "stderr"), "cell 7: the next text does not explain the warning 'old'"),
    ("heads / tosses", [new_output("error", ename="E", evalue="")], "cell 7: the cell ends in an error"),
    ("ax.plot", PLOT, "cell 11: neither this cell nor the next code cell prints the numbers"),
    ('course.check("09.2", solution)', shown("Exercise 09.2: not yet."), "cell 25: the check of the solution prints"),
    ('course.check("09.1", answer)', shown("Exercise 09.1: right."), "cell 18: the check of `...` prints"),
]


@pytest.mark.parametrize("case", [*BROKEN_TEXTS, *BROKEN_OUTPUTS], ids=lambda case: case[2])
def test_lint_refuses(case):
    broken, by, *expected = case
    found = "\n".join(problems((broken, by)) if case in BROKEN_TEXTS else problems(outputs={broken: by}))
    assert [problem for problem in expected if problem not in found] == [], found


def test_lint_wants_two_wrong_answers():
    assert "cell 16: chapters/checks/09.py lists 1 wrong answers" in "\n".join(problems(wrong=1))


LONG, LONGER = ("heads / tosses", "heads / tosses" + "\n1" * 10), ("losses", "losses" + "\n1" * 10)
IGNORED, IGNORED_TOO = ((CELL + code, CELL + ":tags: [nbval-ignore-output]\n" + code) for code in ("heads /", "losses"))
WORDLESS = ("It is 0.505", "It is")  # no number of the ignored cell
FOUR_LINES = [(CELL + code, CELL + "1\n2\n3\n" + code) for code in ("heads /", "losses", "print", "heads\n", "import")]
FOUR_LINES += [("solution =", "1\nsolution ="), ("[exercise]\n", "[exercise]\n# 1\n# 2\n# 3\n")]


@pytest.mark.parametrize(
    ("expected", "changes", "outputs"),
    [
        ([], [("It is 0", "The warning is old. It is 0")], {"heads /": shown("0.505\nold", "stderr")}),
        ([], [("Now you.", "Now\n+++\nyou.\n" + CELL + "7\n```")], {"ax.plot": PLOT, "print(": shown("3")}),
        ([], [WORDLESS, IGNORED], {"heads / tosses": shown("0.505 at 12:00:01")}),
        (["cell 8: no compared output above prints 0.505"], [IGNORED], {}),
        (["cell 7: the output shows a path"], [WORDLESS, IGNORED], {"heads / tosses": shown("/tmp/x")}),
        (["2 of 13 code", "prints 0.505", "prints -0.014", "prints 1234.5"], [IGNORED, IGNORED_TOO], {}),
        ([], [("Look at it.", "It was 0.77 in [chapter 08](../notebooks/08_x.ipynb).")], {}),
        ([], [("Look at it.", "Others found 0.999 ([Bernoulli](https://example.org)).")], {}),
        ([], [("Now you.", "[a](../book/glossary.md#brier-score--skill) [b](../book/glossary.md#here)")], {}),
        ([], [("Now you.", "[Up](#toss-it) `[no link](no.md)`")], {}),
        ([], [("Now you.", '<a href="../chapters/figures/09%5Fsystem.svg">c</a>')], {}),
        ([], [LONG], {}),
        (["one code cell in ten has over 10 lines: cell 7 (11 lines), cell 9 (11 lines)"], [LONG, LONGER], {}),
        (["the median code cell has 4 lines, more than 3"], FOUR_LINES, {}),
    ],
)
def test_lint_finds_exactly(expected, changes, outputs):
    found = problems(*changes, outputs=outputs)
    assert len(found) == len(expected) and all(any(part in each for each in found) for part in expected), found


def test_a_number_is_found_digit_for_digit():
    text = "0.5, +0.135 and −1,234.5; 3.17.2, MLflow 3.17, 02.1, Exercise 10.1, x0.5"
    assert decimals(text) == ["0.5", "0.135", "-1,234.5"]
    assert all(is_printed(n, "[0.505, −0.014] 1,234.5") for n in ("0.505", "-0.014", "1234.5", "1,234.5"))
    assert not any(is_printed(n, "[0.505, −0.014] 1,234.5") for n in ("0.50", "0.5050", "505.1", "234.5", "-0.505"))


def test_bold_words_are_terms_unless_they_lead():
    text = "> **So this means.** A **coin** is **1.5** wide.\n\n**Brier score** counts.\n\n|**A**|\n|---|\n|**B**|"
    assert [term for block in blocks(text) for term in bold_terms(block)] == ["coin", "Brier score", "B"]


def test_a_glossary_is_read_in_three_forms():
    block, odds, drift = glossary_terms("**block lengths** (span): …\n\n- **Odds**: see **coin**\n\n### Drift\n")
    assert {"block length", "span"} <= block and "odds" in odds and drift == {"drift"}
