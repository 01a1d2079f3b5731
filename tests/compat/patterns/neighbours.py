"""Nearest neighbours as examples, where numpy is installed: DSPy needs it for them."""

from __future__ import annotations

from importlib.util import find_spec

import dspy

from tests.compat.pattern import pattern
from tests.compat.patterns.several import ASK, EXAMPLES, QA

if find_spec("numpy"):
    import numpy as np

    def _embed(texts):
        return np.array([[len(text), text.count("1"), text.count("+")] for text in texts], dtype=np.float32)

    @pattern(QA, ASK)
    class OwnKnn(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.knn = dspy.KNN(2, EXAMPLES, dspy.Embedder(_embed))
            self.ask = dspy.Predict(QA)

        def forward(self, question):
            return self.ask(question=question, demos=self.knn(question=question))

    @pattern(QA, ASK)
    def knn_few_shot():
        optimiser = dspy.KNNFewShot(k=2, trainset=EXAMPLES, vectorizer=dspy.Embedder(_embed), max_bootstrapped_demos=0)
        return optimiser.compile(dspy.ChainOfThought(QA))
