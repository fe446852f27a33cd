"""A gRPC service and a client of it, of bytes as they are: no compiler of protocol buffers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc

SERVICE = "talk.Talk"
HEALTH = "/grpc.health.v1.Health/Check"
# grpc.health.v1.HealthCheckResponse with the field `status`, number 1.
SERVING, NOT_SERVING = b"\x08\x01", b"\x08\x02"

Handler = Callable[[Any, grpc.ServicerContext], Any]


class Talk:
    """What the service does, and what it saw: the metadata of each call, by method."""

    def __init__(self) -> None:
        self.metadata: list[tuple[str, dict[str, Any]]] = []
        self.health = SERVING
        self.fails = 0  # so many calls of `Unsteady` from now on
        self.ended = threading.Event()  # a call of `Forever` was cancelled

    def seen(self, method: str) -> list[dict[str, Any]]:
        return [metadata for name, metadata in list(self.metadata) if name == method]

    def unary(self, message: bytes, context: grpc.ServicerContext) -> bytes:
        context.set_trailing_metadata((("x-count", str(len(message))), ("x-raw-bin", b"\x00\xff")))
        return message.upper()

    def server_stream(self, message: bytes, _: grpc.ServicerContext) -> Iterator[bytes]:
        for number in range(int(message)):
            yield str(number).encode()

    def client_stream(self, messages: Iterator[bytes], _: grpc.ServicerContext) -> bytes:
        return b"+".join(messages)

    def both(self, messages: Iterator[bytes], _: grpc.ServicerContext) -> Iterator[bytes]:
        for message in messages:
            yield message[::-1]

    def refuses(self, message: bytes, context: grpc.ServicerContext) -> bytes:
        context.abort(grpc.StatusCode.NOT_FOUND, "no such thing: é %")
        return message  # which abort, by raising, does not let happen

    def unsteady(self, message: bytes, context: grpc.ServicerContext) -> bytes:
        if self.fails:
            self.fails -= 1
            context.abort(grpc.StatusCode.UNAVAILABLE, "come again")
        return message

    def slow(self, message: bytes, _: grpc.ServicerContext) -> bytes:
        time.sleep(float(message))
        return message

    def forever(self, message: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        context.add_callback(self.ended.set)
        yield message
        while context.is_active():
            time.sleep(0.05)

    def handlers(self) -> tuple[grpc.GenericRpcHandler, ...]:
        def noted(name: str, handler: Handler) -> Handler:
            def noting(message: Any, context: grpc.ServicerContext) -> Any:
                self.metadata.append((name, dict(context.invocation_metadata())))
                return handler(message, context)

            return noting

        talk = {
            "Unary": grpc.unary_unary_rpc_method_handler(noted("Unary", self.unary)),
            "ServerStream": grpc.unary_stream_rpc_method_handler(self.server_stream),
            "ClientStream": grpc.stream_unary_rpc_method_handler(self.client_stream),
            "Both": grpc.stream_stream_rpc_method_handler(self.both),
            "Refuses": grpc.unary_unary_rpc_method_handler(self.refuses),
            "Unsteady": grpc.unary_unary_rpc_method_handler(noted("Unsteady", self.unsteady)),
            "Slow": grpc.unary_unary_rpc_method_handler(noted("Slow", self.slow)),
            "Forever": grpc.unary_stream_rpc_method_handler(self.forever),
        }
        check = grpc.unary_unary_rpc_method_handler(noted("Check", lambda *_: self.health))
        return (
            grpc.method_handlers_generic_handler(SERVICE, talk),
            grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": check}),
        )


@contextmanager
def serving(talk: Talk, *options: tuple[str, Any]) -> Iterator[int]:
    """Serve `talk` without TLS; yields the port of 127.0.0.1."""
    server = grpc.server(ThreadPoolExecutor(16), options=list(options))
    server.add_generic_rpc_handlers(talk.handlers())
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield port
    finally:
        server.stop(None)


class Caller:
    """A client of `Talk` at an address; methods have the names of the service."""

    def __init__(self, address: str) -> None:
        # Clients of one address share a connection otherwise, and a proxy is not to be used.
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
        self.channel = grpc.insecure_channel(address, options=options)

    def __enter__(self) -> Caller:
        return self

    def __exit__(self, *_: object) -> None:
        self.channel.close()

    def unary(self, method: str, message: bytes, timeout: float = 10, **metadata: str) -> Any:
        """Return the answer and the call, which has the metadata and the status."""
        call = self.channel.unary_unary(f"/{SERVICE}/{method}")
        return call.with_call(message, timeout=timeout, metadata=_named(metadata))

    def status(self, method: str, message: bytes, timeout: float = 10) -> tuple[str, str]:
        """Return the status of a call that fails, by name, and its message."""
        try:
            self.unary(method, message, timeout)
        except grpc.RpcError as error:
            failed: Any = error
            return failed.code().name, failed.details()
        return "OK", ""

    def server_stream(self, method: str, message: bytes, timeout: float = 10) -> Any:
        return self.channel.unary_stream(f"/{SERVICE}/{method}")(message, timeout=timeout)

    def client_stream(self, messages: Iterator[bytes], timeout: float = 10) -> Any:
        return self.channel.stream_unary(f"/{SERVICE}/ClientStream")(messages, timeout=timeout)

    def both(self, messages: Iterator[bytes], timeout: float = 10) -> Any:
        return self.channel.stream_stream(f"/{SERVICE}/Both")(messages, timeout=timeout)


def _named(metadata: dict[str, str]) -> list[tuple[str, str]]:
    return [(name.replace("_", "-"), value) for name, value in metadata.items()]
