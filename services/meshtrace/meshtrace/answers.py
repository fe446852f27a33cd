"""Failures, answered with a status and one sentence."""

from __future__ import annotations

from flask import Flask, Response
from werkzeug.exceptions import InternalServerError


class UpstreamFailed(Exception):  # noqa: N818 - reads as what happened
    """A service this one depends on is unreachable or failed; the text is a sentence's part."""

    status = 502


class UpstreamTimedOut(UpstreamFailed):
    """A service this one depends on was too slow."""

    status = 504


def _sentence(text: str, status: int) -> Response:
    return Response(f"{text}.\n", status, mimetype="text/plain")


def answer_failures(app: Flask) -> None:
    """Make an app answer its failures with a sentence and log them.

    An upstream's failure becomes 502 or 504. Any other exception becomes 500; Flask
    itself logs that one with its traceback, which never reaches the client.
    """

    def upstream_failed(error: UpstreamFailed) -> Response:
        app.logger.warning("%s", error, exc_info=error.__cause__)
        return _sentence(f"Sorry, {error}", error.status)

    def bug(_error: InternalServerError) -> Response:
        return _sentence("Sorry, something went wrong in this service", 500)

    app.register_error_handler(UpstreamFailed, upstream_failed)
    app.register_error_handler(InternalServerError, bug)
