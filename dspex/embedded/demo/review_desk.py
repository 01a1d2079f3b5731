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


class Customer(dspy.Signature):  # type: ignore[misc]
    """Who wrote the review? Answer with the name."""

    review: str = dspy.InputField()
    customer: str = dspy.OutputField()


#: Small models follow examples more than words, and the last ones most. None of these reviews is in the demo.
_EXAMPLES = (
    ("The mug is beautiful and keeps my tea hot for hours. Paul", "positive", "mug", "Paul"),
    ("The chair is hard and it wobbles. Never again. Rita", "negative", "chair", "Rita"),
)


class ReviewDesk(dspy.Module):  # type: ignore[misc]
    """Asks for the sentiment, then for the product, then for the customer."""

    def __init__(self) -> None:
        super().__init__()
        self.sentiment = dspy.Predict(Sentiment)
        self.product = dspy.Predict(Product)
        self.customer = dspy.Predict(Customer)
        self.sentiment.demos = [dspy.Example(review=text, sentiment=mood) for text, mood, _, _ in _EXAMPLES]
        self.product.demos = [dspy.Example(review=text, product=product) for text, _, product, _ in _EXAMPLES]
        self.customer.demos = [dspy.Example(review=text, customer=name) for text, _, _, name in _EXAMPLES]

    async def aforward(self, review: str) -> dspy.Prediction:
        sentiment = await self.sentiment.acall(review=review)
        product = await self.product.acall(review=review)
        customer = await self.customer.acall(review=review)
        return dspy.Prediction(sentiment=sentiment.sentiment, product=product.product, customer=customer.customer)
