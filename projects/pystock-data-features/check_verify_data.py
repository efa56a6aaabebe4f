"""Check the stage raw against the contract: good rows go to the stage staging, bad ones to quarantine."""

from parameters import about, parse

from pystock import pipeline
from pystock.data_pipeline import tracking


def main() -> None:
    options = parse(__doc__, "market", "exchange", "stages", "force")
    with pipeline.run(tracking.PIPELINE, "check_verify_data", about(options), claim=tracking.claim(options.stages)):
        tracking.check_verify_data(tracking.markets(options), options.stages, options.exchange, options.force)


if __name__ == "__main__":
    main()
