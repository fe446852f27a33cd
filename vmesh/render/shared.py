"""What documents have in common, and their JSON.

A mesh has thousands of documents and replicas differ in a few values. So the objects that several
documents have in common are made once, are the same objects in each of them, and are written once.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from json.encoder import encode_basestring
from typing import Any, TypeVar

T = TypeVar("T")


class Shared:
    """Objects that several documents have in common: mappings and lists, which nobody may change.

    It keeps them, so an object that is no longer used cannot leave its `id` to another one.
    """

    def __init__(self) -> None:
        self._objects: dict[int, Any] = {}
        self._made: dict[tuple[str, tuple[int, ...]], Any] = {}

    def __contains__(self, value: object) -> bool:
        return id(value) in self._objects

    def add(self, value: T) -> T:
        """Take `value` in; return it."""
        self._objects[id(value)] = value
        return value

    def once(self, what: str, make: Callable[[], T], *of: object) -> T:
        """Return `what` of the objects `of`, made by `make`: once where all of them are shared."""
        if any(each not in self for each in of):
            return make()
        key = (what, tuple(map(id, of)))
        if key not in self._made:
            self._made[key] = self.add(make())
        made: T = self._made[key]
        return made


class JsonTexts:
    """Writes what `json.dumps(value, indent=indent, ensure_ascii=False)` does.

    What is `shared` is written once for each depth at which it stands.
    """

    def __init__(self, shared: Shared, indent: int) -> None:
        self._shared = shared
        self._indent = " " * indent
        self._texts: dict[tuple[int, str], str] = {}

    def text(self, value: Any, margin: str = "\n") -> str:
        """Return the JSON of `value`; `margin` begins each of its lines but the first."""
        if not isinstance(value, dict | list):
            return _scalar(value)
        if value not in self._shared:
            return self._written(value, margin)
        key = (id(value), margin)
        if key not in self._texts:
            self._texts[key] = self._written(value, margin)
        return self._texts[key]

    def _written(self, value: dict[str, Any] | list[Any], margin: str) -> str:
        inner = margin + self._indent
        if isinstance(value, dict):
            begin, end = "{", "}"
            items = [f"{_scalar(k)}: {self.text(v, inner)}" for k, v in value.items()]
        else:
            begin, end = "[", "]"
            items = [self.text(each, inner) for each in value]
        return f"{begin}{inner}{f',{inner}'.join(items)}{margin}{end}" if items else begin + end


def _scalar(value: Any) -> str:
    """Return the JSON of a value that holds no other; json.dumps is slow at the usual ones."""
    if isinstance(value, str):
        return encode_basestring(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int) else json.dumps(value)
