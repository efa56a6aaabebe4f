"""The settings of the model families: their defaults and their allowed values."""

from collections.abc import Mapping
from typing import NamedTuple

from pystock.pipeline import PipelineError

Value = float | int | str


class Setting(NamedTuple):
    """A setting of a family: its default, which also gives the type, and its allowed values: an interval or words."""

    default: Value
    low: float = 0
    high: float = 0
    words: tuple[str, ...] = ()


# The defaults were chosen on the walk-forward folds of the training years of both markets: see the project's README.
SETTINGS = {
    "logistic": {
        "C": Setting(0.1, 1e-6, 1e6),
        "class_weight": Setting("none", words=("none", "balanced")),
        "years": Setting(11.0, 1, 100),
    },
    "xgboost": {
        "learning_rate": Setting(0.07, 1e-4, 1),
        "max_depth": Setting(1, 1, 12),
        "min_child_weight": Setting(5.0, 0, 1e4),
        "n_estimators": Setting(100, 1, 2000),
        "n_jobs": Setting(1, 1, 64),
        "subsample": Setting(0.6, 0.05, 1),
        "years": Setting(11.0, 1, 100),
    },
}


def parse_settings(family: str, given: str | Mapping[str, object] = "") -> dict[str, Value]:
    """Return all settings of a family, the defaults overridden by `given`: a mapping, or text such as `C=0.1,years=5`.

    Raises PipelineError for an unknown family or setting, and for a value of the wrong type or out of range.
    """
    if family not in SETTINGS:
        raise PipelineError(f"There is no model family {family!r}: choose one of {', '.join(SETTINGS)}.")
    known = SETTINGS[family]
    settings = {name: setting.default for name, setting in known.items()}
    pairs = [f"{name}={value}" for name, value in given.items()] if isinstance(given, Mapping) else given.split(",")
    for pair in filter(None, map(str.strip, pairs)):
        name, equals, text = map(str.strip, pair.partition("="))
        if not equals:
            raise PipelineError(f"The setting {pair!r} has no value: write it as max_depth=2,years=5.")
        if name not in known:
            raise PipelineError(f"{family} has no setting {name!r}: its settings are {', '.join(known)}.")
        settings[name] = _typed(name, known[name], text)
    return settings


def _typed(name: str, setting: Setting, text: str) -> Value:
    if setting.words:
        if text not in setting.words:
            raise PipelineError(f"The setting {name} is {text!r}: choose one of {', '.join(setting.words)}.")
        return text
    kind: type[int] | type[float] = int if isinstance(setting.default, int) else float
    try:
        value = kind(text)
    except ValueError:
        number = "whole number" if kind is int else "number"
        raise PipelineError(f"The setting {name} is {text!r}: give a {number}.") from None
    if not setting.low <= value <= setting.high:  # NaN fails here, too
        raise PipelineError(f"The setting {name} is {text}: give a value from {setting.low:g} to {setting.high:g}.")
    return value
