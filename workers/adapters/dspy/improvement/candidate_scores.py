"""The scores of an optimiser's candidates: they are noted as its metric is called, and shown while the job runs."""

from __future__ import annotations

import contextvars
import inspect
import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

from dspex.errors import ActionFailed, BackendUnavailable, DspexError
from dspex.program.calls.parameters import signature_of
from workers.actions.scoring import score_of
from workers.adapters.dspy.improvement.metric_calls import returned

__all__ = ["CandidateScores"]

log = logging.getLogger("dspex.workers")

#: How often new scores are published.
PUBLISH_SECONDS = 2.0


class CandidateScores:
    """The scores of the candidates, by version and example. Safe to share between threads.

    A metric that raises, gives no score or takes longer than ``metric_seconds`` is an error of that example, which the
    optimiser handles as it does any other.
    """

    def __init__(self, metric: Callable[..., Any], metric_seconds: float) -> None:
        self._metric = metric
        self._metric_seconds = metric_seconds
        self._takes = _positional(metric)
        self._scores: dict[str, dict[str, float]] = {}
        self._lock = threading.Lock()
        self._is_news = threading.Event()
        self._last_failure: DspexError | None = None

    def metric(
        self, example: Any, prediction: Any, trace: Any = None, pred_name: Any = None, pred_trace: Any = None
    ) -> Any:
        """The metric, as every optimiser of DSPy calls it; its scores are noted. Raises DspexError."""
        arguments = (example, prediction, trace, pred_name, pred_trace)[: self._takes]
        try:
            given = _within(self._metric_seconds, self._metric, arguments)
            score, _ = score_of(given)
        except DspexError as error:
            self._last_failure = error
            raise
        version = getattr(prediction, "_dspex_version", None)
        if version is not None:
            with self._lock:
                self._scores.setdefault(version, {})[repr(sorted(example.items()))] = score
            self._is_news.set()
        return given

    def score(self, version: str) -> float | None:
        """The mean of a candidate's last scores; None if it has none."""
        with self._lock:
            return _mean(self._scores.get(version, {}))

    def best(self, examples: int) -> str | None:
        """The candidate with the highest mean, of those that were tried on all examples, or else on the most."""
        most = min(max(map(len, self._scores.values()), default=0), examples)
        full = [version for version, scores in self._scores.items() if len(scores) >= most]
        return max(full, key=lambda version: self.score(version) or 0.0, default=None)

    def listing(self, parents: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]:
        """The candidates in the order in which they were first tried."""
        with self._lock:
            return [
                {
                    "version": version, "score": _mean(scores), "examples": len(scores),
                    "parents": list(parents.get(version, ())),
                }
                for version, scores in self._scores.items()
            ]  # fmt: skip

    def require(self) -> None:
        """Raises DspexError, of the last call, when the metric failed and never gave a score."""
        if self._last_failure is not None and not self._scores:
            raise self._last_failure

    @contextmanager
    def published(
        self, publish: Callable[[Sequence[Mapping[str, Any]]], None], *, every: float = PUBLISH_SECONDS
    ) -> Iterator[None]:
        """Publish the listing now and then until the block ends, when there are new scores."""
        over = threading.Event()

        def keep_publishing() -> None:
            while not over.wait(every):
                if self._is_news.is_set():
                    self._is_news.clear()
                    try:
                        publish(self.listing({}))
                    except BackendUnavailable as error:
                        log.warning("the scores of candidates are not shown: %s", error)

        thread = threading.Thread(target=keep_publishing, name="candidate-scores", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


def _mean(scores: Mapping[str, float]) -> float | None:
    return sum(scores.values()) / len(scores) if scores else None


def _within(seconds: float, metric: Callable[..., Any], arguments: Sequence[Any]) -> Any:
    """What the metric returns, called in a thread: if it hangs, the thread is lost and the optimiser goes on."""
    answer: Future[Any] = Future()
    context = contextvars.copy_context()

    def call() -> None:
        try:
            answer.set_result(context.run(returned, metric, arguments))
        except BaseException as error:  # raised where the metric was called
            answer.set_exception(error)

    threading.Thread(target=call, name="metric", daemon=True).start()
    try:
        return answer.result(seconds)
    except DspexError:
        raise
    except Exception as error:  # the boundary to code that is not ours: its text may quote values
        if not answer.done():
            raise ActionFailed(f"the metric took longer than {seconds:.3g} s", code="metric_timeout") from None
        raise ActionFailed(f"the metric raised {type(error).__name__}", code="metric_error") from error


def _positional(metric: Callable[..., Any]) -> int:
    """How many of the five arguments a metric takes."""
    parameters = signature_of(metric).parameters.values()
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
        return 5
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return min(sum(parameter.kind in kinds for parameter in parameters), 5)
