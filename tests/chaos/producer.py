"""A producer that dies: ``python -m tests.chaos.producer qa --rows N`` with DSPEX_FAILPOINTS in its environment."""

from __future__ import annotations

import argparse

from dspex.client.client import Client


def main() -> None:
    parser = argparse.ArgumentParser(description="Submit N questions to a program, one by one or as a batch.")
    parser.add_argument("program")
    parser.add_argument("--rows", type=int, default=1)
    parser.add_argument("--batch", action="store_true")
    options = parser.parse_args()
    rows = [{"question": f"number {n} of the producer"} for n in range(options.rows)]
    with Client() as client:
        if options.batch:
            print(*client.submit_many(options.program, rows).ids, sep="\n", flush=True)
        else:
            for row in rows:
                print(client.submit(options.program, row).id, flush=True)


if __name__ == "__main__":
    main()
