"""Serves the local model over an OpenAI-compatible HTTP API: ``python -m dspex.embedded.model_server --port N``."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence

from dspex.embedded.bundled_model import MODEL_ALIAS, model_path

__all__ = ["main"]

#: Requests answered at once; further ones wait. Measured on 2 cores with 165-token prompts that share their
#: beginning, 6 clients: 2.5 requests/s with 1 slot, 4.3 with 4, no more with 6 or 8.
SLOTS = 4
#: Tokens (prompt and answer) that one request may take. Each slot has its own: with one context for all of them, four
#: long requests fail together.
SLOT_CONTEXT = 4096
#: Tokens of an answer whose request sets no ``max_tokens``. A model this small sometimes continues until its
#: context is full, which takes a minute; a useful answer is far shorter.
ANSWER_TOKENS = 512


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    options = _options(sys.argv[1:])
    signals = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)  # before the server's threads start, which inherit it
    server = serve(options.port, slots=options.slots, threads=options.threads, answer_tokens=options.answer_tokens)
    print(f"serving {MODEL_ALIAS} on {server.listening_address}", flush=True)  # type: ignore[attr-defined]
    signal.sigwait(signals)
    os._exit(0)  # nothing to save, and llama.cpp's own shutdown waits for requests that stream


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--slots", type=int, default=SLOTS)
    parser.add_argument("--threads", type=int, default=_cores())
    parser.add_argument("--answer-tokens", type=int, default=ANSWER_TOKENS)
    return parser.parse_args(arguments)


def serve(port: int, *, slots: int, threads: int, answer_tokens: int) -> object:
    """Load the model and listen; the server runs in threads of its own as long as the returned object lives."""
    # By default libgomp's threads wait for each other in a loop of 300,000 turns. On busy processors the waiting
    # thread uses the time that the other one needs: 26 s on 2 busy cores for what takes 1.3 s on idle ones. With a
    # thousand turns and then sleep it takes 3 to 5 s on busy cores, and still 1.3 s on idle ones.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(model_path())
    params.model_alias = {MODEL_ALIAS}
    params.hostnames = ["127.0.0.1"]
    params.port = port
    params.n_parallel = slots
    params.n_ctx = slots * SLOT_CONTEXT
    params.n_predict = answer_tokens
    params.sampling.temp = 0.0  # unless the request sets it: equal requests have equal answers
    params.cont_batching = True
    params.cpuparams.n_threads = threads
    params.cpuparams_batch.n_threads = threads
    # 8 bits a number rather than 16: 380 MB resident instead of 565, as fast.
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_Q8_0
    params.cache_ram_mib = 64
    params.cors_origins = ""  # no page in a browser may call it
    params.ui = False
    params.endpoint_slots = False  # it shows the prompts of others
    params.verbosity = 1  # errors only: a line for each request would fill the log
    return xllamacpp.Server(params)


def _cores() -> int:
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(available, 4)  # a small model does not need more


if __name__ == "__main__":
    main()
