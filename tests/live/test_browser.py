"""A person opens Jaeger's web pages and reads a trace there."""

from __future__ import annotations

import re

from tests.live import browser
from tests.live.spans import expected
from tests.live.target import Target, results_dir

DURATION = re.compile(r"(\d+(?:\.\d+)?)(μs|ms|s)")
MICROSECONDS = {"μs": 1, "ms": 1_000, "s": 1_000_000}


def microseconds(shown: str) -> float:
    """Return a duration as the page shows it (12.34ms) in microseconds."""
    match = DURATION.fullmatch(shown)
    assert match, f"no duration: {shown!r}"
    return float(match[1]) * MICROSECONDS[match[2]]


def test_trace_can_be_found_and_read_in_the_browser(target: Target) -> None:
    wanted = expected(target.mesh.spec.mesh, target.edge, "/trace/1", calls=True).flat()
    # The page shows the newest trace first: it must be this one, and whole.
    trace_id = str(target.get("/trace/1").header("x-trace-id"))
    stored = target.jaeger.settled({trace_id: len(wanted)})[trace_id]

    with browser.chromium() as chromium:
        links = browser.find_traces(chromium, target.jaeger_url, target.edge.name)
        newest = {str(link.get_attribute("href")).rsplit("/", 1)[1]: link for link in links}
        assert trace_id in newest
        rows = browser.open_trace(chromium, newest[trace_id])
        picture = results_dir() / "jaeger-trace.png"
        picture.parent.mkdir(parents=True, exist_ok=True)
        assert chromium.save_screenshot(str(picture))
        assert trace_id in chromium.current_url

    assert [(row.service, row.operation) for row in rows] == [
        (node.service, node.operation) for node in wanted
    ]
    shown = [microseconds(row.duration) for row in rows]
    # Each call contains the next one, and the page rounds to two digits of its unit.
    assert shown == sorted(shown, reverse=True)
    by_length = sorted((span.duration for span in stored), reverse=True)
    for length, on_page in zip(by_length, shown, strict=True):
        assert abs(length - on_page) <= max(10, 0.006 * length), (by_length, shown)
    assert picture.stat().st_size > 0
