"""Asks a process of this node whether it lives, and whether it is ready: `backbeat probe live|ready ROLE`.

For exec probes, so it costs little: it imports nothing but the standard library, and connects to nothing but the
socket that the process keeps in its run directory (Flower: its own pages). See `workers.answering` for the answers.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

QUESTIONS = ("live", "ready")
ROLES = ("agent", "jobs", "beat", "flower")
#: Seconds that a process has for its answer.
PATIENCE = 2.0
USAGE = f"usage: backbeat probe {'|'.join(QUESTIONS)} {'|'.join(ROLES)}"
#: Bytes that a path of a socket may have.
_LONGEST = 100
_PAGES = {"live": "/healthz", "ready": "/readyz"}


def main(words: Sequence[str]) -> int:
    """Ask, and say the answer in one line. 0: yes, 1: no, 2: not a question."""
    if len(words) != 2 or words[0] not in QUESTIONS or words[1] not in ROLES:
        sys.stderr.write(USAGE + "\n")
        return 2
    answer, reason = ask(words[0], words[1])
    sys.stdout.write(f"{reason}\n")
    return 0 if answer else 1


def run_directory(environment: Mapping[str, str] = os.environ) -> Path:
    """Where the processes of this node answer probes: BACKBEAT_RUN, or `run/` in BACKBEAT_DATA."""
    given = environment.get("BACKBEAT_RUN")
    return Path(given) if given else Path(environment.get("BACKBEAT_DATA") or ".backbeat") / "run"


def ask(question: str, role: str, environment: Mapping[str, str] = os.environ) -> tuple[bool, str]:
    """Whether the process of that role answers the question with yes, and its reason."""
    try:
        if role == "flower":
            return _ask_flower(question, environment)
        return _ask_socket(question, run_directory(environment) / f"{role}.sock")
    except TimeoutError:
        return False, f"not {question}: no answer within {PATIENCE:g} s"


def _ask_socket(question: str, path: Path) -> tuple[bool, str]:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(PATIENCE)
        try:
            with reachable(path) as short:
                client.connect(short)
        except TimeoutError:
            raise
        except OSError as error:
            return False, f"not {question}: no process answers at {path}: {error.strerror or error}"
        answers = _read_all(client).decode(errors="replace")
    for line in answers.splitlines():
        asked, _, answer = line.partition(" ")
        if asked == question:
            verdict, _, reason = answer.partition(" ")
            return verdict == "yes", f"{question if verdict == 'yes' else f'not {question}'}: {reason}"
    return False, f"not {question}: no sound answer at {path}"


def _ask_flower(question: str, environment: Mapping[str, str]) -> tuple[bool, str]:
    port = environment.get("FLOWER_PORT") or "5555"
    try:
        with socket.create_connection(("127.0.0.1", int(port)), timeout=PATIENCE) as client:
            client.sendall(f"GET {_PAGES[question]} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
            head, _, body = _read_all(client).decode(errors="replace").partition("\r\n\r\n")
    except TimeoutError:
        raise
    except (OSError, ValueError) as error:
        return False, f"not {question}: Flower does not answer on port {port}: {error}"
    status = head.split("\r\n", 1)[0].partition(" ")[2]
    says = next(iter(body.strip().splitlines()), "")[:200] or status
    return (True, f"{question}: {says}") if status.startswith("200") else (False, f"not {question}: {status}: {says}")


def _read_all(client: socket.socket, limit: int = 65536) -> bytes:
    found = b""
    while len(found) < limit and (part := client.recv(4096)):
        found += part
    return found


class reachable:  # noqa: N801 - a context manager, read as a word
    """A name of a socket's path that is short enough for the kernel, which takes 107 bytes."""

    def __init__(self, path: Path) -> None:
        self._path, self._folder = path, -1

    def __enter__(self) -> str:
        if len(os.fsencode(self._path)) <= _LONGEST:
            return str(self._path)
        self._folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
        return f"/proc/self/fd/{self._folder}/{self._path.name}"

    def __exit__(self, *_: object) -> None:
        if self._folder >= 0:
            os.close(self._folder)
