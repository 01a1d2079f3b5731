"""A custom module: it finds documents, and lets the model answer from them."""

from __future__ import annotations

import dspy

from support_desk.documents import search

__all__ = ["AnswersFromDocuments"]


class AnswersFromDocuments(dspy.Module):
    """``passages``: the number of documents for the model. DSPex passes the program's ``signature``."""

    def __init__(self, signature: type[dspy.Signature], passages: int = 1) -> None:
        super().__init__()
        self.passages = passages
        context = dspy.InputField(desc="from our documents")
        self.answer = dspy.Predict(signature.delete("source").prepend("context", context, str))

    async def aforward(self, question: str) -> dspy.Prediction:
        found = search(question, self.passages)
        context = "\n\n".join(passage.text for passage in found)
        prediction = await self.answer.acall(context=context, question=question)
        return dspy.Prediction(answer=prediction.answer, source=found[0].name)
