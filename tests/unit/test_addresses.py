"""Addresses that programs name: those that lead nowhere are refused with the right form."""

from __future__ import annotations

import pytest

import dspex
from dspex.program.addresses import address_fault


@pytest.mark.parametrize(
    "address",
    [
        "http://localhost:8000",
        "http://localhost:8000/v1",
        "http://localhost:8000/v1/",
        "https://host/v1?api-version=2024-10-21",
        "http://[::1]:11434/v1",
        "HTTP://host/v1",
        "https://x.services.ai.azure.com/models",
        "https://x.openai.azure.com/openai/deployments/chat?api-version=1",
        "https://gateway/messages/v1",
    ],
)
def test_addresses_of_apis(address: str) -> None:
    assert address_fault(address) is None


@pytest.mark.case("http-12-full-endpoint-as-api-base")
@pytest.mark.parametrize(
    ("address", "right"),
    [
        ("http://h:1/v1/chat/completions", "http://h:1/v1"),
        ("http://h:1/v1/chat/completions/", "http://h:1/v1"),
        ("http://h:1/v1/completions", "http://h:1/v1"),
        ("http://h:1/v1/responses", "http://h:1/v1"),
        ("http://h:1/v1/models", "http://h:1/v1"),
        ("http://h:1/api/chat", "http://h:1/v1"),
        ("https://host/v1/messages", "https://host/v1"),
        ("https://host/v1beta/models/gemini-2.5-flash:generateContent", "https://host/v1beta"),
        (
            "https://x.openai.azure.com/openai/deployments/d/chat/completions?api-version=1",
            "https://x.openai.azure.com/openai/deployments/d?api-version=1",
        ),
        ("http://h:1/v1#frag", "http://h:1/v1"),
        ("http://h:1/v1#", "http://h:1/v1"),
    ],
)
def test_a_path_of_a_request_or_a_fragment_is_refused_with_the_right_form(address: str, right: str) -> None:
    fault = address_fault(address)
    assert fault is not None
    assert fault.expected.endswith(f": {right}")
    assert address_fault(right) is None
    with pytest.raises(dspex.ValidationError, match="api_base"):
        dspex.Program("qa", dspex.signature(":string question -> :string answer"), model="openai/m", api_base=address)


@pytest.mark.parametrize(
    "address",
    [
        *(
            "",
            "host/v1",
            "http://",
            "http:///v1",
            "http://h:99999/v1",
            "http://h:0/v1",
            "http://h:x/v1",
            "http://[::1/v1",
        ),
        *("http://h/v1 ", " http://h/v1", "http://h/v1\n", "http://h/v1 \n", "http://h/a b", "ftp://h/v1", 7),
    ],
)
def test_what_is_no_address_is_refused(address: object) -> None:
    assert address_fault(address) is not None
