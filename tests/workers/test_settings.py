from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis import Redis, RedisError

from workers.settings import Settings, SettingsError, connect, no_answer, redact, refuse_eviction


class TestTheEnvironment:
    def test_says_nothing_and_every_setting_has_a_default(self) -> None:
        settings = Settings.from_environment({})
        assert settings.redis_url == "redis://127.0.0.1:6379/0"
        assert settings.config == Path("config/unified_loop.yaml")
        assert settings.data == Path(".backbeat")
        assert settings.capabilities == ("cpu",)
        assert settings.drain == 10.0
        assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", settings.node_id)

    def test_sets_every_setting(self) -> None:
        env = {
            "BACKBEAT_REDIS_URL": "rediss://:secret@example:6380/1",
            "BACKBEAT_CONFIG": "here.yaml",
            "BACKBEAT_DATA": "there",
            "BACKBEAT_NODE_ID": "n-1.lab",
            "BACKBEAT_CAPABILITIES": "cpu, gpu,cpu",
            "BACKBEAT_DRAIN": "1m",
        }
        assert Settings.from_environment(env) == Settings(
            "rediss://:secret@example:6380/1",
            Path("here.yaml"),
            Path("there"),
            "n-1.lab",
            ("cpu", "gpu"),
            60.0,
            run=Path("there/run"),
        )
        assert Settings.from_environment({**env, "BACKBEAT_RUN": "/run/x"}).run == Path("/run/x")

    def test_counts_an_empty_variable_as_absent(self) -> None:
        names = ("REDIS_URL", "CONFIG", "DATA", "NODE_ID", "CAPABILITIES", "DRAIN")
        env = {f"BACKBEAT_{name}": "" for name in names}
        assert Settings.from_environment(env) == Settings.from_environment({})

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("BACKBEAT_REDIS_URL", "127.0.0.1:6379"),
            ("BACKBEAT_REDIS_URL", "unix:///run/redis.sock"),  # Celery's transport takes none
            ("BACKBEAT_REDIS_URL", "redis://host:port/0"),
            ("BACKBEAT_NODE_ID", "../n1"),
            ("BACKBEAT_NODE_ID", ".."),
            ("BACKBEAT_NODE_ID", "n" * 65),
            ("BACKBEAT_CAPABILITIES", "GPU"),
            ("BACKBEAT_CAPABILITIES", "cpu,"),
            ("BACKBEAT_DRAIN", "-1"),
            ("BACKBEAT_DRAIN", "soon"),
            ("BACKBEAT_BIND", "trainer-1"),
            ("BACKBEAT_BIND", "10.0.0.7,"),
            ("BACKBEAT_BIND", "10.0.0.7:7946"),
            ("BACKBEAT_PORT", "65536"),
            ("BACKBEAT_PORT", "-1"),
            ("BACKBEAT_PORT", "http"),
        ],
    )
    def test_is_refused_by_name_with_what_is_accepted(self, name: str, value: str) -> None:
        with pytest.raises(SettingsError, match=rf"^{name}: .*(use|give) "):
            Settings.from_environment({name: value})

    def test_where_probes_are_answered(self) -> None:
        settings = Settings.from_environment({"BACKBEAT_BIND": "10.0.0.7, FD00::0:7", "BACKBEAT_PORT": "7946"})
        assert (settings.bind, settings.port) == (("10.0.0.7", "fd00::7"), 7946)
        assert Settings.from_environment({"BACKBEAT_BIND": "*"}).bind == ()


class TestAPassword:
    def test_is_not_shown_when_the_url_is_refused(self) -> None:
        with pytest.raises(SettingsError) as refused:
            Settings.from_environment({"BACKBEAT_REDIS_URL": "redis://:sec/ret@host:6379/0"})
        assert "sec" not in str(refused.value)
        assert "%2F" in str(refused.value)

    @given(st.text("abc:/@%?&=#", min_size=1), st.sampled_from(["", "user"]))
    def test_is_never_left_in_a_redacted_url(self, password: str, user: str) -> None:
        assert redact(f"redis://{user}:{password}@host:6379/0") == f"redis://{user}:***@host:6379/0"

    def test_in_the_query_is_hidden_too(self) -> None:
        assert redact("redis://host/0?password=secret&db=1") == "redis://host/0?password=***&db=1"

    def test_that_is_missing_is_asked_for(self, redis: Redis, session_server: Any) -> None:
        redis.config_set("requirepass", "secret")
        try:
            with pytest.raises(RedisError) as refused:
                connect(session_server.url).ping()
        finally:
            redis.config_set("requirepass", "")
        assert "it wants a password: redis://:password@" in no_answer(session_server.url, refused.value)


def test_a_server_that_may_evict_is_refused(redis: Redis, session_server: Any) -> None:
    refuse_eviction(connect(session_server.url))
    redis.config_set("maxmemory-policy", "allkeys-lru")
    try:
        with pytest.raises(SettingsError, match=r"may evict keys.*allkeys-lru.*CONFIG SET maxmemory-policy noeviction"):
            refuse_eviction(connect(session_server.url))
    finally:
        redis.config_set("maxmemory-policy", "noeviction")
