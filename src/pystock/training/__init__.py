"""The training pipeline: fit a model on the rows of a data run, score it, and submit it to the registry's gate.

`train`, `evaluate` and `register` each work inside an active MLflow run; projects/pystock-training calls them.
"""

from pystock.evaluation import NINE, nine_metrics
from pystock.pipeline import PipelineError
from pystock.training.settings import SETTINGS, Setting, parse_settings
from pystock.training.steps import PIPELINE, THRESHOLD, StepResult, evaluate, promote_version, register, train
from pystock.training.table import DATA_PIPELINE, newest_data_run, table

__all__ = ["DATA_PIPELINE", "NINE", "PIPELINE", "SETTINGS", "THRESHOLD", "PipelineError", "Setting", "StepResult"]
__all__ += ["evaluate", "newest_data_run", "nine_metrics", "parse_settings", "promote_version", "register"]
__all__ += ["table", "train"]
