"""The marks of reasoning in an answer: what models write before or after what they were asked for."""

from __future__ import annotations

import re
from typing import Final

from dspex.signatures.values.loose_json import Pieces, TextSource

__all__ = ["CLOSE", "FIRST", "OPEN", "TURN", "skip_reasoning", "unfinished_tag"]

_NAME = (
    r"(?:seed:)?(?:ant)?(?:(?:think(?:ing)?|thoughts?|reasoning)(?:_process|_content)?|reflection|scratchpad"
    r"|inner_monologue)"
)
_WORD = r"(?:[a-z]{0,12}_)?(?:think(?:ing)?|thoughts?|reasoning)"
#: The first character of every mark. Patterns begin with this set, which re finds fast; the rest follows it.
FIRST: Final = r"[<\[◁]"
#: ``<think>``, ``<thinking>``, ``<thought>``, ``<reasoning>``, ``[THINK]``, ``◁think▷``, ``<|begin_of_thought|>``,
#: ``<|START_THINKING|>``, and the channels of the harmony format other than ``final``: all but the first character.
OPEN: Final = (
    rf"(?i:(?<=<)(?:{_NAME}(?:\s[^<>]{{0,60}})?>|\|(?!end|/)(?:[a-z]{{1,12}}_(?:of_)?)?{_WORD}\|>"
    r"|\|channel\|?>\s{0,2}(?:analysis|commentary|thought))|(?<=\[)THINK\]|(?<=◁)think▷)"
)
#: Their ends. What stands before an end without a beginning is reasoning, too: some templates write the beginning
#: into the prompt.
CLOSE: Final = (
    rf"(?i:(?<=<)(?:/{_NAME}\s{{0,4}}>|\|(?:/|end_?(?:of_)?){_WORD}\|>"
    r"|channel\|>|\|channel\|?>\s{0,2}final)|(?<=\[)/THINK\]|(?<=◁)/think▷)"
)
#: Tokens with which models end a turn or begin another, where a server does not remove them; all but the first
#: character.
TURN: Final = (
    r"(?i:(?<=<)(?:\|(?:im_(?:end|start)|end|return|call|eo[tms]_id|endoftext|end_of_(?:text|turn|turn_token|role)"
    r"|end_response|start_(?:header_id|of_role)|user|assistant|system)\||(?:end|start)_of_turn|eos|/s"
    r"|\uff5cend▁of▁sentence\uff5c)>|(?<=\[)/INST\])"
)
_LONGEST_TAG: Final = 100

_END = re.compile(rf"{FIRST}(?:{CLOSE}|(?<=<)\|(?:end|call)\|>)")
_NO_BRACKET = re.compile(r"[^<\[◁]*+")
_BRACKETS = (("<", ">"), ("[", "]"), ("◁", "▷"))


def skip_reasoning(source: TextSource) -> Pieces[bool]:
    """Read to the end of a block, of which the beginning was read. False if it has none: it is the rest of the text.

    Any end closes any block. If that was not the real end, the next one makes all before it reasoning.
    """
    while True:
        found = _END.search(source.text, source.at)
        if found:
            source.at = found.end()
            return True
        if source.is_over:
            source.at = len(source.text)
            return False
        source.at = unfinished_tag(source.text, source.at)
        yield


def unfinished_tag(text: str, at: int) -> int:
    """Where a mark begins of which more may follow, after ``at``; the end of the text if there is none."""
    tail = text[max(at, len(text) - _LONGEST_TAG) :]
    if _NO_BRACKET.fullmatch(tail):
        return len(text)
    least = len(text) - len(tail)
    begins = ((text.rfind(begin, least), end) for begin, end in _BRACKETS)
    open_ = [at for at, end in begins if at >= 0 and (text.find(end, at) < 0 or text.startswith("<|channel", at))]
    return min(open_, default=len(text))
