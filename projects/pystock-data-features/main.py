"""Run all steps of the data pipeline in order: prices as they come, checked prices, a table for a question."""

from parameters import about, parse

from pystock import data_runs, pipeline


def main():
    options = parse(__doc__, "market", "source", "target", "features", "end", "exchange", "stages", "force")
    with pipeline.run(data_runs.PIPELINE, "main", about(options), claim=data_runs.claim(options.stages)) as step:
        data_runs.run_steps(step, data_runs.markets(options), options)


if __name__ == "__main__":
    main()
