"""`./mesh trace`: one request through the edge, and the trace that Jaeger stored of it."""

from __future__ import annotations

import argparse
import http.client
import json
import shutil
import ssl
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from vmesh.base import paths
from vmesh.base.exits import FAILED, OK, USAGE, CliError
from vmesh.cli import jaeger as jaeger_command
from vmesh.model.types import Mesh as Model
from vmesh.remote import connect
from vmesh.remote.mesh import Mesh, read
from vmesh.traces import waterfall
from vmesh.traces.span import Span, parse, whole

# Proxies send their spans every second or so: a trace is complete once it hangs together
# and nothing came for this long.
QUIET_SECONDS = 2.0


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect is the edge's answer; where it leads is somebody else's."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _any_certificate() -> ssl.SSLContext:
    """Return TLS that asks for no proof: an edge is reached by an address that none is for."""
    # Not create_default_context: that reads all the authorities of the system at each start.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


NO_PROXY = urllib.request.build_opener(
    urllib.request.ProxyHandler({}),
    urllib.request.HTTPSHandler(context=_any_certificate()),
    _NoRedirect(),
)


@dataclass(frozen=True)
class Answer:
    """What the edge answered."""

    url: str
    status: int
    body: str
    trace_id: str | None
    seconds: float


@dataclass(frozen=True)
class Asked:
    """What to request; what is None is chosen from the inventory."""

    path: str | None = None
    edge: str | None = None
    headers: dict[str, str] = field(default_factory=dict)


def run(arguments: argparse.Namespace) -> int:
    """Send the request, wait for its trace, print both."""
    mesh = read(*arguments.inventory)
    headers = dict(_header(text) for text in arguments.header)
    answer = request(mesh, Asked(arguments.path, arguments.edge, headers))
    show_answer(answer)
    return OK if show_trace(mesh, answer, arguments.wait) and answer.status < 500 else FAILED


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise CliError(f"{text!r} is not a header; write it as 'name: value'", USAGE)
    return name.strip(), value.strip()


def request(mesh: Mesh, asked: Asked = Asked(), timeout: float = 60.0) -> Answer:
    """Send one GET to an edge.

    Raises CliError when nobody answers there, or when there can be no such request.
    """
    edge = mesh.edge(asked.edge)
    host, path = connect.usual_request(edge)
    if asked.path is not None:
        host, path = connect.host_for(edge, asked.path), asked.path
    headers = dict(asked.headers)
    if host is not None and not any(name.lower() == "host" for name in headers):
        headers["Host"] = host
    url = mesh.edge_url(path, asked.edge)
    began = time.monotonic()
    try:
        try:
            response = NO_PROXY.open(urllib.request.Request(url, headers=headers), timeout=timeout)
        except urllib.error.HTTPError as error:
            response = error
        with response:
            body = response.read().decode(errors="replace")
            trace_id = response.headers.get("x-trace-id")
            code = response.status
    except (ValueError, http.client.InvalidURL) as error:
        raise CliError(
            f"{url} cannot be requested: {error}\n"
            "  -> write blanks and letters beyond ASCII as %20, %C3%A9 and so on",
            USAGE,
        ) from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error or type(error).__name__
        raise CliError(
            f"The edge does not answer at {url}: {reason}\n"
            f"  -> {paths.COMMAND} ps shows what runs; {paths.COMMAND} up starts what does not"
        ) from error
    return Answer(url, code, body, trace_id, time.monotonic() - began)


def show_answer(answer: Answer) -> None:
    """Print the request and what came back."""
    print(f"GET {answer.url}  {answer.status}  {answer.seconds * 1000:.0f} ms")
    print("  " + (answer.body.strip()[:500] or "(no body)"))


def show_trace(mesh: Mesh, answer: Answer, wait: float) -> bool:
    """Print the waterfall and the link to Jaeger; tell whether all is as it should be."""
    if answer.trace_id is None:
        print("No trace: the edge's answer has no x-trace-id.", file=sys.stderr)
        return False
    with jaeger_command.asked_at(mesh) as jaeger:
        if jaeger is None:
            print(f"trace {answer.trace_id}: this mesh keeps its traces elsewhere", file=sys.stderr)
            return True
        spans = stored_spans(lambda: _ask_jaeger(jaeger, str(answer.trace_id)), wait)
    if not spans:
        print(
            f"Jaeger at {jaeger} has no span of trace {answer.trace_id} after {wait:.0f} s.",
            file=sys.stderr,
        )
        if not traces_everything(mesh.spec.mesh):
            print("This mesh does not trace every request (sampling); try again.", file=sys.stderr)
        return False
    print(f"trace {answer.trace_id}, {len(spans)} spans:")
    print()
    width = shutil.get_terminal_size((100, 24)).columns
    for line in waterfall.lines(waterfall.tree(spans), width, _bar_character()):
        print(line)
    if not whole(spans):
        print(f"Not whole after {wait:.0f} s: a span's parent has not arrived.", file=sys.stderr)
    print()
    first = f"{paths.COMMAND} jaeger, then " if mesh.jaeger_is_local() else ""
    print(f"{first}{mesh.jaeger_url()}trace/{answer.trace_id}")
    return True


def traces_everything(mesh: Model) -> bool:
    """Tell whether every request leaves a trace in a Jaeger of this mesh."""
    sampled = [mesh.tracing.sampling] + [
        tracing.sampling
        for edge in mesh.edges.values()
        for tracing in (edge.tracing, *(route.tracing for route in edge.routes))
        if tracing.sampling is not None
    ]
    return mesh.tracing.group is not None and min(sampled) == 100


def stored_spans(
    ask: Callable[[], list[Span]],
    wait: float,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> list[Span]:
    """Return the trace's spans once they hang together and stay as many, or after `wait`."""
    began = stable_since = clock()
    spans: list[Span] = []
    while clock() - began < wait:
        found = ask()
        if len(found) != len(spans):
            spans, stable_since = found, clock()
        elif whole(spans) and clock() - stable_since >= QUIET_SECONDS:
            break
        sleep(0.5)
    return spans


def _ask_jaeger(jaeger: str, trace_id: str) -> list[Span]:
    try:
        with NO_PROXY.open(f"{jaeger}api/traces/{trace_id}", timeout=10) as response:
            return parse(json.load(response))
    except urllib.error.HTTPError as error:
        if error.code == http.client.NOT_FOUND:
            return []  # not stored yet
        raise CliError(f"Jaeger at {jaeger} answered {error.code} for trace {trace_id}") from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise CliError(
            f"Jaeger does not answer at {jaeger}: {reason}\n  -> {paths.COMMAND} logs jaeger"
        ) from error


def _bar_character() -> str:
    try:
        waterfall.FULL.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return "#"
    return waterfall.FULL
