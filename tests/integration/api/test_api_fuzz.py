"""schemathesis sends the inference API what its OpenAPI document allows, and what it does not."""

import pytest
import schemathesis
from api_service import QUIET_MODELS
from hypothesis import HealthCheck, Phase, seed, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

pytestmark = [*QUIET_MODELS, pytest.mark.xdist_group("api")]
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
PHASES = [Phase.explicit, Phase.generate]


@pytest.fixture(scope="module")
def document(service):
    return schemathesis.openapi.from_url(f"{service.url}/openapi.json")


schema = schemathesis.pytest.from_fixture("document")


@schema.parametrize()
@seed(9)
@settings(max_examples=500, deadline=None, database=None, phases=PHASES, suppress_health_check=list(HealthCheck))
def test_no_generated_request_makes_the_service_fail(case):
    case.call_and_validate(checks=CHECKS)
