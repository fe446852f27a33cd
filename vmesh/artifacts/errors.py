"""The one exception of this package."""

from __future__ import annotations


class ArtifactError(Exception):
    """An artifact cannot be had; `message` says which and why, `remedy` what to do."""

    def __init__(self, message: str, remedy: str) -> None:
        self.message, self.remedy = message, remedy
        super().__init__(f"{message}. {remedy}")
