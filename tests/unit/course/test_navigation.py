"""What chapters/contents.toml becomes: lines, lists, footers and maps in the notebooks, tables on pages."""

import tomllib

import pytest
from fake_course import CHECKOUT

from course import navigation, notebooks
from course.chapters import all_chapters

LIST = """
[[part]]
title = "Begin"
[[part.chapter]]
name = "01_step"
minutes = 60
map = ["here"]
does = "Step."
[[part.chapter]]
name = "03_step"
minutes = 30
map = ["here", "there"]
does = "Step again."
[map]
alternative = "Two boxes."
arrows = [["here", "there"]]
boxes = {here = ["Here & now", 0, 0], there = ["There", 1, 0]}
"""
TEXT = """
## You need
Time.

## Toss
{words}

> **Exercise 01.1** Toss.

## Count (excursion)
{words}

## Further reading
Books.
"""


@pytest.fixture
def course(fake):
    for number in ("01", "03"):  # numbers may have gaps
        chapter = fake.chapter(number, "x = 1", built=False)
        with fake.here():
            text = chapter.source.read_text() + TEXT.format(words="word " * 130)
            chapter.source.write_text(text)
    (fake.root / "chapters" / "contents.toml").write_text(LIST)
    (fake.root / "chapters" / "figures").mkdir()
    (fake.root / "README.md").write_text(f"Before.\n\n{navigation.BEGIN}old\n{navigation.END}\n\nAfter.\n")
    (fake.root / "WORKSHOP.md").write_text("No table.\n")
    with fake.here():
        yield all_chapters()


def test_a_notebook_shows_where_it_is(course):
    cells = [cell.source for cell in notebooks.read(course[0]).cells]
    step = "Part 1: Begin · chapter 01 (1 of 2) · 60 minutes"
    following = "next: [03 Do step 03](../notebooks/03_step.ipynb)"
    picture = "![Two boxes. This chapter: Here & now.](../chapters/figures/01_map.svg)"
    assert cells[0].startswith(f"# Do step 01\n\n{step} · {following}\n\n{picture}\n")
    assert "\n\n| section | minutes |\n| --- | --- |\n| Toss | 50 |\n| Count (excursion) | 10 |" in "".join(cells)
    checked = "To see which exercises you have solved, run `course check 01` in a terminal."
    assert cells[-1].endswith(f"Books.\n\n---\n\n{checked}\n\n{' · '.join([following, *navigation.PAGES])}")
    last = "chapter 03 (2 of 2) · 30 minutes · previous: [01 Do step 01](../notebooks/01_step.ipynb)"
    assert last in notebooks.read(course[1]).cells[0].source


def test_maps_and_tables_are_written_where_they_differ(course, fake):
    assert fake.invoke("navigation").stdout.splitlines() == [
        f"{name} is updated." for name in ("map.svg", "01_map.svg", "03_map.svg", "README.md")
    ]
    assert fake.invoke("navigation").stdout == ""
    first, second = ((fake.root / "chapters/figures" / f"0{n}_map.svg").read_text() for n in (1, 3))
    assert "Here &amp; now" in first and (first.count('"bold"'), second.count('"bold"')) == (1, 2)
    text = (fake.root / "README.md").read_text()
    assert text.startswith("Before.\n\n") and text.endswith(f"{navigation.END}\n\nAfter.\n")
    assert "| **1 Begin** | | |\n| [01 Do step 01](notebooks/01_step.ipynb) | Step. | 60 |\n" in text


def test_the_course_lists_all_its_chapters_and_the_map_has_at_most_ten_boxes():
    listed = tomllib.loads((CHECKOUT / "chapters" / "contents.toml").read_text(encoding="utf-8"))
    names = [chapter["name"] for part in listed["part"] for chapter in part["chapter"]]
    assert names == [chapter.name for chapter in all_chapters()] and len(listed["map"]["boxes"]) <= 10
