"""Load on a mesh that is being changed: requests at a constant rate, and streams held open.

What counts as failed is decided here and nowhere else, so that all figures mean the same.
"""

from bench.load.addresses import NotAllowedError
from bench.load.client import END, KEPT, MODES, NEW, START, Load, Target
from bench.load.report import Counts, Failure, Outcome, Report, Spread
from bench.load.streams import Download, Stream, StreamResult, Verdict
from bench.load.websocket import WebSocket

__all__ = [
    "END",
    "KEPT",
    "MODES",
    "NEW",
    "START",
    "Counts",
    "Download",
    "Failure",
    "Load",
    "NotAllowedError",
    "Outcome",
    "Report",
    "Spread",
    "Stream",
    "StreamResult",
    "Target",
    "Verdict",
    "WebSocket",
]
