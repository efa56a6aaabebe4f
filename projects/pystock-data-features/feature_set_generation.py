"""Make the training table, features and outcomes, from the stage staging."""

from parameters import about, parse

from pystock import pipeline
from pystock.data_pipeline import tracking


def main() -> None:
    options = parse(__doc__, "market", "target", "features", "end", "stages", "force")
    with pipeline.run(
        tracking.PIPELINE, "feature_set_generation", about(options), claim=tracking.claim(options.stages)
    ) as step:
        tracking.generate(step, tracking.markets(options), options)


if __name__ == "__main__":
    main()
