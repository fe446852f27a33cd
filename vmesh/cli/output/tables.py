"""A table in the terminal, or as plain text in a pipe."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from vmesh.base.words import plain_table


def table(title: str, header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """Print a table: fitted to a terminal, of full width into a pipe."""
    if not sys.stdout.isatty():
        print("\n".join(plain_table(header, rows)))
        return
    from rich import box  # noqa: PLC0415 - only for a terminal
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    drawn = Table(*header, title=title or None, box=box.SIMPLE_HEAD, pad_edge=False)
    drawn.columns[0].min_width = max(len(row[0].partition(" ")[0]) for row in rows)
    for row in rows:
        # Rather more lines than a name that is cut.
        drawn.add_row(*(Text(cell, overflow="fold") for cell in row))
    Console().print(drawn)
