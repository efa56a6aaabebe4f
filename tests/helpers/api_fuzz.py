"""Send the inference API what its OpenAPI document allows, and what it does not, by schemathesis."""

import schemathesis
from hypothesis import HealthCheck, Phase, seed, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


def fuzz(case) -> None:
    """Send one generated request; fails where the answer is a 5xx, or not what the document says."""
    case.call_and_validate(checks=CHECKS)


def of(examples: int):
    """Decorate a schemathesis test: so many examples for each operation, the same each time."""
    phases = [Phase.explicit, Phase.generate]
    health = list(HealthCheck)
    return lambda test: seed(9)(
        settings(max_examples=examples, deadline=None, database=None, phases=phases, suppress_health_check=health)(test)
    )


def document_of(service):
    return schemathesis.openapi.from_url(f"{service.url}/openapi.json")
