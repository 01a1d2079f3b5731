"""The programs of this deployment: put yours here."""

import dspex

simple_qa = dspex.Program(
    "simple_qa",
    """
    signature question_answering "Answer in one word":
        :string(min_length=1) question -> :string answer
    """,
    model="openai/gpt-4o-mini",
    api_key_env="OPENAI_API_KEY",
    limits=dspex.Limits(max_cost_usd=5.0),
)
