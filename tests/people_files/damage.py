"""CSV of known people with damage of every kind, and what a reader of it may say."""

import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

HEADER = "id,email,note\n"
# Each makes the text of a row from its cells. The row is damaged, or its address is none.
DAMAGES: dict[str, Callable[[str, str, str], str]] = {
    "a quote never closed": lambda number, person, note: f'{number},{person},"{note}\n',
    "a quote never closed, before the address": lambda number, person, note: f'"{number},{person},{note}\n',
    "a quote never closed, around the address": lambda number, person, note: f'{number},"{person},{note}\n',
    "a quote never opened": lambda number, person, note: f'{number},{person},{note}"\n',
    "a quote never opened, around the address": lambda number, person, note: f'{number},{person}",{note}\n',
    "only the last quotes of all cells": lambda number, person, note: f'{number}","{person}","{note}\n',
    "a quote that is not doubled": lambda number, person, note: f'{number},{person},"5" {note}"\n',
    "quotes that are not doubled": lambda number, person, note: f'{number},{person},"the "best" {note}"\n',
    "an open quote in a row with a cell too many": lambda number, person, note: f'{number},{person},x,"{note}\n',
    "a cell too many": lambda number, person, note: f"{number},x,{person},{note}\n",
    "a cell too few": lambda number, person, _note: f"{number},{person}\n",
    "truncated after a quote": lambda number, person, _note: f'{number},{person},"\n',
    "a name around the address": lambda number, person, note: f"{number},Bob <{person}>,{note}\n",
    "a scheme before the address": lambda number, person, note: f"{number},mailto:{person},{note}\n",
    "a parameter": lambda number, person, note: f"{number},email={person},{note}\n",
    "a template": lambda number, person, note: f"{number},{{{{{person},{note}\n",
    "not UTF-8": lambda number, person, note: f"{number},\udcff{person},{note}\n",
    "two addresses": lambda number, person, note: f"{number},{person};{person},{note}\n",
    "a note with quotes that are not doubled": lambda number, person, _note: (
        f'{number},{person},"hi "Bob"\nx,hidden-{person},y\nbye"\n'
    ),
}
# Each makes the text of a sound row.
SOUND: dict[str, Callable[[str, str, str], str]] = {
    "plain": lambda number, person, note: f"{number},{person},{note}\n",
    "quoted": lambda number, person, note: f'"{number}","{person}","{note}"\n',
    "quotes doubled": lambda number, person, note: f'{number},{person},"the ""best"", {note}"\n',
    "several lines": lambda number, person, note: f'{number},{person},"{note}\n\n""best"", regards"\n',
}
# A sound row whose note might be rows as well. A reader may refuse it, if it says so.
DOUBTFUL: dict[str, Callable[[str, str, str], str]] = {
    "a note with rows": lambda number, person, note: f'{number},{person},"{note}\nx,hidden-{person},y\nbye"\n',
}


@dataclass(frozen=True, slots=True)
class Piece:
    """A row as written.

    Attributes:
        line: its first line, from 1.
        text: its lines.
        person: whose address it has, if the row is sound.
        kind: how it was written.
    """

    line: int
    text: str
    person: str | None
    kind: str

    @property
    def lines(self) -> range:
        """The numbers of its lines."""
        return range(self.line, self.line + self.text.count("\n"))


def write_pieces(count: int, seed: int, share: float, sound: Iterable[str] = SOUND) -> Iterator[Piece]:
    """Rows below HEADER, of which about this share is damaged or doubtful; the others are of the kinds in `sound`."""
    random_ = random.Random(seed)  # noqa: S311 - no secret
    sound, others, line = list(sound), list(DAMAGES | DOUBTFUL), 2
    for number in range(1, count + 1):
        kind = random_.choice(others if random_.random() < share else sound)
        person = f"{seed}.{number}@example.com"
        text = (DAMAGES | SOUND | DOUBTFUL)[kind](str(number), person, random_.choice(["", "Al", "a b", "20 %"]))
        piece = Piece(line, text, None if kind in DAMAGES else person, kind)
        yield piece
        line += text.count("\n")


def check(
    pieces: Iterable[Piece], person_of_row: Mapping[int, str | None], spans: Mapping[int, range]
) -> tuple[int, int]:
    """The number of sound rows found, and of those that lie in spans.

    Args:
        pieces: the rows as written.
        person_of_row: what was read: the persons, or None for an invalid row, by the numbers of the rows.
        spans: the lines of all rows that were reported as invalid and have several lines, by the numbers of the rows.

    Raises:
        AssertionError: a row has a wrong person, is missing, or was swallowed without a report.
    """
    found = lost = surplus = 0
    reported = iter(sorted(spans.items(), key=lambda item: item[1].start))
    row, span = next(reported, (0, range(0)))
    unread = dict(person_of_row)
    for piece in pieces:
        while span and span.stop <= piece.line:
            surplus += len(span) - 1
            row, span = next(reported, (0, range(0)))
        if span and span.start <= piece.lines[-1] and piece.lines[0] < span.stop:
            assert unread.pop(row, None) is None, (piece.kind, piece.line, span)
            lost += piece.person is not None and piece.kind not in DOUBTFUL
            # Of a row that was given up, further lines may be rows of their own, all invalid.
            for line in range(max(span.stop, piece.line), piece.lines.stop):
                assert unread.pop(line - 1 - surplus - len(span) + 1, None) is None, (piece.kind, piece.line)
            continue
        numbers = [line - 1 - surplus for line in piece.lines]
        if piece.person is None:
            for number in numbers:
                assert unread.pop(number, None) is None, (piece.kind, piece.line, number)
        else:
            assert unread.pop(numbers[0], "missing") == piece.person, (piece.kind, piece.line, numbers[0])
            surplus += len(numbers) - 1
            found += 1
    assert not [person for person in unread.values() if person is not None]
    return found, lost
