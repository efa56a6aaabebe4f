"""Promote a registered version, if it passes the gate on its held-out days."""

from arguments import arguments

from pystock import training
from pystock.pipeline import PipelineError, run
from pystock.registry import RegistryError

options = arguments(__doc__, "name", "version", "why")

with run(training.PIPELINE, "promote", {"registered_model": options["name"]}):
    try:
        print(training.promote_version(**options))
    except RegistryError as error:
        raise PipelineError(str(error)) from error
