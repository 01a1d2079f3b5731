"""What notebooks show: nothing that a user or a model wrote is markup or reverses characters.

Nothing is drawn outside of them.
"""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

import dspex
from dspex.client.batch import Progress
from dspex.client.improvement.score_plots import points_plot
from dspex.client.notebook.cards import batch_card
from dspex.client.notebook.live_progress import in_notebook, shown
from tests.unit.test_surface import ROW

HOSTILE = "<script>alert(1)</script> pay \u202e001\u202c to \u2066b"


def is_plain(text: str) -> bool:
    """Whether HOSTILE is shown, and is neither markup nor in another order."""
    return "&lt;script&gt;" in text and "pay 001 to b" in text and "<script>" not in text


def test_a_signature_is_a_table() -> None:
    signature = dspex.signature("question -> answer", description=HOSTILE)
    text = signature._repr_html_()
    assert "question" in text
    assert is_plain(text)


def test_an_execution_is_a_card() -> None:
    with dspex.Client(database_url="postgresql://127.0.0.1:1/d", broker_url="redis://127.0.0.1:1") as client:
        row = {**ROW, "error": {**ROW["error"], "message": HOSTILE}}  # type: ignore[dict-item]
        text = dspex.Execution(client._session, row)._repr_html_()
    assert "rate_limited: " in text
    assert is_plain(text)


@pytest.mark.parametrize(("status", "attempt", "has_figures"), [("queued", 0, False), ("queued", 1, True),
                                                               ("running", 1, False), ("failed", 1, True)])  # fmt: skip
def test_the_card_of_an_execution_has_figures_once_an_attempt_has_ended(
    status: str, attempt: int, has_figures: bool
) -> None:
    with dspex.Client(database_url="postgresql://127.0.0.1:1/d", broker_url="redis://127.0.0.1:1") as client:
        text = dspex.Execution(client._session, {**ROW, "status": status, "attempt": attempt})._repr_html_()
    assert ("in the queue" in text, "model calls" in text) == (has_figures, has_figures)


def test_a_batch_is_a_card() -> None:
    text = batch_card("id", HOSTILE, Progress(10, 3, 1, 0, 2, 4, 0.5, 12.0), 2)
    assert "4 of 10, 12 s left" in text
    assert is_plain(text)


def test_rows_are_counted_in_a_notebook_only(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not in_notebook()
    assert list(shown(iter([1, 2, 3]), "qa", 3)) == [1, 2, 3]
    drawn: list[str] = []
    handle = SimpleNamespace(update=lambda item: drawn.append(item._repr_html_()))

    def display(item: Any, *, display_id: bool) -> Any:
        drawn.append(item._repr_html_())
        return handle

    shell = SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=display))
    assert in_notebook()
    assert list(shown(iter([1, 2, 3]), HOSTILE, 3)) == [1, 2, 3]
    assert "3 of 3" in drawn[-1]
    assert is_plain(drawn[-1])


def test_plots_name_points_in_the_order_in_which_names_are_stored() -> None:
    assert is_plain(points_plot([(0.0, 1.0)], [HOSTILE], [], "scores"))
    assert is_plain(points_plot([(0.0, 1.0)], ["1"], [], HOSTILE))
