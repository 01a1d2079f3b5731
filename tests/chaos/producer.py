"""A producer that dies: ``python -m tests.chaos.producer qa --rows N`` with DSPEX_FAILPOINTS in its environment."""

from __future__ import annotations

import argparse
from concurrent.futures import ThreadPoolExecutor

from dspex.client.client import Client


def main() -> None:
    parser = argparse.ArgumentParser(description="Submit N questions to a program, one by one or as a batch.")
    parser.add_argument("program")
    parser.add_argument("--rows", type=int, default=1)
    parser.add_argument("--batch", action="store_true")
    parser.add_argument("--threads", type=int, default=1, help="how many submit at the same time")
    options = parser.parse_args()
    rows = [{"question": f"number {n} of the producer"} for n in range(options.rows)]
    with Client() as client:
        if options.batch:
            print(*client.submit_many(options.program, rows).ids, sep="\n", flush=True)
        else:

            def submit(row: dict[str, str]) -> None:
                print(f"{client.submit(options.program, row).id}\n", end="", flush=True)

            with ThreadPoolExecutor(options.threads) as threads:
                for done in [threads.submit(submit, row) for row in rows]:
                    done.result()


if __name__ == "__main__":
    main()
