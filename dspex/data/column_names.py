"""Names of the columns of a table: each has one of its own, also those that are added."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import count

from dspex.data.formats import data_refused

__all__ = ["free_names", "refuse_twice"]


def refuse_twice(names: Collection[str], where: str) -> None:
    """Raise DspexError for a name that two columns have; ``where`` says of what they are."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise data_refused(f"{where}: the column {name!r} is there twice; rename one of them")
        seen.add(name)


def free_names(names: Sequence[str], taken: Collection[str], ending: str) -> list[str]:
    """The names, which differ from each other, each as a column beside those that are ``taken``.

    One that is taken becomes ``NAME_ending``; where that is the name of a column too, ``NAME_ending_2``, and so on.
    """
    used = {*taken, *names}
    free = []
    for name in names:
        found = next(other for other in _others(f"{name}_{ending}") if other not in used) if name in taken else name
        used.add(found)
        free.append(found)
    return free


def _others(name: str) -> Iterator[str]:
    yield name
    yield from (f"{name}_{number}" for number in count(2))
