from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result
from redis import Redis

from fleet.elo_board import EloBoard
from fleet.jobs import JobQueue, JobSpec
from fleet.nodes import NodeRegistry
from workers import datadir, entry
from workers.cli import backbeat

CONFIG = Path(__file__).parents[2] / "config" / "unified_loop.yaml"

Cli = Callable[..., Result]


class TestFinding:
    """Which cluster a command talks to."""

    def test_nothing_says_what_to_do(self, no_settings: None) -> None:
        result = CliRunner().invoke(backbeat, ["status"])
        assert result.exit_code == 1
        assert "no cluster found" in result.stderr
        assert "start one with `backbeat up`" in result.stderr

    def test_the_option_goes_before_the_environment(self, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
        url = os.environ["BACKBEAT_REDIS_URL"]
        monkeypatch.setenv("BACKBEAT_REDIS_URL", "redis://127.0.0.1:1/0")
        assert "127.0.0.1:1/0" in cli("nodes", code=1).stderr
        cli("nodes", "--redis", url)

    def test_an_up_of_this_directory_is_found(
        self, cli: Cli, loops: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        url = os.environ["BACKBEAT_REDIS_URL"]
        monkeypatch.delenv("BACKBEAT_REDIS_URL")
        data = tmp_path / "else where"
        data.mkdir()
        datadir.write_record(data, url)
        cli("status", code=1)
        cli("status", "--data", str(data))
        datadir.link(data, "mark")
        assert "alpha" in cli("status").stdout
        cli("status", "--data", str(tmp_path), code=1)
        default = tmp_path / ".backbeat"
        datadir.write_record(default, url)
        assert f"say which: --data {default} or '{data}'" in cli("status", code=1).stderr
        monkeypatch.setenv("BACKBEAT_DATA", str(default))
        cli("status")

    def test_an_up_that_is_gone_is_named_as_the_cause(self, no_settings: None, tmp_path: Path) -> None:
        data = tmp_path / ".backbeat"
        data.mkdir()
        datadir.write_record(data, "redis://:secret@127.0.0.1:1/0")
        path = data / datadir.RECORD
        path.write_text(path.read_text().replace(f'"pid": {os.getpid()}', '"pid": 4194305'))
        result = CliRunner().invoke(backbeat, ["status"])
        assert result.exit_code == 1
        assert "the `backbeat up` that ran it (pid 4194305) is gone: start it again" in result.stderr
        assert "secret" not in result.output

    @pytest.mark.parametrize("url", ["nonsense", "http://host", "redis://host:port/0"])
    def test_what_is_no_url_is_a_usage_error(self, cli: Cli, url: str) -> None:
        assert "is no server's address" in cli("status", "--redis", url, code=2).stderr

    def test_celery_has_the_same_commands_as_loops(self, cli: Cli, loops: Any) -> None:
        def celery(*arguments: str) -> subprocess.CompletedProcess[str]:
            argv = [sys.executable, "-m", "celery", "-A", "workers.app", "loops", *arguments]
            env = {**os.environ, "BACKBEAT_CONFIG": str(CONFIG)}
            return subprocess.run(argv, env=env, capture_output=True, text=True, check=False, timeout=60)

        status = celery("status", "--json")
        assert json.loads(status.stdout)["loops"].keys() == {"alpha", "beta", "gamma"}, status.stderr
        wrong = celery("pause", "alhpa")
        assert (wrong.returncode, "did you mean 'alpha'?" in wrong.stderr) == (1, True)


@pytest.mark.usefixtures("no_settings")
class TestCheck:
    def test_says_what_is_in_a_good_file(self) -> None:
        result = CliRunner().invoke(backbeat, ["check", str(CONFIG)])
        assert result.exit_code == 0
        assert re.fullmatch(rf"{re.escape(str(CONFIG))}: \d+ loops, \d+ enabled: .*queue_populator.*\n", result.stdout)

    def test_prints_every_mistake_and_exits_with_1(self, tmp_path: Path) -> None:
        bad = tmp_path / "bad.yaml"
        bad.write_text("queue_populator:\n  interval: 5x\n  colour: red\nnonsense: 1\n")
        result = CliRunner().invoke(backbeat, ["check", str(bad)])
        assert result.exit_code == 1
        found = result.stdout.splitlines()
        assert found[0].startswith(f"{bad}:2: queue_populator.interval: '5x' is not a duration")
        assert found[1].startswith(f"{bad}:3: queue_populator.colour: unknown key")
        assert any(line.startswith(f"{bad}:4: nonsense: unknown key") for line in found)

    def test_of_a_file_that_is_not_there_exits_with_1(self) -> None:
        result = CliRunner().invoke(backbeat, ["check"])
        assert (result.exit_code, result.stdout) == (
            1,
            "config/unified_loop.yaml: cannot be read: No such file or directory\n",
        )


class TestHelp:
    def test_every_command_says_what_it_does(self) -> None:
        demanded = {"up", "status", "run", "pause", "resume", "start", "stop", "jobs", "nodes", "leader", "check"}
        assert demanded <= backbeat.commands.keys()
        for name, command in backbeat.commands.items():
            result = CliRunner().invoke(backbeat, [name, "--help"])
            assert result.exit_code == 0
            assert command.help is not None
            assert command.help.splitlines()[0].endswith(".")

    def test_a_misspelt_command_is_a_usage_error(self) -> None:
        result = CliRunner().invoke(backbeat, ["statu"])
        assert result.exit_code == 2
        assert "'status'" in result.output


@pytest.mark.usefixtures("no_settings")
class TestUpRefuses:
    """Before anything is started."""

    def refused(self, *arguments: str, code: int = 1) -> str:
        result = CliRunner().invoke(backbeat, ["up", *arguments])
        assert result.exit_code == code
        assert result.exception is None or isinstance(result.exception, SystemExit)
        assert result.stdout == ""
        return result.stderr

    def test_to_start_where_there_is_no_configuration(self, tmp_path: Path) -> None:
        said = self.refused()
        assert "config/unified_loop.yaml: cannot be read" in said
        assert "Name your configuration with --config." in said
        assert list(tmp_path.iterdir()) == []

    def test_a_configuration_with_mistakes_and_prints_them(self, tmp_path: Path) -> None:
        bad = tmp_path / "bad.yaml"
        bad.write_text("queue_populator:\n  interval: 5x\n  colour: red\n")
        said = self.refused("--config", str(bad))
        assert f"{bad}:2: queue_populator.interval" in said
        assert f"{bad}:3: queue_populator.colour" in said
        assert list(tmp_path.iterdir()) == [bad]

    @pytest.mark.parametrize(
        ("option", "value"),
        [("--nodes", "0"), ("--drain", "soon"), ("--name", "a/b"), ("--redis", "x"), ("--flower-port", "0")],
    )
    def test_options_that_are_not_right_as_usage_errors(self, option: str, value: str) -> None:
        assert f"Invalid value for '{option}'" in self.refused("--config", str(CONFIG), option, value, code=2)

    def test_a_data_directory_that_cannot_be(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        said = self.refused("--config", str(CONFIG), "--data", str(tmp_path / "file" / "data"))
        assert said == f"backbeat: nothing can be kept in {tmp_path}/file/data: Not a directory; give another --data\n"

    def test_a_bad_variable_by_its_name(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("BACKBEAT_CAPABILITIES", "GPU")
        assert "BACKBEAT_CAPABILITIES: 'GPU' is no capability" in self.refused("--config", str(CONFIG))


def test_a_command_starts_without_celery_for_it_is_slow_to_import() -> None:
    code = (
        "import sys, workers.cli; print(sorted(name for name in sys.modules if name in ('celery', 'kombu', 'flower')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


class TestCompletion:
    """What a shell is told."""

    @pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
    def test_each_shell_gets_its_script(self, shell: str) -> None:
        script = CliRunner().invoke(backbeat, ["completion", shell])
        assert script.exit_code == 0
        assert f"_BACKBEAT_COMPLETE={shell}_complete" in script.stdout

    @staticmethod
    def offered(words: str) -> list[str]:
        env = {"_BACKBEAT_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
        shown = CliRunner().invoke(backbeat, [], env=env, prog_name="backbeat").stdout
        return [line.partition(",")[2] for line in shown.split("\n") if line]

    def test_commands_options_and_loops_are_offered_without_a_server(
        self, no_settings: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        offered = self.offered
        assert offered("backbeat prog") == ["progress"]
        assert offered("backbeat pause idle") == ["idle_detection"]
        assert offered("backbeat run queue_") == ["queue_populator"]
        assert offered("backbeat status job_") == ["job_reaper"]
        assert offered("backbeat nodes show node-") == []  # which only a server knows
        monkeypatch.setenv("BACKBEAT_REDIS_URL", "redis://127.0.0.1:1/0")
        assert offered("backbeat nodes show node-") == []

    def test_what_the_cluster_knows_is_offered(self, cli: Cli, redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("node-1", "node-2", "other"):
            NodeRegistry(redis).heartbeat(name, "agent", {})
        (job,) = JobQueue(redis).enqueue([JobSpec(kind="selfplay", config="hex5_2p")])
        EloBoard(redis).targets({"hex5_2p": {"target": 900.0, "met": False}})
        offered = self.offered
        assert offered("backbeat nodes show node-") == ["node-1", "node-2"]
        assert offered("backbeat nodes drain node-1 o") == ["other"]
        assert offered("backbeat jobs list --node o") == ["other"]
        assert offered("backbeat jobs logs self") == [job]
        assert offered("backbeat jobs retry --kind s") == ["selfplay"]
        for command in ("elo --config", "jobs list --config", "elo export --config", "models promote"):
            assert offered(f"backbeat {command} h") == ["hex5_2p"], command

        url = os.environ["BACKBEAT_REDIS_URL"]
        monkeypatch.delenv("BACKBEAT_REDIS_URL")
        assert offered(f"backbeat nodes show --redis {url} other") == ["other"]
        assert offered(f"backbeat nodes --redis {url} show other") == ["other"]

    def test_bash_itself_completes_with_it(self) -> None:
        script = """
            eval "$(backbeat completion bash)"
            COMP_WORDS=(backbeat pause idle) COMP_CWORD=2
            "$(complete -p backbeat | sed 's/.*-F \\([^ ]*\\).*/\\1/')" backbeat idle pause
            echo "${COMPREPLY[@]}"
        """
        env = {**os.environ, "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}
        done = subprocess.run(["bash", "-c", script], env=env, capture_output=True, text=True, timeout=60, check=False)
        assert (done.stdout, done.stderr) == ("idle_detection\n", "")


def test_ctrl_c_while_it_is_imported_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def pressed() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "argv", ["backbeat", "status"])
    monkeypatch.setattr("workers.cli.main", pressed)
    with pytest.raises(SystemExit) as ended:
        entry.main()
    assert ended.value.code == 1


def commands(group: click.Group, called: str = "backbeat") -> dict[str, click.Command]:
    """Each command by what it is called, those of groups too."""
    found: dict[str, click.Command] = {}
    for name, command in group.commands.items():
        found[f"{called} {name}"] = command
        if isinstance(command, click.Group):
            found |= commands(command, f"{called} {name}")
    return found


def test_every_command_helps_with_examples() -> None:
    lacking = [name for name, each in commands(backbeat).items() if f"  {name}" not in (each.help or "")]
    assert lacking == []


def test_every_option_says_what_it_does() -> None:
    options = ((name, each) for name, command in commands(backbeat).items() for each in command.params)
    lacking = [(name, each.opts) for name, each in options if isinstance(each, click.Option) and not each.help]
    assert lacking == []
