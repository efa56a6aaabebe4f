"""How the figures of `make bench` are written down."""

import statistics


def summary(values: list[float], digits: int = 2) -> dict:
    """Median and extremes of several runs, rounded; the machine is noisy, so one number would say little."""
    figures = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return {name: round(value, digits) for name, value in figures.items()}
