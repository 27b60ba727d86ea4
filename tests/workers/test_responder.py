"""The agent's responder: it proves its node, says nothing else, and strangers cannot wear it out."""

from __future__ import annotations

import asyncio
import errno
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from fleet.probing import Answer, Responder, new_key, probe
from tests.conftest import free_port
from tests.waiting import until
from workers import responder
from workers.responder import CONNECTIONS, ProbeServer, listen

Start = Callable[..., ProbeServer]


@pytest.fixture
def serve() -> Iterator[Start]:
    """Start a responder; it and its thread are gone after the test."""
    servers: list[ProbeServer] = []

    def start(node_id: str = "n1", bind: tuple[str, ...] = ("127.0.0.1",), port: int = 0) -> ProbeServer:
        servers.append(ProbeServer(node_id, bind, port))
        servers[-1].start(lambda: None)
        return servers[-1]

    yield start
    for server in servers:
        server.stop()
    assert "probe-server" not in {thread.name for thread in threading.enumerate()}


def listening(server: ProbeServer) -> Responder:
    until(lambda: server.listening)
    assert server.listening is not None
    return server.listening


def ask(where: Responder, node_id: str = "n1", address: str = "127.0.0.1") -> Answer:
    return asyncio.run(probe(address, where, node_id, 10))


def test_it_proves_its_node_and_no_other(serve: Start) -> None:
    where = listening(serve())
    assert ask(where) == Answer("answered")
    assert ask(where, "n2").reason == "wrong node"
    assert ask(Responder(where.port, new_key())).reason == "wrong node"


def test_two_starts_of_one_agent_have_two_keys(serve: Start) -> None:
    first = listening(serve())
    again = listening(serve())
    assert ask(Responder(again.port, first.key)).reason == "wrong node"


def test_it_says_where_it_answers_and_tells_when_that_is_known() -> None:
    told = threading.Event()
    server = ProbeServer("n1", ("127.0.0.1", "127.0.0.2"), 0)
    server.start(told.set)
    assert told.wait(10)
    where = listening(server)
    assert where.bound == ("127.0.0.1", "127.0.0.2")
    assert [ask(where, address=each).reason for each in where.bound] == ["answered", "answered"]
    assert ask(where, address="127.0.0.3").reason == "refused"
    server.stop()
    assert server.listening is None
    assert ask(where).reason == "refused"


def test_unbound_it_answers_at_every_address_of_both_families(serve: Start) -> None:
    where = listening(serve(bind=()))
    assert where.bound == ()
    assert ask(where, address="127.0.0.3") == Answer("answered")
    if socket.has_dualstack_ipv6():
        assert ask(where, address="::1") == Answer("answered")


def test_a_port_that_is_taken_is_tried_again(
    serve: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(responder, "TRY_AGAIN", 0.02)
    (taken,) = listen(("127.0.0.1",), 0)
    port = taken.getsockname()[1]
    server = serve(port=port)
    until(lambda: "probes are not answered" in caplog.text)
    assert server.listening is None
    taken.close()
    assert listening(server).port == port
    assert caplog.text.count("probes are not answered") == 1


def test_it_can_be_stopped_while_its_port_is_taken(serve: Start) -> None:
    with listen(("127.0.0.1",), 0)[0] as taken:
        serve(port=taken.getsockname()[1]).stop()


def test_no_socket_stays_open_when_one_address_is_not_this_machines() -> None:
    port = free_port()
    with pytest.raises(OSError, match="assign"):
        listen(("127.0.0.1", "192.0.2.1"), port)
    listen(("127.0.0.1",), port)[0].close()


@pytest.mark.parametrize("said", [b"GET / HTTP/1.1\r\n\r\n", b"\n", b"x" * 100_000, b"\x00\xff\n", b"quit\n", b""])
def test_strangers_get_no_word(serve: Start, said: bytes) -> None:
    where = listening(serve())
    with socket.create_connection(("127.0.0.1", where.port), timeout=10) as stranger:
        heard = b""
        try:
            stranger.sendall(said)
            stranger.shutdown(socket.SHUT_WR)
            heard = stranger.recv(100)
        except OSError as error:  # it hung up while there was still more to say, perhaps before the shutdown
            assert isinstance(error, ConnectionError) or error.errno == errno.ENOTCONN  # noqa: PT017 - either will do
        assert heard == b""
    assert ask(where) == Answer("answered")


def test_silent_connections_are_bounded_in_number_and_in_time(serve: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(responder, "PATIENCE", 1.0)
    where = listening(serve())
    crowd = [socket.create_connection(("127.0.0.1", where.port), timeout=10) for _ in range(CONNECTIONS)]
    until(lambda: ask(where).reason != "answered")  # all of them are in, and one more is not heard
    until(lambda: ask(where).reason == "answered")
    for stranger in crowd:
        assert stranger.recv(1) == b""
        stranger.close()
