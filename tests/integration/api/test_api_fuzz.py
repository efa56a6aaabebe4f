"""schemathesis sends the inference API what its OpenAPI document allows, and what it does not: 25 an operation."""

import pytest
import schemathesis
from api_fuzz import document_of, fuzz, of
from api_service import QUIET_MODELS

pytestmark = [*QUIET_MODELS, pytest.mark.xdist_group("api")]


@pytest.fixture(scope="module")
def document(service):
    return document_of(service)


schema = schemathesis.pytest.from_fixture("document")


@schema.parametrize()
@of(examples=25)
def test_no_generated_request_makes_the_service_fail(case):
    fuzz(case)
