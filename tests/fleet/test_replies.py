from __future__ import annotations

import threading

import pytest
from redis import Redis

from fleet import replies


def test_an_answer_lives_for_a_minute_and_is_bounded(redis: Redis) -> None:
    token = replies.new_token()
    replies.answer(redis, token, {"answer": {"text": "x"}})
    assert 50 < redis.ttl(replies.REPLY + token) <= 60
    assert replies.wait_for(redis, token, 1) == {"answer": {"text": "x"}}
    assert replies.wait_for(redis, token, 0.01) is None
    with pytest.raises(ValueError, match="at most"):
        replies.answer(redis, token, {"answer": "x" * replies.LIMIT})
    for odd in ("", "x" * 32, "../" + token, None, 7):
        with pytest.raises(ValueError, match="32 hexadecimal digits"):
            replies.answer(redis, odd, {})


def test_who_waits_is_woken_by_the_answer(redis: Redis) -> None:
    token = replies.new_token()
    timer = threading.Timer(0.1, replies.answer, (redis, token, {"answer": 1}))
    timer.start()
    assert replies.wait_for(redis, token, 4) == {"answer": 1}
    timer.join()
