"""A probe proves who answers. The server it asks here is a socket that says what the test wants."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.probing import (
    ANSWER_LIMIT,
    Answer,
    Responder,
    answer_to,
    judge,
    new_key,
    new_question,
    probe,
)

KEY = new_key()


def reasons(question: bytes, answer: bytes | None, node_id: str = "n1", key: str = KEY) -> str:
    assert answer is not None
    return judge(question, answer, node_id, key).reason


def test_an_agent_proves_itself_and_no_other() -> None:
    question = new_question()
    assert judge(question, answer_to(question, "n1", KEY) or b"", "n1", KEY).is_proof
    assert reasons(question, answer_to(question, "n2", KEY)) == "wrong node"
    assert reasons(question, answer_to(question, "n1", new_key())) == "wrong node"
    assert reasons(new_question(), answer_to(question, "n1", KEY)) == "wrong node"  # an answer is of use once


def test_the_key_and_the_proof_tell_nothing_of_each_other() -> None:
    question = new_question()
    answer = answer_to(question, "n1", KEY) or b""
    assert KEY.encode() not in answer
    assert len(answer) < ANSWER_LIMIT
    assert answer != answer_to(new_question(), "n1", KEY)


@given(st.binary(max_size=80))
def test_what_is_no_question_gets_no_answer(line: bytes) -> None:
    assert answer_to(line, "n1", KEY) is None


@given(
    st.binary(max_size=600)
    | st.recursive(st.none() | st.text() | st.integers(), st.lists).map(
        lambda value: json.dumps(value).encode() + b"\n"
    )
    | st.fixed_dictionaries({"node_id": st.just("n1") | st.text(), "proof": st.text() | st.integers()}).map(
        lambda value: json.dumps(value).encode() + b"\n"
    )
)
def test_no_answer_of_a_stranger_is_a_proof(answer: bytes) -> None:
    assert not judge(new_question(), answer, "n1", KEY).is_proof


def test_half_of_a_surrogate_pair_is_a_wrong_proof_and_no_error() -> None:
    assert reasons(new_question(), b'{"node_id": "n1", "proof": "\\ud800"}\n') == "wrong node"
    assert reasons(new_question(), b'{"node_id": "n1", "proof": "x"}\n', key="\ud800") == "wrong node"


@pytest.mark.parametrize(
    "facts",
    [
        None, [], "x", {}, {"port": 7}, {"key": "k"}, {"port": 0, "key": "k"}, {"port": 70_000, "key": "k"},
        {"port": True, "key": "k"}, {"port": "7", "key": "k"}, {"port": 7, "key": ""}, {"port": 7, "key": 7},
    ],
)  # fmt: skip
def test_a_heartbeat_that_names_no_responder_has_none(facts: object) -> None:
    assert Responder.of(facts) is None


def test_a_responder_stands_in_the_heartbeat() -> None:
    responder = Responder(7946, KEY, ("127.0.0.1",))
    assert Responder.of(json.loads(json.dumps(responder.facts))) == responder


Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def asked(talk: Talk, *, timeout: float = 5.0) -> Answer:
    async def main() -> Answer:
        async def served(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                await talk(reader, writer)
            finally:
                writer.close()

        server = await asyncio.start_server(served, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            return await probe("127.0.0.1", Responder(port, KEY), "n1", timeout)

    return asyncio.run(main())


def saying(answer: bytes) -> Talk:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(answer)

    return talk


async def truthful(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(answer_to(await reader.readline(), "n1", KEY) or b"")


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while not reader.at_eof():
        writer.write(b"x")
        await asyncio.sleep(0.01)


def test_a_probe_says_what_came_of_it() -> None:
    assert asked(truthful) == Answer("answered")
    assert asked(saying(b"")).reason == "malformed"
    assert asked(saying(b"SSH-2.0-OpenSSH_9.6\r\n")).reason == "malformed"
    assert asked(saying(b"x" * 100_000)).reason == "malformed"
    assert asked(saying(json.dumps({"node_id": "n2", "proof": ""}).encode() + b"\n")).reason == "wrong node"


def test_a_probe_ends_in_time_whatever_the_other_side_does() -> None:
    assert asked(silent, timeout=0.1).reason == "timed out"
    assert asked(slow, timeout=0.1).reason == "timed out"


@pytest.mark.parametrize(("address", "reason"), [("127.0.0.1", "refused"), ("999.1.1.1", "no route"), ("", "no route")])
def test_an_address_at_which_nobody_is(address: str, reason: str) -> None:
    async def main() -> Answer:
        server = await asyncio.start_server(truthful, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        server.close()
        return await probe(address or "\0", Responder(port, KEY), "n1", 5.0)

    assert asyncio.run(main()).reason == reason
