"""The Prometheus metrics of the inference API, over all of its workers."""

import os
from collections.abc import Sequence
from pathlib import Path

import psutil
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, generate_latest, multiprocess

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)
_TENTHS = [number / 10 for number in range(1, 11)]
_OBSERVED = 100  # rows of a request that the histogram counts: each costs two microseconds

REQUESTS = Counter("pystock_api_requests", "Requests handled.", ["path", "status"])
SECONDS = Histogram("pystock_api_request_seconds", "Time from headers to response.", ["path"], buckets=_SECONDS)
ROWS = Counter("pystock_api_rows", "Predictions made.")
PROBABILITY = Histogram("pystock_api_probability", f"First {_OBSERVED} probabilities of a request.", buckets=_TENTHS)
IN_PROGRESS = Gauge("pystock_api_in_progress", "Requests in progress.", multiprocess_mode="livesum")
REJECTED = Counter("pystock_api_rejected", "Requests that were rejected.", ["reason"])
VERSION = Gauge("pystock_api_model_version", "Served version; 0: none.", multiprocess_mode="livemin")
SWITCHES = Counter("pystock_api_switches", "Changes to another version, in each worker.")
REFUSED_VERSIONS = Counter("pystock_api_refused_versions", "Versions that failed the check, in each worker.")
SERVER_UP = Gauge("pystock_api_tracking_server_up", "Whether the tracking server is up.", multiprocess_mode="livemin")
FROM_CACHE = Gauge("pystock_api_model_from_cache", "Whether the model is the cached one.", multiprocess_mode="livemax")


def count_predictions(probabilities: Sequence[float]) -> None:
    """Count the rows of a request, and observe the first of them in the histogram."""
    ROWS.inc(len(probabilities))
    for probability in probabilities[:_OBSERVED]:
        PROBABILITY.observe(probability)


def metrics_text() -> bytes:
    """Return all metrics in Prometheus' text format; with several workers, those of all of them."""
    registry = REGISTRY
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(registry)
    return generate_latest(registry)


def forget_dead_workers() -> None:
    """Remove the gauges of workers that died, which would otherwise count with those of the living ones."""
    if folder := os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
        for path in Path(folder).glob("gauge_live*_*.db"):
            pid = int(path.stem.rpartition("_")[2])
            if not psutil.pid_exists(pid):
                multiprocess.mark_process_dead(pid)
