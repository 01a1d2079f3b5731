"""Keys for requests over HTTP: stored as hashes, found while in force."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import text

from dspex.client.client import Client
from dspex.errors import ValidationError
from dspex.serve.access.access_keys import AccessKeys
from dspex.store.database import Database


@pytest.fixture
def keys(database: Database) -> AccessKeys:
    return AccessKeys(database)


def test_only_the_hash_of_a_key_is_stored(keys: AccessKeys, database: Database) -> None:
    made, secret = keys.create("shop", scopes=["read", "submit"], programs=["triage"], tenant="acme", per_minute=60)
    assert (made.scopes, made.programs, made.tenant, made.per_minute) == (["submit", "read"], ["triage"], "acme", 60)
    assert keys.find(secret) == made
    assert keys.find(secret + "x") is None
    stored = database.run(
        lambda connection: connection.execute(text("SELECT k::text FROM dspex.api_keys k")).scalar_one()
    )
    assert secret not in stored


def test_a_key_ends_when_it_is_revoked_or_expires(keys: AccessKeys, database: Database) -> None:
    _, secret = keys.create("shop")
    assert keys.revoke("shop")
    assert not keys.revoke("shop")
    assert keys.find(secret) is None
    _, again = keys.create("shop", expires_in=timedelta(days=1))
    assert keys.find(again) is not None
    with database.transaction() as connection:
        connection.execute(text("UPDATE dspex.api_keys SET expires_at = clock_timestamp() WHERE revoked_at IS NULL"))
    assert keys.find(again) is None
    assert [each.name for each in keys.all()] == ["shop", "shop"]


def test_a_name_belongs_to_one_key_in_force(keys: AccessKeys) -> None:
    keys.create("shop")
    with pytest.raises(ValidationError, match="that no key in force has"):
        keys.create("shop")


def test_every_wrong_value_is_named(keys: AccessKeys) -> None:
    with pytest.raises(ValidationError) as found:
        keys.create("a b", scopes=["fly"], programs=[], tenant="", per_minute=0, expires_in=timedelta(0))
    paths = {fault.path for fault in found.value.errors}
    assert paths == {"name", "scopes", "programs", "tenant", "per_minute", "expires_in"}


def test_executions_of_a_tenant_and_pages_of_a_list(client: Client) -> None:
    import dspex

    client.deploy(dspex.Program("qa", dspex.signature("question -> answer"), adapter="scripted"))
    mine = [client.submit("qa", {"question": str(n)}, tenant="acme") for n in range(3)]
    batch = client.submit_many("qa", [{"question": "row"}], tenant="acme")
    client.submit("qa", {"question": "of another"})
    found = client.list(tenant="acme")
    assert {each.id for each in found} == {*(each.id for each in mine), *batch.ids}
    assert {each.tenant for each in found} == {"acme"}
    newest_first = [each.id for each in client.list(program="qa")]
    assert [each.id for each in client.list(program="qa", before=newest_first[1], limit=2)] == newest_first[2:4]
    assert all(each.audit_trail.verify() for each in found)
    with pytest.raises(ValidationError, match="tenant"):
        client.submit("qa", {"question": "?"}, tenant="a b")
