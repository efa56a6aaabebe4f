"""Run all steps of the data pipeline in order: raw prices, checked prices, a table of features and outcomes."""

from parameters import about, parse

from pystock import pipeline
from pystock.data_pipeline import tracking


def main() -> None:
    options = parse(__doc__, "market", "source", "target", "features", "end", "exchange", "stages", "force")
    with pipeline.run(tracking.PIPELINE, "main", about(options), claim=tracking.claim(options.stages)) as step:
        tracking.run_steps(step, tracking.markets(options), options)


if __name__ == "__main__":
    main()
