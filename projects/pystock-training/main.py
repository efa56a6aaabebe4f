"""Train a model, score it, and submit it to the registry's gate: three steps, each a child run of this one."""

from arguments import TRAINING, arguments

from pystock import training
from pystock.pipeline import end_step, run

options = arguments(__doc__, *TRAINING, "promote", "force")
promote, force = options.pop("promote"), options["force"]
question = {name: options[name] for name in ("market", "target", "features")}
about = question | {"family": options["family"]}

with run(training.PIPELINE, "main", about, claim=f"{training.PIPELINE} {' '.join(question.values())}") as step:
    with step("train_model"):
        trained = training.train(**options)
    with step("evaluate_model"):
        evaluated = training.evaluate(trained.model, force=force)
    with step("register_model"):
        registered = training.register(trained.model, promote=promote, force=force)
    steps = (trained, evaluated, registered)
    done = [each.step for each in steps if each.outcome == "done"]
    said = f"done: {', '.join(done)}" if done else "all three steps were skipped, because nothing has changed"
    end_step("done" if done else "skipped", said, model=trained.model)
