"""Requests that the gateway's description allows, and requests that it does not: schemathesis makes both.

No worker runs: what is submitted stays in the queue.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import checks
from schemathesis.core.result import Ok
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.schemas import OpenApiSchema

import dspex
from dspex.client.client import Client
from dspex.embedded.embedded_servers import EmbeddedServers
from tests.conftest import fresh_backends
from tests.serving import Served, serving

PROGRAM = dspex.Program(
    "triage",
    dspex.signature(':string(max_length=80) ticket, :integer(min=1, max=10) words = 5 -> :enum("a", "b") queue'),
    adapter="scripted",
)
#: Requests of each kind for each operation.
EXAMPLES = 2
CHECKS = (
    checks.not_a_server_error, checks.status_code_conformance, checks.content_type_conformance,
    checks.response_headers_conformance, checks.response_schema_conformance,
)  # fmt: skip


@pytest.fixture(scope="module")
def served(servers: EmbeddedServers) -> Iterator[Served]:
    with fresh_backends(servers) as backends:
        with Client(database_url=backends.database_url, broker_url=backends.broker_url) as client:
            client.deploy(PROGRAM)
        with serving(backends, serve_max_wait_seconds=0.01) as running:
            yield running


@pytest.fixture(scope="module")
def described(served: Served) -> OpenApiSchema:
    return schemathesis.openapi.from_url(f"{served.url}/openapi.json")


@pytest.mark.parametrize("mode", list(GenerationMode), ids=str)
def test_every_response_is_documented(described: OpenApiSchema, mode: GenerationMode) -> None:
    for found in described.get_all_operations():
        assert isinstance(found, Ok)
        operation = found.ok()

        @settings(
            max_examples=EXAMPLES, deadline=None, database=None, derandomize=True, phases=(Phase.generate,),
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(case=operation.as_strategy(generation_mode=mode))
        def one(case: schemathesis.Case[Any]) -> None:
            response = case.call(timeout=120)
            case.validate_response(response, checks=list(CHECKS))

        one()
