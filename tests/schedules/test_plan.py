import re
from pathlib import Path
from typing import Annotated, Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, model_validator

from schedules.backoff import Backoff
from schedules.durations import Seconds
from schedules.plan import PlanError, Stanza, load


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Window(Strict):
    opens: str = "00:00"
    length: Seconds = 60.0


class Sweep(Strict):
    batch_size: int = Field(default=10, ge=1)
    folders: tuple[str, ...] = ()
    windows: list[Window] | None = None
    by_host: dict[str, Window] = {}
    order: Literal["oldest", "newest"] = "oldest"
    keep: int = 1

    @model_validator(mode="after")
    def _agree(self):
        if self.keep > self.batch_size:
            raise ValueError("keep is above batch_size")
        return self


class Ping(BaseModel):  # not strict itself: its stanza is, all the same
    timeout: Seconds = 5.0


class Store(Strict):
    url: str = Field(default="", repr=False)
    limit: float | None = None


class Sections(Strict):
    store: Store = Store()
    labels: dict[str, int] = {}
    shards: Annotated[list[Store], Field(max_length=3)] = []


LOOPS = {"sweep": Sweep, "ping": Ping}

VALID = """\
# two loops and two sections
sweep:
  enabled: true
  interval: 1h30m
  initial_delay: 30s
  deadline: 2m
  backoff: {initial_delay: 1s, max_delay: 1m, multiplier: 3, jitter: false}
  batch_size: 20
  folders: [a, b]
  windows:
    - opens: "08:00"
      length: 2h
  by_host:
    alpha: {opens: 09:30}
  order: newest

ping:
  interval: 5
  timeout: 250ms

store:
  url: "file:///srv"
  limit: 10
labels:
  eu: 1
"""


def read(folder: Path, text: str, loops=LOOPS, sections=Sections):
    path = folder / "plan.yaml"
    path.write_text(text)
    return load(path, loops, sections)


def problems(folder: Path, text: str, loops=LOOPS, sections=Sections):
    with pytest.raises(PlanError) as caught:
        read(folder, text, loops, sections)
    return caught.value.problems


def test_a_valid_file_becomes_a_plan(tmp_path):
    plan = read(tmp_path, VALID)
    assert plan.path == tmp_path / "plan.yaml"
    assert plan.warnings == ()
    assert plan.stanzas["sweep"] == Stanza(
        name="sweep",
        enabled=True,
        interval=5400.0,
        initial_delay=30.0,
        deadline=120.0,
        backoff=Backoff(initial_delay=1, max_delay=60, multiplier=3, jitter=False),
        options=Sweep(
            batch_size=20,
            folders=("a", "b"),
            windows=[Window(opens="08:00", length=7200)],
            by_host={"alpha": Window(opens="09:30")},
            order="newest",
        ),
    )
    assert type(plan.stanzas["sweep"].options) is Sweep
    assert plan.sections == Sections(store=Store(url="file:///srv", limit=10), labels={"eu": 1})


def test_what_a_stanza_leaves_out_has_its_default(tmp_path):
    stanza = read(tmp_path, VALID).stanzas["ping"]
    assert stanza == Stanza(name="ping", interval=5, options=Ping(timeout=0.25))
    assert (stanza.enabled, stanza.initial_delay, stanza.deadline) == (True, 0.0, 120.0)
    assert stanza.backoff == Backoff()


def test_a_plan_cannot_be_changed(tmp_path):
    plan = read(tmp_path, VALID)
    with pytest.raises(TypeError):
        plan.stanzas["other"] = plan.stanzas["ping"]
    with pytest.raises(AttributeError):
        plan.warnings = ("x",)
    with pytest.raises(ValueError, match="frozen"):
        plan.stanzas["ping"].interval = 1


def test_a_stanza_dumps_its_options_too(tmp_path):
    assert read(tmp_path, VALID).stanzas["ping"].model_dump()["options"] == {"timeout": 0.25}


def test_a_section_with_nothing_in_it_has_its_defaults(tmp_path):
    plan = read(tmp_path, "sweep: {interval: 60}\nping: {enabled: false}\nlabels:\n  # eu: 1\n")
    assert plan.sections == Sections()


def test_a_disabled_loop_needs_no_interval(tmp_path):
    assert read(tmp_path, "sweep: {interval: 60}\nping: {enabled: false}").stanzas["ping"].enabled is False


ACCEPTED = {
    "": "extends, labels, ping, shards, store, sweep",
    "sweep": "backoff, batch_size, by_host, deadline, enabled, folders, initial_delay, interval, keep, order, windows",
    "ping": "backoff, deadline, enabled, initial_delay, interval, timeout",
    "store": "limit, url",
}


def test_every_mistake_is_reported_at_once_in_the_order_of_the_file(tmp_path):
    text = """\
sweep:
  intervall: 60
  batch_size: "20"
  order: random
  backoff: {multiplier: 0.5, jiter: true}
  windows:
    - {opens: "08:00"}
    - {length: soon, opns: "9"}
  by_host: {alpha: {opens: 9}}
store: {limit: high}
colour: red
"""
    path = tmp_path / "plan.yaml"
    accepted = {place: f"accepted: {keys}" for place, keys in ACCEPTED.items()}
    with pytest.raises(PlanError) as caught:
        read(tmp_path, text)
    assert str(caught.value).splitlines() == [
        f"{path}:2: sweep.intervall: unknown key (value 60); did you mean 'interval'? {accepted['sweep']}",
        f"{path}:3: sweep.batch_size: should be a valid integer (value '20')",
        f"{path}:4: sweep.order: should be 'oldest' or 'newest' (value 'random')",
        f"{path}:5: sweep.backoff.jiter: unknown key (value true); did you mean 'jitter'? "
        "accepted: initial_delay, jitter, max_delay, multiplier",
        f"{path}:5: sweep.backoff.multiplier: should be greater than or equal to 1 (value 0.5)",
        f"{path}:8: sweep.windows[1].opns: unknown key (value '9'); did you mean 'opens'? accepted: length, opens",
        f"{path}:8: sweep.windows[1].length: 'soon' is not a duration: give seconds (60, 1.5) or units from large "
        "to small (250ms, 30s, 5m, 1h30m, 2d)",
        f"{path}:9: sweep.by_host.alpha.opens: should be a valid string (value 9)",
        f"{path}:10: store.limit: should be a valid number (value 'high')",
        f"{path}:11: colour: unknown key (value 'red'); {accepted['']}",
        f"{path}: ping: loop 'ping' has no stanza: add one with `interval`, or `enabled: false`",
    ]


def test_a_problem_names_file_line_key_and_value(tmp_path):
    (problem,) = problems(tmp_path, VALID.replace("batch_size: 20", "batch_size: 0"))
    assert problem.file == tmp_path / "plan.yaml"
    assert (problem.line, problem.key, problem.value) == (8, "sweep.batch_size", "0")
    assert problem.message == "should be greater than or equal to 1"


def test_a_loop_without_a_stanza_is_refused(tmp_path):
    (problem,) = problems(tmp_path, "ping: {interval: 5}")
    assert problem.message == "loop 'sweep' has no stanza: add one with `interval`, or `enabled: false`"


def test_a_stanza_without_a_loop_is_refused_with_the_nearest_name(tmp_path):
    (problem,) = problems(tmp_path, VALID.replace("ping:", "pingg:"))
    assert (problem.line, problem.key, problem.message) == (17, "pingg", "unknown key")
    assert problem.hint == f"did you mean 'ping'? accepted: {ACCEPTED['']}"


@pytest.mark.parametrize("stanza", ["{}", "", "{timeout: 1}", "{enabled: true}"])
def test_an_enabled_stanza_without_an_interval_is_refused(tmp_path, stanza):
    (problem,) = problems(tmp_path, f"sweep: {{interval: 5}}\nping: {stanza}")
    assert (problem.line, problem.key, problem.message) == (2, "ping.interval", "missing")
    assert problem.hint == "say how often the loop is due, such as 60s or 5m, or `enabled: false`"


def test_a_misspelt_interval_is_not_missing_as_well(tmp_path):
    (problem,) = problems(tmp_path, VALID.replace("  interval: 5\n", "  interval_: 5\n"))
    assert problem.key == "ping.interval_"


def test_a_misspelt_required_option_is_not_missing_as_well(tmp_path):
    class Demanding(Strict):
        region: str

    loops = {"ping": Demanding}
    (missing,) = problems(tmp_path, "ping: {interval: 5}", loops)
    assert (missing.key, missing.message, missing.value) == ("ping.region", "missing", "")
    (misspelt,) = problems(tmp_path, "ping: {interval: 5, regoin: eu}", loops)
    assert misspelt.key == "ping.regoin"


@pytest.mark.parametrize(
    ("line", "key", "message"),
    [
        ("sweep: 5", "sweep", "should be a mapping of keys to values"),
        ("sweep: [a]", "sweep", "should be a mapping of keys to values"),
        ("sweep: {interval: 5, backoff: 3}", "sweep.backoff", "should be a mapping of keys to values"),
        ("sweep: {interval: 5, by_host: 3}", "sweep.by_host", "should be a mapping of keys to values"),
        ("sweep: {interval: 0}", "sweep.interval", "should be greater than or equal to 0.1"),
        ("sweep: {interval: -5}", "sweep.interval", "-5 is not a duration"),
        ("sweep: {interval: yes}", "sweep.interval", "True is not a duration"),
        ("sweep: {interval: .inf}", "sweep.interval", "should be text, a finite number"),
        ("sweep: {interval: .nan}", "sweep.interval", "should be text, a finite number"),
        ("sweep: {interval: }", "sweep.interval", "None is not a duration"),
        ("sweep: {interval: 5, deadline: 0s}", "sweep.deadline", "should be greater than 0"),
        ("sweep: {interval: 5, initial_delay: -1s}", "sweep.initial_delay", "'-1s' is not a duration"),
        ("sweep: {interval: 5, enabled: 1}", "sweep.enabled", "should be a valid boolean"),
        ("sweep: {interval: 5, batch_size: yes}", "sweep.batch_size", "should be a valid integer"),
        ("sweep: {interval: 5, batch_size: 1.5}", "sweep.batch_size", "should be a valid integer"),
        ("sweep: {interval: 5, folders: a}", "sweep.folders", "should be a list"),
        ("sweep: {interval: 5, folders: [a, 1]}", "sweep.folders[1]", "should be a valid string"),
        ("sweep: {interval: 5, keep: 11}", "sweep", "keep is above batch_size"),
        ("sweep: {interval: 5, backoff: {initial_delay: 6m}}", "sweep.backoff", "max_delay (5m) must be at least"),
    ],
)
def test_a_wrong_value_is_refused_at_its_key(tmp_path, line, key, message):
    (problem,) = problems(tmp_path, f"ping: {{interval: 5}}\n{line}")
    assert (problem.line, problem.key) == (2, key)
    assert problem.message.startswith(message)


def test_a_key_given_twice_is_refused_at_its_second_line(tmp_path):
    (problem,) = problems(tmp_path, VALID + "labels:\n  us: 2\n")
    assert (problem.line, problem.key, problem.message) == (26, "labels", "given twice, first on line 24")


def test_values_of_secret_fields_are_not_shown(tmp_path):
    text = "sweep: {interval: 5}\nping: {interval: 5}\n"
    for section in ("{url: [hush]}", "{urll: hush}", "hush", "[hush]"):
        with pytest.raises(PlanError) as caught:
            read(tmp_path, f"{text}store: {section}")
        assert "plan.yaml:3: store" in str(caught.value)
        assert "hush" not in str(caught.value)


def test_one_problem_is_one_line_whatever_the_keys_hold(tmp_path):
    with pytest.raises(PlanError) as caught:
        read(tmp_path, VALID + '"a\\nb\\e[1m\\u2028": "c\\nd"\n')
    (line,) = str(caught.value).split("\n")
    assert r"a\nb\x1b[1m\u2028: unknown key (value 'c\nd')" in line
    assert line.isprintable()


def test_long_values_are_shortened(tmp_path):
    (problem,) = problems(tmp_path, VALID.replace("batch_size: 20", f"batch_size: {'x' * 500}"))
    assert problem.value == "'" + "x" * 56 + "..."


def test_anchors_and_merge_keys_work_and_own_keys_win(tmp_path):
    text = """\
sweep: &often
  interval: 5
  backoff: &slow {initial_delay: 2s, multiplier: 4}
ping:
  deadline: 1m
  <<: [{interval: 7}, {interval: 8, timeout: 9}]
  backoff:
    <<: *slow
    multiplier: 3
"""
    plan = read(tmp_path, text)
    assert plan.stanzas["sweep"].interval == 5
    ping = plan.stanzas["ping"]
    assert (ping.interval, ping.deadline, ping.options.timeout) == (7, 60, 9)
    assert (ping.backoff.initial_delay, ping.backoff.multiplier) == (2, 3)


def test_a_mistake_in_a_merged_mapping_is_shown_where_it_is_written(tmp_path):
    text = "sweep: &x\n  interval: 5\n  deadlin: 3\nping:\n  <<: *x\n"
    assert [(p.line, p.key) for p in problems(tmp_path, text)] == [(3, "sweep.deadlin"), (3, "ping.deadlin")]


def test_an_option_named_as_a_cadence_key_is_a_programming_error(tmp_path):
    class Clash(Strict):
        deadline: float = 1.0

    with pytest.raises(TypeError, match=r"loop 'ping': its options are named as cadence keys: deadline"):
        read(tmp_path, VALID, {"ping": Clash})


def test_a_loop_named_as_a_section_is_a_programming_error(tmp_path):
    with pytest.raises(TypeError, match="both named store"):
        read(tmp_path, VALID, {"store": Ping})


def test_a_check_that_fails_for_want_of_a_misspelt_key_is_not_a_problem_too(tmp_path):
    (problem,) = problems(tmp_path, "ping: {interval: 5}\nsweep: {interval: 5, keep: 15, batch_sizes: 20}")
    assert problem.key == "sweep.batch_sizes"
    both = problems(tmp_path, "ping: {interval: 5}\nsweep: {interval: 5, keep: 15, deadlines: 20}")
    assert [each.key for each in both] == ["sweep.deadlines", "sweep"]


def test_a_mistake_is_not_hidden_by_a_misspelling_beside_it(tmp_path):
    found = problems(tmp_path, VALID.replace("batch_size: 20", "batch_size: x\n  batch_sizes: 20"))
    assert [each.key for each in found] == ["sweep.batch_size", "sweep.batch_sizes"]


def test_two_keys_that_are_equally_near_are_both_suggested(tmp_path):
    class Depth(Strict):
        min_depth: int = 1
        max_depth: int = 2

    (either,) = problems(tmp_path, "ping: {interval: 5, mix_depth: 3}", {"ping": Depth})
    assert either.hint.startswith("did you mean 'max_depth' or 'min_depth'? ")
    (one,) = problems(tmp_path, "ping: {interval: 5, mnx_depth: 3}", {"ping": Depth})
    assert one.hint.startswith("did you mean 'max_depth'? ")


def keys_of(text):
    """(line number, column, key) of every key that a model declares."""
    declared = {"sweep", "ping", "store", "labels", *Stanza.model_fields, *Backoff.model_fields}
    for model in (Sweep, Ping, Store, Window):
        declared |= model.model_fields.keys()
    for number, line in enumerate(text.splitlines(), 1):
        for match in re.finditer(r"([a-z_]+): ?", line):
            if match[1] in declared and not line.startswith("#"):
                yield number, match.start(1), match[1]


@st.composite
def misspellings(draw):
    number, column, key = draw(st.sampled_from(sorted(keys_of(VALID))))
    letter = draw(st.sampled_from("abcdefghijklmnopqrstuvwxyz_"))
    at = draw(st.integers(0, len(key) - 1))
    changed = draw(
        st.sampled_from([key[:at] + key[at + 1 :], key[:at] + letter + key[at:], key[:at] + letter + key[at + 1 :]])
    )
    return number, column, key, changed


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(misspellings())
def test_any_misspelt_key_is_named_with_its_line_and_the_right_key(tmp_path, misspelling):
    number, column, key, changed = misspelling
    if changed == key:
        return
    lines = VALID.splitlines()
    line = lines[number - 1]
    lines[number - 1] = line[:column] + changed + line[column + len(key) :]
    (problem,) = problems(tmp_path, "\n".join(lines))
    assert problem.line == number
    assert problem.key.rpartition(".")[2] == changed
    assert problem.message == "unknown key"
    assert repr(key) in problem.hint.partition("? accepted: ")[0]


def test_every_declared_key_of_the_valid_file_is_misspelt_by_the_property():
    assert len(list(keys_of(VALID))) == 25
