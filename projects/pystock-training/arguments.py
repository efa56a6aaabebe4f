"""The parameters of the entry points."""

from typing import Any

from pystock import cli
from pystock.evaluation import TEST_END, TRAIN_END
from pystock.training import SETTINGS, THRESHOLD, PipelineError, parse_settings

PARAMETERS: dict[str, dict[str, Any]] = {
    "market": {"type": cli.word, "default": "sp500", "help": "sp500, nasdaq, or the market of a data run"},
    "target": cli.TARGET,
    "features": cli.FEATURE_SET,
    "data": {"type": cli.word, "default": "newest", "help": "newest, embedded, or the id of a data run"},
    "family": {"choices": list(SETTINGS), "default": "xgboost"},
    "settings": {"default": "", "help": "override the family's defaults: max_depth=2,years=5"},
    "threshold": {"type": cli.probability, "default": THRESHOLD, "help": "above it the decision is 1"},
    "seed": {"type": cli.whole_number, "default": 0},
    "train_end": {"type": cli.day, "default": TRAIN_END, "help": "last training day"},
    "test_end": {"type": cli.day, "default": TEST_END, "help": "last held-out day"},
    "model": {"type": cli.word, "required": True, "help": "the id of a model that train_model made"},
    "promote": cli.yes_no("yes", "no: a version that passes the gate is approved, and not promoted"),
    "name": {"type": cli.word, "required": True, "help": "the name of a registered model"},
    "version": {"type": cli.whole_number, "required": True, "help": "the number of its version"},
    "why": {"required": True, "help": "the reason, for the history"},
    "force": cli.yes_no("no", "run all steps, even if nothing has changed"),
}
TRAINING = ("market", "target", "features", "data", "family", "settings", "threshold", "seed", "train_end", "test_end")


def arguments(description: str, *names: str) -> dict[str, Any]:
    """Return the named parameters; a wrong one ends the script with one line and exit code 2."""
    return cli.parse(description, {name: PARAMETERS[name] for name in names}, check)


def check(values: dict[str, Any]) -> None:
    if "family" not in values:
        return
    try:
        parse_settings(values["family"], values["settings"])
    except PipelineError as error:
        raise ValueError(f"argument --settings: {error}") from None
    if values["test_end"] <= values["train_end"]:
        raise ValueError(f"argument --test_end: {values['test_end']} is not after train_end, {values['train_end']}")
