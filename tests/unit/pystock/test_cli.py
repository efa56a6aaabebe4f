"""The types of the projects' parameters, and what is said of wrong ones."""

import sys
from functools import partial

import pytest

from pystock import cli

PARAMETERS = {
    "day": {"type": cli.day, "default": "2014-12-31"},
    "end": {"type": partial(cli.day, optional=True), "default": ""},
    "share": {"type": cli.probability, "default": 0.25},
    "rows": {"type": partial(cli.whole_number, least=1), "default": 5},
    "model": {"type": cli.word, "default": "m-1"},
    "input": {"type": cli.path, "default": "a b.csv"},
    "force": cli.yes_no("no", "again"),
    "target": cli.TARGET,
}


def parse(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["main.py", *arguments])
    return cli.parse("Do it.", PARAMETERS)


def test_values_have_their_types(monkeypatch):
    assert list(parse(monkeypatch).values()) == ["2014-12-31", "", 0.25, 5, "m-1", "a b.csv", False, "big_move"]
    values = parse(monkeypatch, "--end", "2015-01-02", "--share", "1", "--rows", "7", "--force")
    assert (values["end"], values["share"], values["rows"], values["force"]) == ("2015-01-02", 1.0, 7, True)
    assert parse(monkeypatch, "--force", "yes")["force"] and not parse(monkeypatch, "--force", "no")["force"]


@pytest.mark.parametrize(("name", "text", "message"), [
    ("day", "20141231", "'20141231' is not a date: write it as 2014-12-31"),
    ("day", "", "'' is not a date"),
    ("end", "2014-02-30", "'2014-02-30' is not a date: write it as 2014-12-31, or leave it empty"),
    ("share", "nan", "'nan' is not a probability: give a number from 0 to 1"),
    ("rows", "0", "'0' is not a whole number from 1 to 999999999"),
    ("rows", "1e3", "'1e3' is not a whole number"),
    ("model", "a/b", "'a/b' is not a name"),
    ("input", " ", "the path is empty: give the path of a file or a folder"),
    ("force", "perhaps", "invalid choice: 'perhaps' (choose from yes, no)"),
])  # fmt: skip
def test_a_wrong_value_is_one_line_and_code_2(monkeypatch, capsys, name, text, message):
    with pytest.raises(SystemExit) as ended:
        parse(monkeypatch, f"--{name}", text)
    assert ended.value.code == 2 and f"argument --{name}: {message}" in capsys.readouterr().err.splitlines()[-1]
