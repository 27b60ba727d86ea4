"""The Celery application: declarations plus stanzas, on our server and no other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from schedules.plan import PlanError
from tasks.loop import Loop, Options, loop
from workers.app import configure, create_app
from workers.settings import Settings, SettingsError


def declared(name: str, *, leader_only: bool = False) -> Loop:
    return loop(name=name, leader_only=leader_only)(lambda fleet, options, tick: None)


def settings_with(folder: Path, text: str) -> Settings:
    (folder / "loops.yaml").write_text(text)
    return Settings(config=folder / "loops.yaml", data=folder)


def test_every_declared_loop_is_a_task_under_its_own_name_and_queue(tmp_path: Path) -> None:
    loops = {"a": declared("a"), "b": declared("b", leader_only=True)}
    app = create_app(settings_with(tmp_path, "a: {interval: 10s}\nb: {interval: 5m, initial_delay: 30s}\n"), loops)
    assert {"loops.a", "loops.b", "jobs.run"} <= app.tasks.keys()
    rows = {row.name: row for row in app.backbeat.scheduled}
    assert (rows["a"].queue, rows["b"].queue) == ("loops", "leader")
    assert rows["b"].interval == 300
    # neighbours are spread over a second, so that loops of one start are no burst
    assert rows["a"].initial_delay == 0
    assert rows["b"].initial_delay == 30.5


@pytest.mark.parametrize("text", ["a: {interval: 10s}\n", "a: {interval: 10s}\nb: {}\nc: {interval: 1s}\n"])
def test_stanzas_and_loops_that_disagree_make_no_app(tmp_path: Path, text: str) -> None:
    with pytest.raises(PlanError):
        create_app(settings_with(tmp_path, text), {"a": declared("a"), "b": declared("b")})


def test_two_apps_in_one_process_do_not_share_tasks(tmp_path: Path) -> None:
    settings = settings_with(tmp_path, "a: {interval: 10s}\n")
    first, second = (create_app(settings, {"a": declared("a")}) for _ in range(2))
    assert first.tasks["loops.a"] is not second.tasks["loops.a"]


def test_the_store_is_the_environments_or_the_configurations(tmp_path: Path) -> None:
    loops = {"a": declared("a")}
    settings = settings_with(tmp_path, "a: {interval: 10s}\n")
    assert create_app(settings, loops).backbeat.fleet.store is None
    settings = settings_with(tmp_path, "a: {interval: 10s}\nstore: {url: /srv/one}\n")
    assert repr(create_app(settings, loops).backbeat.fleet.store) == "Store('/srv/one')"
    assert repr(create_app(replace(settings, store="/srv/two"), loops).backbeat.fleet.store) == "Store('/srv/two')"
    with pytest.raises(SettingsError, match=r"^BACKBEAT_STORE: .*no protocol 'nonesuch'"):
        create_app(replace(settings, store="nonesuch://x"), loops)
    settings = settings_with(tmp_path, "a: {interval: 10s}\nstore: {url: 's3://bucket'}\n")
    with pytest.raises(SettingsError, match=r"^store.url: .*s3fs"):
        create_app(settings, loops)


def test_celerys_own_variables_do_not_choose_another_server(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CELERY_BROKER_URL", "CELERY_BROKER_READ_URL", "CELERY_BROKER_WRITE_URL"):
        monkeypatch.setenv(name, "redis://elsewhere:1/0")
    app = configure(Settings(redis_url="redis://127.0.0.1:7777/3"))
    for connection in (app.connection_for_write(), app.connection_for_read()):
        assert (connection.hostname, connection.port, connection.virtual_host) == ("127.0.0.1", 7777, "3")


def test_options_of_a_loop_reach_its_body(tmp_path: Path) -> None:
    class Depth(Options):
        depth: int = 1

    seen = []
    body = loop(name="a", options=Depth)(lambda fleet, options, tick: seen.append(options.depth))
    app = create_app(settings_with(tmp_path, "a: {interval: 10s, depth: 7}\n"), {"a": body})
    body(app.backbeat.fleet, app.backbeat.plan.stanzas["a"].options, None)
    assert seen == [7]
