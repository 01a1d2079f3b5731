"""Children: how deep and how many there may be."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from uuid_utils.compat import uuid7

import dspex
from dspex.errors import ProgramError, ProgramNotFound
from dspex.program.stored_program import StoredProgram
from dspex.sealing.values import Sealing
from dspex.settings import Settings
from workers.attempt.waiting.children import Children
from workers.attempt.waiting.parking import Child

pytestmark = pytest.mark.asyncio

PROGRAM = dspex.Program("qa", dspex.signature("question -> answer"), adapter="scripted")
HASH = hashlib.sha256(b"asked").digest()


class Deployed:
    """One program, as it is stored."""

    async def program(self, name: str, version: str) -> StoredProgram | None:
        return await self.current_program(name)

    async def current_program(self, name: str) -> StoredProgram | None:
        return StoredProgram("qa", PROGRAM.version, json.dumps(PROGRAM.content)) if name == "qa" else None


async def child(name: str = "qa", **values: Any) -> Child:
    children = Children(Deployed(), Sealing(), Settings.load(child_depth=2, children_per_execution=3))
    given: dict[str, Any] = {"depth": 1, "count": 1, **values}
    return await children.prepared(name, {"question": "?"}, uuid7(), HASH, 0, **given)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [({"depth": 3}, "3 deep, and DSPEX_CHILD_DEPTH is 2"), ({"count": 4}, "3 children.*DSPEX_CHILDREN_PER_EXECUTION")],
)
async def test_depth_and_number_of_children_are_limited(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(ProgramError, match=named) as caught:
        await child(**wrong)
    assert caught.value.code == "child_limit"
    assert (await child(depth=2, count=3)).submission.program == "qa"


async def test_a_child_of_a_program_that_is_not_deployed_is_refused() -> None:
    with pytest.raises(ProgramNotFound):
        await child("other")


async def test_the_first_events_of_a_child_name_its_parent() -> None:
    made = await child(depth=2)
    assert '"depth":2' in made.submission.events
    assert '"parent":"' in made.submission.events
    assert '"priority"' not in made.submission.events
