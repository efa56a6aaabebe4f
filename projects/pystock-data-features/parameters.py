"""The parameters that the entry points share."""

import os
from argparse import Namespace
from functools import partial
from typing import Any

from pystock import cli
from pystock.data_pipeline import END


def stages(text: str) -> str:
    return os.path.abspath(text or os.environ.get("PYSTOCK_STAGES") or "stages")  # noqa: PTH100 - resolve() would follow links


def source(text: str) -> str:
    if text == "embedded" or text.startswith("yahoo:"):
        return text
    return os.path.abspath(text)  # noqa: PTH100 - resolve() would follow links


SOURCES = "embedded, a CSV file, a folder with MARKET.csv, or yahoo:TICKER"
PARAMETERS: dict[str, dict[str, Any]] = {
    "market": {"default": "sp500", "help": "a name, several with commas, or all markets of the source"},
    "source": {"default": "embedded", "type": source, "help": SOURCES},
    "target": cli.TARGET,
    "features": cli.FEATURE_SET,
    "end": {
        "default": END,
        "type": partial(cli.day, optional=True),
        "help": "last day of the table; empty: all days",
    },
    "exchange": {"default": "XNYS", "help": "a calendar of exchange_calendars, 24/7 for coins"},
    "stages": {"default": "", "type": stages, "help": "folder of the stages; default: $PYSTOCK_STAGES, or ./stages"},
    "force": cli.yes_no("no", "make the stages again, even if they are up to date"),
}


def parse(description: str, *names: str) -> Namespace:
    return Namespace(**cli.parse(description, {name: PARAMETERS[name] for name in names}))


def about(options: Namespace) -> dict[str, str]:
    """Return the tags that a run and its steps share."""
    return {name: getattr(options, name) for name in ("market", "target", "features", "end") if name in options}
