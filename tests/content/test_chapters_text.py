"""Each chapter keeps the rules of chapter_text.py; and each rule refuses what it is there to refuse."""

import os
import subprocess

import chapter_text
import jupytext
import nbformat
import pytest
from chapter_text import RULES, Page, blocks, cells, glossary_terms, names_of, page

from course import notebooks
from course.chapters import all_chapters, before
from course.checks import Exercise
from course.paths import root

CHAPTERS = all_chapters()
OTHER_PACKAGES = os.environ.get("COURSE_COMPARE_OUTPUTS") == "no"
GLOSSARY = root() / "book" / "glossary.md"
by_chapter = pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda chapter: chapter.number)


@pytest.fixture(scope="module")
def pages():
    return {chapter.number: page(chapter, before(chapter), GLOSSARY) for chapter in CHAPTERS}


def test_there_are_chapters():
    assert CHAPTERS


@by_chapter
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_a_chapter_keeps_the_rule(chapter, rule, pages):
    problems = list(rule(pages[chapter.number]))
    assert not problems, "\n".join([f"chapter {chapter.number}: {rule.__doc__}", *problems])


@by_chapter
def test_the_notebook_is_in_sync_with_its_source(chapter):
    assert chapter.notebook.exists(), f"`make notebooks` makes {chapter.notebook.name}"
    source, notebook = notebooks.read(chapter), nbformat.read(chapter.notebook, as_version=4)
    assert differences(source, notebook) == []
    assert all(cell.execution_count for cell in notebook.cells if cell.cell_type == "code"), "a cell was not run"


@by_chapter
def test_a_notebook_is_small(chapter):
    assert chapter.notebook.stat().st_size <= 500 * 1024


def test_the_repository_is_small():
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=root(),
        capture_output=True,
        text=True,
    )
    if listed.returncode:
        pytest.skip("this copy of the course is no git checkout, so nothing says which files belong to it")
    files = [root() / name for name in listed.stdout.split("\0") if name]
    assert sum(file.stat().st_size for file in files if file.is_file()) <= 25 * 1024 * 1024


def printed(name: str, code: str) -> str:
    """What the cell of a committed notebook prints or shows in which the code stands."""
    (cell,) = [cell for cell in nbformat.read(root() / "notebooks" / f"{name}.ipynb", 4).cells if code in cell.source]
    return "".join(out.get("text") or out["data"]["text/plain"] for out in cell.outputs)


def test_the_statuses_that_chapter_11_repeats_are_those_of_chapter_10():
    lines = printed("10_score_in_batches_and_serve", 'print(f"{what}: {answer.status_code}")').splitlines()
    said = dict(line.split(": ") for line in lines)
    table = printed("11_build_the_inference_api", "of_mlflow = [").splitlines()[1:]
    assert said and said == dict(line.rsplit(maxsplit=2)[:2] for line in table)


def test_every_term_of_the_glossary_is_used(pages):
    terms = glossary_terms(GLOSSARY.read_text(encoding="utf-8"))
    assert terms, "the glossary has no terms in the form that chapter_text.glossary_terms reads"
    assert unused_terms(terms, pages.values()) == []


def unused_terms(terms: list[set[str]], chapters) -> list[str]:
    """The terms that no chapter uses in its text."""
    text = " ".join(block.text for each in chapters for _, block in each.blocks).casefold()
    return [min(names) for names in terms if not any(name in text for name in names)]


def differences(source, notebook) -> list[str]:
    """Where a notebook is another than its source: cell types, sources, tags, what is folded."""
    described = [
        [
            (
                cell.cell_type,
                cell.source,
                cell.metadata.get("tags", []),
                cell.metadata.get("jupyter", {}).get("source_hidden", False),
            )
            for cell in each.cells
        ]
        for each in (source, notebook)
    ]
    found = [f"cell {n}: {a} became {b}" for n, (a, b) in enumerate(zip(*described), 1) if a != b]
    if len(described[0]) != len(described[1]):
        found.append(f"{len(described[0])} cells became {len(described[1])}")
    return found


# --- the rules themselves: a page that keeps them all, and changes that break them ------------------------------------

GOOD = """\
---
kernelspec:
  display_name: Python 3
  language: python
  name: python3
---

# Measure a coin

**Stage:** prototyping. You measure one coin.

## What you will be able to do

- Toss.
- Count.
- Plot.

## What you need

Nothing.

**Time to learn:** 10 minutes.

+++

The numbers in the text are those of the default market, the S&P 500.

```{code-cell}
:tags: [parameters]
market = "sp500"  # sp500 or nasdaq
tracking_uri = None
```

Begin.

```{code-cell}
import course

course.begin("09", tracking_uri, market=market)
```

## Toss it

The **share** of heads is what you want to know.

```{code-cell}
heads / tosses
```

It is 0.505, near `0.5`, a number of Python 3.11 and of MLflow 3.17.2; see exercise 09.1.

```{code-cell}
losses
```

The loss is −0.014, or 1234.5 in all. Look at it.

```{code-cell}
plt.style.use("tableau-colorblind10")
ax.plot(tosses, label="heads")
ax.set(xlabel="toss", ylabel="share of heads (%)")
```

**In the picture:** the share of heads swings at first and settles near one half after 200 tosses.

```{code-cell}
print(time.time())
```

Now you.

```{code-cell}
heads
```

## Exercises

> **Exercise 09.1** Count the tails,
> all of them.

<details><summary>Hint</summary>

They are what is left.

</details>

```{code-cell}
:tags: [exercise]
answer = ...
```

```{code-cell}
course.check("09.1", answer)
```

> **Solution 09.1** is folded below.

```{code-cell}
:tags: [solution, hide-input]
:jupyter:
:  source_hidden: true
# what is left
solution = tosses - heads
course.check("09.1", solution)
```

> **Exercise 09.2** And the edges?
>
> <details><summary>Hint</summary>
>
> There are none.
>
> </details>

```{code-cell}
:tags: [exercise]
answer = ...
```

```{code-cell}
course.check("09.2", answer)
```

> **Solution 09.2** is folded below.

```{code-cell}
:tags: [solution, hide-input]
:jupyter:
:  source_hidden: true
# none
solution = 0
course.check("09.2", solution)
```

## What you did

You counted.

## What the system looks like now

![One coin, which is tossed and counted](../chapters/figures/09_system.svg)

## Further reading

- [Bernoulli](https://example.org)
"""


def shown(text: str, name="stdout") -> list:
    return [nbformat.v4.new_output("stream", name=name, text=text)]


def picture() -> list:
    data = {"image/png": "aGVsbG8=", "text/plain": "<Figure size 640x480 with 1 Axes>"}
    return [nbformat.v4.new_output("display_data", data=data)]


OUTPUTS = {
    "heads / tosses": shown("0.505"),
    "losses": shown("[-0.014 1,234.5]\n2014-12-31 00:00:00"),
    "ax.plot": picture() + shown("after 200 tosses: 0.51"),
    "time.time": [],
    'course.check("09.1", answer)': shown("Exercise 09.1: not answered yet: …"),
    "solution = tosses": shown("Exercise 09.1: right."),
    'course.check("09.2", answer)': shown("Exercise 09.2: not answered yet: …"),
    "solution = 0": shown("Exercise 09.2: right."),
}
EXERCISES = [
    Exercise("09.1", "Count the tails, all of them.", "They are what is left.", None, [1, 2]),
    Exercise("09.2", "And the edges?", "There are none.", None, [1, 2]),
]
TERMS = "# Glossary\n\n**shares** (portion, part): how much of a whole.\n"


def sample(text=GOOD, outputs=OUTPUTS, exercises=EXERCISES, glossary=TERMS) -> Page:
    source = jupytext.reads(text, fmt="md:myst")
    code = [cell.source for cell in source.cells if cell.cell_type == "code"]
    given = [next((out for start, out in outputs.items() if start in each), []) for each in code]
    return Page("09", cells(source, given), exercises, {"08_x.ipynb": "0.77"}, glossary)


def problems(rule: str, **changes) -> list[str]:
    return list(getattr(chapter_text, rule)(sample(**changes)))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_a_good_chapter_passes_the_rule(rule):
    assert list(rule(sample())) == []


# rule, what is replaced, by what, and words of the complaint
BROKEN_TEXTS = [
    ("skeleton", "# Measure a coin", "## Measure a coin", "one H1"),
    ("skeleton", "## Toss it", "# Toss it", "this one has 2"),
    ("skeleton", "## Toss it", "## Toss it\n\n#### Deep", "skip from H2 to H4"),
    ("skeleton", "## What you need", "## What is needed", "first sections"),
    ("skeleton", "## What you did", "## What we did", "last sections"),
    ("skeleton", "## Toss it\n", "", "body has no section"),
    ("skeleton", "**Stage:** prototyping. You", "You", "Stage"),
    ("skeleton", "**Stage:** prototyping", "**Stage:** bliss", "the stage is one of"),
    ("skeleton", "**Time to learn:** 10 minutes.", "", "Time to learn"),
    ("skeleton", "- Toss.\n", "", "2 list items"),
    ("skeleton", "You counted.", "", "'What you did' is empty"),
    ("skeleton", "![One", "[One", "no figure"),
    ("skeleton", "[Bernoulli](https://example.org)", "Bernoulli", "no link"),
    ("skeleton", "The numbers in the text are those of", "Look at", "default market"),
    ("rhythm", "Now you.\n", "", "13 code cells and only 12 text cells"),
    ("rhythm", "Now you.", "```{code-cell}\n1\n```", "three code cells in a row from cell 13"),
    ("tags", "{code-cell}\nlosses", "{code-cell}\n:tags: [raises-exception]\nlosses", "raises-exception"),
    ("tags", "{code-cell}\nlosses", "{code-cell}\n:jupyter:\n:  source_hidden: true\nlosses", "folded and no solution"),
    ("beginning", ":tags: [parameters]\n", "", "not [parameters]"),
    ("beginning", "# sp500 or nasdaq", "# a market", "names its values"),
    ("beginning", "# sp500 or nasdaq", "# dow or nasdaq", "names its values"),
    ("beginning", "tracking_uri = None", 'tracking_uri = "http://x"', "the parameters are"),
    ("beginning", "tracking_uri = None", "tracking_uri = min(3)", "assignments of constants"),
    ("beginning", 'course.begin("09"', 'course.begin("08"', "calls course.begin('09'"),
    ("beginning", ", market=market", "", "not given market"),
    ("beginning", "{code-cell}\nheads\n", "{code-cell}\n:tags: [parameters]\nheads\n", "only the first"),
    ("code_without_magic_numbers", "heads / tosses", 'get("http://127.0.0.1:5000")', "a port"),
    ("code_without_magic_numbers", "heads / tosses", "serve(port=8080)", "a port"),
    ("code_without_magic_numbers", "heads / tosses", f'get("{"0a" * 16}")', "an id"),
    ("code_without_magic_numbers", "heads / tosses", 'install("mlflow==3.17")', "a version"),
    ("code_without_magic_numbers", "heads / tosses", 'version == "3.17.2"', "a version"),
    ("code_without_magic_numbers", "heads / tosses", 'load("models:/champion/3")', "a version"),
    ("code_without_magic_numbers", "heads / tosses", 'open("/home/ada/x.csv")', "a path"),
    ("pictures", "![One coin, which is tossed and counted]", "![coin]", "too short"),
    ("pictures", "You counted.", 'You <img src="x.svg" alt="x"> counted.', "no text alternative"),
    ("pictures", 'xlabel="toss"', 'xlabel=""', "no xlabel"),
    ("pictures", ', ylabel="share of heads (%)"', "", "no ylabel"),
    ("pictures", 'plt.style.use("tableau-colorblind10")\n', "", "plots before"),
    ("pictures", "**In the picture:** the", "The", "In the picture"),
    ("pictures", "the share of heads swings at first and settles near one half after 200 tosses.", "A line.", "In the"),
    ("colours", 'label="heads"', 'color="tab:red"', "colour-blind"),
    ("colours", 'label="heads"', 'c="g"', "colour-blind"),
    ("colours", 'label="heads"', 'edgecolors=["black", "green"]', "colour-blind"),
    ("colours", 'label="heads"', 'cmap="RdYlGn_r"', "colour-blind"),
    ("colours", 'tosses, label="heads"', 'tosses, "r--"', "no red or green"),
    ("words", "You counted.", "You simply counted.", "'simply'"),
    ("words", "You counted.", "Just count.", "'Just'"),
    ("words", "You counted.", "Let’s dive in.", "dive in"),
    ("words", "You counted.", "In this section, we will count.", "In this section"),
    ("words", "You counted.", "A session of counting.", "'session'"),
    ("words", "You counted.", "You counted \U0001f600.", "\U0001f600"),
    ("words", "# what is left", "# obviously", "'obviously'"),
    ("words", "Now you.", "TODO", "'TODO'"),
    ("numbers", "0.505, near", "0.506, near", "0.506"),
    ("numbers", "0.505, near", "0.50, near", "0.50 stands"),
    ("numbers", "−0.014", "−0.505", "-0.505"),
    ("numbers", "Begin.", "Begin with 0.505.", "0.505"),
    ("numbers", "Look at it.", "[08](../notebooks/07_x.ipynb) had 0.77.", "0.77"),
    ("numbers", "One coin, which is tossed", "One coin, tossed 0.999 times", "0.999"),
    ("terms", "**share**", "**luck**", "'luck'"),
    ("terms", "**share**", "**Exercises 09.1**", "'Exercises 09.1'"),
    ("exercise_form", "**Exercise 09.2**", "**Exercise 09.3**", "not ['09.1', '09.2']"),
    ("exercise_form", "Count the tails", "Count the tales", "chapters/checks"),
    ("exercise_form", "They are what is left", "Guess", "hints"),
    ("exercise_form", "<summary>Hint</summary>\n\nThey", "They", "no hint"),
    ("exercise_form", ":tags: [exercise]\nanswer", "answer", "tagged exercise"),
    ("exercise_form", "answer = ...", "answer = 7", "`answer = ...`"),
    ("exercise_form", 'course.check("09.1", answer)', 'course.check("09.2", answer)', "the check cell"),
    ("exercise_form", "> **Solution 09.1** is", "The solution is", "a quote that begins"),
    ("exercise_form", ":jupyter:\n:  source_hidden: true\n", "", "source is hidden"),
    ("exercise_form", "[solution, hide-input]", "[solution]", "tagged solution and hide-input"),
    ("exercise_form", "# what is left\n", "", "is a comment"),
    ("exercise_form", "solution = tosses - heads", "solution = answer = 3", "leaves `answer`"),
    ("exercise_form", 'course.check("09.1", solution)', "", "ends with"),
    ("exercise_form", "## Exercises\n", "## Count\n\n## Exercises\n\nNone.\n\n## More\n", "stand under 'Exercises'"),
    ("exercise_form", "You counted.", "> **Exercise 09.3** Once more.", "is text, learner's cell"),
    ("exercise_form", "> **Exercise 09.2** And the edges?", "> And the edges?", "1 exercises, not 2 to 4"),
]


@pytest.mark.parametrize("rule, good, bad, complaint", BROKEN_TEXTS, ids=lambda value: None)
def test_a_rule_refuses_a_bad_text(rule, good, bad, complaint):
    assert good in GOOD
    found = problems(rule, text=GOOD.replace(good, bad, 1))
    assert any(complaint in problem for problem in found), found


BROKEN_OUTPUTS = [
    ("outputs", "heads / tosses", shown(f"run {'0f' * 16}"), "an id"),
    ("outputs", "heads / tosses", shown(f"models:/m-{'0f' * 16}"), "an id"),
    ("outputs", "heads / tosses", shown("2026-11-23"), "a date of today"),
    ("outputs", "heads / tosses", shown("at 12:03:59"), "a clock time"),
    ("outputs", "heads / tosses", shown("in /opt/course/data"), "an absolute path"),
    ("outputs", "heads / tosses", shown("file:///root/x"), "a path of the author's machine"),
    ("outputs", "heads / tosses", shown("http://127.0.0.1:5000"), "a port"),
    ("outputs", "heads / tosses", shown("<object at 0x7f00aa00bb>"), "an object's address"),
    ("outputs", "heads / tosses", shown("\x1b[31mred"), "an ANSI code"),
    ("outputs", "heads / tosses", shown("2026/11/23 12:00:00 WARNING mlflow: x"), "a log line"),
    ("outputs", "heads / tosses", shown("UserWarning: old", "stderr"), "does not explain it"),
    ("outputs", "heads / tosses", [nbformat.v4.new_output("error", ename="E", evalue="", traceback=[])], "an error"),
    ("pictures", "ax.plot", picture(), "prints the numbers"),
    ("exercise_form", "solution = 0", shown("Exercise 09.2: not yet."), "the solution's own check"),
    ("exercise_form", 'course.check("09.1", answer)', shown("Exercise 09.1: right."), "the check of `...`"),
]


@pytest.mark.parametrize("rule, cell, output, complaint", BROKEN_OUTPUTS, ids=lambda value: None)
def test_a_rule_refuses_a_bad_output(rule, cell, output, complaint):
    found = problems(rule, outputs=OUTPUTS | {cell: output})
    assert any(complaint in problem for problem in found), found


def test_each_rule_is_shown_to_refuse_something():
    shown_here = {case[0] for case in BROKEN_TEXTS + BROKEN_OUTPUTS}
    assert {rule.__name__ for rule in RULES} == shown_here


def test_the_next_text_explains_a_warning():
    changed = GOOD.replace("It is 0.505", "The warning says that the coin is old. It is 0.505")
    assert problems("outputs", text=changed, outputs=OUTPUTS | {"heads / tosses": shown("0.505\nold", "stderr")}) == []


def test_the_numbers_of_a_plot_may_stand_in_the_next_cell():
    changed = GOOD.replace('%)")\n```\n', '%)")\n```\n\n```{code-cell}\nnumbers\n```\n')
    assert problems("pictures", text=changed, outputs=OUTPUTS | {"ax.plot": picture(), "numbers": shown("3")}) == []


def test_a_cell_that_is_not_compared_may_show_an_id_but_no_path_and_lends_no_number():
    changed = GOOD.replace("{code-cell}\nheads / tosses", "{code-cell}\n:tags: [nbval-ignore-output]\nheads / tosses")
    with_id = OUTPUTS | {"heads / tosses": shown(f"0.505 {'0f' * 16} at 12:00:01")}
    assert problems("outputs", text=changed, outputs=with_id) == []
    assert "0.505" in problems("numbers", text=changed, outputs=with_id)[0]
    with_path = OUTPUTS | {"heads / tosses": shown("/home/ada")}
    assert "a path" in problems("outputs", text=changed, outputs=with_path)[0]


def test_one_cell_in_ten_may_go_without_comparison():
    first = GOOD.replace("{code-cell}\nheads / tosses", "{code-cell}\n:tags: [nbval-ignore-output]\nheads / tosses")
    second = first.replace("{code-cell}\nlosses", "{code-cell}\n:tags: [nbval-ignore-output]\nlosses")
    assert problems("tags", text=first) == []
    assert "2 of 13 code cells are not compared" in problems("tags", text=second)[0]


def test_one_cell_in_ten_may_be_long():
    long = "\n".join(f"line_{number}" for number in range(11))
    first = GOOD.replace("heads / tosses", long)
    second = first.replace("{code-cell}\nlosses", "{code-cell}\n" + long)
    assert problems("rhythm", text=first) == []
    assert "longer than 10 lines" in problems("rhythm", text=second)[0]


def test_the_median_cell_has_three_lines():
    text = GOOD
    for cell in ("heads / tosses", "losses", "print(time.time())", "heads\n`", "import course\n"):
        text = text.replace("{code-cell}\n" + cell, "{code-cell}\n1\n2\n3\n" + cell, 1)
    text = text.replace("# what is left", "# what is left\n1").replace("# none", "# none\n1")
    assert "median" in problems("rhythm", text=text)[0]


def test_a_number_may_stand_beside_its_source_or_in_an_earlier_notebook():
    source = GOOD.replace("Look at it.", "Others found 0.999 ([Bernoulli](https://example.org)).")
    earlier = GOOD.replace("Look at it.", "It was 0.77 in [chapter 08](../notebooks/08_x.ipynb).")
    assert problems("numbers", text=source) == [] == problems("numbers", text=earlier)


def test_a_number_is_found_digit_for_digit():
    assert chapter_text.decimals("0.5, +0.135 and −1,234.5; 3.17.2, MLflow 3.17, 02.1, Exercise 10.1, x0.5") == [
        "0.5",
        "0.135",
        "-1,234.5",
    ]
    for number in ("0.505", "-0.014", "1234.5", "1,234.5"):
        assert chapter_text.stands_in(number, "[0.505, −0.014] 1,234.5")
    for number in ("0.50", "0.5050", "505.1", "234.5", "-0.505"):
        assert not chapter_text.stands_in(number, "[0.505, −0.014] 1,234.5")


def test_terms_and_leads_are_told_apart():
    text = "> **What this means.** A **coin** is **1.5** wide.\n\n**Brier score** counts.\n"
    text += "\n| **A** |\n| --- |\n| **B** |\n"
    assert [term for block in blocks(text) for term in chapter_text.bold_terms(block)] == ["coin", "Brier score", "B"]


def test_the_glossary_is_read_in_its_three_forms():
    glossary = "# G\n\n## A\n\n**block lengths** (span): …\n\n- **Category**: see **coin**\n\n### Drift\n\nIt drifts.\n"
    terms = glossary_terms(glossary)
    assert [names_of("Block length") & names != set() for names in terms] == [True, False, False]
    assert "span" in terms[0] and "category" in terms[1] and "drift" in terms[2] and len(terms) == 3


def test_an_unused_term_is_found():
    terms = glossary_terms(TERMS + "\n**zebra**: an animal.\n")
    assert unused_terms(terms, [sample()]) == ["zebra"]


@pytest.mark.parametrize(
    "good, bad",
    [
        ("Look at it.", "Look away."),
        ("[exercise]", "[exercise, x]"),
        ("  source_hidden: true", "  source_hidden: false"),
        ("+++", ""),
    ],
)
def test_a_notebook_out_of_sync_is_found(good, bad):
    assert good in GOOD
    source = jupytext.reads(GOOD, fmt="md:myst")
    assert differences(source, jupytext.reads(GOOD, fmt="md:myst")) == []
    assert differences(source, jupytext.reads(GOOD.replace(good, bad, 1), fmt="md:myst"))
