"""Why an answer ended, in the words of providers.

lm15 takes every word that it does not know for a complete answer. Here a word that is not known to mean a complete
answer means one that may have been cut off.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

__all__ = ["ENDINGS", "Ending", "ending"]

Ending = Literal["complete", "cut", "tool_call", "filtered", "garbled", "broken_off", "unknown"]

#: The words in lower case: those in the references of OpenAI, Anthropic and Google; Mistral's model_length, vLLM's and
#: SGLang's abort, vLLM's repetition, TGI's eos_token, Cohere's complete, error_toxic, error_limit and user_cancel,
#: Z.AI's sensitive and network_error, DeepSeek's insufficient_system_resource; and variants of them.
_WORDS: Mapping[Ending, str] = {
    "complete": "stop end_turn stop_sequence eos eos_token eos_found stop_str stop_token end complete completed "
    "finished",
    "cut": "length max_tokens max_output_tokens max_new_tokens max_length max_completion_tokens model_length "
    "model_context_window_exceeded context_length context_window_exceeded context_length_exceeded token_limit "
    "incomplete truncated repetition repetition_detected error_limit",
    "tool_call": "tool_calls tool_call tool_use function_call pause_turn",
    "filtered": "content_filter content_filtered refusal safety recitation blocklist prohibited_content spii "
    "sensitive image_safety image_prohibited_content image_recitation guardrail_intervened moderation blocked "
    "error_toxic",
    "garbled": "malformed_function_call malformed_response unexpected_tool_call too_many_tool_calls language "
    "missing_thought_signature no_image image_other",
    "broken_off": "abort aborted cancelled canceled user_cancel error failed failure timeout internal_error "
    "server_error network_error overloaded preempted interrupted other insufficient_system_resource",
}
ENDINGS: Mapping[str, Ending] = {word: meaning for meaning, words in _WORDS.items() for word in words.split()}

#: Parts of words that are not in the table, in the order in which they decide.
_STEMS: tuple[tuple[str, Ending], ...] = (
    *((stem, "broken_off") for stem in ("abort", "error", "fail", "cancel", "overload", "timeout", "unavailable")),
    *((stem, "broken_off") for stem in ("resource", "interrupt", "exception")),
    *((stem, "filtered") for stem in ("filter", "safety", "block", "refus", "policy", "prohibit", "guardrail")),
    *((stem, "cut") for stem in ("length", "token", "limit", "trunc", "max")),
)


def ending(word: object) -> Ending:
    """What the provider's word means."""
    if not isinstance(word, str) or not word.strip():
        return "unknown"
    plain = word.strip().lower()
    if plain in ENDINGS:
        return ENDINGS[plain]
    return next((meaning for stem, meaning in _STEMS if stem in plain), "unknown")
