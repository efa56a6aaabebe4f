"""The training pipeline: fit a model on the rows of a data run, score it, and bring it to the registry's gate.

`train`, `evaluate` and `register` each work inside an active MLflow run; projects/pystock-training calls them.
"""

from pystock.training.steps import (
    DATA_PIPELINE,
    NINE,
    PIPELINE,
    SETTINGS,
    THRESHOLD,
    PipelineError,
    Result,
    Setting,
    evaluate,
    newest_data_run,
    nine_metrics,
    parse_settings,
    register,
    table,
    train,
)

__all__ = [
    "DATA_PIPELINE",
    "NINE",
    "PIPELINE",
    "SETTINGS",
    "THRESHOLD",
    "PipelineError",
    "Result",
    "Setting",
    "evaluate",
    "newest_data_run",
    "nine_metrics",
    "parse_settings",
    "register",
    "table",
    "train",
]
