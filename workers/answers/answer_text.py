"""The text of an answer, as it arrives."""

from __future__ import annotations

from bisect import bisect_right

from dspex.signatures.values.loose_json import TextSource

__all__ = ["AnswerText"]


class AnswerText(TextSource):
    """A :class:`TextSource` that can go back to a place in the text that was read."""

    __slots__ = ("_base", "_length", "_pieces", "_starts")

    def __init__(self) -> None:
        super().__init__()
        self._pieces: list[str] = []
        self._starts: list[int] = []
        self._length = 0
        self._base = 0  # the place of ``text`` in the whole text

    @property
    def whole(self) -> str:
        return "".join(self._pieces)

    @property
    def place(self) -> int:
        """The place in the whole text of what is read next."""
        return self._base + self.at

    def feed(self, text: str) -> None:
        self._starts.append(self._length)
        self._pieces.append(text)
        self._length += len(text)
        self._base += self.at
        super().feed(text)

    def since(self, place: int) -> str:
        """The text from this place to what is read next."""
        if place >= self._base:
            return self.text[place - self._base : self.at]
        return self._from(place)[: self.place - place]

    def go_back(self, place: int) -> None:
        """Read on from this place."""
        if place < self._base:
            self.text, self._base = self._from(place), place
        self.at = place - self._base

    def _from(self, place: int) -> str:
        first = bisect_right(self._starts, place) - 1
        return "".join(self._pieces[first:])[place - self._starts[first] :]
