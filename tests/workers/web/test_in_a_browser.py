"""The pages in a real browser: buttons, what unfolds, a phone, the dark, a thousand nodes, and a server that goes."""

from __future__ import annotations

import re
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright
from redis import Redis

from fleet.nodes import NodeRegistry
from tests.conftest import Server
from tests.waiting import until
from tests.workers.web.conftest import NAME, PASSWORD, Timetable
from workers.settings import connect
from workers.status import read_status

QUIET = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)
#: What a page does when it is looked at again; it saves waiting for its next turn.
LOOK = "document.dispatchEvent(new Event('visibilitychange'))"


@pytest.fixture(scope="module")  # while it is open, nothing else in this thread may run a loop of asyncio
def chromium(lacking: Callable[[str], NoReturn]) -> Iterator[Browser]:
    found = shutil.which("chromium")
    if found is None:
        lacking("no chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=QUIET.split())
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium: Browser, guarded: Any) -> Iterator[Callable[..., Page]]:
    """Open a page of a dashboard; it must load nothing from elsewhere and complain of nothing."""
    complaints: list[str] = []
    contexts = []

    def open_page(path: str, there: Any = guarded, *, width: int = 1280, clock: bool = False, **options: Any) -> Page:
        known = {"username": NAME, "password": PASSWORD} if there.credentials else None
        viewport = {"width": width, "height": 844}
        contexts.append(chromium.new_context(http_credentials=known, viewport=viewport, **options))  # type: ignore[arg-type]
        page: Page = contexts[-1].new_page()
        page.set_default_timeout(10_000)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None)
        page.on("request", lambda sent: None if local(sent.url, there) else complaints.append(f"asked for {sent.url}"))
        if clock:
            page.clock.install()
        page.goto(f"{there.url}/{path}")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert [each for each in complaints if not re.search("status of (409|503)", each)] == []  # those are told


def local(url: str, there: Any) -> bool:
    return url.startswith((there.url + "/", "data:"))


@pytest.fixture
def alpha(timetable: Timetable) -> Timetable:
    timetable.add("alpha", "beta")
    timetable.ran("alpha", counts={"added": 3})
    return timetable


@pytest.fixture
def thousand(registry: NodeRegistry, redis: Redis) -> NodeRegistry:
    newest = redis.time()[0] // 60 * 60
    history = [[newest - 60 * ago, 12, 40.0, 50.0, None, None, 30.0, 20.0] for ago in range(30, 0, -1)]
    for number in range(1000):
        facts = {"host": f"trainer-{number:04}.cluster.example.com", "metrics": {"cpu": number % 97, "disk": 41.0}}
        registry.heartbeat(f"node-{number:04}", "agent", facts, history=history if number < 50 else None)
    return registry


def is_paused(timetable: Timetable) -> bool:
    found: bool = read_status(timetable)["loops"]["alpha"]["paused"]
    return found


def press(page: Page, action: str) -> None:
    """A button of alpha's, and yes to the question that follows."""
    page.locator(f"[data-loop=alpha] [data-action={action}]").click()
    expect(page.locator("#bb-confirm-title")).to_contain_text("alpha?")
    page.locator("#bb-confirm-yes").click()


# buttons -------------------------------------------------------------------------------------------------


def test_a_loop_is_paused_only_after_confirmation_and_says_so(visit: Callable[..., Page], alpha: Timetable) -> None:
    page = visit("loops")
    page.locator("[data-loop=alpha] [data-action=pause]").click()
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("#bb-confirm")).to_be_hidden()
    assert not is_paused(alpha)
    expect(page.locator("[data-loop=alpha] [data-action=pause]")).to_be_focused()

    press(page, "pause")
    expect(page.locator(".toast")).to_contain_text("alpha is paused")
    assert is_paused(alpha)
    expect(page.locator("[data-loop=alpha] .bb-state")).to_have_text("paused")
    expect(page.locator("[data-loop=alpha] [data-action=resume]")).to_be_focused()  # it took the other's place

    press(page, "resume")
    expect(page.locator(".toast").last).to_contain_text("alpha goes on")
    assert not is_paused(alpha)


def test_a_manual_run_says_what_came_of_it(visit: Callable[..., Page], alpha: Timetable, redis: Redis) -> None:
    def agent() -> None:
        (message,) = until(lambda: redis.lrange("loops", 0, -1), 10)
        call = re.search(r'"id": "(alpha:manual:\w+)"', message.decode())
        assert call
        alpha.gate("alpha", None, "r2", ttl=8, deadline=9, leader_only=False, owner="", identity="n1", call=call[1])
        alpha.record("alpha", "r2", "failed", error="ValueError: no luck", duration=0.1)

    working = threading.Thread(target=agent)
    working.start()
    page = visit("loops")
    press(page, "run")
    expect(page.locator(".toast.text-bg-danger")).to_contain_text("alpha failed: ValueError: no luck")
    expect(page.locator("#bb-troubles")).to_contain_text("alpha: 1 failure")
    working.join()


def test_what_is_refused_says_why(visit: Callable[..., Page], alpha: Timetable) -> None:
    page = visit("loops")
    page.locator("[data-loop=alpha] [data-action=run]").click()
    alpha.control("alpha", "stop")  # meanwhile, by somebody else
    page.locator("#bb-confirm-yes").click()
    expect(page.locator(".toast.text-bg-danger")).to_contain_text("alpha is stopped; start it first")


def test_without_credentials_there_is_no_button_but_how_to_get_them(
    visit: Callable[..., Page], alpha: Timetable, served: Any
) -> None:
    page = visit("loops", served)
    expect(page.locator("[data-loop=alpha]")).to_be_visible()
    assert page.locator("[data-action]").count() == 0
    expect(page.locator("#bb-read-only")).to_contain_text("--flower-auth NAME:PASSWORD")


# what changes --------------------------------------------------------------------------------------------


def test_a_failing_loops_traceback_unfolds_and_stays_so_while_the_page_goes_on(
    visit: Callable[..., Page], alpha: Timetable
) -> None:
    lines = "\n".join(f'  File "body.py", line {number}' for number in range(80))
    alpha.ran("beta", "failed", error="ValueError: <b>no luck</b>", traceback=lines)
    page = visit("loops")
    row = page.locator("[data-loop=beta]")
    expect(row.locator("pre")).to_be_hidden()
    row.locator("summary", has_text="1 failure").click()
    expect(row.locator("pre")).to_contain_text("ValueError: <b>no luck</b>")
    expect(row.locator("pre")).to_contain_text('File "body.py", line 79')
    row.locator("pre").evaluate("each => { each.scrollTop = 200 }")

    alpha.ran("alpha")
    page.evaluate(LOOK)
    expect(page.locator("[data-loop=alpha] [data-title=Runs]")).to_have_text("2")
    expect(row.locator("pre")).to_be_visible()
    assert row.locator("pre").evaluate("each => each.scrollTop") == 200


def test_focus_stays_where_it_was_while_the_page_goes_on(
    visit: Callable[..., Page], alpha: Timetable, registry: NodeRegistry
) -> None:
    alpha.ran("beta", "failed", error="no luck")
    registry.heartbeat("n1", "agent", {})
    page = visit("loops")
    for place in ("#bb-troubles a", "[data-loop=beta] summary", "[data-loop=beta] [data-action=run]"):
        page.locator(place).first.focus()
        alpha.ran("alpha")
        runs = page.locator("[data-loop=alpha] [data-title=Runs]")
        before = int(runs.inner_text())
        page.evaluate(LOOK)
        expect(runs).to_have_text(str(before + 1))
        expect(page.locator(place).first).to_be_focused()
    page.goto(page.url.replace("loops", "fleet"))
    page.locator("a.bb-name").focus()
    with page.expect_response(re.compile("part=1")):
        page.evaluate(LOOK)
    expect(page.locator("a.bb-name")).to_be_focused()


def test_what_stands_below_an_unfolded_node_stays_where_it_is(
    visit: Callable[..., Page], registry: NodeRegistry
) -> None:
    for number in range(30):
        registry.heartbeat(f"node-{number}", "agent", {}, history=[[60, 12, 40.0, 50.0, None, None, 30.0, 20.0]])
    page = visit("fleet")
    for name in ("node-0", "node-11"):
        page.locator(f"[data-node={name}] summary").click()
        expect(page.locator(f"[data-node={name}] .bb-node")).to_be_visible()
    page.evaluate("""() => {
        scrollTo({top: 1200, behavior: "instant"});
        window.moved = [];
        const live = document.getElementById("bb-live"), last = () => live.querySelector("tbody:last-of-type");
        const before = last().getBoundingClientRect().top;
        new MutationObserver(() => moved.push(Math.abs(last().getBoundingClientRect().top - before)))
            .observe(live, {childList: true, subtree: true});
    }""")
    with page.expect_response(re.compile(r"fleet\?part=1")):
        page.evaluate(LOOK)
    moved = until(lambda: page.evaluate("window.moved"), 10)
    assert max(moved) < 2


def test_the_tab_says_what_is_wrong_as_it_happens(visit: Callable[..., Page], alpha: Timetable) -> None:
    page = visit("loops")
    expect(page).to_have_title("(2) Loops · Flower")  # no beat and no agent
    alpha.ran("beta", "failed", error="no luck")
    page.evaluate(LOOK)
    expect(page).to_have_title("(3) Loops · Flower")


def test_the_page_goes_on_by_itself_but_not_while_nobody_looks(visit: Callable[..., Page], alpha: Timetable) -> None:
    page = visit("loops", clock=True)
    asked: list[str] = []
    page.on("request", lambda sent: asked.append(sent.url) if "part=1" in sent.url else None)
    runs = page.locator("[data-loop=alpha] [data-title=Runs]")
    assert re.fullmatch(r"as of \d+:\d\d:\d\d.*", page.locator("#bb-as-of").inner_text())
    for number in (2, 3):
        alpha.ran("alpha")
        page.clock.run_for(3000)
        expect(runs).to_have_text(str(number))
    assert len(asked) == 2

    page.evaluate("Object.defineProperty(document, 'hidden', {value: true, configurable: true})")
    title = page.title()
    alpha.ran("alpha", "failed", error="no luck")
    page.clock.run_for(60_000)
    expect(page).not_to_have_title(title)
    assert len(asked) <= 2 + 3
    page.evaluate("Object.defineProperty(document, 'hidden', {value: false})")
    page.evaluate(LOOK)
    expect(runs).to_have_text("4")


def test_while_the_server_is_away_the_page_says_so_and_then_goes_on(
    visit: Callable[..., Page], serving: Callable[..., Any], tmp_path: Path
) -> None:
    server = Server(tmp_path / "server")
    server.start()
    try:
        Timetable(connect(server.url)).add("alpha")
        page = visit("loops", serving(server.url))
        server.kill()
        page.evaluate(LOOK)
        expect(page.locator("#bb-lost")).to_contain_text("The server is away.")
        expect(page).to_have_title("(away) Loops · Flower")
        expect(page.locator("[data-loop=alpha]")).to_be_visible()  # what was known
        page.reload()
        expect(page.locator("#bb-away")).to_contain_text("The server is away.")
        server.start()
        page.evaluate(LOOK)
        expect(page.locator("[data-loop=alpha]")).to_be_visible()
        expect(page.locator("#bb-away")).to_have_count(0)
        expect(page.locator("#bb-lost")).to_be_hidden()
    finally:
        server.kill()


# how it looks --------------------------------------------------------------------------------------------


def test_no_page_is_wider_than_its_screen(
    visit: Callable[..., Page], guarded: Any, alpha: Timetable, thousand: NodeRegistry
) -> None:
    alpha.ran("beta", "failed", error="E" * 500, traceback="T" * 500)
    page = visit("loops")
    for path in ("loops", "fleet", "progress", "fleet/node-0007"):
        page.goto(f"{guarded.url}/{path}")
        page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
        for width in (360, 390, 768, 1024):
            page.set_viewport_size({"width": width, "height": 844})
            assert page.evaluate("document.documentElement.scrollWidth") <= width, (path, width)
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto(f"{guarded.url}/loops")
    button = page.locator("[data-loop=alpha] [data-action=pause]").bounding_box()
    assert button
    assert button["height"] >= 40  # a finger


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_the_pages_follow_the_scheme_of_the_system(visit: Callable[..., Page], alpha: Timetable, scheme: Any) -> None:
    page = visit("loops", color_scheme=scheme)
    shades = page.evaluate(
        """() => ["background-color", "color"].map((name) => {
            const found = getComputedStyle(name === "color" ? document.querySelector(".bb-name")
                : document.querySelector(".bb-panel")).getPropertyValue(name);
            return found.match(/\\d+/g).slice(0, 3).reduce((sum, each) => sum + Number(each), 0) / 3;
        })"""
    )
    assert (shades[0] < 60 and shades[1] > 200) if scheme == "dark" else (shades[0] > 200 and shades[1] < 60)


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_all_words_stand_out_from_what_is_behind_them(
    visit: Callable[..., Page], guarded: Any, served: Any, alpha: Timetable, registry: NodeRegistry, scheme: Any
) -> None:
    alpha.ran("beta", "failed", error="no luck", traceback="here")
    alpha.add("gamma", "delta")
    alpha.control("gamma", "pause")
    alpha.ran("delta", "timed_out", error="too slow")
    alpha.gate("delta", None, "r", ttl=60, deadline=60, leader_only=False, owner="", identity="n1")
    registry.heartbeat("n1", "agent", {"metrics": {"cpu": 5.0, "disk": 97.0}})
    registry.mark({"n1": {"idle": {"since": 1.0}, "drain": {"at": 1.0, "reason": "new disk", "by": "ops"}}})
    page = visit("loops", color_scheme=scheme, reduced_motion="reduce")
    contrast = (Path(__file__).parent / "contrast.js").read_text()
    for path in ("loops", "fleet", "fleet/n1", "progress"):
        page.goto(f"{guarded.url}/{path}")
        page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
        assert page.evaluate(contrast) == {}, path
    page.goto(f"{guarded.url}/loops")
    page.locator("[data-loop=alpha] [data-action=pause]").click()
    expect(page.locator("#bb-confirm-yes")).to_be_focused()
    assert page.evaluate(contrast) == {}
    page.keyboard.press("Enter")
    expect(page.locator(".toast.show:not(.showing)")).to_be_visible()
    assert page.evaluate(contrast) == {}
    readers = visit("loops", served, color_scheme=scheme)
    expect(readers.locator("#bb-read-only")).to_be_visible()
    assert readers.evaluate(contrast) == {}


def test_a_thousand_nodes_are_found_sorted_and_unfolded(visit: Callable[..., Page], thousand: NodeRegistry) -> None:
    page = visit("fleet")
    expect(page.locator("[data-node]")).to_have_count(50)
    page.get_by_label("Find a node").press_sequentially("TRAINER-004", delay=20)
    expect(page.locator("[data-node]")).to_have_count(10)
    expect(page.get_by_label("Find a node")).to_be_focused()
    expect(page.get_by_label("Find a node")).to_have_value("TRAINER-004")
    assert page.url.endswith("?q=TRAINER-004&sort=status")

    first = page.locator("[data-node=node-0040]")
    first.locator("summary").click()
    expect(first.locator("svg.plot").first).to_be_visible()
    page.evaluate(LOOK)
    expect(first.locator("svg.plot").first).to_be_visible()

    page.get_by_label("Sort by").select_option("cpu")
    expect(page.locator("[data-node]").first).to_have_attribute("data-node", "node-0049")
    page.get_by_label("Find a node").fill("")
    expect(page.locator("[data-node]")).to_have_count(50)
    page.get_by_role("link", name="next").click()
    expect(page.locator("[data-node]").first).to_be_visible()
    assert "page=2" in page.url


def test_flowers_own_pages_work_beside_ours(visit: Callable[..., Page], redis: Redis) -> None:
    page = visit("workers")
    page.get_by_role("link", name="Loops", exact=True).click()
    expect(page.locator("#bb-empty")).to_contain_text("No loops yet")
    page.get_by_role("link", name="Workers").click()
    expect(page.get_by_text("Online workers")).to_be_visible()
