"""The conformance suite: what every adapter must hold to, as a class of tests for its own package's tests.

::

    from workers.conformance import AdapterConformance

    class TestMine(AdapterConformance):
        adapter = "mine"

        def answering(self, **fields):
            return dspex.Program("qa", "question -> answer", adapter="mine", model="openai/test", **fields)

See docs/how-to/write-an-adapter.md. It needs pytest and the extra ``dspex[worker]``, no Postgres and no Redis: runs are
begun with a worker's own journal and trail, on a loop of their own.
"""

from workers.conformance.attempts import Attempt, History
from workers.conformance.suite import AdapterConformance

__all__ = ["AdapterConformance", "Attempt", "History"]
