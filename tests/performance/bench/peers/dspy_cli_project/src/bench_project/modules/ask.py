"""The module that dspy-cli serves."""

import dspy


class Ask(dspy.Module):
    def __init__(self):
        super().__init__()
        self.predict = dspy.Predict("question -> answer")

    async def aforward(self, question: str) -> dspy.Prediction:
        return await self.predict.acall(question=question)

    def forward(self, question: str) -> dspy.Prediction:
        return self.predict(question=question)
