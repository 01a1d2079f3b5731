"""The signatures of the seed document, as they stand there."""

from typing import Any

COMPREHENSIVE_TYPES = """
      signature comprehensive_types:
        :string question,
        :list(:string) context,
        :map options,
        :optional(:integer) max_length ->
        :string answer,
        :confidence_score confidence,
        :list(:reasoning_chain) reasoning,
        :map metadata
      """

COMPREHENSIVE_CONSTRAINTS: dict[str, dict[str, float]] = {
    "max_length": {"min": 1, "max": 1000},
    "confidence": {"min": 0.0, "max": 1.0},
}

COMPREHENSIVE_INPUT: dict[str, Any] = {
    "question": "Test question",
    "context": ["context1", "context2"],
    "options": {"temperature": 0.7},
    "max_length": 500,
}

BROKEN = """
      signature broken: invalid_syntax ->
      """

SIGNATURES = {
    "question_answering": """
      signature question_answering: 
        :string question ->
        :string answer
      """,  # noqa: W291 - the seed has this space
    "complex_reasoning": """
      signature complex_reasoning:
        :string problem,
        :list(:string) context ->
        :reasoning_chain thoughts,
        :string conclusion,
        :confidence_score confidence
      """,
    "typed_test": """
      signature typed_test: :integer number -> :string result
      """,
    "performance_test": """
      signature performance_test: :string input -> :string output
      """,
    "comprehensive_types": COMPREHENSIVE_TYPES,
    "adapter_test": """
      signature adapter_test: :string input -> :string output
      """,
    "manual_action_test": """
      signature manual_action_test:
        :string operation,
        :map parameters ->
        :string result,
        :map execution_metrics
      """,
    "load_test": """
        signature load_test: :string input -> :string output
        """,
    "perf_test_1": """
        signature perf_test_1: :string input -> :string output
        """,
    "throughput_test": """
      signature throughput_test: :string input -> :string output
      """,
    "memory_test": """
      signature memory_test: :string input -> :string output
      """,
    "scalability_test": """
      signature scalability_test: :string input -> :string output
      """,
    "sustained_test": """
      signature sustained_test: :string input -> :string output
      """,
    "warmup_1": """
      signature warmup_1: :string input -> :string output
      """,
    "completion_test": """
      signature completion_test: 
        :string input,
        :integer count ->
        :string output,
        :confidence_score confidence
      """,  # noqa: W291 - the seed has this space
    "workflow_test": """
      signature workflow_test: :string input -> :string output
      """,
}
