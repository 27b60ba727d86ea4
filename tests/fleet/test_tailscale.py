"""The real port and its simulated twin: the same suite for both, then what only a real machine can show."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
from pydantic import ValidationError

from fleet import tailnet_attempt, tailscale
from fleet.tailnet import Step
from fleet.tailnet_attempt import Attempt, TailnetWatch, attempt
from fleet.tailscale import LocalShell, TailnetOptions, Tailscale, TailscaleError
from fleet.tailscale_simulated import Fault
from tests.fleet.tailscale_stage import KEY, Machine, Simulation

#: Seconds of a step: those that end, end sooner.
STEP = 20.0


@pytest.fixture(autouse=True)
def _haste(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tailnet_attempt, "LOOK", 0.05)
    monkeypatch.setattr(tailnet_attempt, "SETTLED_FOR", 0.2)


@pytest.fixture(params=["simulated", "real"])
def stage(request: pytest.FixtureRequest, tmp_path: Path) -> Simulation | Machine:
    return Simulation() if request.param == "simulated" else Machine(tmp_path / "machine")


def made(stage: Simulation | Machine, step_timeout: float = STEP) -> Attempt:
    return asyncio.run(attempt(stage.port, step_timeout, **stage.timing))


@pytest.mark.parametrize(
    ("state", "itself", "helps", "faults", "steps"),
    [
        ("Running", {}, (), {}, []),
        ("Running", {"Online": False}, ("restart",), {}, ["restart"]),
        ("Stopped", {}, ("restart",), {}, ["restart"]),
        ("Stopped", {}, ("up",), {"restart": "fail"}, ["restart", "up"]),
        ("Stopped", {}, ("up",), {"restart": "fail", "up": "slow"}, ["restart", "up"]),
        ("Stopped", {}, ("restart",), {"restart": "sulk"}, ["restart"]),
        ("NeedsLogin", {}, ("reauth",), {}, ["reauth"]),
        ("Running", {"Expired": True, "Online": False}, ("reauth",), {"status": "slow"}, ["reauth"]),
        ("Running", {}, ("restart",), {"status": "fail"}, ["restart"]),
        ("Running", {}, ("restart",), {"status": "malformed"}, ["restart"]),
    ],
)
def test_an_attempt_takes_the_steps_that_help(
    stage: Any,
    state: str,
    itself: dict[str, Any],
    helps: tuple[Step, ...],
    faults: Mapping[str, Fault],
    steps: list[str],
) -> None:
    stage.set(state, helps, faults, **itself)
    done = made(stage)
    assert done.tailnet.is_well, done
    assert [step for step, _ in done.steps] == stage.calls == steps


@pytest.mark.parametrize(
    ("state", "helps", "faults", "steps"),
    [
        ("Stopped", ("restart", "up"), {"restart": "lie", "up": "lie"}, ["restart", "up"]),
        ("NeedsLogin", ("reauth",), {"reauth": "lie"}, ["reauth"]),
        ("NeedsLogin", ("reauth",), {"reauth": "hang"}, ["reauth"]),
        ("NeedsMachineAuth", ("restart", "up", "reauth"), {}, []),
    ],
)
def test_success_is_read_from_the_status_whatever_a_step_says_of_itself(
    stage: Any, state: str, helps: tuple[Step, ...], faults: Mapping[str, Fault], steps: list[str]
) -> None:
    stage.set(state, helps, faults)
    done = made(stage, 2.0 if "hang" in faults.values() else STEP)
    assert (done.tailnet.state, [step for step, _ in done.steps], stage.calls) == (state, steps, steps)
    assert bool(done.errors) == ("hang" in faults.values())


def test_after_a_step_that_hangs_comes_the_next_and_each_has_its_time() -> None:
    stage = Simulation()
    stage.set("Starting", ("up",), {"restart": "hang"})
    assert made(stage, 60.0).tailnet.is_well
    assert stage.calls == ["restart", "up"]
    assert 60 <= stage.port.now < 62
    stage.set("Starting", ())
    assert made(stage, 60.0).tailnet.state == "Starting"
    assert 120 <= stage.port.now < 122


def test_a_program_that_never_answers_is_an_unknown_state_that_says_so(
    stage: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tailscale, "STATUS_WITHIN", 0.5)
    stage.set("Running", (), {"status": "hang"})
    tailnet = asyncio.run(stage.port.status())
    assert tailnet.state == "unknown"
    assert "did not end within" in tailnet.error


# a real machine ------------------------------------------------------------------------------------------


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "machine")


def test_the_key_is_on_no_command_line_and_in_no_environment(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BACKBEAT_REDIS_URL", "redis://:password@10.0.0.5:6379/0")
    machine.set("NeedsLogin", ("reauth",))
    assert made(machine).tailnet.is_well
    (call,) = machine.noted
    assert call["words"][-2:] == ["--force-reauth", "--auth-key=file:/dev/stdin"]
    assert (call["seen"], call["secrets"]) == ([], [])
    assert [file.name for file in machine.folder.iterdir() if KEY in file.read_text() and file != machine.program] == [
        "key"
    ]


def test_what_a_program_says_is_stripped_of_the_key(machine: Machine) -> None:
    machine.set("NeedsLogin", (), {"reauth": "fail"})
    said = made(machine).errors
    assert said.endswith("it did not work; the key was ***")
    assert tailscale.without_key("invalid key: tskey-auth-kX-12 or s3cr3t", "s3cr3t") == "invalid key: tskey-*** or ***"
    assert tailscale.without_key("it was _tskey-auth-kX", "") == "it was _tskey-***"
    for end in range(tailscale.PART, len(KEY)):  # its beginning, where the words were cut
        assert KEY[: tailscale.PART] not in tailscale.without_key(f"it was {KEY[:end]}", KEY)
    assert tailscale.without_key("it failed", "dog") == "it failed"


def test_a_key_is_found_at_home_and_one_given_as_its_files_name_is_not_repeated(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(machine.folder))
    machine.set("NeedsLogin", ("reauth",))
    at_home = machine.options.model_copy(update={"auth_key_file": Path("~/key")})
    assert asyncio.run(attempt(Tailscale(at_home, LocalShell()), 20.0)).tailnet.is_well
    machine.set("NeedsLogin", ("reauth",))
    mistaken = machine.options.model_copy(update={"auth_key_file": Path(KEY)})
    errors = asyncio.run(attempt(Tailscale(mistaken, LocalShell()), 20.0)).errors
    assert "the auth key's file tskey-*** cannot be read" in errors
    assert KEY not in errors


def test_flags_go_to_up_as_they_are_and_the_key_only_with_a_new_login(machine: Machine) -> None:
    options = machine.options.model_copy(update={"up_flags": ("--accept-routes", "--hostname=$(id); x")})
    machine.set("Stopped", ("up",))
    assert asyncio.run(attempt(Tailscale(options, LocalShell()), 20.0)).tailnet.is_well
    words = machine.noted[-1]["words"]
    assert words == ["up", "--accept-routes", "--hostname=$(id); x", "--timeout=20s"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read: FileNotFoundError"),
        ("", "holds no key"),
        ("two words", "holds no key"),
        ("é", "UnicodeDecode"),
    ],
)
def test_without_a_key_no_new_login_is_tried(machine: Machine, content: str | None, message: str) -> None:
    machine.set("NeedsLogin", ("reauth",))
    machine.key.unlink()
    if content is not None:
        machine.key.write_text(content, encoding="utf-8")
    assert message in made(machine).errors
    assert machine.calls == []


def test_without_a_keys_file_the_error_names_the_options() -> None:
    with pytest.raises(TailscaleError, match=r"tailnet\.auth_key_file or BACKBEAT_TAILSCALE_AUTH_KEY_FILE"):
        asyncio.run(Tailscale(TailnetOptions(), LocalShell()).up(1.0, reauth=True))


def test_a_program_that_hangs_is_killed_with_all_that_it_started(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    argv = ["sh", "-c", f"sleep 600 & echo $! > {pid_file}; wait"]
    with pytest.raises(TailscaleError, match="sh did not end within 1 s"):
        asyncio.run(LocalShell().run(argv, 1.0))
    pid = int(pid_file.read_text())
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_a_daemon_that_a_restart_leaves_behind_is_not_waited_for_nor_killed(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    argv = ["sh", "-c", f"sleep 30 & echo $! > {pid_file}"]
    before = time.monotonic()
    assert asyncio.run(LocalShell().run(argv, 25.0)).code == 0
    assert time.monotonic() - before < 20
    daemon = psutil.Process(int(pid_file.read_text()))
    assert daemon.is_running()
    daemon.kill()


def test_what_is_not_there_cannot_be_run_and_a_machine_without_it_says_nothing() -> None:
    options = TailnetOptions(command=("no-such-tailscale",))
    port = Tailscale(options, LocalShell())
    assert "no-such-tailscale cannot be run" in asyncio.run(port.status()).error
    watch = TailnetWatch(port, options.is_here)
    watch.read()
    assert watch.facts() == {}


def test_a_watch_tells_the_last_status_its_age_and_what_became_of_the_last_attempt() -> None:
    stage, told = Simulation(), []
    stage.set("Stopped", ("up",), {"restart": "fail"})
    now = [100.0]
    watch = TailnetWatch(stage.port, clock=lambda: now[0])
    watch.told = lambda: told.append(now[0])
    watch.read()
    now[0] = 107.0
    watch.read()
    assert told == [100.0], "only news"
    now[0] = 110.0
    assert watch.facts()["tailnet"]["age"] == 3.0
    assert watch.facts()["tailnet"]["state"] == "Stopped"


def test_one_attempt_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Simulation()
    stage.set("Running")
    watch = TailnetWatch(stage.port)
    inside: list[bool] = []
    status = stage.port.status

    async def again() -> Any:
        inside.append(await asyncio.to_thread(watch.attempt, 1.0))
        return await status()

    monkeypatch.setattr(stage.port, "status", again)
    assert watch.attempt(1.0)
    assert inside == [False]
    assert watch.facts()["tailnet"]["attempt"] == {"steps": [], "error": ""}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"up_flags": ["--auth-key=tskey-1"]}, "the key goes into auth_key_file"),
        ({"up_flags": ["--reset"]}, "--reset is not for up_flags"),
        ({"up_flags": ["accept-routes"]}, "as --name or --name=value"),
        ({"up_flags": ["--ssh\0"]}, "as --name or --name=value"),
        ({"restart": []}, "word by word"),
        ({"command": [""]}, "word by word"),
        ({"auth_key": "tskey-1"}, "Extra inputs are not permitted"),
        ({"ssh": {"user": "-oProxyCommand=x", "known_hosts": "k"}}, "should match pattern"),
        ({"ssh": {"user": "a"}}, "Field required"),
    ],
)
def test_a_mistake_in_the_options_is_named(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TailnetOptions.model_validate(given)


@pytest.mark.parametrize(
    "word",
    [
        "tskey-auth-Secret",
        "auth-key=Secret",
        "--auth-key=Secret",
        "--auth-key Secret",
        "--Auth-Key=Secret",
        "-authkey Secret",
    ],
)
def test_a_key_among_the_flags_is_not_repeated(word: str) -> None:
    with pytest.raises(ValidationError) as refused:
        TailnetOptions(up_flags=(word,))
    (error,) = refused.value.errors(include_input=False, include_context=False)
    assert "flags" in error["msg"]
    assert "Secret" not in error["msg"]
