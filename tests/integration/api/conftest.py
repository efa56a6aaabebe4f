"""The fixtures of the inference API's processes."""

import pytest
from api_service import Service, registered_versions


@pytest.fixture(scope="module")
def versions(tmp_path_factory, empty_store):
    yield from registered_versions(tmp_path_factory.mktemp("champions") / "store", empty_store)


@pytest.fixture(scope="module")
def service(versions, tmp_path_factory):
    """The service on the store of `versions`, one worker; its champion is `forest`."""
    with Service(versions.uri, tmp_path_factory.mktemp("cache")) as started:
        yield started
