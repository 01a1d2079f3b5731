"""`dspex batch` on tables: CSV, Parquet and pipes in and out, killed and continued, estimated and limited."""

from __future__ import annotations

import asyncio
import csv
import errno
import gzip
import json
import os
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from click.testing import CliRunner, Result
from pyarrow import parquet

import dspex
from dspex.cli.main import cli
from dspex.client.client import Client
from dspex.settings import Backends
from tests.processes import WorkerProcess, environment_of, run_dspex

StartWorker = Callable[..., WorkerProcess]
RunBatch = Callable[..., "subprocess.CompletedProcess[str]"]
TRIAGE = dspex.signature(':string ticket, :integer words = 5 -> :enum("bug", "other") queue, :list(:string) tags')
OUTPUTS = {"queue": "bug", "tags": ["a", "b"]}


def triage(name: str = "triage", **options: Any) -> dspex.Program:
    return dspex.Program(name, TRIAGE, adapter="scripted", module_options={"outputs": OUTPUTS, **options})


@pytest.fixture
def run_batch(backends: Backends, tmp_path: Path) -> RunBatch:
    def run(*arguments: str, failpoints: str = "") -> subprocess.CompletedProcess[str]:
        environment = environment_of(backends, {"DSPEX_FAILPOINTS": failpoints})
        return run_dspex("batch", *arguments, environment=environment, directory=tmp_path)

    return run


@pytest.fixture
def invoke(backends: Backends, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Runs `dspex batch` in this process, with something on its standard input."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DSPEX_DATABASE_URL", backends.database_url)
    monkeypatch.setenv("DSPEX_BROKER_URL", backends.broker_url)

    def run(*arguments: str, input: bytes | None = None) -> Result:
        return CliRunner().invoke(cli, ["batch", *arguments], input=input, standalone_mode=False)

    return run


def write_input(path: Path, rows: int) -> list[dict[str, str]]:
    """Rows of which every hundredth does not fit; the file in the format of its name."""
    records = [
        {"id": f"{n:06}", "body": f'ticket "{n}",\nof two lines', "words": "many" if n % 100 == 50 else "7"}
        for n in range(rows)
    ]
    if path.suffix == ".parquet":
        columns = {name: [record[name] for record in records] for name in ("id", "body", "words")}
        parquet.write_table(pyarrow.table(columns), path, row_group_size=333)
    elif path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["id", "body", "words"])
            writer.writeheader()
            writer.writerows(records)
    else:
        path.write_text(
            "".join(json.dumps({**r, "words": r["words"] if r["words"] == "many" else 7}) + "\n" for r in records)
        )
    return records


def read_rows(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        rows: list[dict[str, Any]] = parquet.read_table(path).to_pylist()
        return rows
    if path.suffix == ".csv":
        with path.open(newline="") as file:
            return [
                {**row, "tags": json.loads(row["tags"])} if "tags" in row else dict(row) for row in csv.DictReader(file)
            ]
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [{**line["row"], **line["result"]} for line in lines]


@pytest.mark.parametrize(("source", "output"), [("in.csv", "out.parquet")])
def test_killed_again_and_again_it_has_each_row_once(
    client: Client, start_worker: StartWorker, run_batch: RunBatch, tmp_path: Path, source: str, output: str
) -> None:
    start_worker()
    check_kills(client, run_batch, tmp_path, source, output)


def check_kills(client: Client, run_batch: RunBatch, tmp_path: Path, source: str, output: str) -> None:
    """Kill the command at its worst moments, and check the files of the last run."""
    client.deploy(triage())
    records = write_input(tmp_path / source, 1300)
    command = ("triage", source, "-o", output, "--map", "ticket=body", "--errors", "err.csv")
    for failpoints in (
        "after_batch_line=kill@1",
        "between_chunks=kill@1",
        "after_batch_line=kill@700",
        "during_table=kill@2",
    ):
        killed = run_batch(*command, failpoints=failpoints)
        if killed.returncode != -signal.SIGKILL:  # JSON lines are no table
            assert output == "out.jsonl", killed.stderr
            assert failpoints == "during_table=kill@2"
    finished = run_batch(*command, "--json")
    assert finished.returncode == 1, finished.stderr
    totals = json.loads(finished.stdout)
    assert (totals["completed"], totals["failed"], totals["causes"]) == (1287, 13, {"rejected": 13})

    rows = read_rows(tmp_path / output)
    good = [record for record in records if record["words"] == "7"]
    assert [row["id"] for row in rows] == [record["id"] for record in good]
    assert all((row["queue"], row["tags"]) == ("bug", ["a", "b"]) for row in rows)
    if output != "out.jsonl":
        assert [row["body"] for row in rows] == [record["body"] for record in good]
    errors = read_rows(tmp_path / "err.csv")
    assert [int(row["row"]) for row in errors] == [n + 1 for n in range(50, 1300, 100)]
    assert {(row["code"], row["words"]) for row in errors} == {("validation_error", "many")}
    assert client.progress(client.list(limit=1)[0].batch_id).total == 1287  # type: ignore[arg-type]
    refused = run_batch(*command, "--empty", "null")
    assert refused.returncode == 2
    assert "--restart" in refused.stderr


def test_rows_that_were_retried_are_in_their_place(
    client: Client, start_worker: StartWorker, run_batch: RunBatch, tmp_path: Path
) -> None:
    start_worker()
    fail = {"code": "provider_unavailable", "times": 1}
    program = dspex.Program(
        "flaky", TRIAGE, adapter="scripted", retry=dspex.Retry(max_attempts=1),
        module_options={"outputs": OUTPUTS, "fail": fail},
    )  # fmt: skip
    client.deploy(program)
    (tmp_path / "in.csv").write_text("ticket,id\none,1\ntwo,2\nthree,3\n")
    command = ("flaky", "in.csv", "-o", "out.csv")
    assert run_batch(*command).returncode == 1
    failed = read_rows(tmp_path / "out.errors.csv")
    assert [(row["row"], row["code"], row["id"]) for row in failed] == [
        (str(n), "attempts_exhausted", str(n)) for n in (1, 2, 3)
    ]
    assert read_rows(tmp_path / "out.csv") == []
    client.retry(failed[1]["execution_id"])
    assert run_batch(*command).returncode == 1
    assert [row["id"] for row in read_rows(tmp_path / "out.csv")] == ["2"]
    client.retry_failed("flaky")
    assert run_batch(*command).returncode == 0
    assert [row["id"] for row in read_rows(tmp_path / "out.csv")] == ["1", "2", "3"]
    assert read_rows(tmp_path / "out.errors.csv") == []
    assert sorted(path.name for path in tmp_path.glob("out.*")) == ["out.csv", "out.csv.batch", "out.errors.csv"]


def test_pipes_in_and_out(client: Client, start_worker: StartWorker, invoke: Callable[..., Result]) -> None:
    start_worker()
    client.deploy(triage())
    lines = b'{"ticket": "one", "id": 1}\n{"ticket": 2}\n'
    done = invoke("triage", "-", "-o", "-", input=lines)
    assert done.return_value == 1
    (result,) = [json.loads(line) for line in done.stdout.splitlines()]
    assert (result["index"], result["result"], result["row"]) == (0, OUTPUTS, {"id": 1})
    assert '{"index":1,"id":null,"error":' in done.stderr

    table = invoke(
        "triage", "-", "-o", "-", "--input-format", "csv", "--output-format", "csv", input=b"ticket\none\ntwo\n"
    )
    assert table.return_value == 0
    assert table.stdout.splitlines() == ["ticket,queue,tags", 'one,bug,"[""a"", ""b""]"', 'two,bug,"[""a"", ""b""]"']

    Path("in.jsonl").write_bytes(lines)
    full = invoke("triage", "in.jsonl", "-o", "/dev/full")
    assert isinstance(full.exception, OSError)
    assert (full.exception.errno, full.exception.filename) == (errno.ENOSPC, "/dev/full")

    os.mkfifo("pipe.csv")
    writer = threading.Thread(target=lambda: Path("pipe.csv").write_text("ticket\none\n"))
    writer.start()
    piped = invoke("triage", "pipe.csv", "-o", "out.csv")
    writer.join()
    assert piped.return_value == 0, piped.stderr
    assert len(read_rows(Path("out.csv"))) == 1


@pytest.mark.parametrize("output", ["out.csv", "out.parquet", "out.jsonl.gz"])
def test_a_batch_whose_columns_have_the_names_of_outputs_ends(
    client: Client, start_worker: StartWorker, invoke: Callable[..., Result], output: str
) -> None:
    start_worker()
    client.deploy(triage())
    Path("in.jsonl").write_text(
        '{"ticket": "one", "queue": 1e400, "queue_output": "\\ud800", "message": "m", "message_error": "e"}\n{}\n'
    )
    done = invoke("triage", "in.jsonl", "-o", output, "--errors", "failed.csv")
    assert done.return_value == 1, done.output
    with Path("failed.csv").open(newline="") as file:
        (failed,) = csv.DictReader(file)
    assert (failed["row"], failed["message"], "ticket" in failed["message_error_2"]) == ("2", "", True)
    if output == "out.jsonl.gz":
        line = json.loads(gzip.decompress(Path(output).read_bytes()))
        assert (line["row"]["queue"], line["row"]["queue_output"], line["result"]) == ("inf", "\ud800", OUTPUTS)
    else:
        (row,) = read_rows(Path(output))
        assert (row["queue"], row["queue_output"], row["queue_output_2"]) == ("inf", "\\ud800", "bug")


def test_a_dry_run_estimates_and_writes_nothing(
    client: Client, start_worker: StartWorker, invoke: Callable[..., Result], tmp_path: Path
) -> None:
    start_worker()
    client.deploy(triage(cost_usd=0.01))
    write_input(tmp_path / "in.csv", 1000)
    done = invoke("triage", "in.csv", "--map", "ticket=body", "--dry-run", "8", "--json")
    assert done.return_value == 0, done.stderr
    estimate = json.loads(done.stdout)["estimate"]
    assert (estimate["rows"], estimate["sampled"], estimate["causes"]) == (1000, 8, {})
    assert estimate["cost_usd"] == pytest.approx({"value": 10.0, "low": 10.0, "high": 10.0})
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix != ".log") == ["in.csv"]
    assert len(client.list(metadata={"dspex": "sample"})) == 8


def test_the_cost_stops_at_the_limit_and_goes_on_with_a_higher_one(
    client: Client, start_worker: StartWorker, invoke: Callable[..., Result], tmp_path: Path
) -> None:
    start_worker()
    client.deploy(triage(cost_usd=0.01))
    (tmp_path / "in.csv").write_text("ticket\n" + "".join(f"ticket {n}\n" for n in range(100)))
    command = ("triage", "in.csv", "-o", "out.csv", "--dry-run", "4")
    refused = invoke(*command, "--max-cost", "0.5")
    assert refused.exit_code == 1
    assert "--yes" in str(refused.exception)
    assert not (tmp_path / "out.csv.batch").exists()
    stopped = invoke(*command, "--max-cost", "0.5", "--yes", "--json")
    assert stopped.return_value == 1
    totals = json.loads(stopped.stdout)
    assert totals["completed"] + totals["left"] == 100
    assert 0.45 <= totals["cost_usd"] <= 0.505
    assert len(read_rows(tmp_path / "out.csv")) == totals["completed"]
    assert invoke(*command, "--max-cost", "5").return_value == 0
    assert len(read_rows(tmp_path / "out.csv")) == 100
    assert client.progress(client.list(limit=1)[0].batch_id).total == 100  # type: ignore[arg-type]


def test_an_output_that_is_not_its_own_is_left_alone(
    client: Client, invoke: Callable[..., Result], tmp_path: Path
) -> None:
    client.deploy(triage())
    (tmp_path / "in.csv").write_text("ticket\none\n")
    (tmp_path / "mine.csv").write_text("precious\n")
    (tmp_path / "half.jsonl").write_text('{"ticket": "one", "\\ud800": 1}\n')
    for arguments, says in (
        (("in.csv", "-o", "mine.csv"), "--restart"),
        (("in.csv", "-o", "in.csv"), "choose another file"),
        (("in.csv", "-o", "nowhere/out.csv"), "No such file"),
        (("in.csv", "-o", "out.csv", "--map", "tiket=x"), "did you mean 'ticket'"),
        (("in.csv", "-o", "out.csv", "--encoding", "klingon"), "is not an encoding"),
        (("half.jsonl", "-o", "out.parquet"), "half of a surrogate pair"),
    ):
        done = invoke("triage", *arguments)
        assert says in f"{done.exception}{done.output}", arguments
        assert done.exit_code != 0
    assert (tmp_path / "mine.csv").read_text() == "precious\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["half.jsonl", "in.csv", "mine.csv"]
    assert client.list() == []


def test_a_frame_and_a_batch_are_tables(client: Client, start_worker: StartWorker, tmp_path: Path) -> None:
    start_worker()
    client.deploy(triage())
    batch = client.submit_many("triage", [{"ticket": "one"}, {"ticket": 2}, {"ticket": "three", "words": 3}])
    table = batch.to_arrow(timeout=60)
    assert table.column("ticket").to_pylist() == ["one", "three"]
    assert table.column("words").to_pylist() == [5, 3]
    assert table.column("tags").to_pylist() == [["a", "b"]] * 2
    assert table.column("index").to_pylist() == [0, 2]
    batch.to_parquet(tmp_path / "batch.parquet", timeout=60)
    assert parquet.read_table(tmp_path / "batch.parquet").equals(table)
    pytest.importorskip("narwhals")
    frame = client.map("triage", pyarrow.table({"ticket": ["one", "two"], "id": [1, 2]}), timeout=60)
    assert frame.column_names == ["ticket", "id", "queue", "tags"]
    assert frame.column("queue").to_pylist() == ["bug", "bug"]

    async def in_an_event_loop() -> None:
        async with dspex.AsyncClient(client.settings) as other:
            again = await other.batch(batch.id)
            assert (await again.to_arrow(timeout=60)).equals(table)
            await again.to_parquet(tmp_path / "again.parquet", timeout=60)
            none = await (await other.submit_many("triage", [])).to_arrow(timeout=60)
            assert none.schema == table.schema
            mapped = await other.map("triage", pyarrow.table({"ticket": ["one"]}), timeout=60)
            assert mapped.column("queue").to_pylist() == ["bug"]

    asyncio.run(in_an_event_loop())
    assert parquet.read_table(tmp_path / "again.parquet").equals(table)


def test_what_has_no_rows_is_refused_before_anything_is_stored(client: Client) -> None:
    client.deploy(triage())
    rows: Any
    for rows in ("in.csv", Path("in.csv"), {"ticket": "one"}):
        for submit in (client.submit_many, client.map):
            with pytest.raises(dspex.DspexError, match=f"{type(rows).__name__} (has no rows|is one row)"):
                submit("triage", rows)

    async def in_an_event_loop() -> None:
        async with dspex.AsyncClient(client.settings) as other:
            with pytest.raises(dspex.DspexError, match="str has no rows"):
                await other.submit_many("triage", "in.csv")
            with pytest.raises(dspex.DspexError, match="str has no rows"):
                await anext(other.map("triage", "in.csv"))

    asyncio.run(in_an_event_loop())
    assert client.list() == []
