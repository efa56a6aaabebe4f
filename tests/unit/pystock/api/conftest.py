"""The application of the inference API in this process, with a model that needs no registry."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from unittest.mock import patch

import numpy as np
import pytest
from fastapi.testclient import TestClient

from pystock.api.app import create_app
from pystock.api.model import ServedModel, Watcher
from pystock.api.settings import Settings

DESCRIPTION = {"alias": "champion", "model_id": "m-1", "run_id": "r-1", "from": "registry", "threshold": 0.25}
DESCRIPTION |= {"loaded_at": "2026-01-01T00:00:00+00:00", "signature": {}, "metrics": {}, "tags": {}}
DESCRIPTION |= {"name": "pystock-big-move", "version": 3}


def abs_return_as_probability(numbers: np.ndarray) -> np.ndarray:
    """The model: its answers are known beforehand."""
    return numbers[:, 0]


@pytest.fixture(scope="module")
def make_client() -> Iterator[Callable[..., TestClient]]:
    """Make a client of an application with these settings; `probability=None` is one without a model."""
    with ExitStack() as clients:

        def make(probability: Callable | None = abs_return_as_probability, **settings) -> TestClient:
            served = probability and ServedModel("pystock-big-move", 3, 0.25, "registry", probability, DESCRIPTION)

            class Fixed(Watcher):
                def look(self) -> None:
                    self.served = served

            with patch("pystock.api.app.Watcher", Fixed):
                app = create_app(Settings(**settings))
            return clients.enter_context(TestClient(app))

        yield make


@pytest.fixture(scope="module")
def client(make_client) -> TestClient:
    """A client with the default settings."""
    return make_client()


@pytest.fixture(scope="module")
def small(make_client) -> TestClient:
    """A client of an application with low limits."""
    return make_client(max_body_bytes=30_000, max_rows=67, max_concurrent=2, timeout_seconds=0.3)


@pytest.fixture
def metric(client) -> Callable[[str], float]:
    """The sum of the metrics whose lines begin with a text."""

    def read(name: str) -> float:
        lines = [line for line in client.get("/metrics").text.splitlines() if line.startswith(name)]
        return sum(float(line.rpartition(" ")[2]) for line in lines)

    return read
