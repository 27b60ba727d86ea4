"""Beats are killed, frozen and doubled: every slot ticks, and none twice."""

from __future__ import annotations

import signal
import time
from typing import Any


def check_every_slot(house: Any, interval: float) -> None:
    """No slot ran twice, and each ran or was counted as missed by the run that came after it."""
    notes = house.notes("note")
    seqs = house.seqs("note")
    assert seqs == list(range(seqs[0], seqs[0] + len(seqs)))
    slots = [round((float(note[1]) - float(notes[0][1])) / interval, 3) for note in notes]
    assert slots == sorted(set(slots))
    assert all(slot.is_integer() for slot in slots)  # the grid never moved
    # a run that began before the slot after its own has missed nothing that the next one will not count
    prompt = [place for place, note in enumerate(notes) if float(note[2]) - float(note[1]) < interval]
    first, last = prompt[0], prompt[-1]
    accounted = sum(1 + int(note[3]) for note in notes[first + 1 : last + 1])
    overlapped = house.status("note")["skipped"].get("overlapped", 0)
    assert accounted <= slots[last] - slots[first] <= accounted + overlapped


def active(house: Any) -> dict[str, Any]:
    found: dict[str, Any] = house.manager.get_status()["beat"]["active"] or {}
    return found


def test_a_standby_takes_over_from_a_killed_a_frozen_and_a_leaving_beat(house: Any) -> None:
    house.configure({"note": {"interval": "1s"}})
    house.agent("n1")
    beats = [house.beat(f"beat{number}") for number in range(4)]
    house.until(lambda: len(house.notes("note")) >= 2)
    house.until(lambda: len(house.manager.get_status()["beat"]["replicas"]) == 4, what="four replicas")
    frozen = None
    for number, limit in ((signal.SIGKILL, 5.0), (signal.SIGSTOP, 5.0), (signal.SIGTERM, 2.0)):
        old = house.by_pid(active(house)["pid"])
        old.send(number)
        began, ran = time.monotonic(), len(house.notes("note"))
        house.until(lambda pid=old.pid: active(house).get("pid") not in (None, pid), 10, "another beat")
        assert time.monotonic() - began < limit
        house.until(lambda ran=ran: len(house.notes("note")) >= ran + 2, 10, "its ticks")
        frozen = old if number == signal.SIGSTOP else frozen
    assert frozen is not None
    ran = len(house.notes("note"))
    frozen.send(signal.SIGCONT)  # it wakes in the belief that it is the active one
    house.until(lambda: len(house.notes("note")) >= ran + 3, 10)
    house.until(lambda: "standing by" in frozen.text(), 5, "it noticed")
    assert frozen.alive
    check_every_slot(house, 1.0)
    assert sum(beat.alive for beat in beats) == 2


def test_two_beats_that_both_believe_to_be_active_make_one_tick_a_slot(house: Any) -> None:
    house.configure({"note": {"interval": "500ms"}})
    house.agent("n1")
    house.beat("beat0")
    house.beat("beat1")
    house.until(lambda: len(house.notes("note")) >= 2)
    # the lease is taken away again and again, so that both poll as the active one in turn
    until = time.monotonic() + 4
    while time.monotonic() < until:
        house.redis.delete("{backbeat}:beat")
    ran = len(house.notes("note"))
    house.until(lambda: len(house.notes("note")) >= ran + 3)
    check_every_slot(house, 0.5)
    assert house.status("note")["skipped"].get("stale", 0) == 0


def test_a_tick_that_a_dying_beat_claimed_and_never_sent_is_sent_by_its_successor(house: Any) -> None:
    house.configure({"note": {"interval": "1s"}})
    house.agent("n1")
    beat = house.beat()
    house.until(lambda: len(house.notes("note")) >= 2)
    beat.kill()
    # the story plays a beat that takes over, claims, and dies before it has sent anything
    claim = house.until(lambda: house.ledger.claim("dying", "{}", ttl=1, grace=60).ticks, what="a tick")
    house.beat("beat2")
    house.until(lambda: claim[0].seq in house.seqs("note"), what="the claimed tick")
    house.until(lambda: house.seqs("note")[-1] >= claim[0].seq + 2, what="the ticks after it")
    check_every_slot(house, 1.0)


def test_a_tick_in_the_socket_of_a_frozen_agent_runs_elsewhere_and_once(house: Any) -> None:
    house.configure({"note": {"interval": "500ms"}})
    agent = house.agent("n1")
    house.beat()
    frozen = house.freeze_with_a_message("note", "loops", lambda: agent.pid, lambda: house.until_next_tick("note"))
    seq = house.status("note")["seq"]
    house.agent("n2")
    house.until(lambda: seq in house.seqs("note"), what="the tick that was in the socket")
    frozen.send(signal.SIGCONT)
    house.until(lambda: house.status("note")["last_skip_call"] == f"note:{seq}", what="its tick is refused")
    assert house.status("note")["last_skip"] == "stale"
    house.until(lambda: house.seqs("note")[-1] >= seq + 4, what="more ticks")
    check_every_slot(house, 0.5)


def test_agents_away_for_ten_slots_make_one_run_that_missed_nine(house: Any) -> None:
    house.configure({"note": {"interval": "1s"}})
    agent, beat = house.agent("n1"), house.beat()
    house.until(lambda: house.status("note").get("run_count", 0) >= 2)
    house.until(lambda: house.status("note")["run_count"] == house.status("note")["seq"], what="no tick on its way")
    agent.kill()
    missed, ran = house.status("note")["missed"], house.status("note")["run_count"]
    # the first of ten slots made a tick, and nine more have passed: there the clock is held
    house.until(lambda: house.status("note")["missed"] == missed + 9, 20, "nine missed slots")
    beat.freeze()
    assert house.status("note")["missed"] == missed + 9
    house.agent("n2")
    house.until(lambda: house.status("note")["run_count"] == ran + 1, what="the coalesced run")
    status = house.status("note")
    assert (status["seq"], status["missed"]) == (ran + 1, missed + 9)
    assert house.notes("note")[-1][3] == "9"
    beat.send(signal.SIGCONT)
    house.until(lambda: len(house.notes("note")) >= ran + 3)
    check_every_slot(house, 1.0)


def test_a_pause_holds_within_one_poll_and_over_restarts(house: Any) -> None:
    house.configure({"note": {"interval": "200ms"}})
    house.agent("n1")
    beat = house.beat()
    house.until(lambda: len(house.notes("note")) >= 2)
    house.manager.pause("note")
    paused_at = time.monotonic()
    house.until(lambda: time.monotonic() - paused_at > 0.5)
    ran = len(house.notes("note"))
    beat.terminate()
    house.beat("beat2")
    house.until(lambda: (active(house) or {}).get("pid") not in (None, beat.pid), what="the new beat")
    began = time.monotonic()
    house.until(lambda: time.monotonic() - began > 1)
    assert len(house.notes("note")) == ran
    house.manager.resume("note")
    resumed_at = time.monotonic()
    house.until(lambda: len(house.notes("note")) > ran)
    assert time.monotonic() - resumed_at < 1.5
