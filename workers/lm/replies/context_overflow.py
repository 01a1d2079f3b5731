"""How providers say that a prompt is longer than the context window.

Most use no code of their own for it, so the text decides. Each entry is a text as the provider sends it, with its
source; tests/unit/test_context_overflow.py reads every sample.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["CODES", "TEXTS", "OverflowText", "is_context_overflow"]


@dataclass(frozen=True, slots=True)
class OverflowText:
    """A text: the providers that send it, a pattern in lower case, a sample of the whole, and where it was found."""

    providers: str
    pattern: str
    sample: str
    source: str


#: Codes and types of errors that mean it, in lower case.
CODES = frozenset(
    {
        "context_length_exceeded",  # OpenAI, Azure, Groq, Cerebras: platform.openai.com/docs/guides/error-codes
        "context_window_exceeded",
        "model_context_window_exceeded",  # Z.AI
        "exceed_context_size_error",  # llama.cpp: github.com/ggml-org/llama.cpp/pull/15780
        "request_too_large",  # Anthropic, HTTP 413: docs.claude.com/en/api/errors
        "string_above_max_length",  # OpenAI, for one message of more than 10 MB
        "max_tokens_exceeded",
        "1261",  # Z.AI: docs.z.ai/api-reference/api-code
    }
)

TEXTS = (
    OverflowText(
        "OpenAI, Azure, vLLM, DeepSeek, OpenRouter",
        r"maximum context length (?:is|of) ",
        "This model's maximum context length is 8192 tokens. However, your messages resulted in 9000 tokens. "
        "Please reduce the length of the messages.",
        "https://github.com/vllm-project/vllm/blob/main/vllm/entrypoints/openai/serving_engine.py",
    ),
    OverflowText(
        "OpenAI",
        r"exceeds? the context window",
        "Your input exceeds the context window of this model. Please adjust your input and try again.",
        "https://platform.openai.com/docs/guides/error-codes",
    ),
    OverflowText(
        "OpenAI, Azure",
        r"input tokens exceed the configured limit",
        "Input tokens exceed the configured limit of 272000 tokens. Your messages resulted in 509178 tokens. "
        "Please reduce the length of the messages.",
        "https://github.com/BerriAI/litellm/blob/main/litellm/litellm_core_utils/exception_mapping_utils.py",
    ),
    OverflowText(
        "OpenAI",
        r"string too long\. expected a string with maximum length",
        "Invalid 'messages[1].content': string too long. Expected a string with maximum length 10485760, but got a "
        "string with length 12000000 instead.",
        "https://github.com/BerriAI/litellm/blob/main/litellm/litellm_core_utils/exception_mapping_utils.py",
    ),
    OverflowText(
        "OpenAI, Groq: larger than the limit of a minute, so no wait helps",
        r"request too large for ",
        "Request too large for model `llama-3.1-8b-instant` on tokens per minute (TPM): Limit 6000, Requested 7120, "
        "please reduce your message size and try again.",
        "https://console.groq.com/docs/errors",
    ),
    OverflowText(
        "Anthropic, Fireworks",
        r"prompt is too long",
        "prompt is too long: 210000 tokens > 200000 maximum",
        "https://docs.claude.com/en/docs/build-with-claude/context-windows",
    ),
    OverflowText(
        "Anthropic",
        r"exceeds? (?:the )?context limit",
        "input length and `max_tokens` exceed context limit: 188240 + 21333 > 200000, decrease input length or "
        "`max_tokens` and try again",
        "https://docs.claude.com/en/docs/build-with-claude/context-windows",
    ),
    OverflowText(
        "Anthropic",
        r"request (?:size )?exceeds the maximum (?:allowed )?(?:size|number of bytes)",
        "Request exceeds the maximum allowed number of bytes.",
        "https://docs.claude.com/en/api/errors",
    ),
    OverflowText(
        "Gemini",
        r"exceeds the maximum number of tokens allowed",
        "The input token count (2000000) exceeds the maximum number of tokens allowed (1048576).",
        "https://ai.google.dev/gemini-api/docs/troubleshooting",
    ),
    OverflowText(
        "Vertex AI",
        r"input token count is \d+ but (?:the )?model only supports",
        "Unable to submit request because the input token count is 33000 but model only supports up to 32768. Reduce "
        "the input token count and try again.",
        "https://cloud.google.com/vertex-ai/generative-ai/docs/model-reference/api-errors",
    ),
    OverflowText(
        "llama.cpp",
        r"exceeds the available context size",
        "request (30031 tokens) exceeds the available context size (4096 tokens), try increasing it",
        "https://github.com/ggml-org/llama.cpp/pull/15780",
    ),
    OverflowText(
        "llama.cpp",
        r"context size (?:has been )?exceeded",
        "Context size has been exceeded.",
        "https://github.com/ggml-org/llama.cpp/blob/master/tools/server/server-context.cpp",
    ),
    OverflowText(
        "llama-cpp-python",
        r"requested tokens \(\d+\) exceed context window",
        "Requested tokens (2285) exceed context window of 2048",
        "https://github.com/abetlen/llama-cpp-python/issues/416",
    ),
    OverflowText(
        "vLLM",
        r"longer than the maximum model length",
        "The decoder prompt (length 9000) is longer than the maximum model length of 4096. Make sure that "
        "`max_model_len` is no smaller than the number of text tokens.",
        "https://github.com/vllm-project/vllm/blob/main/vllm/v1/engine/processor.py",
    ),
    OverflowText(
        "vLLM",
        r"context length is only \d+",
        "You passed 5000 input tokens and requested 100 output tokens. However, the model's context length is only "
        "4096 tokens, resulting in a maximum input length of 3996 tokens.",
        "https://github.com/vllm-project/vllm/blob/main/vllm/renderers/params.py",
    ),
    OverflowText(
        "vLLM, SGLang",
        r"exceeds (?:the )?model'?s (?:maximum )?context length",
        "Input length (265330) exceeds model's maximum context length (262144).",
        "https://github.com/sgl-project/sglang/blob/main/python/sglang/srt/managers/tokenizer_manager.py",
    ),
    OverflowText(
        "SGLang, together",
        r"longer than the model'?s context length",
        "The input (516368 tokens) is longer than the model's context length (262144 tokens).",
        "https://github.com/sgl-project/sglang/blob/main/python/sglang/srt/managers/tokenizer_manager.py",
    ),
    OverflowText(
        "SGLang",
        r"exceeds the maximum allowed (?:input )?length",
        "Input length 131393 exceeds the maximum allowed input length of 131040 tokens.",
        "https://github.com/sgl-project/sglang/blob/main/python/sglang/srt/managers/utils.py",
    ),
    OverflowText(
        "TGI, together",
        r"tokens \+ `max_new_tokens` must be <=",
        "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 4000 `inputs` tokens and "
        "512 `max_new_tokens`",
        "https://github.com/huggingface/text-generation-inference/blob/main/router/src/validation.rs",
    ),
    OverflowText(
        "TGI",
        r"`inputs` must have less than \d+ tokens",
        "Input validation error: `inputs` must have less than 1024 tokens. Given: 2000",
        "https://github.com/huggingface/text-generation-inference/blob/main/router/src/validation.rs",
    ),
    OverflowText(
        "Ollama",
        r"prompt too long; exceeded (?:max )?context length",
        "prompt too long; exceeded max context length by 65590 tokens",
        "https://github.com/ollama/ollama/blob/main/server/routes.go",
    ),
    OverflowText(
        "Ollama",
        r"input length exceeds (?:the |maximum )?context length",
        "the input length exceeds the context length",
        "https://github.com/ollama/ollama/blob/main/runner/ollamarunner/runner.go",
    ),
    OverflowText(
        "Groq, Cerebras",
        r"reduce the length of the (?:messages|prompt|input)",
        "Please reduce the length of the messages or completion.",
        "https://console.groq.com/docs/errors",
    ),
    OverflowText(
        "Mistral",
        r"too large for model with \d+ maximum context length",
        "Prompt contains 40962 tokens and 0 draft tokens, too large for model with 32768 maximum context length",
        "https://docs.mistral.ai/resources/known-limitations",
    ),
    OverflowText(
        "LM Studio",
        r"greater than the context length",
        "The number of tokens to keep from the initial prompt is greater than the context length. Try to load the "
        "model with a larger context length, or provide a shorter input",
        "https://github.com/lmstudio-ai/lmstudio-bug-tracker/issues/237",
    ),
    OverflowText(
        "LM Studio",
        r"tokens when context the overflows|reached context length of \d+",
        "Reached context length of 4096 tokens with model (arch: qwen2) that does not currently support mid-generation "
        "context overflow.",
        "https://github.com/lmstudio-ai/lmstudio-bug-tracker/issues/237",
    ),
    OverflowText(
        "xAI",
        r"maximum prompt length is \d+",
        "This model's maximum prompt length is 131072 but the request contains 537812 tokens.",
        "https://docs.x.ai/docs/models",
    ),
    OverflowText(
        "Bedrock",
        r"input is too long for (?:the )?requested model",
        "Input is too long for requested model.",
        "https://repost.aws/knowledge-center/bedrock-validation-exception-errors",
    ),
    OverflowText(
        "Moonshot",
        r"exceeded model token limit",
        "Invalid request: Your request exceeded model token limit: 262144 (requested: 300000)",
        "https://platform.moonshot.ai/docs/api/chat",
    ),
    OverflowText(
        "Cohere",
        r"too many tokens: ",
        "too many tokens: total number of tokens in the prompt cannot exceed 4081 - received 4500. Try using a shorter "
        "prompt.",
        "https://docs.cohere.com/reference/errors",
    ),
    OverflowText(
        "DashScope",
        r"range of input length should be",
        "Range of input length should be [1, 129024]",
        "https://help.aliyun.com/zh/model-studio/error-code",
    ),
    OverflowText(
        "MiniMax",
        r"context window exceeds limit",
        "invalid params, context window exceeds limit",
        "https://platform.minimax.io/docs/api-reference/errorcode",
    ),
    OverflowText(
        "GitHub Copilot",
        r"prompt token count of \d+ exceeds the limit",
        "prompt token count of 145000 exceeds the limit of 128000",
        "https://github.com/microsoft/vscode-copilot-release/issues",
    ),
)

_KNOWN = re.compile("|".join(entry.pattern for entry in TEXTS))
#: The same in words of their own: "context length 4096 exceeded".
_CONTEXT = re.compile(r"context[ _-]?(?:length|window|size|limit)")
_TOO_LONG = re.compile(r"exceed|too (?:long|large|big)|longer|larger|greater|overflow|maximum|max[ _]")
#: Texts about rate limits name tokens and lengths, too.
_OF_RATE = re.compile(r"rate.?limit|too many requests|per[ _]?(?:minute|day|hour)|quota|throttl")


def is_context_overflow(text: str) -> bool:
    """Whether the text of an error says so. The time is linear in its length."""
    text = text.lower()
    if _KNOWN.search(text):
        return True
    return bool(_CONTEXT.search(text) and _TOO_LONG.search(text) and not _OF_RATE.search(text))
