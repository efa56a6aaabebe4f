"""Fit a model on the rows of a data run, and log it as a decision model."""

from arguments import TRAINING, arguments

from pystock import training
from pystock.pipeline import run

options = arguments(__doc__, *TRAINING, "force")

with run(training.PIPELINE, "train_model", {"market": options["market"]}):
    training.train(**options)
