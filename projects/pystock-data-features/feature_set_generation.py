"""Make the table of a question, features and outcomes, from the stage staging."""

from parameters import about, parse

from pystock import data_runs, pipeline


def main():
    options = parse(__doc__, "market", "target", "features", "end", "stages", "force")
    with pipeline.run(
        data_runs.PIPELINE, "feature_set_generation", about(options), claim=data_runs.claim(options.stages)
    ) as step:
        data_runs.generate(step, data_runs.markets(options), options)


if __name__ == "__main__":
    main()
