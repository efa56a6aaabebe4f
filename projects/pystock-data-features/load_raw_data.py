"""Take prices from their source into the stage raw, as they stand there."""

from parameters import about, parse

from pystock import data_runs, pipeline


def main():
    options = parse(__doc__, "market", "source", "stages", "force")
    with pipeline.run(data_runs.PIPELINE, "load_raw_data", about(options), claim=data_runs.claim(options.stages)):
        data_runs.load_raw_data(data_runs.markets(options), options.stages, options.source, options.force)


if __name__ == "__main__":
    main()
