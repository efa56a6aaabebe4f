"""The settings of the families, and the parameters of the scripts: each wrong one in a sentence."""

import runpy
import sys

import pytest
from training_runs import PROJECTS

from pystock import training
from pystock.pipeline import PipelineError


def test_settings_are_the_defaults_with_what_is_given():
    defaults = {name: setting.default for name, setting in training.SETTINGS["xgboost"].items()}
    given = training.parse_settings("xgboost", "max_depth=3, years=5")
    assert given == defaults | {"max_depth": 3, "years": 5.0}
    assert training.parse_settings("logistic", {"class_weight": "balanced"})["class_weight"] == "balanced"


@pytest.mark.parametrize(("family", "settings", "said"), [
    ("forest", "", "There is no model family 'forest': choose one of logistic, xgboost."),
    ("xgboost", "max_depth=2.5", "The setting max_depth is '2.5': give a whole number."),
    ("xgboost", "subsample=half", "The setting subsample is 'half': give a number."),
    ("xgboost", "subsample=nan", "The setting subsample is nan: give a value from 0.05 to 1."),
    ("logistic", "C=0", "The setting C is 0: give a value from 1e-06 to 1e+06."),
    ("logistic", "class_weight=fair", "The setting class_weight is 'fair': choose one of none, balanced."),
])  # fmt: skip
def test_a_wrong_setting_is_named(family, settings, said):
    with pytest.raises(PipelineError) as error:
        training.parse_settings(family, settings)
    assert str(error.value) == said


@pytest.mark.parametrize(("arguments", "said"), [
    (["main.py", "--family", "forest"], "argument --family: invalid choice: 'forest' (choose from"),
    (["train_model.py", "--seed", "-1"], "argument --seed: "),
    (["train_model.py", "--settings", "C=1"], "argument --settings: xgboost has no setting 'C': its settings are"),
    (["train_model.py", "--test_end", "2001-01-01"], "argument --test_end: 2001-01-01 is not after train_end"),
    (["evaluate_model.py"], "the following arguments are required: --model"),
    (["register_model.py", "--model", "m-1", "--promote", "maybe"], "argument --promote: invalid choice: 'maybe'"),
], ids=lambda value: "-".join(value[:2]) if isinstance(value, list) else "")  # fmt: skip
def test_a_wrong_parameter_is_named(monkeypatch, capsys, arguments, said):
    monkeypatch.setattr(sys, "argv", arguments)
    monkeypatch.syspath_prepend(PROJECTS / "pystock-training")
    monkeypatch.delitem(sys.modules, "arguments", raising=False)
    with pytest.raises(SystemExit, match="2"):
        runpy.run_path(str(PROJECTS / "pystock-training" / arguments[0]))
    assert said in capsys.readouterr().err.splitlines()[-1]
    monkeypatch.delitem(sys.modules, "arguments", raising=False)
