# SPDX-License-Identifier: GPL-2.0-or-later
"""The HTTP server of --metrics, on streams in memory, in trio's time: right requests, wrong ones, clients that mean ill."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable

import attrs
import pytest
import trio
import trio.testing

from lcfs.commands.metrics_address import Address, parse_address
from lcfs.commands.metrics_server import FRESH, LONGEST_HEAD, MOST_CONNECTIONS, PATIENCE, MetricsServer, listening, urls
from lcfs.engine import Failed
from tests.plugins.log_check import ExpectLog

Clock = trio.testing.MockClock
TEXT = 'lcfs_x{name="ü"} 1\n'
GET = b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n"


@attrs.define
class Answer:
    """What a client read until the server closed."""

    status: str
    headers: dict[str, str]
    body: bytes


def parsed(data: bytes) -> Answer:
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    version, _, status = first.partition(" ")
    assert version == "HTTP/1.1"
    headers = dict(line.split(": ", 1) for line in lines)
    assert headers["Connection"] == "close"
    return Answer(status, headers, body)


async def read_all(stream: trio.abc.ReceiveStream) -> bytes:
    data = b""
    async for part in stream:
        data += part
    return data


def server(render: Callable[[], str] = lambda: TEXT) -> MetricsServer:
    return MetricsServer(render)


async def ask(request: bytes, on: MetricsServer | None = None, *, piecewise: bool = False) -> Answer:
    """What a request gets, from a client that ends when the answer has."""
    client, theirs = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon((on or server()).answer, theirs)
        for part in [request[n : n + 1] for n in range(len(request))] if piecewise else [request]:
            await client.send_all(part)
            await trio.testing.wait_all_tasks_blocked()
        data = await read_all(client)
        await client.aclose()
    answer = parsed(data)
    if not request.startswith(b"HEAD"):
        assert int(answer.headers["Content-Length"]) == len(answer.body)
    return answer


# What is right


@pytest.mark.parametrize("piecewise", [False, True])
async def test_a_scrape(piecewise: bool) -> None:
    answer = await ask(GET, piecewise=piecewise)
    assert (answer.status, answer.body.decode()) == ("200 OK", TEXT)
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"


@pytest.mark.parametrize(
    "request_",
    [b"GET /metrics HTTP/1.0\r\n\r\n", b"GET /metrics?x=1&y HTTP/1.1\r\nAccept: */*\r\nX: " + b"y" * 8000 + b"\r\n\r\n"],
)
async def test_other_forms_of_it(request_: bytes) -> None:
    assert (await ask(request_)).body.decode() == TEXT


async def test_head_has_no_body() -> None:
    answer = await ask(b"HEAD /metrics HTTP/1.1\r\n\r\n")
    assert (answer.status, answer.body) == ("200 OK", b"")
    assert int(answer.headers["Content-Length"]) == len(TEXT.encode())
    missing = await ask(b"HEAD /x HTTP/1.1\r\n\r\n")
    assert (missing.status, missing.body) == ("404 Not Found", b"")


async def test_the_root_leads_to_it() -> None:
    answer = await ask(b"GET / HTTP/1.1\r\n\r\n")
    assert answer.headers["Content-Type"].startswith("text/html")
    assert b'href="/metrics"' in answer.body


async def test_what_is_asked_often_is_made_once(autojump_clock: Clock) -> None:
    made: list[float] = []
    on = server(lambda: made.append(trio.current_time()) or TEXT)  # type: ignore[func-returns-value]
    for _ in range(20):
        await ask(GET, on)
    assert len(made) == 1
    await trio.sleep(FRESH)
    await ask(GET, on)
    assert len(made) == 2


# What is wrong


@pytest.mark.parametrize(
    ("first_line", "status"),
    [
        ("GET /other HTTP/1.1", "404 Not Found"),
        ("GET /metrics/ HTTP/1.1", "404 Not Found"),
        ("GET /metrics/../metrics HTTP/1.1", "404 Not Found"),
        ("GET http://a/metrics HTTP/1.1", "404 Not Found"),
        ("POST /metrics HTTP/1.1", "405 Method Not Allowed"),
        ("DELETE /nothing HTTP/1.1", "405 Method Not Allowed"),
        ("get /metrics HTTP/1.1", "405 Method Not Allowed"),
        ("GET /metrics", "400 Bad Request"),
        ("GET  /metrics HTTP/1.1", "400 Bad Request"),
        ("GET /metrics HTTP/2.0", "400 Bad Request"),
        ("PRI * HTTP/2.0", "400 Bad Request"),
        ("GET /met\x00rics HTTP/1.1", "400 Bad Request"),
        ("GET /mét HTTP/1.1", "400 Bad Request"),
        ("", "400 Bad Request"),
        ("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "400 Bad Request"),
    ],
)
async def test_everything_else_is_refused(first_line: str, status: str) -> None:
    answer = await ask(first_line.encode("latin-1") + b"\r\nHost: a\r\n\r\n" if first_line else b"\r\n\r\n")
    assert answer.status == status
    assert (answer.headers.get("Allow") == "GET, HEAD") == status.startswith("405")


async def test_a_body_does_not_matter() -> None:
    answer = await ask(b"POST /metrics HTTP/1.1\r\nContent-Length: 100000\r\n\r\n" + b"x" * 100000)
    assert answer.status == "405 Method Not Allowed"


async def test_garbage_that_ends() -> None:
    client, theirs = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server().answer, theirs)
        await client.send_all(b"\xff" * 100)
        await client.send_eof()
        assert parsed(await read_all(client)).status == "400 Bad Request"
        await client.aclose()


async def test_a_client_that_says_nothing_and_goes_gets_nothing() -> None:
    client, theirs = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server().answer, theirs)
        await client.send_eof()
        assert await read_all(client) == b""


async def test_a_client_that_breaks_off(autojump_clock: Clock) -> None:
    for sent in (b"", b"GET /me", GET):
        client, theirs = trio.testing.memory_stream_pair()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server().answer, theirs)
            if sent:
                await client.send_all(sent)
            await client.aclose()


async def test_a_head_without_end_is_not_read_to_its_end() -> None:
    client, theirs = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server().answer, theirs)
        await client.send_all(b"GET /metrics HTTP/1.1\r\nX: " + b"y" * (LONGEST_HEAD + 1))
        assert parsed(await read_all(client)).status == "431 Request Header Fields Too Large"
        await client.aclose()


# Clients that mean ill


async def test_a_client_that_sends_a_byte_now_and_then_is_cut_off(autojump_clock: Clock) -> None:
    client, theirs = trio.testing.memory_stream_pair()
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server().answer, theirs)

        async def drip() -> None:
            with pytest.raises((trio.BrokenResourceError, trio.ClosedResourceError)):
                while True:
                    await client.send_all(b"G")
                    await trio.sleep(PATIENCE / 10)

        nursery.start_soon(drip)
        assert parsed(await read_all(client)).status == "408 Request Timeout"
    assert trio.current_time() - began <= 3 * PATIENCE


async def test_a_client_that_reads_nothing_is_cut_off(autojump_clock: Clock) -> None:
    client, theirs = trio.testing.lockstep_stream_pair()
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.send_all, GET)
        await server().answer(theirs)
    assert PATIENCE <= trio.current_time() - began <= 2 * PATIENCE


async def test_a_client_that_never_ends_is_cut_off(autojump_clock: Clock) -> None:
    client, theirs = trio.testing.memory_stream_pair()
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server().answer, theirs)
        await client.send_all(GET)
        assert parsed(await read_all(client)).status == "200 OK"
    assert trio.current_time() - began <= 2 * PATIENCE


async def test_a_client_that_sends_for_ever_is_cut_off() -> None:
    client, theirs = trio.testing.memory_stream_pair()

    async def flood() -> None:
        with pytest.raises(trio.BrokenResourceError):
            while True:
                await client.send_all(b"x" * LONGEST_HEAD)
                await trio.testing.wait_all_tasks_blocked()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(flood)
        await server().answer(theirs)


async def test_one_connection_too_many_is_closed_at_once(autojump_clock: Clock) -> None:
    on = server()
    async with trio.open_nursery() as nursery:
        clients = []
        for _ in range(MOST_CONNECTIONS):
            client, theirs = trio.testing.memory_stream_pair()
            nursery.start_soon(on.answer, theirs)
            clients.append(client)
        await trio.testing.wait_all_tasks_blocked()
        late, theirs = trio.testing.memory_stream_pair()
        await on.answer(theirs)
        assert await read_all(late) == b""
        await clients[0].aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert (await ask(GET, on)).status == "200 OK"
        for client in clients[1:]:
            await client.aclose()
    assert (await ask(GET, on)).status == "200 OK"


async def test_a_bug_is_logged_and_reaches_no_further(expect_log: ExpectLog) -> None:
    def render() -> str:
        raise ZeroDivisionError

    client, theirs = trio.testing.memory_stream_pair()
    on = server(render)
    expect_log("a request for metrics failed for a bug of lcfs")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(on.answer, theirs)
        await client.send_all(GET)
        assert await read_all(client) == b""
    assert (await ask(b"GET / HTTP/1.1\r\n\r\n", on)).status == "200 OK"


# Addresses


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:9350", Address("127.0.0.1", 9350)),
        ("[::1]:0", Address("::1", 0)),
        ("[fe80::1%eth0]:1", Address("fe80::1%eth0", 1)),
        ("localhost:65535", Address("localhost", 65535)),
        ("a-b.example.org:80", Address("a-b.example.org", 80)),
    ],
)
def test_addresses(text: str, address: Address) -> None:
    assert parse_address(text) == address
    assert str(address) == text


@pytest.mark.parametrize(
    "text",
    *[
        [
            "",
            ":9350",
            "9350",
            "localhost",
            "localhost:",
            "::1:9350",
            "[::1]",
            "[]:1",
            "[localhost]:1",
            "a:65536",
            "a:-1",
            "a:1 ",
        ]
    ],
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ValueError, match="is not ADDR:PORT; write it as"):
        parse_address(text)


async def test_a_real_socket_with_any_port() -> None:
    async with listening(Address("127.0.0.1", 0)) as listeners, trio.open_nursery() as nursery:
        (url,) = urls(listeners)
        assert url.startswith("http://127.0.0.1:") and url.endswith("/metrics")
        nursery.start_soon(server().serve, listeners)
        port = int(url.rpartition(":")[2].partition("/")[0])
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(b"POST / HTTP/1.1\r\n\r\n" + b"x" * 100_000)
            assert parsed(await read_all(stream)).status == "405 Method Not Allowed"
        nursery.cancel_scope.cancel()
    with pytest.raises(OSError, match="connect"):
        await trio.open_tcp_stream("127.0.0.1", port)


async def test_an_address_in_brackets() -> None:
    if not socket.has_ipv6:
        pytest.skip("this Python has no IPv6")
    try:
        async with listening(Address("::1", 0)) as listeners:
            assert urls(listeners)[0].startswith("http://[::1]:")
    except Failed as exc:
        assert isinstance(exc.__cause__, OSError)
        if exc.__cause__.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
            raise
        pytest.skip("this machine has no IPv6")


async def test_an_address_that_is_taken_or_not_here() -> None:
    async with listening(Address("127.0.0.1", 0)) as listeners:
        port = listeners[0].socket.getsockname()[1]
        for host in ("127.0.0.1", "192.0.2.1"):
            with pytest.raises(
                Failed, match=rf"metrics cannot be served at {host}:{port}: .*; free it, or give another address"
            ):
                async with listening(Address(host, port)):
                    raise AssertionError


async def test_a_name_that_is_none() -> None:
    with pytest.raises(Failed, match=r"metrics cannot be served at \.\.:1"):
        async with listening(Address("..", 1)):
            raise AssertionError
