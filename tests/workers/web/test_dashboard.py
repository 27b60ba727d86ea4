"""How our pages come into Flower, and where it may listen. These fail when Flower changes what they stand on."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import flower
import flower.command
import pytest
from click.testing import CliRunner
from redis import Redis

from workers import web
from workers.cli import backbeat
from workers.web.dashboard import BEFORE_TABS, TABS, Templates, check_address, is_loopback, with_tabs

FLOWER = Path(flower.__file__).parent
ROOT = Path(__file__).parents[3]


def options(**given: Any) -> Any:
    return SimpleNamespace(**{"basic_auth": [], "auth": "", "unix_socket": "", "address": "", **given})


def test_flowers_navigation_has_the_place_for_our_tabs() -> None:
    navbar = (FLOWER / "templates" / "navbar.html").read_text()
    assert navbar.count(BEFORE_TABS) == 1
    tabs = with_tabs(navbar)
    assert [f'reverse_url("{name}")' in tabs for name, _ in TABS] == [True] * 3
    assert tabs.index('reverse_url("loops")') < tabs.index("reverse_url('workers')")


def test_a_navigation_without_that_place_is_left_as_it_is(caplog: Any) -> None:
    assert with_tabs("<nav></nav>") == "<nav></nav>"
    assert "no place for our pages" in caplog.text


def test_flowers_templates_have_the_blocks_and_places_that_ours_fill() -> None:
    base = (FLOWER / "templates" / "base.html").read_text()
    for each in ("{% block title %}", "{% block navbar %}", "{% block container %}", "{% block extra_scripts %}"):
        assert each in base
    assert 'id="toast-container"' in base
    for asset in ("css/bootstrap.min.css", "js/bootstrap.bundle.min.js", "js/theme.js"):
        assert asset in base
        assert (FLOWER / "static" / asset).is_file()
    style = (FLOWER / "static" / "css" / "flower.css").read_text()
    for word in ("--flower-surface:", "--flower-text-muted:", "--flower-danger:", ".metric-card", ".page-header"):
        assert word in style, word
    assert version("flower").startswith("2.2.")


def test_none_of_flowers_templates_has_a_name_of_ours() -> None:
    ours = {path.name for path in (ROOT / "workers" / "web" / "templates").iterdir()}
    assert not ours & {path.name for path in (FLOWER / "templates").iterdir()}
    loader = Templates(str(FLOWER / "templates"))
    for name in ours:
        loader.load(name)


def test_flowers_command_makes_our_application(monkeypatch: Any) -> None:
    monkeypatch.setattr(flower.command, "Flower", flower.command.Flower)
    made: list[Any] = []
    monkeypatch.setattr("workers.web.dashboard.Dashboard", lambda **named: made.append(named))
    web.install()
    flower.command.Flower(capp=1, options=2)
    assert made == [{"capp": 1, "options": 2}]
    source = (FLOWER / "command.py").read_text()
    assert "flower_app = Flower(capp=app, options=options, **settings)" in source


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "203.0.113.7", "no.such.name.invalid"])
def test_without_credentials_it_listens_on_loopback_alone(address: str) -> None:
    with pytest.raises(SystemExit, match=f"on loopback only, not on {address}: .*FLOWER_BASIC_AUTH"):
        check_address(options(address=address))
    check_address(options(address=address, basic_auth=["ops:secret"]))
    check_address(options(address=address, auth=".*@example.com"))


def test_without_an_address_it_takes_loopback_for_one() -> None:
    silent, known = options(), options(basic_auth=["ops:secret"])
    check_address(silent)
    check_address(known)
    assert (silent.address, known.address) == ("127.0.0.1", "")
    for local in ("127.0.0.1", "::1", "localhost", "127.3.2.1"):
        check_address(options(address=local))
    check_address(options(unix_socket="flower.sock"))
    assert not is_loopback("192.0.2.1")


def test_a_name_that_leads_elsewhere_too_is_not_loopback(monkeypatch: Any) -> None:
    found = [(0, 0, 0, "", (address, 0)) for address in ("127.0.0.1", "192.0.2.1")]
    monkeypatch.setattr("socket.getaddrinfo", lambda *_: found)
    assert not is_loopback("both.example")
    found.pop()
    assert is_loopback("both.example")


def test_the_command_refuses_to_listen_elsewhere_before_it_does(
    session_server: Any, redis: Redis, tmp_path: Path
) -> None:
    env = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("FLOWER_", "BACKBEAT_"))},
        "BACKBEAT_REDIS_URL": session_server.url,
        "BACKBEAT_CONFIG": str(ROOT / "config" / "unified_loop.yaml"),
        "BACKBEAT_DATA": str(tmp_path),
    }
    argv = [sys.executable, "-m", "celery", "-A", "workers.app", "flower", "--address=0.0.0.0", "--port=0"]
    ended = subprocess.run(argv, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert ended.stderr.strip().endswith("or leave out --address")
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("given", ["ops", ":secret", "ops:", "ops:secret,more"])
def test_up_takes_credentials_only_with_a_name_and_a_password(no_settings: None, given: str) -> None:
    result = CliRunner().invoke(backbeat, ["up", "--flower-auth", given])
    assert result.exit_code == 2
    assert "not NAME:PASSWORD" in result.output
    assert "secret" not in result.output


def test_the_server_is_away_and_the_probes_do_not_lie(serving: Callable[..., Any], nobody: str, served: Any) -> None:
    away = serving(nobody)
    assert (away.ask("/healthz").code, away.ask("/readyz").code) == (200, 503)
    assert "hush-hush" not in away.ask("/readyz").text
    assert (served.ask("/healthz").text, served.ask("/readyz").text) == ("ok\n", "ready\n")
