"""Rules between fields."""

from __future__ import annotations

from typing import Any

import pytest

from dspex.program.field_rules import FieldRule, RuleFault

FIELDS = ("review", "summary", "queue", "amount", "order")
VALUES: dict[str, Any] = {
    "review": "too slow, too dear",
    "summary": "slow",
    "queue": "billing",
    "amount": None,
    "order": {"lines": [{"price": 3}, {"price": 5.5}], "length": 7},
}


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("summary.length <= review.length", True),
        ("summary.length>review.length", False),
        ("summary in review", True),
        ('queue == "billing"', True),
        ("order.lines[1].price == 5.5", True),
        ("order.lines[2].price == 5.5", None),
        ("order.length == 7", True),
        ("order.lines.length == 2", True),
        ("amount > 0", None),
        ("amount == null", True),
        ("amount != null", False),
        ('queue == "billing" implies amount != null', False),
        ('queue == "bug" implies amount != null', None),
        ("summary < 5", False),
        ('summary == "a implies b" implies amount == null', None),
    ],
)
def test_a_rule_holds_or_not_or_does_not_apply(text: str, holds: bool | None) -> None:
    assert FieldRule.parse(text, FIELDS).holds(VALUES) is holds


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("sumary.length <= 5", "a field of the signature"),
        ("summary.length", "operand operator operand"),
        ('queue in ["billing"]', "operand operator operand"),
        ("summary ~ review", "operand operator operand"),
        ("summary == review or amount > 0", "'implies'"),
        ("amount > 0 implies amount > 1 implies amount > 2", "the end of the rule"),
        ("__import__('os') == 1", "operand operator operand"),
    ],
)
def test_what_is_not_a_rule_says_what_was_expected(text: str, expected: str) -> None:
    with pytest.raises(RuleFault, match=expected):
        FieldRule.parse(text, FIELDS)
