"""Files that are no plan at all: they end in a clear error, at once, whatever they hold."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict

from schedules.durations import Seconds
from schedules.plan import Plan, PlanError, load


class Ping(BaseModel):
    model_config = ConfigDict(extra="forbid")

    timeout: Seconds = 5.0
    hosts: tuple[str, ...] = ()
    limits: dict[str, float] = {}


class Sections(BaseModel):
    model_config = ConfigDict(extra="forbid")

    labels: dict[str, str] = {}


def attempt(path: Path) -> Plan:
    return load(path, {"ping": Ping}, Sections)


def refusal(folder: Path, content: str | bytes) -> str:
    path = folder / "plan.yaml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(PlanError) as caught:
        attempt(path)
    return str(caught.value).replace(f"{path}", "plan.yaml")


KEYS = "a mapping with the keys labels, ping"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", f"plan.yaml: is empty, not {KEYS}"),
        ("# nothing\n", f"plan.yaml: is empty, not {KEYS}"),
        ("null", f"plan.yaml: is a single value, not {KEYS}"),
        ("ping", f"plan.yaml: is a single value, not {KEYS}"),
        ("- ping", f"plan.yaml: is a list, not {KEYS}"),
        (b"ping: 1\nb: \xff", "plan.yaml:2: is not UTF-8: byte 0xff"),
        ("ping: {}".encode("utf-16"), "plan.yaml:1: is not UTF-8: byte 0xff"),
        ("ping: 1\n\x07", "plan.yaml:2: is not YAML: it holds the control character 0x07"),
        ("ping:\n  a: [1, 2", "plan.yaml:2: is not YAML: while parsing a flow sequence, expected ',' or ']'"),
        ("ping:\n\ta: 1", "plan.yaml:2: is not YAML: while scanning for the next token, found character '\\t'"),
        ("ping: {}\nping", "plan.yaml:2: is not YAML: while scanning a simple key, could not find expected ':'"),
        ("ping: *x", "plan.yaml:1: is not YAML: found undefined alias 'x'"),
        ("ping: {}\n---\nping: {}", "plan.yaml:2: is not YAML: expected a single document in the stream"),
        ('ping: "\\UFFFFFFFF"', "plan.yaml: is not YAML: an escape stands for no character"),
        ("#" * (1 << 20) + "\n", "plan.yaml: is larger than 1,048,576 bytes"),
        ("[\n" * 10_000, "plan.yaml: is nested deeper than 50 levels"),
        ("ping:\n  a: " + "[" * 60 + "]" * 60, "plan.yaml:2: is nested deeper than 50 levels"),
        ("ping: &a\n  b: *a", "plan.yaml:1: is nested deeper than 50 levels"),
        ("ping: &a\n  <<: *a", "plan.yaml:1: is nested deeper than 50 levels"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_mapping_in_yaml_is_refused_with_its_line(tmp_path, content, said):
    message = refusal(tmp_path, content)
    assert message.startswith(said)
    assert "\n" not in message


def test_a_file_that_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(PlanError, match=r"absent\.yaml: cannot be read: No such file or directory"):
        attempt(tmp_path / "absent.yaml")
    with pytest.raises(PlanError, match="cannot be read: Is a directory"):
        attempt(tmp_path)
    (tmp_path / "plan.yaml").touch()
    with pytest.raises(PlanError, match="cannot be read: Not a directory"):
        attempt(tmp_path / "plan.yaml" / "x")


@pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="no /dev/zero here")  # noqa: PTH110
def test_a_file_without_an_end_is_refused():
    with pytest.raises(PlanError, match="is larger than"):
        attempt(Path("/dev/zero"))


def bomb(link: str) -> str:
    lines = [f"a{i}: &a{i} {link.format(', '.join([f'*a{i - 1}'] * 9))}" for i in range(1, 12)]
    return "\n".join(["a0: &a0 {x: 1}", *lines])


@pytest.mark.parametrize("link", ["[{}]", "{{<<: [{}]}}"])
def test_a_bomb_of_aliases_is_refused_before_it_expands(tmp_path, link):
    message = refusal(tmp_path, bomb(link))
    assert message == "plan.yaml: holds more than 100,000 values once its aliases are expanded"


def test_problems_found_before_the_file_was_given_up_are_shown_too(tmp_path):
    first, second = refusal(tmp_path, "a: 1\na: 2\n" + bomb("[{}]")).splitlines()
    assert first == "plan.yaml:2: a: given twice, first on line 1"
    assert "100,000" in second


@pytest.mark.parametrize(
    "tag", ["!!python/object/apply:os.system", "!!python/name:os.system", "!!binary", "!!set", "!!omap", "!x"]
)
def test_tags_beyond_plain_yaml_are_refused(tmp_path, tag):
    for value in ("x", "[x]", "{x: 1}"):
        message = refusal(tmp_path, f"ping: {{interval: 5}}\nlabels:\n  eu: {tag} {value}")
        assert message.startswith(f"plan.yaml:3: labels.eu: the tag {tag} is not accepted")


@pytest.mark.parametrize("value", ['"\\uD800"', "!!int x", "!!bool x", "!!float x", '!!int ""', "-.inf", "9" * 5000])
def test_a_value_that_json_cannot_carry_is_refused(tmp_path, value):
    message = refusal(tmp_path, f"ping: {{interval: 5}}\nlabels:\n  eu: {value}")
    assert message.startswith("plan.yaml:3: labels.eu: should be text, a finite number, true, false or null (value ")


def test_dates_and_keys_are_text(tmp_path):
    path = tmp_path / "plan.yaml"
    path.write_text("ping: {interval: 5}\nlabels: {a: 2025-12-01, 7: x, on: y, null: z, 2025-13-45: w}")
    labels = attempt(path).sections.labels
    assert labels == {"a": "2025-12-01", "7": "x", "on": "y", "null": "z", "2025-13-45": "w"}


def test_a_byte_order_mark_and_dos_lines_are_accepted(tmp_path):
    path = tmp_path / "plan.yaml"
    path.write_bytes(b"\xef\xbb\xbfping:\r\n  interval: 5\r\n")
    assert attempt(path).stanzas["ping"].interval == 5
    path.write_bytes(b"\xef\xbb\xbfping:\r\n  interval: 5\r\n  timeot: 1\r\n")
    with pytest.raises(PlanError, match=r"plan\.yaml:3: ping\.timeot"):
        attempt(path)


def test_a_key_that_is_no_text_is_refused(tmp_path):
    assert refusal(tmp_path, "ping: {interval: 5}\n? [a]\n: 1") == "plan.yaml:2: ?: a key should be plain text"


def test_a_merge_of_something_else_than_mappings_is_refused(tmp_path):
    message = refusal(tmp_path, "ping:\n  interval: 5\n  <<: 3")
    assert message == "plan.yaml:3: ping.<<: should be a mapping, or a list of mappings"


PIECES = ["ping", "labels", "interval", "hosts", "backoff", ": ", ":", "\n", "\n  ", "- ", "[", "]", "{", "}", ",",
          "&a ", "*a", "<<", "!!int ", "!!python/name:os ", '"', "'", "\\", "|", ">", "? ", "60", "5m", "-1", ".nan",
          "null", "\t", "#", "---", "...", "%YAML 1.1\n", "\ud800", "\x00", "é", "\u2028"]  # fmt: skip


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(st.lists(st.sampled_from(PIECES), max_size=30).map("".join) | st.text(max_size=50))
def test_any_text_gives_a_plan_or_a_plan_error_that_can_be_printed(tmp_path, text):
    path = tmp_path / "plan.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        assert set(attempt(path).stanzas) == {"ping"}
        return
    except PlanError as error:
        refused = error
    assert refused.problems
    for problem, line in zip(refused.problems, str(refused).split("\n"), strict=True):
        assert str(problem) == line
        assert line.startswith(str(path))
        assert line.encode().decode().isprintable()
