"""The parameters of the entry points. MLflow passes them on as text and checks no type, so this does."""

import argparse
import re
from datetime import date

from pystock.evaluation import TEST_END, TRAIN_END
from pystock.features import FEATURES, TARGETS
from pystock.training import SETTINGS, THRESHOLD, PipelineError, parse_settings

YES_NO = ("yes", "no")


def word(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_.-]+", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no name: use letters, digits, points, - and _")
    return text


def probability(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no probability: give a number from 0 to 1")
    return value


def natural(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0 to 999999999")
    return int(text)


def day(text: str) -> str:
    try:
        if date.fromisoformat(text).isoformat() == text:
            return text
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"{text!r} is no date: write it as 2009-12-31")


PARAMETERS = {
    "market": {"type": word, "default": "sp500", "help": "sp500, nasdaq, or one that a data run knows"},
    "target": {"choices": list(TARGETS), "default": "big_move"},
    "features": {"choices": list(FEATURES), "default": "volatility"},
    "data": {"type": word, "default": "newest", "help": "newest, embedded, or the id of a data run"},
    "family": {"choices": list(SETTINGS), "default": "xgboost"},
    "settings": {"default": "", "help": "over the family's defaults: max_depth=2,years=5"},
    "threshold": {"type": probability, "default": THRESHOLD, "help": "above it the decision is 1"},
    "seed": {"type": natural, "default": 0},
    "train_end": {"type": day, "default": TRAIN_END, "help": "last day to learn from"},
    "test_end": {"type": day, "default": TEST_END, "help": "last held-out day"},
    "model": {"type": word, "required": True, "help": "the id of a model that train_model made"},
    "promote": {"choices": YES_NO, "default": "yes", "help": "no: one that passes the gate stays in Staging"},
    "force": {"choices": YES_NO, "default": "no", "nargs": "?", "const": "yes", "help": "do what is done already"},
}
TRAINING = ("market", "target", "features", "data", "family", "settings", "threshold", "seed", "train_end", "test_end")


def arguments(about: str, *names: str) -> dict:
    """The named parameters by name, yes and no as booleans; a wrong one ends the script with one line and code 2."""
    parser = argparse.ArgumentParser(description=about, allow_abbrev=False)
    for name in names:
        parser.add_argument(f"--{name}", **PARAMETERS[name])
    options = vars(parser.parse_args())
    if "family" in options:
        try:
            parse_settings(options["family"], options["settings"])
        except PipelineError as error:
            parser.error(f"argument --settings: {error}")
        if options["test_end"] <= options["train_end"]:
            parser.error(f"argument --test_end: {options['test_end']} is not after train_end, {options['train_end']}")
    return {name: value == "yes" if name in ("promote", "force") else value for name, value in options.items()}
