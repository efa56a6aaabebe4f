"""Copy prices from their source to the stage raw, unchanged."""

from parameters import about, parse

from pystock import pipeline
from pystock.data_pipeline import tracking


def main() -> None:
    options = parse(__doc__, "market", "source", "stages", "force")
    with pipeline.run(tracking.PIPELINE, "load_raw_data", about(options), claim=tracking.claim(options.stages)):
        tracking.load_raw_data(tracking.markets(options), options.stages, options.source, options.force)


if __name__ == "__main__":
    main()
