"""The conformance suite: the checks that every adapter must pass, as a class for the tests of an adapter's package.

::

    from workers.conformance import AdapterConformance

    class TestMine(AdapterConformance):
        adapter = "mine"

        def answering(self, **fields):
            return dspex.Program("qa", "question -> answer", adapter="mine", model="openai/test", **fields)

See docs/how-to/write-an-adapter.md. It needs pytest and the extra ``dspex[worker]``, no Postgres and no Redis: runs use
a worker's own journal and trail, on their own loop.
"""

from workers.conformance.attempts import AttemptUnderTest as Attempt
from workers.conformance.attempts import History
from workers.conformance.suite import AdapterConformance

__all__ = ["AdapterConformance", "Attempt", "History"]
