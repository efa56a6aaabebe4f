"""The form of book/troubleshooting.md; each message on it is provoked by a test; the commands on pages exist."""

import re

import pytest
from fake_course import CHECKOUT
from messages import MESSAGES, PAGE

from course.cli import main


def test_each_message_is_provoked_by_one_test():
    code = "".join(file.read_text(encoding="utf-8") for file in (CHECKOUT / "tests").rglob("test_*.py"))
    provoking = r'assert_on_page\(\s*"(.+?)",|^    "(.+)": lambda: '
    parts = ["".join(groups) for groups in re.findall(provoking, code, re.MULTILINE)]
    provoked = [message for part in parts for message in MESSAGES if part in message]
    assert len(MESSAGES) > 20 and sorted(provoked) == sorted(MESSAGES) and len(parts) == len(MESSAGES)


def test_each_message_has_what_happened_and_what_to_do():
    titles = re.findall("^### .*$", PAGE, re.MULTILINE)
    assert len(titles) == len(MESSAGES), "a title is not a code span"
    for section in re.split("^##+ ", PAGE, flags=re.MULTILINE)[1:]:
        title, *paragraphs = section.strip().split("\n\n")
        if title.startswith("`"):
            assert paragraphs[1].startswith("**Fix:** ") and section.count("**Fix:**") == 1, title


@pytest.mark.parametrize("page", [
    *("README.md", "WORKSHOP.md", "CONTRIBUTING.md", "workbench/README.md"),
    *(str(path.relative_to(CHECKOUT)) for kind in ("book/*.md", "projects/*/*.md") for path in CHECKOUT.glob(kind)),
])  # fmt: skip
def test_the_commands_on_a_page_exist(page):
    text = (CHECKOUT / page).read_text(encoding="utf-8")
    text = re.sub("^#.*$", "", text, flags=re.MULTILINE)  # titles may be messages, and tell of commands that do not
    code = "\n".join(code for _, code in re.findall(r"(`+)(.+?)\1", text, re.DOTALL))
    makefile = (CHECKOUT / "Makefile").read_text(encoding="utf-8")
    assert set(re.findall(r"\bcourse ([a-z]+)", code)) <= set(main.commands)
    assert set(re.findall(r"\bmake ([a-z-]+)", code)) <= set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
