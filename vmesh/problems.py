"""What is wrong with a user's input, said so that they can mend it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

ERROR, WARNING = "error", "warning"
# Stands for a value that no message may show.
HIDDEN = "(hidden)"


@dataclass(frozen=True)
class Problem:
    """One mistake: the variable it is in, the value found, what is wrong, what to do.

    `severity` is ERROR, which stops a run, or WARNING, which is only told.
    """

    variable: str
    value: Any
    message: str
    remedy: str
    severity: str = ERROR

    @property
    def place(self) -> str:
        """The variable, and its value where it has one."""
        if self.value is None:
            return self.variable
        return f"{self.variable} = {json.dumps(self.value, default=str, ensure_ascii=False)}"

    def __str__(self) -> str:
        return f"{self.place}: {self.message}. {self.remedy}"


class Problems(Exception):  # noqa: N818 - a collection of findings, not one error
    """All mistakes found in one go."""

    def __init__(self, items: Iterable[Problem]) -> None:
        self.items = tuple(items)
        super().__init__("\n".join(f"- {item}" for item in self.items))
