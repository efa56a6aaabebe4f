"""The parameters that the entry points share. MLflow passes text on and checks no type, so this does."""

import argparse
import os
from datetime import date

from pystock.data_pipeline import END
from pystock.features import FEATURES, TARGETS


def day(text: str) -> str:
    """A date as YYYY-MM-DD, or nothing for no end."""
    if text:
        try:
            date.fromisoformat(text)
        except ValueError:
            raise argparse.ArgumentTypeError(
                f"{text!r} is no date: write it as 2014-12-31, or leave it empty"
            ) from None
    return text


def folder(text: str) -> str:
    return os.path.abspath(text or os.environ.get("PYSTOCK_STAGES") or "stages")


def source(text: str) -> str:
    return text if text == "embedded" or text.startswith("yahoo:") else os.path.abspath(text)


PARAMETERS = {
    "market": {"default": "sp500", "help": "a name, several with commas, or all (of the source)"},
    "source": {
        "default": "embedded",
        "type": source,
        "help": "embedded, a CSV file, a folder with MARKET.csv, or yahoo:TICKER",
    },
    "target": {"default": "big_move", "choices": sorted(TARGETS)},
    "features": {"default": "volatility", "choices": sorted(FEATURES)},
    "end": {"default": END, "type": day, "help": "last day that the table may know; empty: all"},
    "exchange": {"default": "XNYS", "help": "a calendar of exchange_calendars, 24/7 for coins"},
    "stages": {"default": "", "type": folder, "help": "folder of the stages; else $PYSTOCK_STAGES, else ./stages"},
    "force": {"default": "no", "const": "yes", "nargs": "?", "choices": ["yes", "no"], "help": "do it all the same"},
}


def parse(description: str, *names: str) -> argparse.Namespace:
    """The values of these parameters from the command line; an error is one line that names the parameter."""
    parser = argparse.ArgumentParser(description=description, allow_abbrev=False)
    for name in names:
        parser.add_argument(f"--{name}", **PARAMETERS[name])
    options = parser.parse_args()
    if "force" in options:
        options.force = options.force == "yes"
    return options


def about(options: argparse.Namespace) -> dict[str, str]:
    """The tags that a run and its steps share."""
    return {name: getattr(options, name) for name in ("market", "target", "features", "end") if name in options}
