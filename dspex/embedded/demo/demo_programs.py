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


FIRST = DemoReview("This kettle is fast and quiet. The best one that I ever had!", "positive", "kettle")
REVIEWS = (
    DemoReview("The headphones sound great and the battery lasts all week.", "positive", "headphones"),
    DemoReview("The zipper of this jacket broke on the first day. I want my money back.", "negative", "jacket"),
    DemoReview("What a lovely lamp. It makes the whole room cosy.", "positive", "lamp"),
    DemoReview("The phone stopped charging after a week, and support was no help.", "negative", "phone"),
    DemoReview("My daughter loves this bicycle and rides it every day.", "positive", "bicycle"),
    DemoReview("These shoes leak. My socks were wet after ten minutes.", "negative", "shoes"),
    DemoReview("The knife is sharp, light and easy to clean. I bought a second one.", "positive", "knife"),
    DemoReview("The vacuum cleaner is loud, weak and far too expensive.", "negative", "vacuum cleaner"),
    DemoReview("Great backpack: light, strong and very comfortable.", "positive", "backpack"),
    DemoReview("The printer jams on every page. What a waste of money.", "negative", "printer"),
)


def review_desk(model: str) -> Program:
    """The sentiment of a review, the product and the stars: three short answers of the model."""
    return Program(
        "review_desk",
        signature(
            'signature review_desk "Read a review": :string(min_length=1) review -> '
            ':enum("negative", "positive") sentiment, :string product, :integer(min=1, max=5) stars'
        ),
        module=f"{PACKAGE}.review_desk:ReviewDesk",
        model=model,
        temperature=0.0,
        max_tokens=32,
    )
