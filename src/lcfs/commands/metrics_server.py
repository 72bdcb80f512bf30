# SPDX-License-Identifier: GPL-2.0-or-later
"""`lcfs mount --metrics ADDR:PORT`: MNT/metrics over HTTP, for Prometheus.

As little of HTTP/1.1 as a scrape needs: one GET or HEAD per connection, then it is closed. What a client can take up is
bounded: connections, bytes of a request, seconds for either direction, and how often the text is made. A client that
breaks off or sends anything else never reaches further than its own connection.
"""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import trio
from trio.abc import HalfCloseableStream

from lcfs.commands.metrics_address import Address
from lcfs.engine.errors import Failed

log = logging.getLogger("lcfs.metrics")

MOST_CONNECTIONS = 16
"""At a time; one more is closed at once."""
LONGEST_HEAD = 8192
"""Bytes of a request's first line and headers."""
PATIENCE = 5.0
"""Seconds for a request to come, and again for its answer to go."""
FRESH = 0.1
"""Seconds for which a text is given again: so much of the event loop is left to requests, whoever asks how often."""

_REQUEST = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+) ([!-~]+) HTTP/1\.[0-9]")
_TEXT = "text/plain; version=0.0.4; charset=utf-8"
_HTML = "text/html; charset=utf-8"
_INDEX = b'<!DOCTYPE html>\n<title>lcfs</title>\n<p><a href="/metrics">metrics</a></p>\n'


@asynccontextmanager
async def listening(address: Address) -> AsyncIterator[Sequence[trio.SocketListener]]:
    """Sockets bound to `address`, closed at the end. Raises Failed."""
    try:
        listeners = await trio.open_tcp_listeners(address.port, host=address.host)
    except (OSError, UnicodeError) as exc:
        reason = getattr(exc, "strerror", None) or exc
        raise Failed(f"metrics cannot be served at {address}: {reason}; free it, or give another address") from exc
    try:
        yield listeners
    finally:
        with trio.CancelScope(shield=True):
            for listener in listeners:
                await listener.aclose()


def urls(listeners: Sequence[trio.SocketListener]) -> list[str]:
    """Where what is served can be read; with port 0 these are the ports that were free."""
    return [f"http://{Address(*listener.socket.getsockname()[:2])}/metrics" for listener in listeners]


class MetricsServer:
    """Serves what `render` gives."""

    def __init__(self, render: Callable[[], str]) -> None:
        self._render = render
        self._text = b""
        self._made_at = float("-inf")
        self._connections = 0

    async def serve(self, listeners: Sequence[trio.SocketListener]) -> None:
        """Until cancelled."""
        await trio.serve_listeners(self.answer, list(listeners))

    async def answer(self, stream: HalfCloseableStream) -> None:
        """One connection, from its first byte to its end. Raises nothing: what goes wrong is the client's, or is logged."""
        self._connections += 1
        try:
            async with stream:
                if self._connections <= MOST_CONNECTIONS:
                    await self._converse(stream)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        except Exception:
            log.exception("a request for metrics failed for a bug of lcfs; the mount goes on")
        finally:
            self._connections -= 1

    async def _converse(self, stream: HalfCloseableStream) -> None:
        head: bytes | None = None
        with trio.move_on_after(PATIENCE):
            head = await _read_head(stream)
        if head == b"":
            return
        with trio.move_on_after(PATIENCE):
            await stream.send_all(self._reply(head))
            await stream.send_eof()
            # a socket that is closed with something unread in it takes its answer back
            for _ in range(16):
                if not await stream.receive_some(LONGEST_HEAD):
                    return

    def _reply(self, head: bytes | None) -> bytes:
        """All bytes of the answer to a request; None: it did not come in time."""
        if head is None:
            return _error("408 Request Timeout")
        if len(head) > LONGEST_HEAD:
            return _error("431 Request Header Fields Too Large")
        match = _REQUEST.fullmatch(head.partition(b"\r\n")[0])
        if match is None or not head.endswith(b"\r\n\r\n"):
            return _error("400 Bad Request")
        method, path = match[1], match[2].partition(b"?")[0]
        if method not in (b"GET", b"HEAD"):
            return _error("405 Method Not Allowed", "Allow: GET, HEAD\r\n")
        if path == b"/metrics":
            kind, body = _TEXT, self._fresh()
        elif path == b"/":
            kind, body = _HTML, _INDEX
        else:
            return _error("404 Not Found", with_body=method == b"GET")
        return _message("200 OK", kind, body, with_body=method == b"GET")

    def _fresh(self) -> bytes:
        now = trio.current_time()
        if now - self._made_at >= FRESH:
            self._text, self._made_at = self._render().encode(), now
        return self._text


async def _read_head(stream: HalfCloseableStream) -> bytes:
    """What came up to the blank line, or up to the client's end; more than LONGEST_HEAD bytes when there is none in these."""
    head = bytearray()
    while len(head) <= LONGEST_HEAD:
        more = await stream.receive_some(LONGEST_HEAD + 1 - len(head))
        head += more
        end = head.find(b"\r\n\r\n")
        if end >= 0:
            return bytes(head[: end + 4])
        if not more:
            break
    return bytes(head)


def _error(status: str, headers: str = "", *, with_body: bool = True) -> bytes:
    return _message(status, "text/plain; charset=utf-8", f"{status[4:]}\n".encode(), headers, with_body=with_body)


def _message(status: str, kind: str, body: bytes, headers: str = "", *, with_body: bool = True) -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n{headers}Connection: close\r\n\r\n"
    return head.encode() + (body if with_body else b"")
