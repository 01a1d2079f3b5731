"""``python -m tests.compat [NAME…] [--show]``: the table, and with ``--show`` what differs."""

from __future__ import annotations

import argparse
import difflib
import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import tests.compat.patterns  # noqa: F401 - registers them
from tests.compat.page import is_explained, word, write
from tests.compat.table import Verdict, compare, counts, record, run_both


def main() -> None:
    parser = argparse.ArgumentParser(description="Run DSPy programs by plain DSPy and by DSPex, and compare them.")
    parser.add_argument("names", nargs="*", help="patterns; all by default")
    parser.add_argument("--show", action="store_true", help="show what differs")
    parser.add_argument("--all", action="store_true", help="list the same ones, too")
    parser.add_argument("--keep", action="store_true", help="change neither the page nor what the tests compare with")
    parser.add_argument("--recorded", type=Path, help="a file with plain DSPy's part, made if it is not there")
    chosen = parser.parse_args()
    verdicts, sides = [], []
    for plain, hosted in run_both(chosen.names, chosen.recorded):
        sides.append(plain)
        verdict = compare(plain, hosted)
        verdicts.append(verdict)
        if chosen.all or verdict.kind != "same":
            print(_line(verdict))
        if chosen.show and verdict.kind != "same":
            _show(plain, hosted)
    if not chosen.names and not chosen.keep:
        record(sides)
        write(verdicts, version("dspy"))
    print(f"{len(verdicts)} patterns:", ", ".join(f"{count} {kind}" for kind, count in counts(verdicts).most_common()))
    if unexplained := [f"{verdict.name} ({word(verdict)})" for verdict in verdicts if not is_explained(verdict)]:
        sys.exit(f"not explained by the page: {', '.join(unexplained)}")


def _line(verdict: Verdict) -> str:
    same = (verdict.outputs, verdict.requests, verdict.parameters, verdict.journaled)
    marks = "".join(mark if good else "-" for mark, good in zip("orpj", same, strict=True))
    calls = "{}/{}".format(*verdict.calls)
    return f"{verdict.name:26} {verdict.kind:9} {marks} {calls:6} {verdict.note[:150]}"


def _show(plain: dict[str, Any], hosted: dict[str, Any]) -> None:
    shown = [{key: side[key] for key in ("outputs", "error", "requests")} for side in (plain, hosted)]
    texts = [json.dumps(side, indent=1, sort_keys=True).replace("\\n", "\n") for side in shown]
    ours, theirs = (text.splitlines() for text in texts)
    print("\n".join(list(difflib.unified_diff(ours, theirs, "plain", "hosted", n=1, lineterm=""))[:60]))


if __name__ == "__main__":
    main()
