"""What `make bench KEEP=` keeps."""

from __future__ import annotations

from tests.performance.bench.figures import Figure
from tests.performance.bench.report import as_data, markdown, renewed


def run(*names: str, rate: float, quick: bool = False) -> dict[str, object]:
    return as_data({name: [Figure(name, "DSPex", "/s", [rate])] for name in names}, quick=quick, repeats=1, seconds=1)


def test_one_workload_is_renewed_and_says_when() -> None:
    kept, again = run("noop", "submit", rate=111), {**run("noop", rate=222), "at": "later", "repeats": 5}
    page = markdown(renewed(kept, again))
    noop, submit = page.split("## ")[1:]
    assert "Measured again: later, medians of 5 repeats." in noop
    assert "222 /s" in noop
    assert "111 /s" in submit
    assert "again" not in submit
    assert "Measured again: later" in markdown(renewed(renewed(kept, again), run("submit", rate=3)))


def test_figures_of_other_sizes_are_not_kept() -> None:
    assert set(renewed(run("noop", "submit", rate=1), run("noop", rate=2, quick=True))["workloads"]) == {"noop"}
