"""Nodes of different versions in one cluster."""

from __future__ import annotations

from typing import Any

import pytest

from fleet import replies
from workers.app import configure, send_to_node
from workers.settings import Settings, connect

pytestmark = pytest.mark.story


def test_who_asks_a_node_for_what_only_later_versions_do_is_told_so_at_once(house: Any) -> None:
    house.configure({"model_sync": {"interval": "1h", "initial_delay": "1h"}}, jobs={"training": {"command": ["true"]}})
    house.agent("n1")
    asked, token = configure(Settings(redis_url=house.server.url)), replies.new_token()
    send_to_node(asked, "n1", "sing", {}, None)  # nobody waits: it is dropped
    send_to_node(asked, "n1", "sing", {"song": 1}, token)
    said = replies.wait_for(connect(house.server.url, timeout=30), token, 20)
    assert said == {"error": "n1 knows no sing: another version of Backbeat runs there"}
    token = replies.new_token()
    send_to_node(asked, "n1", "job_log", {"job_id": "job-1"}, token)  # and it goes on
    assert replies.wait_for(connect(house.server.url, timeout=30), token, 20) == {"answer": {"missing": True}}
