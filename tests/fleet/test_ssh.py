"""A tailscale on another machine, by way of a real SSH server."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import psutil
import pytest

from fleet import tailnet_attempt
from fleet.inventory import StaticNode
from fleet.nodes import Node
from fleet.ssh import SshShell, Target, connected, target, wrapped
from fleet.tailnet import LIMIT
from fleet.tailnet_attempt import Attempt, attempt
from fleet.tailscale import Printed, SshOptions, Tailscale, TailscaleError
from tests.conftest import free_port
from tests.fleet.tailscale_stage import KEY, Machine, SshServer


@pytest.fixture(scope="module")
def server(lacking: Callable[[str], NoReturn], tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServer]:
    if SshServer.program() is None:
        lacking("there is no sshd")
    server = SshServer(tmp_path_factory.mktemp("ssh") / "server")
    yield server
    server.close()


def to(server: SshServer, *addresses: str, **changes: object) -> Target:
    node = Node("n1", 0.0, {"agent": {"addresses": {"lan": list(addresses or ("127.0.0.1",))}}})
    found = target(node, None, server.options(**changes))
    assert found is not None
    return found


def run(where: Target, argv: Sequence[str], seconds: float = 20.0, stdin: bytes = b"") -> Printed:
    async def there() -> Printed:
        async with connected(where) as shell:
            return await shell.run(argv, seconds, stdin)

    return asyncio.run(there())


def made(where: Target, machine: Machine) -> Attempt:
    async def there() -> Attempt:
        async with connected(where) as shell:
            return await attempt(Tailscale(machine.options, shell), 20.0)

    return asyncio.run(there())


def test_words_arrive_as_they_are(server: SshServer) -> None:
    words = ["a b", "$(id)", "`id`", "';--", '"', "", "*", "\\", "new\nline"]
    printed = run(to(server), ["printf", "%s|", *words])
    assert printed.out.decode() == "".join(f"{word}|" for word in words)
    assert run(to(server), ["sh", "-c", "echo no >&2; exit 3"]) == Printed(3, b"", "no")


def test_the_key_reaches_the_program_and_nobody_else_there(server: SshServer, tmp_path: Path) -> None:
    machine = Machine(tmp_path / "machine")
    machine.set("NeedsLogin", ("reauth",))
    assert made(to(server), machine).tailnet.is_well
    (call,) = machine.noted
    assert (call["step"], call["seen"]) == ("reauth", [])
    assert KEY not in server.log()


def test_standard_input_can_be_opened_by_name_where_a_server_gives_a_socket() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(KEY.encode())
        ours.shutdown(socket.SHUT_WR)
        argv = wrapped(["cat", "/dev/stdin"], 20.0, piped=True)
        done = subprocess.run(argv, stdin=theirs, capture_output=True, check=False)
    assert (done.stdout, done.stderr) == (KEY.encode(), b"")


def test_a_node_is_recovered_step_by_step(server: SshServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tailnet_attempt, "LOOK", 0.05)
    monkeypatch.setattr(tailnet_attempt, "SETTLED_FOR", 0.2)
    machine = Machine(tmp_path / "machine")
    machine.set("Stopped", ("up",), {"restart": "fail"})
    done = made(to(server), machine)
    assert done.tailnet.is_well
    assert machine.calls == ["restart", "up"]
    assert "it did not work" in done.errors


def test_a_wrong_host_key_is_refused_and_nothing_is_run(server: SshServer, tmp_path: Path) -> None:
    machine = Machine(tmp_path / "machine")
    machine.set("NeedsLogin", ("reauth",))
    server.know("other")
    try:
        with pytest.raises(TailscaleError, match=r"its host key is not the one in .*known_hosts"):
            made(to(server), machine)
    finally:
        server.know("host")
    assert machine.calls == []


def test_an_unknown_host_is_refused(server: SshServer, tmp_path: Path) -> None:
    (tmp_path / "known").write_text("")
    with pytest.raises(TailscaleError, match="its host key is not the one in"):
        run(to(server, known_hosts=tmp_path / "known"), ["true"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"key": "other"}, "PermissionDenied"),
        ({"key": "nowhere"}, "SSH wants the file .*nowhere, and there is none"),
        ({"known_hosts": "nowhere"}, "SSH wants the file .*nowhere, and there is none"),
        ({"key": "sshd_config"}, "KeyImportError"),
        ({"user": "nobody-of-that-name"}, "PermissionDenied"),
    ],
)
def test_why_nobody_is_let_in_is_said(server: SshServer, changes: dict[str, str], message: str) -> None:
    paths = {name: value if name == "user" else server.folder / value for name, value in changes.items()}
    with pytest.raises(TailscaleError, match=message):
        run(to(server, **paths), ["true"])


def test_the_first_address_that_answers_is_used_and_each_that_does_not_is_named(server: SshServer) -> None:
    assert run(to(server, "127.0.0.2", "127.0.0.1"), ["true"]).code == 0
    with pytest.raises(TailscaleError, match=r"127\.0\.0\.2 port \d+: ConnectionRefused.*; 127\.0\.0\.3 port \d+: "):
        run(to(server, "127.0.0.2", "127.0.0.3", port=free_port()), ["true"])


def test_a_host_is_known_by_its_name(server: SshServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    addresses = {"n1.example.com": ["127.0.0.2", "127.0.0.1"], "other.example.com": ["127.0.0.1"]}
    real = socket.getaddrinfo

    def look_up(name: str, *given: Any, **more: Any) -> list[Any]:
        return [row for each in addresses.get(name, [name]) for row in real(each, *given, **more)]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    known = tmp_path / "known"
    known.write_text(server.known_hosts.read_text().replace("127.0.0.1", "n1.example.com"))
    where = replace(to(server), addresses=("n1.example.com",), known_hosts=known)
    assert run(where, ["true"]).code == 0
    with pytest.raises(TailscaleError, match=r"other\.example\.com \(127\.0\.0\.1\) port \d+: its host key is not"):
        run(replace(where, addresses=("other.example.com",)), ["true"])


def test_a_server_that_says_nothing_is_given_up(server: SshServer) -> None:
    async def silent() -> None:
        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.closing(writer):
                await reader.read()

        listening = await asyncio.start_server(accept, "127.0.0.1", 0)
        port = listening.sockets[0].getsockname()[1]
        where = Target(("127.0.0.1",), "u", port, server.key, server.known_hosts, 0.2)
        try:
            async with connected(where):
                pass
        finally:
            listening.close()

    with pytest.raises(TailscaleError, match=r"no login within 0\.2 s"):
        asyncio.run(silent())


def test_what_hangs_is_killed_and_what_prints_without_end_is_left(server: SshServer, tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    with pytest.raises(TailscaleError, match="sh did not end within 4 s"):
        run(to(server), ["sh", "-c", 'echo $$ > "$0"; exec sleep 60', str(pid_file)], 4.0)  # which starts it, too
    # coreutils is everywhere where these tests run
    psutil.wait_procs([process for process in psutil.process_iter() if process.pid == int(pid_file.read_text())], 20)
    assert not psutil.pid_exists(int(pid_file.read_text()))
    assert len(run(to(server), ["head", "-c", str(LIMIT + 100_000), "/dev/zero"]).out) == LIMIT + 1


def test_a_connection_that_is_cut_is_an_unknown_state(server: SshServer, tmp_path: Path) -> None:
    machine = Machine(tmp_path / "machine")

    async def cut() -> str:
        async with connected(to(server)) as shell:
            assert isinstance(shell, SshShell)
            shell._connection.abort()
            return (await Tailscale(machine.options, shell).status()).error

    assert "was cut off" in asyncio.run(cut())


# who is reached, and as whom -----------------------------------------------------------------------------

OPTIONS = SshOptions(known_hosts=Path("known"), user="ops", key=Path("id"))


def node(**addresses: list[object]) -> Node:
    return Node("n1", 0.0, {"agent": {"addresses": addresses}})


def test_the_inventory_comes_first_and_the_tailnet_is_left_out() -> None:
    told = node(lan=["10.0.0.7", "not an address", 7], tailnet=["100.64.0.7"], public=["93.184.216.34"])
    found = target(told, None, OPTIONS)
    assert found is not None
    assert (found.addresses, found.user, found.port) == (("10.0.0.7", "93.184.216.34"), "ops", 22)
    static = StaticNode(
        host="n1.example.com", tailscale_ip="100.64.0.7", ssh_user="trainer", ssh_port=2222, ssh_key="k"
    )
    found = target(told, static, OPTIONS)
    assert found is not None
    assert found.addresses == ("n1.example.com", "10.0.0.7", "93.184.216.34")
    assert (found.user, found.port, found.key) == ("trainer", 2222, Path("k"))


def test_a_key_in_somebodys_home_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    static = StaticNode(host="10.0.0.7", ssh_key="~/.ssh/id_cluster")
    found = target(node(), static, SshOptions(known_hosts=Path("~/known"), user="ops"))
    assert found is not None
    assert (found.key, found.known_hosts) == (tmp_path / ".ssh/id_cluster", tmp_path / "known")
    nobody = target(node(), StaticNode(host="10.0.0.7", ssh_key="~no-such-user/id"), OPTIONS)
    assert nobody is not None
    assert nobody.key == Path("~no-such-user/id")  # which is said not to be there


@pytest.mark.parametrize("named", [None, "10.0.0.7", {"lan": None}, {"lan": 7}])
def test_addresses_of_another_form_are_no_way(named: object) -> None:
    assert target(Node("n1", 0.0, {"agent": {"addresses": named}}), None, OPTIONS) is None


def test_without_a_direct_address_or_a_key_there_is_no_way() -> None:
    assert target(node(tailnet=["100.64.0.7"]), StaticNode(host="100.64.0.7"), OPTIONS) is None
    assert target(node(lan=["10.0.0.7"]), None, OPTIONS.model_copy(update={"key": None})) is None
    assert target(Node("n1", 0.0, {}), None, OPTIONS) is None
