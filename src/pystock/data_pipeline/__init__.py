"""The data pipeline: raw prices, checked staging rows with a quarantine, and a table of features with a manifest each.

`load_raw`, `check` and `make_features` are its steps; projects/pystock-data-features calls them through `tracking`.
`contract` says what a good row is, `stages` keeps tables on disk, `profile` describes one on a page.
"""

from pystock.data_pipeline import contract, profile, stages
from pystock.data_pipeline.steps import END, LOOK_BACK, StepResult, TooManyBad, check, load_raw, make_features
from pystock.pipeline import PipelineError

__all__ = ["END", "LOOK_BACK", "PipelineError", "StepResult", "TooManyBad"]
__all__ += ["check", "contract", "load_raw", "make_features", "profile", "stages"]
