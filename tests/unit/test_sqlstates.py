"""The table of SQLSTATE classes."""

from __future__ import annotations

import psycopg
import pytest
from psycopg import errors

from dspex.store.sqlstates import CLASSES, STATES, Refusal, is_disconnect, reason, refusal

#: Every SQLSTATE that psycopg knows: all of Postgres' appendix.
KNOWN = {kind.sqlstate for kind in vars(errors).values() if isinstance(getattr(kind, "sqlstate", None), str)}


def test_the_table_covers_every_class_that_postgres_has_and_no_other() -> None:
    assert {state[:2] for state in KNOWN} == CLASSES.keys()
    assert STATES.keys() <= KNOWN
    for state, kind in STATES.items():
        assert kind is not CLASSES[state[:2]], f"{state} does not differ from its class"


@pytest.mark.parametrize(
    ("states", "kind"),
    [
        (("22001", "22P02", "22P05", "23505", "23514", "40002", "54001", "P0001"), Refusal.DATA),
        (("40001", "40P01", "40003"), Refusal.RETRY),
        (("08006", "53100", "53200", "53300", "53400", "55006", "55P03", "57014", "57P01", "57P03"), Refusal.WAIT),
        (("25006", "25P03", "25P04", "58030", "XX000", "XX001", "XX002", "28P01"), Refusal.WAIT),
        (("42501", "42601", "42P01", "0A000", "26000", "25P02"), Refusal.OURS),
    ],
)
def test_what_a_state_means(states: tuple[str, ...], kind: Refusal) -> None:
    assert {refusal(errors.lookup(state)()) for state in states} == {kind}


def test_errors_without_a_known_state() -> None:
    class Custom(psycopg.DatabaseError):
        sqlstate = "ZZ001"

    assert refusal(Custom()) is Refusal.OURS
    assert refusal(psycopg.OperationalError("the connection is lost")) is Refusal.WAIT
    assert refusal(psycopg.InterfaceError("the connection is closed")) is Refusal.WAIT
    assert refusal(psycopg.DataError("PostgreSQL text fields cannot contain NUL (0x00) bytes")) is Refusal.DATA
    assert refusal(psycopg.ProgrammingError("the query has 1 placeholder but 2 parameters were passed")) is Refusal.DATA


@pytest.mark.parametrize(("state", "lost"), [("57P01", True), ("53300", True), ("53100", False), ("57014", False)])
def test_only_some_refusals_cost_the_connection(state: str, lost: bool) -> None:
    assert is_disconnect(errors.lookup(state)()) is lost


def test_a_reason_quotes_no_value() -> None:
    assert reason(errors.InvalidTextRepresentation('invalid input: "a secret"')) == (
        "InvalidTextRepresentation (SQLSTATE 22P02)"
    )
    full = errors.DiskFull('could not extend file "base/1": No space left on device\nHINT: Check free disk space.')
    assert reason(full) == 'could not extend file "base/1": No space left on device (SQLSTATE 53100)'
