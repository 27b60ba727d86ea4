"""The pages as they are served: empty, in trouble, with many nodes, and with hostile words in them."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from redis.connection import Connection

from fleet.nodes import NodeRegistry
from workers.lease import LeaderLease
from workers.ledger import HISTORY_KEPT, Ledger
from workers.status import read_overview, read_status
from workers.web import fleet, loops

PAGES = ("/loops", "/fleet", "/progress")
EVIL = "<script>alert(1)</script>"


@contextmanager
def round_trips() -> Iterator[list[Any]]:
    """What this process sends to the server meanwhile: after each of them it waits for the answer."""
    sent: list[Any] = []
    send = Connection.send_packed_command

    def noted(connection: Connection, command: Any, *more: Any, **options: Any) -> Any:
        sent.append(command)
        return send(connection, command, *more, **options)

    Connection.send_packed_command = noted  # type: ignore[method-assign]
    try:
        yield sent
    finally:
        Connection.send_packed_command = send  # type: ignore[method-assign]


@pytest.mark.parametrize("page", PAGES)
def test_each_page_reads_well_with_nothing_in_the_server(served: Any, redis: Redis, page: str) -> None:
    answer = served.ask(page)
    assert answer.code == 200
    assert 'id="bb-empty"' in answer.text
    assert re.search(r"No (loops|nodes|ratings) yet", answer.text)
    assert f'class="nav-link active" href="{page}" aria-current="page"' in answer.text
    assert "Traceback" not in answer.text


def test_an_empty_cluster_says_what_to_start(served: Any, redis: Redis) -> None:
    text = served.ask("/loops").text
    assert "celery -A workers.app beat" in text
    assert "celery -A workers.app worker" in text


@pytest.mark.parametrize("page", [*PAGES, "/fleet/n1", "/status"])
def test_without_the_server_each_page_says_so_without_the_password(
    serving: Callable[..., Any], nobody: str, page: str
) -> None:
    answer = serving(nobody).ask(page)
    assert answer.code == 503
    assert "cannot use the server redis://:***@" in answer.text
    assert "hush-hush" not in answer.text
    if page != "/status":
        assert "The server is away." in answer.text


def test_a_page_survives_a_restart_of_the_server(served: Any, redis: Redis) -> None:
    assert served.ask("/loops").code == 200
    for connection in redis.client_list():
        if int(connection["id"]) != redis.client_id():
            redis.client_kill_filter(_id=connection["id"])
    assert served.ask("/loops").code == 200


def test_the_main_part_alone_is_what_keeps_a_page_up_to_date(served: Any, timetable: Any) -> None:
    timetable.add("alpha")
    whole, part = served.ask("/loops"), served.ask("/loops?part=1")
    assert whole.text.lstrip().startswith("<!doctype html>")
    assert part.text.lstrip().startswith("<section")
    assert 'data-loop="alpha"' in part.text
    assert abs(float(part.headers["X-As-Of"]) - read_status(timetable)["now"]) < 5


def test_a_page_may_load_nothing_from_elsewhere(served: Any, redis: Redis) -> None:
    answer = served.ask("/loops")
    assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'; script-src 'self'")
    loaded = re.findall(r'(?:src|href)="([^"]+)"', re.sub(r"<a [^>]*>", "", answer.text))
    assert loaded
    assert not [each for each in loaded if not each.startswith(("/static/", "/backbeat/", "#"))]
    for path in (each for each in loaded if each.startswith("/backbeat/")):
        assert "max-age" in served.ask(path).headers["Cache-Control"]


# loops ---------------------------------------------------------------------------------------------------


def row(text: str, name: str) -> str:
    """A loop's part of the page."""
    found = re.search(rf'<tbody id="loop-{name}".*?</tbody>', text, re.DOTALL)
    assert found, name
    return re.sub(r"\s+", " ", found[0])


def test_each_state_of_a_loop_is_shown(served: Any, timetable: Any) -> None:
    now = read_status(timetable)["now"]
    names = ("well", "ailing", "paused", "stopped", "overrunning", "running", "backing")
    timetable.add(*names)
    timetable.add("off", enabled=False)
    timetable.ran("well", counts={"added": 3})
    timetable.ran("ailing", "failed", error="no luck", now=now - 60)
    timetable.ran("backing", "failed", error="no luck", backoff=60.0)
    timetable.ran("overrunning", "timed_out", error="too slow")
    timetable.control("paused", "pause")
    timetable.control("stopped", "stop")
    timetable.gate("running", None, "r", ttl=60, deadline=60, leader_only=False, owner="", identity="n7")
    text = served.ask("/loops").text
    states = {
        "well": "due", "ailing": "failing", "paused": "paused", "stopped": "stopped", "overrunning": "overrun",
        "running": "executing", "backing": "backing off", "off": "disabled",
    }  # fmt: skip
    for name, state in states.items():
        assert re.search(rf'class="bb-state bb-\w+" title="[^"]+">{state}<', row(text, name)), name
    assert "on n7 for" in row(text, "running")
    assert re.search(r"next try in (59s|1m)", row(text, "backing"))
    assert "Did: added 3" in row(text, "well")
    assert "3 things are wrong" not in text
    wrong = (
        r'href="#loop-ailing">ailing</a>: 1 failure, the last 1m ago, next try now<code class="bb-why">no luck</code>'
    )
    assert re.search(wrong, text)


def test_each_state_and_status_is_explained_as_in_the_documents(docs: Path) -> None:
    said = docs.joinpath("operations.md").read_text().replace("`", "")
    assert loops.MEANINGS.keys() == loops.TONES.keys()
    assert fleet.MEANINGS.keys() == fleet.TONES.keys()
    for name, meaning in {**loops.MEANINGS, **fleet.MEANINGS}.items():
        assert re.search(rf"^\| {name} \|.*{re.escape(meaning)}", said, re.MULTILINE), name


def test_times_are_told_in_full_too(served: Any, timetable: Any) -> None:
    timetable.add("alpha")
    timetable.ran("alpha", "failed", error="no luck", now=read_status(timetable)["now"] - 7200)
    each = read_status(timetable)["loops"]["alpha"]
    text = row(served.ask("/loops").text, "alpha")
    began, due = (time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(each[f])) for f in ("last_run_time", "next_run"))
    assert f'data-title="Last run" title="{began}">2h ago' in text
    assert f'data-title="Next run" title="{due}">' in text
    assert f"<dt>last run</dt><dd>{began} on n1</dd>" in text  # a phone has no tooltips
    assert f'<pre class="bb-trace">{began}' in text


def test_nodes_that_are_lost_are_among_what_is_wrong(served: Any, timetable: Any, registry: NodeRegistry) -> None:
    registry.heartbeat("n1", "agent", {})
    registry.mark({"n1": {"health": {"status": "lost", "since": 1.0, "at": 9e12, "reasons": []}}})
    assert '<a href="fleet?status=lost">nodes</a>: 1 lost' in served.ask("/loops").text
    assert nodes_of(served.ask("/fleet?status=lost").text) == ["n1"]


def title(text: str) -> str:
    found = re.search("<title>(.*)</title>", text)
    assert found
    return found[1]


def test_the_tab_in_the_browser_says_how_much_is_wrong(
    serving: Callable[..., Any], served: Any, timetable: Any, registry: NodeRegistry, nobody: str
) -> None:
    assert title(served.ask("/progress").text) == "Progress · Flower"
    assert title(served.ask("/fleet").text) == "Fleet · Flower"
    registry.heartbeat("n1", "agent", {})
    registry.mark({"n1": {"health": {"status": "lost", "since": 1.0, "at": 9e12, "reasons": []}}})
    timetable.add("alpha")
    timetable.ran("alpha", "failed", error="no luck")
    timetable.claim("b1", '{"host": "desk", "pid": 4242}', ttl=30.0, grace=5.0)
    assert title(served.ask("/loops").text) == "(3) Loops · Flower"  # no leader, a lost node, a failure
    assert title(served.ask("/fleet").text) == "(1) Fleet · Flower"
    assert title(served.ask("/fleet/n1").text) == "(lost) n1 · Flower"
    away = serving(nobody).ask("/loops").text
    assert title(away) == "(away) Loops · Flower"
    assert "status-dot-live" not in away


def test_an_error_is_folded_with_its_traceback_and_never_read_as_html(served: Any, timetable: Any) -> None:
    timetable.add("alpha")
    timetable.ran("alpha", "failed", error=f"ValueError: {EVIL}", traceback=f'File "x.py"\n{EVIL}')
    text = row(served.ask("/loops").text, "alpha")
    assert re.search(r'<details class="bb-fold" data-key="error-alpha">.*1 failure:.*ValueError.*<pre', text)
    assert "File &quot;x.py&quot;" in text
    assert EVIL not in text


def test_the_sparkline_tells_the_last_sixty_runs(served: Any, timetable: Any) -> None:
    now = read_status(timetable)["now"]
    timetable.add("alpha")
    for number in range(HISTORY_KEPT + 5):
        timetable.ran("alpha", "failed" if number == 6 else "succeeded", duration=number / 10, now=now - 100 + number)
    history = read_overview(timetable)["loops"]["alpha"]["history"]
    assert [duration for _, duration, _ in history] == [number * 100.0 for number in range(5, 65)]
    assert history[0] == (pytest.approx(now - 95, abs=0.01), 500.0, "succeeded")
    text = row(served.ask("/loops").text, "alpha")
    assert "last 60 runs: 59 succeeded, 1 failed; 500ms to 6.4s" in text
    assert text.count('class="run failed') == 2  # the bar, and the pale one behind it


def test_a_loop_that_the_plan_forgets_leaves_no_history(timetable: Any, redis: Redis) -> None:
    timetable.add("alpha")
    timetable.ran("alpha")
    assert redis.keys("*history*")
    timetable.seed([], prune=True)
    assert not redis.keys("*history*")


def test_a_run_that_lost_its_lead_is_no_run_of_the_history(timetable: Any) -> None:
    timetable.add("alpha")
    timetable.ran("alpha", "not_leader")
    assert read_overview(timetable)["loops"]["alpha"]["history"] == []


def test_the_leader_its_term_and_the_beats_are_named(served: Any, timetable: Any, redis: Redis) -> None:
    lease = LeaderLease(redis, "node-9")
    assert lease.try_once()
    timetable.claim("b1", '{"host": "desk", "pid": 4242}', ttl=30.0, grace=5.0)
    timetable.claim("b2", '{"host": "shelf", "pid": 977}', ttl=30.0, grace=5.0)
    text = served.ask("/loops").text
    assert "node-9" in text
    assert f"fence {lease.fence()}" in text
    assert "pid 4242; standing by: shelf (977)" in text


def test_the_page_of_loops_and_status_cost_one_round_trip_each(served: Any, timetable: Any) -> None:
    timetable.add("alpha")
    for page, wanted in (("/loops", 1), ("/status", 1), ("/fleet", 1), ("/progress", 2)):
        for _ in range(12):  # every thread has its connection, and the server the scripts
            served.ask(page)
        with round_trips() as sent:
            assert served.ask(page).code == 200
        assert len(sent) == wanted, page


def test_status_is_the_same_document_as_on_the_command_line(
    served: Any, timetable: Ledger, registry: NodeRegistry, redis: Redis
) -> None:
    timetable.add("alpha", "beta")  # type: ignore[attr-defined]
    timetable.ran("alpha", "failed", error="no luck")  # type: ignore[attr-defined]
    registry.heartbeat("n1", "agent", {"host": "h", "pid": 7, "metrics": {"cpu": 12.5}})
    registry.heartbeat("n2", "jobs", {"host": "h", "pid": 8, "slots": 2, "running": ["j1"]})
    registry.mark({"n1": {"health": {"status": "suspect", "since": 1.0, "at": 2.0, "reasons": ["why"]}}})
    for _ in range(2):
        answer = served.ask("/status")
        assert answer.headers["Content-Type"] == "application/json"
        ours, theirs = answer.json, json.loads(json.dumps(read_status(timetable)))
        assert abs(ours.pop("now") - theirs.pop("now")) < 5
        assert ours == theirs
        registry.heartbeat("n1", "agent", {"host": "h", "pid": 7, "metrics": {"cpu": 99.0}})
        registry.leave("n2", "jobs")


# nodes ---------------------------------------------------------------------------------------------------


def nodes_of(text: str) -> list[str]:
    return re.findall(r'data-node="([^"]+)"', text)


def test_a_node_is_shown_with_its_bars_flags_and_address(served: Any, registry: NodeRegistry) -> None:
    metrics = {"cpu": 61.4, "memory": 88.0, "disk": 97.0, "gpus": [{"utilization": 33}]}
    registry.heartbeat("n1", "agent", {"host": "trainer", "metrics": metrics})
    registry.heartbeat("n1", "jobs", {"host": "trainer", "slots": 4, "running": ["j1"]})
    now = read_status(Ledger(registry._redis))["now"]
    address = {"address": "10.0.0.7", "source": "lan", "since": now, "failures": 2, "changes": [], "reachable": False}
    drain = {"at": now - 60, "reason": EVIL}
    registry.mark({"n1": {"idle": {"since": now - 60}, "drain": drain, "address": address}})
    text = re.sub(r"\s+", " ", served.ask("/fleet").text)
    for said in ("61 %", "33 %", "88 %", "97 %", "1 of 4", "10.0.0.7", "lan, unreachable", ">idle<", ">draining<"):
        assert said in text, said
    assert re.search(r'data-title="Disk" class="bb-meter bad"', text)
    assert re.search(r'data-title="Mem" class="bb-meter warn"', text)
    assert EVIL not in text


def test_a_thousand_nodes_are_paged_sorted_found_and_filtered(
    served: Any, registry: NodeRegistry, redis: Redis
) -> None:
    for number in range(1000):
        registry.heartbeat(f"n{number:04}", "agent", {"host": f"host-{number}", "metrics": {"cpu": number % 100 + 0.5}})
    lost = {"status": "lost", "since": 1.0, "at": 9e12, "reasons": []}
    registry.mark({f"n{number:04}": {"health": lost} for number in range(900, 1000)})

    first = served.ask("/fleet").text
    assert len(nodes_of(first)) == 50
    assert nodes_of(first)[0] == "n0900"  # those that are not well come first
    assert re.search(r"1 to 50 of 1,000", first)
    assert "lost <b>100</b>" in first
    assert len(first) < 200_000

    assert nodes_of(served.ask("/fleet?page=20").text)[-1] == "n0899"
    assert nodes_of(served.ask("/fleet?page=999").text)[-1] == "n0899"
    assert nodes_of(served.ask("/fleet?sort=cpu").text)[0] == "n0099"
    assert nodes_of(served.ask("/fleet?sort=name&page=2").text)[0] == "n0050"
    assert nodes_of(served.ask("/fleet?q=HOST-77").text) == ["n0077", *(f"n{number:04}" for number in range(770, 780))]
    assert nodes_of(served.ask("/fleet?status=lost&sort=name").text)[0] == "n0900"
    none = served.ask("/fleet?q=%3Cscript%3Ealert(1)%3C/script%3E").text
    assert "No such node" in none
    assert EVIL not in none
    assert served.ask("/fleet?page=x&sort=y").code == 200


def test_the_clusters_last_hour_is_plotted(served: Any, registry: NodeRegistry) -> None:
    now = read_status(Ledger(registry._redis))["now"]
    registry.heartbeat("n1", "agent", {"host": "h"})
    for ago in (90, 60, 30):
        registry.mark({}, totals={"at": now - ago, "nodes": 4, "healthy": 3, "lost": 1, "slots": 8, "busy_slots": 5})
    text = served.ask("/fleet").text
    assert text.count('<svg class="plot"') == 2
    assert "busy <b>5</b>" in text


def test_one_nodes_last_hour_is_read_when_it_is_unfolded(served: Any, registry: NodeRegistry) -> None:
    now = read_status(Ledger(registry._redis))["now"]
    newest = int(now // 60) * 60
    rows = [[newest - 60 * ago, 12, 40.0, 50.0, None, None, 30.0, 20.0] for ago in range(30, 0, -1)]
    registry.heartbeat("n1", "agent", {"host": "h", "pid": 7}, history=rows)
    assert 'data-src="/fleet/n1?part=1"' in served.ask("/fleet").text
    part = served.ask("/fleet/n1?part=1").text
    assert part.count('<svg class="plot"') == 3  # it has no GPU
    assert "pid 7 on h" in part
    assert "<b>40 %</b>" in part
    assert served.ask("/fleet/nobody").code == 404


# where Flower is elsewhere ---------------------------------------------------------------------------------


def test_the_pages_follow_flowers_prefix(serving: Callable[..., Any], timetable: Any) -> None:
    timetable.add("alpha")
    there = serving(url_prefix="flower")
    text = there.ask("/flower/loops").text
    assert 'data-prefix="/flower"' in text
    assert 'href="/flower/fleet"' in text
    (script,) = re.findall(r'src="(/flower/backbeat/[^"]+)"', text)
    assert there.ask(script).code == 200
    assert there.ask("/flower/status").json["total_loops"] == 1


def test_flowers_own_pages_have_our_tabs_too(served: Any, redis: Redis) -> None:
    for page in ("/workers", "/tasks", "/broker"):
        text = served.ask(page).text
        assert [f'href="{each}"' in text for each in (*PAGES, page)] == [True] * 4
