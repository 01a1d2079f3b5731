"""Ways of running: coroutines, threads, DSPy's own helpers, other loops."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from concurrent.futures import ThreadPoolExecutor

import dspy

from tests.compat.pattern import pattern

QA = "question -> answer"
ASK = {"question": "What is the capital of France?"}
MANY = {"questions": ["One?", "Two?", "Three?"]}
ALL = "questions: list[str] -> answers: list[str]"


class _Asking(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ask = dspy.Predict(QA)


def _answers(found):
    return dspy.Prediction(answers=[each.answer for each in found])


@pattern(QA, ASK)
class Awaited(_Asking):
    async def aforward(self, question):
        return await self.ask.acall(question=question)


@pattern(ALL, MANY)
class Gather(_Asking):
    async def aforward(self, questions):
        return _answers(await asyncio.gather(*(self.ask.acall(question=q) for q in questions)))


@pattern(ALL, MANY)
class TaskGroup(_Asking):
    async def aforward(self, questions):
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self.ask.acall(question=q)) for q in questions]
        return _answers([task.result() for task in tasks])


@pattern(ALL, MANY)
class LimitedGather(_Asking):
    async def aforward(self, questions):
        permits = asyncio.Semaphore(2)

        async def one(question):
            async with permits:
                return await self.ask.acall(question=question)

        return _answers(await asyncio.gather(*map(one, questions), return_exceptions=True))


@pattern(ALL, MANY)
class OwnThreads(_Asking):
    def forward(self, questions):
        answers: list[str] = [""] * len(questions)

        def work(place, question):
            answers[place] = self.ask(question=question).answer

        threads = [threading.Thread(target=work, args=each) for each in enumerate(questions)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return dspy.Prediction(answers=answers)


@pattern(ALL, MANY)
class OwnPool(_Asking):
    def forward(self, questions):
        with ThreadPoolExecutor(2) as pool:
            return _answers(list(pool.map(lambda q: self.ask(question=q), questions)))


_POOL = ThreadPoolExecutor(2)


@pattern(ALL, MANY)
class SharedPool(_Asking):
    """A pool of the package: its threads outlive a call."""

    def forward(self, questions):
        return _answers([future.result() for future in [_POOL.submit(self.ask, question=q) for q in questions]])


@pattern(ALL, MANY)
class PoolWithContext(_Asking):
    def forward(self, questions):
        with ThreadPoolExecutor(2) as pool:
            futures = [pool.submit(contextvars.copy_context().run, lambda q=q: self.ask(question=q)) for q in questions]
            return _answers([future.result() for future in futures])


@pattern(ALL, MANY)
class DspyParallel(_Asking):
    def forward(self, questions):
        parallel = dspy.Parallel(num_threads=2, disable_progress_bar=True)
        return _answers(parallel([(self.ask, dspy.Example(question=q).with_inputs("question")) for q in questions]))


@pattern(ALL, MANY)
class ParallelMappings(_Asking):
    def forward(self, questions):
        return _answers(
            dspy.Parallel(num_threads=3, disable_progress_bar=True)([(self.ask, {"question": q}) for q in questions])
        )


@pattern(ALL, MANY)
class Batch(_Asking):
    def forward(self, questions):
        examples = [dspy.Example(question=q).with_inputs("question") for q in questions]
        return _answers(self.ask.batch(examples, num_threads=2, disable_progress_bar=True))


@pattern(ALL, MANY)
class NestedParallel(_Asking):
    def __init__(self) -> None:
        super().__init__()
        self.inner = DspyParallel()

    def forward(self, questions):
        parallel = dspy.Parallel(num_threads=2, disable_progress_bar=True)
        found = parallel([(self.inner, {"questions": [q, q + "!"]}) for q in questions])
        return dspy.Prediction(answers=[" ".join(each.answers) for each in found])


@pattern(QA, ASK)
class Asyncified(_Asking):
    async def aforward(self, question):
        return await dspy.asyncify(self.ask)(question=question)


@pattern(ALL, MANY)
class AsyncifiedGather(_Asking):
    async def aforward(self, questions):
        ask = dspy.asyncify(self.ask)
        return _answers(await asyncio.gather(*(ask(question=q) for q in questions)))


@pattern(QA, ASK)
class ToThread(_Asking):
    async def aforward(self, question):
        return await asyncio.to_thread(self.ask, question=question)


@pattern(QA, ASK)
def syncified():
    return dspy.syncify(Awaited())


@pattern(QA, ASK)
def syncified_wrapped():
    return dspy.syncify(Awaited(), in_place=False)


@pattern(QA, ASK)
class SyncifiedInside(_Asking):
    def __init__(self) -> None:
        super().__init__()
        self.inner = dspy.syncify(Awaited())

    def forward(self, question):
        return self.inner(question=question)


@pattern(QA, ASK)
class AsyncioRun(_Asking):
    def forward(self, question):
        return asyncio.run(self.ask.acall(question=question))


@pattern(ALL, MANY)
class AsyncioRunGather(_Asking):
    def forward(self, questions):
        async def all_of_them():
            return await asyncio.gather(*(self.ask.acall(question=q) for q in questions))

        return _answers(asyncio.run(all_of_them()))


@pattern(ALL, MANY)
class OwnLoop(_Asking):
    def forward(self, questions):
        loop = asyncio.new_event_loop()
        try:
            return _answers([loop.run_until_complete(self.ask.acall(question=q)) for q in questions])
        finally:
            loop.close()


@pattern(QA, ASK)
class SyncInAsync(_Asking):
    async def aforward(self, question):
        return self.ask(question=question)


@pattern(ALL, MANY)
class SyncInGather(_Asking):
    """Tasks that block: each makes a synchronous call."""

    async def aforward(self, questions):
        async def one(question):
            return self.ask(question=question)

        return _answers(await asyncio.gather(*map(one, questions)))


@pattern(QA, ASK)
class SyncAfterAwait(_Asking):
    async def aforward(self, question):
        hint = (await self.ask.acall(question=question)).answer
        return self.ask(question=f"{question} {hint}")


@pattern(QA, ASK)
class SyncModuleInAsync(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = dspy.MultiChainComparison(QA, M=2)
        self.ask = dspy.ChainOfThought(QA)

    async def aforward(self, question):
        chains = [await self.ask.acall(question=question, config={"temperature": t}) for t in (0.1, 0.9)]
        return dspy.Prediction(answer=self.inner(chains, question=question).answer)


@pattern(QA, ASK)
class BothWays(_Asking):
    """It has both, and both do the same."""

    def forward(self, question):
        return self.ask(question=question)

    async def aforward(self, question):
        return await self.ask.acall(question=question)


@pattern(QA, ASK)
class AsyncInherited(BothWays):
    """Only ``forward`` is overridden: the inherited ``aforward`` does something else."""

    def forward(self, question):
        return dspy.Prediction(answer="overridden " + self.ask(question=question).answer)


@pattern(QA, ASK)
class Streamified(_Asking):
    async def aforward(self, question):
        found = None
        async for value in dspy.streamify(self.ask)(question=question):
            if isinstance(value, dspy.Prediction):
                found = value
        return found


@pattern(QA, ASK)
class StreamifiedListener(_Asking):
    async def aforward(self, question):
        listener = dspy.streaming.StreamListener(signature_field_name="answer")
        stream = dspy.streamify(self.ask, stream_listeners=[listener])
        found, pieces = None, []
        async for value in stream(question=question):
            if isinstance(value, dspy.Prediction):
                found = value
            elif isinstance(value, dspy.streaming.StreamResponse):
                pieces.append(value.chunk)
        return dspy.Prediction(answer=f"{found.answer}|{''.join(pieces).strip()}")


@pattern(QA, ASK)
class StreamifiedSync(_Asking):
    def forward(self, question):
        found = None
        for value in dspy.streamify(self.ask, async_streaming=False)(question=question):
            if isinstance(value, dspy.Prediction):
                found = value
        return found


@pattern(QA, ASK)
class CancelledTask(_Asking):
    """It gives up on a slow step and goes on."""

    async def aforward(self, question):
        slow = asyncio.create_task(asyncio.sleep(60))
        slow.cancel()
        await asyncio.gather(slow, return_exceptions=True)
        return await self.ask.acall(question=question)


@pattern(QA, ASK)
class Timed(_Asking):
    async def aforward(self, question):
        return await asyncio.wait_for(self.ask.acall(question=question), 10)


@pattern(ALL, MANY)
class AsCompleted(_Asking):
    async def aforward(self, questions):
        answers = [
            (await each).answer for each in asyncio.as_completed([self.ask.acall(question=q) for q in questions])
        ]
        return dspy.Prediction(answers=sorted(answers))


@pattern(ALL, MANY)
class JoinedThreads(_Asking):
    """A coroutine that waits for its own threads: no other coroutine of the process runs meanwhile."""

    async def aforward(self, questions):
        found = [None] * len(questions)

        def one(place):
            found[place] = self.ask(question=questions[place])

        threads = [threading.Thread(target=one, args=(place,)) for place in range(len(questions))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return _answers(found)


@pattern(ALL, MANY)
class JoinedPool(_Asking):
    """The same with a pool."""

    async def aforward(self, questions):
        with ThreadPoolExecutor(3) as pool:
            return _answers(pool.map(lambda question: self.ask(question=question), questions))


@pattern(QA, ASK)
class JoinedLoop(_Asking):
    """The same with a loop of the thread's own, after an awaited call."""

    async def aforward(self, question):
        first = await self.ask.acall(question=question)
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(asyncio.run, self.ask.acall(question=first.answer)).result()
