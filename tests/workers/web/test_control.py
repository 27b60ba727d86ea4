"""Who may press a button, and what comes of it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from redis import Redis

from tests.workers.web.conftest import NAME, PASSWORD
from workers.status import read_status


def paused(timetable: Any) -> bool:
    found: bool = read_status(timetable)["loops"]["alpha"]["paused"]
    return found


@pytest.fixture
def alpha(timetable: Any) -> Any:
    timetable.add("alpha")
    timetable.add("off", enabled=False)
    return timetable


def test_without_credentials_nobody_steers_and_the_page_says_how_to(served: Any, alpha: Any, redis: Redis) -> None:
    for action in ("run", "pause", "resume"):
        answer = served.ask(f"/loops/alpha/{action}", "POST")
        assert (answer.code, "read-only" in answer.json["error"]) == (403, True)
    assert not paused(alpha)
    assert not redis.exists("loops")
    text = served.ask("/loops").text
    assert "data-action" not in text
    assert "backbeat up --flower-auth NAME:PASSWORD" in text


def test_with_credentials_nobody_is_let_in_without_them(guarded: Any, alpha: Any) -> None:
    for page in ("/loops", "/fleet", "/fleet/n1", "/progress", "/status", "/loops/alpha"):
        assert guarded.ask(page, known=False).code == 401, page
    for wrong in ("", f"{NAME}:{PASSWORD}x"):
        answer = guarded.ask("/loops/alpha/pause", "POST", known=False, Authorization=f"Basic {wrong}")
        assert answer.code == 401
    assert not paused(alpha)
    for probe in ("/healthz", "/readyz", "/metrics"):  # what no person asks
        assert guarded.ask(probe, known=False).code == 200


def test_a_loop_is_paused_and_resumed(guarded: Any, alpha: Any) -> None:
    assert 'data-action="pause"' in guarded.ask("/loops").text
    answer = guarded.ask("/loops/alpha/pause", "POST")
    assert answer.json == {"loop": "alpha", "action": "pause", "call": None}
    assert paused(alpha)
    assert 'data-action="resume"' in guarded.ask("/loops").text
    assert guarded.ask("/loops/alpha/resume", "POST").code == 200
    assert not paused(alpha)


def test_a_manual_run_is_sent_and_found_again_by_its_call(guarded: Any, alpha: Any, redis: Redis) -> None:
    call = guarded.ask("/loops/alpha/run", "POST").json["call"]
    (message,) = redis.lrange("loops", 0, -1)
    assert f'"id": "{call}"' in message.decode()
    assert guarded.ask("/loops/alpha").json["manual"] is None
    alpha.gate("alpha", None, "r", ttl=8, deadline=9, leader_only=False, owner="", identity="n1", call=call)
    alpha.record("alpha", "r", "succeeded", counts={"added": 2}, duration=0.05)
    manual = guarded.ask("/loops/alpha").json["manual"]
    assert (manual["call"], manual["outcome"], manual["counts"]) == (call, "succeeded", {"added": 2})


@pytest.mark.parametrize(
    ("path", "code", "why"),
    [
        ("/loops/alhpa/run", 404, "did you mean 'alpha'?"),
        ("/loops/alhpa/pause", 404, "did you mean 'alpha'?"),
        ("/loops/off/run", 409, "disabled in the configuration"),
    ],
)
def test_what_cannot_be_done_is_refused_with_the_reason(
    guarded: Any, alpha: Any, path: str, code: int, why: str
) -> None:
    answer = guarded.ask(path, "POST")
    assert answer.code == code
    assert why in answer.json["error"]


def test_what_is_no_button_is_not_found(guarded: Any, alpha: Any) -> None:
    assert guarded.ask("/loops/alpha/seed", "POST").code == 404
    assert guarded.ask("/loops/nobody").json == {"error": "no loop is named 'nobody'"}
    assert guarded.ask("/loops/alpha/pause").code == 405


def test_another_sites_page_cannot_press_a_button(guarded: Any, alpha: Any) -> None:
    def press(**headers: str) -> int:
        code: int = guarded.ask("/loops/alpha/pause", "POST", **headers).code
        return code

    assert press(Origin="https://elsewhere.example") == 403
    assert press(Origin="null") == 403
    assert press(Sec_Fetch_Site="cross-site", Origin=guarded.url) == 403
    assert press(Sec_Fetch_Site="same-site") == 403
    # nor one of ours, without the token that only our pages can read
    assert press(Sec_Fetch_Site="same-origin", Origin=guarded.url) == 403
    assert press(Origin=guarded.url) == 403  # a browser that says no more
    assert press(Sec_Fetch_Site="same-origin", Cookie="_xsrf=abc", X_XSRFToken="other") == 403
    assert not paused(alpha)
    token = re.search(r"_xsrf=([^;]+)", guarded.ask("/loops").headers["Set-Cookie"])
    assert token
    ours = {"Sec_Fetch_Site": "same-origin", "Origin": guarded.url, "Cookie": f"_xsrf={token[1]}"}
    assert press(**{**ours, "Sec_Fetch_Site": "cross-site"}, X_XSRFToken=token[1]) == 403
    assert not paused(alpha)
    assert press(**ours, X_XSRFToken=token[1]) == 200
    assert paused(alpha)


def test_flowers_read_only_mode_holds_for_our_buttons(serving: Callable[..., Any], alpha: Any) -> None:
    there = serving(basic_auth=[f"{NAME}:{PASSWORD}"], read_only=True)
    assert there.ask("/loops/alpha/pause", "POST").code == 403
    assert "data-action" not in there.ask("/loops").text
    assert not paused(alpha)


def test_without_the_server_a_button_says_so(serving: Callable[..., Any], nobody: str) -> None:
    there = serving(nobody, basic_auth=[f"{NAME}:{PASSWORD}"])
    for action in ("run", "pause"):
        answer = there.ask(f"/loops/alpha/{action}", "POST")
        assert answer.code == 503
        assert "cannot use the server" in answer.json["error"]
    assert there.ask("/loops/alpha").code == 503
