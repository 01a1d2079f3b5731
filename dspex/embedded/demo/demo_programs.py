"""The programs of the demo: a question with one answer, and the sentiment of customer reviews."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dspex.program.program import Program
from dspex.signatures import signature

__all__ = ["QUESTION", "capital", "reviews"]

QUESTION = "What is the capital of France?"

#: Examples for the model; none of them is in ``reviews.jsonl``. Small models follow examples more than words.
_CAPITALS: tuple[Mapping[str, Any], ...] = (
    {"question": "What is the capital of Japan?", "answer": "Tokyo"},
    {"question": "What is the capital of Egypt?", "answer": "Cairo"},
)
_REVIEWS: tuple[Mapping[str, Any], ...] = (
    {
        "review": "The mug is beautiful and keeps my tea hot for hours.",
        "sentiment": "positive",
        "summary": "A beautiful mug that keeps tea hot for hours.",
    },
    {
        "review": "Broke after two days and nobody answers the phone.",
        "sentiment": "negative",
        "summary": "It broke after two days and support does not answer.",
    },
    {
        "review": "Looked great in the shop, but it is slow and it scratches. Never again.",
        "sentiment": "negative",
        "summary": "It is slow and it scratches.",
    },
)


def capital(model: str) -> Program:
    """Answers a question, such as "What is the capital of France?", in a few words."""
    return Program(
        "capital",
        signature(
            'signature capital "Answer the question in a few words.": :string(min_length=1) question -> :string answer'
        ),
        model=model,
        temperature=0.0,
        max_tokens=32,
        state={"demos": list(_CAPITALS)},
    )


def reviews(model: str) -> Program:
    """Classifies a review as negative or positive, and summarises it. An empty review is refused at submit."""
    return Program(
        "reviews",
        signature(
            'signature reviews "You read customer reviews. Is the customer happy (positive) or unhappy (negative)? '
            'Summarize in one short sentence.": :string(min_length=1) review -> '
            ':enum("negative", "positive") sentiment, :string(max_length=160) summary'
        ),
        model=model,
        temperature=0.0,
        max_tokens=96,
        state={"demos": list(_REVIEWS)},
    )
