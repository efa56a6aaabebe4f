"""Register a model as a version, and let the gate decide about it."""

from arguments import arguments

from pystock import training
from pystock.pipeline import run

options = arguments(__doc__, "model", "promote", "force")

with run(training.PIPELINE, "register_model", {"model": options["model"]}):
    training.register(**options)
