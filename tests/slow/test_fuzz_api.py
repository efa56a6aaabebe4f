"""schemathesis sends the inference API what its OpenAPI document allows, and what it does not: 500 an operation."""

import pytest
import schemathesis
from api_fuzz import document_of, fuzz, of
from api_service import QUIET_MODELS, Service, registered_versions

pytestmark = [*QUIET_MODELS, pytest.mark.xdist_group("api")]


@pytest.fixture(scope="module")
def document(tmp_path_factory, empty_store):
    for versions in registered_versions(tmp_path_factory.mktemp("champions") / "store", empty_store):
        with Service(versions.uri, tmp_path_factory.mktemp("cache")) as service:
            yield document_of(service)


schema = schemathesis.pytest.from_fixture("document")


@schema.parametrize()
@of(examples=500)
def test_no_generated_request_of_many_makes_the_service_fail(case):
    fuzz(case)
