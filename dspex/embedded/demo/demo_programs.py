"""The program of the demo, and the reviews that it reads."""

from __future__ import annotations

from typing import NamedTuple

from dspex.program.program import Program
from dspex.signatures import signature

__all__ = ["CALLS_EACH", "FIRST", "PACKAGE", "REVIEWS", "DemoReview", "review_desk"]

#: The package of the program's module, which the demo's workers allow.
PACKAGE = "dspex.embedded.demo"
#: The model calls of one execution.
CALLS_EACH = 3


class DemoReview(NamedTuple):
    """A review, and what a person reads in it."""

    text: str
    sentiment: str
    product: str
    customer: str


FIRST = DemoReview("The kettle is fast and quiet. The best one that I ever had! Anna", "positive", "kettle", "Anna")
REVIEWS = (
    DemoReview("The headphones sound great and the battery lasts all week. Peter", "positive", "headphones", "Peter"),
    DemoReview("The zipper of this jacket broke. I want my money back. Maria", "negative", "jacket", "Maria"),
    DemoReview("What a lovely lamp. It makes the whole room cosy. Omar", "positive", "lamp", "Omar"),
    DemoReview("A wonderful bicycle. My daughter rides it every day. John", "positive", "bicycle", "John"),
    DemoReview("These shoes leak. My socks were wet after ten minutes. Sofia", "negative", "shoes", "Sofia"),
    DemoReview("The vacuum cleaner is loud, weak and expensive. Helen", "negative", "vacuum cleaner", "Helen"),
)


def review_desk(model: str) -> Program:
    """The sentiment of a review, the product and the customer: three short answers of the model."""
    return Program(
        "review_desk",
        signature(
            'signature review_desk "Read a review": :string(min_length=1) review -> '
            ':enum("negative", "positive") sentiment, :string product, :string customer'
        ),
        module=f"{PACKAGE}.review_desk:ReviewDesk",
        model=model,
        temperature=0.0,
        max_tokens=32,
    )
