"""The module of the demo's program: three small questions about a review, each a model call.

It is a user's own ``dspy.Module``, as a package of yours would have it. Only workers import it.
"""

from __future__ import annotations

from typing import Literal

import dspy

__all__ = ["ReviewDesk"]


class Sentiment(dspy.Signature):  # type: ignore[misc]
    """Is the customer happy (positive) or unhappy (negative)?"""

    review: str = dspy.InputField()
    sentiment: Literal["negative", "positive"] = dspy.OutputField()


class Product(dspy.Signature):  # type: ignore[misc]
    """Which product is the review about? Answer with one or two words of the review."""

    review: str = dspy.InputField()
    product: str = dspy.OutputField()


class Stars(dspy.Signature):  # type: ignore[misc]
    """How many stars does the customer give?"""

    review: str = dspy.InputField()
    stars: Literal[1, 2, 3, 4, 5] = dspy.OutputField()


#: Small models follow examples more than words. None of these reviews is in the demo.
_EXAMPLES = (
    ("The mug is beautiful and keeps my tea hot for hours.", "positive", "mug", 5),
    ("This radio broke after two days, and the shop does not answer.", "negative", "radio", 1),
    ("The chair is hard and it wobbles. Never again.", "negative", "chair", 1),
    ("I love these gloves: warm, soft and light.", "positive", "gloves", 5),
)


class ReviewDesk(dspy.Module):  # type: ignore[misc]
    """Asks for the sentiment, then for the product, then for the stars."""

    def __init__(self) -> None:
        super().__init__()
        self.sentiment = dspy.Predict(Sentiment)
        self.product = dspy.Predict(Product)
        self.stars = dspy.Predict(Stars)
        self.sentiment.demos = [dspy.Example(review=text, sentiment=mood) for text, mood, _, _ in _EXAMPLES]
        self.product.demos = [dspy.Example(review=text, product=product) for text, _, product, _ in _EXAMPLES]
        self.stars.demos = [dspy.Example(review=text, stars=stars) for text, _, _, stars in _EXAMPLES]

    async def aforward(self, review: str) -> dspy.Prediction:
        sentiment = await self.sentiment.acall(review=review)
        product = await self.product.acall(review=review)
        stars = await self.stars.acall(review=review)
        return dspy.Prediction(sentiment=sentiment.sentiment, product=product.product, stars=stars.stars)
