"""What is wrong with a user's input, said so that they can mend it."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from typing import Any

ERROR, WARNING = "error", "warning"
# Stands for a value that no message may show.
HIDDEN = "(hidden)"
LONG = 8  # a secret of so many characters is also looked for inside of texts


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


def errors(items: Iterable[Problem]) -> list[Problem]:
    """Return those that stop a run."""
    return [item for item in items if item.severity == ERROR]


def hide(text: str, secrets: Collection[str]) -> str:
    """Return `text` with HIDDEN in place of what of `secrets` is in it."""
    if text in secrets:
        return HIDDEN
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= LONG:
            text = text.replace(secret, HIDDEN)
    return text


def without(problem: Problem, secrets: Collection[str]) -> Problem:
    """Return `problem` as it may be shown: with none of `secrets` in it.

    A long value is shown by its beginning, so that of a secret counts too.
    """
    value = problem.value
    if isinstance(value, str):
        begins = value.removesuffix("...")
        cut = value != begins and len(begins) >= LONG
        value = HIDDEN if cut and any(s.startswith(begins) for s in secrets) else value
        value = hide(value, secrets)
    elif isinstance(value, list):
        value = [hide(item, secrets) if isinstance(item, str) else item for item in value]
    return replace(
        problem,
        value=value,
        message=hide(problem.message, secrets),
        remedy=hide(problem.remedy, secrets),
    )
