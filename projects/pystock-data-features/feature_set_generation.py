"""Make the table of a question, features and outcomes, from the stage staging."""

from parameters import about, parse

from pystock import data_runs, pipeline


def main():
    options = parse(__doc__, "market", "target", "features", "end", "stages", "force")
    with pipeline.run(data_runs.PIPELINE, "feature_set_generation", about(options)) as step:
        markets = data_runs.markets(options)
        if len(markets) == 1:
            data_runs.feature_set_generation(
                markets[0], options.stages, options.target, options.features, options.end, options.force
            )
        else:
            data_runs.generate(step, markets, options)


if __name__ == "__main__":
    main()
