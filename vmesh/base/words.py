"""Words for people: lists of names, nouns that are counted, tables."""

from __future__ import annotations

from collections.abc import Sequence


def shorter(names: Sequence[str], most: int = 3) -> str:
    """Return the first `most` names with commas, and how many more there are."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def shortened(names: Sequence[str], most: int = 3) -> str:
    """Return names as `shorter` does, but never name one too few: "1 more" is no shorter."""
    return shorter(names, most + 1 if len(names) == most + 1 else most)


def plural(word: str, count: int) -> str:
    """Return `word`, with an s unless there is one."""
    return word if count == 1 else f"{word}s"


def plain_table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Return a table's lines."""
    cells = [header, *rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]
