"""schemathesis sends the inference API what its OpenAPI document allows, and what it does not."""

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, seed, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

pytestmark = pytest.mark.xdist_group("api")
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


@pytest.fixture(scope="module")
def document(service):
    return schemathesis.openapi.from_url(f"{service.url}/openapi.json")


schema = schemathesis.pytest.from_fixture("document")


def examples(number: int):
    """Decorate a test: so many examples for each operation, the same each time."""
    phases, health = [Phase.explicit, Phase.generate], list(HealthCheck)
    chosen = settings(max_examples=number, deadline=None, database=None, phases=phases, suppress_health_check=health)
    return lambda test: seed(9)(chosen(test))


@schema.parametrize()
@examples(25)
def test_no_generated_request_makes_the_service_fail(case):
    case.call_and_validate(checks=CHECKS)


@pytest.mark.slow
@schema.parametrize()
@examples(500)
def test_no_generated_request_of_many_makes_the_service_fail(case):
    case.call_and_validate(checks=CHECKS)
