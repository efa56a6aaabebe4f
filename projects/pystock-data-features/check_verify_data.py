"""Check the stage raw against the contract: good rows go to the stage staging, bad ones to quarantine."""

from parameters import about, parse

from pystock import data_runs, pipeline


def main():
    options = parse(__doc__, "market", "exchange", "stages", "force")
    with pipeline.run(data_runs.PIPELINE, "check_verify_data", about(options), claim=data_runs.claim(options.stages)):
        data_runs.check_verify_data(data_runs.markets(options), options.stages, options.exchange, options.force)


if __name__ == "__main__":
    main()
