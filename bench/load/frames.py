"""The client's side of WebSocket (RFC 6455): handshake and frames, no extensions."""

from __future__ import annotations

import base64
import hashlib
import os
from dataclasses import dataclass
from enum import IntEnum

from bench.load.http1 import Head
from bench.load.wire import BadAnswerError, CutError, Wire

_GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_MOST_PAYLOAD = 2**20

NO_CODE = 1005  # what a close frame without a code counts as


class Opcode(IntEnum):
    """What a frame is."""

    CONTINUATION = 0x0
    TEXT = 0x1
    BINARY = 0x2
    CLOSE = 0x8
    PING = 0x9
    PONG = 0xA


@dataclass(frozen=True)
class Frame:
    """One frame, unmasked; `final` is false when the message goes on."""

    final: bool
    opcode: Opcode
    payload: bytes


def upgrade(key: str) -> dict[str, str]:
    """Return the header fields that ask for a WebSocket."""
    return {
        "connection": "Upgrade",
        "upgrade": "websocket",
        "sec-websocket-version": "13",
        "sec-websocket-key": key,
    }


def new_key() -> str:
    """Return a nonce for a handshake."""
    return base64.b64encode(os.urandom(16)).decode()


def accepted(head: Head, key: str) -> bool:
    """Tell whether an answer agrees to the handshake with that key."""
    proof = base64.b64encode(hashlib.sha1((key + _GUID).encode()).digest()).decode()
    return (
        head.status == 101
        and "websocket" in head.tokens("upgrade")
        and "upgrade" in head.tokens("connection")
        and head.value("sec-websocket-accept") == proof
    )


def masked(opcode: Opcode, payload: bytes) -> bytes:
    """Return a whole message in one frame, masked as a client must."""
    length = len(payload)
    if length < 126:
        size = bytes([0x80 | length])
    elif length < 2**16:
        size = bytes([0x80 | 126]) + length.to_bytes(2, "big")
    else:
        size = bytes([0x80 | 127]) + length.to_bytes(8, "big")
    key = os.urandom(4)
    return (
        bytes([0x80 | opcode]) + size + key + bytes(b ^ key[i % 4] for i, b in enumerate(payload))
    )


def close_payload(code: int, reason: str = "") -> bytes:
    """Return the payload of a close frame."""
    return code.to_bytes(2, "big") + reason.encode()


def close_code(payload: bytes) -> int:
    """Return the code of a close frame. Raises BadAnswerError for half a code."""
    if not payload:
        return NO_CODE
    if len(payload) == 1:
        raise BadAnswerError("a close frame with one byte")
    return int.from_bytes(payload[:2], "big")


async def frame(wire: Wire) -> Frame:
    """Read a server's frame.

    Raises CutError, which is partial unless the connection ended between two frames, and
    BadAnswerError for what a server must not send.
    """
    first, second = await wire.exactly(2)
    try:
        opcode = Opcode(first & 0x0F)
    except ValueError:
        raise BadAnswerError(f"a frame of the unknown kind {first & 0x0F:#x}") from None
    final, length = bool(first & 0x80), second & 0x7F
    if first & 0x70 or second & 0x80:
        raise BadAnswerError("a frame that is masked or uses an extension")
    if opcode >= Opcode.CLOSE and (not final or length > 125):
        raise BadAnswerError(f"a {opcode.name} frame that is too long or not whole")
    try:
        if length >= 126:
            length = int.from_bytes(await wire.exactly(2 if length == 126 else 8), "big")
        if length > _MOST_PAYLOAD:
            raise BadAnswerError(f"a frame of {length} bytes")
        return Frame(final, opcode, await wire.exactly(length))
    except CutError as error:
        raise CutError(error.how, partial=True) from error
