"""The command lines of the projects. MLflow passes parameters as text and does not check types, so this module does.

A parameter is the keyword arguments of `argparse.ArgumentParser.add_argument`, under its name.
"""

import argparse
import re
from argparse import ArgumentTypeError
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import date
from typing import Any

from pystock.features import FEATURES, TARGETS


def day(text: str, optional: bool = False) -> str:
    """Return a date that is written as YYYY-MM-DD; an `optional` one may be empty."""
    with suppress(ValueError):
        if (optional and not text) or date.fromisoformat(text).isoformat() == text:
            return text
    raise ArgumentTypeError(f"{text!r} is not a date: write it as 2014-12-31" + ", or leave it empty" * optional)


def probability(text: str) -> float:
    """Return a number from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1
    if not 0 <= value <= 1:
        raise ArgumentTypeError(f"{text!r} is not a probability: give a number from 0 to 1")
    return value


def whole_number(text: str, least: int = 0) -> int:
    """Return a whole number from `least` to 999999999."""
    if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) < least:
        raise ArgumentTypeError(f"{text!r} is not a whole number from {least} to 999999999")
    return int(text)


def word(text: str) -> str:
    """Return a name of letters, digits, dots, hyphens and underscores."""
    if not re.fullmatch(r"[A-Za-z0-9_.-]+", text):
        raise ArgumentTypeError(f"{text!r} is not a name: use letters, digits, dots, - and _")
    return text


def path(text: str) -> str:
    """Return the path of a file or a folder."""
    if not text.strip():
        raise ArgumentTypeError("the path is empty: give the path of a file or a folder")
    return text


def yes_no(default: str, help: str) -> dict[str, Any]:
    """Return a parameter whose value is True for `yes` or its name alone, and False for `no`."""

    def is_yes(text: str) -> bool:
        if text not in ("yes", "no"):
            raise ArgumentTypeError(f"invalid choice: {text!r} (choose from yes, no)")
        return text == "yes"

    return {"type": is_yes, "default": default, "nargs": "?", "const": True, "help": help}


TARGET: dict[str, Any] = {"choices": sorted(TARGETS), "default": "big_move"}
FEATURE_SET: dict[str, Any] = {"choices": sorted(FEATURES), "default": "volatility"}


def parse(
    description: str | None,
    parameters: Mapping[str, Mapping[str, Any]],
    check: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Return the parameters on the command line by name; a wrong one ends the script with one line and exit code 2.

    `check` may raise a ValueError about values that do not fit together.
    """
    parser = argparse.ArgumentParser(description=description, allow_abbrev=False)
    for name, options in parameters.items():
        parser.add_argument(f"--{name}", **options)
    values = vars(parser.parse_args())
    try:
        if check:
            check(values)
    except ValueError as error:
        parser.error(str(error))
    return values
