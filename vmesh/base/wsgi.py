"""What gunicorn is told to serve: `module:name`, or `module:function(arguments)`."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass, field
from typing import Any

_MODULE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*")


@dataclass(frozen=True)
class Target:
    """A name in a module; where `called`, a function that makes the app from the arguments."""

    module: str
    name: str
    called: bool = False
    arguments: tuple[Any, ...] = ()
    keywords: dict[str, Any] = field(default_factory=dict)


def parse(text: str) -> Target | None:
    """Return what `text` names, None where gunicorn would not understand it.

    As gunicorn does, it takes a plain name or a call of one, whose arguments are literals.
    """
    module, colon, rest = text.partition(":")
    if not (colon and _MODULE.fullmatch(module) and text.isascii() and text.isprintable()):
        return None
    if rest != rest.strip():
        return None
    try:
        match ast.parse(rest, mode="eval").body:
            case ast.Name(id=name):
                return Target(module, name)
            case ast.Call(func=ast.Name(id=name), args=args, keywords=keywords):
                named = {each.arg: ast.literal_eval(each.value) for each in keywords if each.arg}
                if len(named) < len(keywords):
                    return None
                values = tuple(map(ast.literal_eval, args))
                return Target(module, name, called=True, arguments=values, keywords=named)
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        pass
    return None
