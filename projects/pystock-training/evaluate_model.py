"""Score a model on its held-out days, and log scores and predictions."""

from arguments import arguments

from pystock import training
from pystock.pipeline import run

options = arguments(__doc__, "model", "force")

with run(training.PIPELINE, "evaluate_model", {"model": options["model"]}):
    training.evaluate(**options)
