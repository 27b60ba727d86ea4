"""Five nodes, real files, and whatever may happen between them: in the end they agree, and are right."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from fleet import match_ranges, reconciliation
from fleet.asking import Answered
from fleet.elo_exchange import exchange
from fleet.match import Match, match, result
from fleet.match_audit import verify
from fleet.match_ranges import FIRST, LAST, Key
from fleet.match_ratings import Rules, outcomes, settle
from fleet.match_set import MatchSet
from fleet.match_store import connect
from fleet.outcome import outcome
from fleet.reconciliation import Reconciliation
from tests.fleet.match_stage import played, published, row

NODES = st.integers(0, 4)
SMALL = {"LISTED": 2, "RANGES": 2, "KEYS": 2, "CHUNK": 3}
PLAYERS = ("a", "b", "random", "c")

#: A match by number, its players, its places, and when it ended: small pools, so that ids and instants collide.
MATCHES = st.builds(
    lambda number, seats, ranks, ended: played(
        number, PLAYERS[:seats], ranks[:seats], board=("hex8", "square8")[number % 2], ended=ended
    ),
    st.integers(0, 9),
    st.integers(2, 4),
    st.lists(st.integers(1, 3), min_size=4, max_size=4),
    st.sampled_from([0, 1, 3_599_999, 3_600_000, 3_600_001, 10**12, 10**12 + 5]),
)


def answer(matches: MatchSet, name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What a node answers to another's question, without the wire."""
    if name == "elo_compare":
        said: dict[str, Any] = {
            "ranges": reconciliation.compare(matches, map(reconciliation.read_sum, arguments["ranges"]))
        }
    elif name == "elo_give":
        said = reconciliation.give_elements(matches, list(map(reconciliation.read_element, arguments["elements"])))
    elif name == "elo_give_range":
        said = reconciliation.give(matches, arguments["low"], arguments["high"])
    else:
        merged = matches.take(arguments, "x")
        said = {key: getattr(merged, key) for key in ("merged", "conflicting", "refused")}
    return {**said, "digest": matches.state().hex}


class Nodes(RuleBasedStateMachine):
    """What each node was told is remembered, and the union of it is what all must hold in the end."""

    @initialize(small=st.booleans())
    def start(self, small: bool) -> None:
        """With small limits, a few matches are split, chunked and asked for in turns as thousands are."""
        self.patch = pytest.MonkeyPatch()
        for name, limit in SMALL.items() if small else ():
            self.patch.setattr(reconciliation, name, limit)
        self.folder = Path(tempfile.mkdtemp())
        self.nodes = [MatchSet(connect(self.folder / f"{number}.db")) for number in range(5)]
        self.told: dict[str, dict[bytes, Match]] = {}
        self.excluded: set[str] = set()
        self.kinds: dict[str, str] = {}

    @rule(node=NODES, found=st.lists(MATCHES, max_size=6))
    def merge(self, node: int, found: list[Match]) -> None:
        self.nodes[node].merge(found)
        for each in found:
            self.told.setdefault(each.id, {})[each.hash] = each

    @rule(node=NODES, found=st.lists(MATCHES, max_size=4), adopt=st.booleans())
    def append(self, node: int, found: list[Match], adopt: bool) -> None:
        for each in found:
            result = each.result
            row(
                self.nodes[node].db,
                participant_ids=list(result.participants),
                rankings=list(result.ranks),
                board_type=result.board,
                num_players=result.players,
                timestamp=each.ended / 1000,
                game_id=each.id,
            )
            self.told.setdefault(each.id, {})[each.hash] = each
        if adopt:
            self.nodes[node].adopt()

    @rule(node=NODES, number=st.integers(0, 10), reason=st.sampled_from(["cheated", "crashed"]))
    def exclude(self, node: int, number: int, reason: str) -> None:
        self.nodes[node].exclude([(f"m{number:05d}", reason)])
        self.excluded.add(f"m{number:05d}")

    @rule(node=NODES, name=st.sampled_from(PLAYERS), kind=st.sampled_from(["model", "baseline", "heuristic"]))
    def type(self, node: int, name: str, kind: str) -> None:
        self.nodes[node].tell_types({name: kind})
        if kind != "model":
            self.kinds[name] = min(kind, self.kinds.get(name, kind))

    @rule(one=NODES, other=NODES, first=st.integers(0, 40), step=st.integers(1, 7), backwards=st.booleans())
    def part_of_it_arrives(self, one: int, other: int, first: int, step: int, backwards: bool) -> None:
        elements = match_ranges.listed(self.nodes[one].db, FIRST, LAST)[first::step]
        bundle, _ = match_ranges.bundle(self.nodes[one].db, elements[::-1] if backwards else elements)
        self.nodes[other].take(bundle, "x")

    @rule(one=NODES, other=NODES, questions=st.integers(1, 6))
    def an_exchange_is_cut_off(self, one: int, other: int, questions: int) -> None:
        going = Reconciliation(self.nodes[one], "x")
        for _ in range(questions):
            if (question := going.question()) is not None:
                going.answered(answer(self.nodes[other], *question))

    @rule(node=NODES)
    def rate(self, node: int) -> None:
        settle(self.nodes[node].db, Rules())

    def teardown(self) -> None:
        if not hasattr(self, "nodes"):
            return
        try:
            self.agree()
        finally:
            self.patch.undo()
            for node in self.nodes:
                node.db.close()
            shutil.rmtree(self.folder)

    def agree(self) -> None:
        def call(asked: Mapping[str, tuple[str, Mapping[str, Any]]], _wait: float) -> dict[str, Answered]:
            return {node: Answered(answer(self.nodes[int(node)], *question)) for node, question in asked.items()}

        for node in self.nodes:
            node.adopt()
        others = {str(number): self.nodes[number].state().hex for number in range(1, 5)}
        done = exchange(self.nodes[0], others, call, wait=1, seconds=60, at_once=2, most=9)
        assert not done.failed
        for node in self.nodes:
            settle(node.db, Rules())
            audit = verify(node)
            assert audit.sound, audit.problems
        assert len({node.state() for node in self.nodes}) == 1
        assert len({str(published(node)) for node in self.nodes}) == 1
        self.right(self.nodes[3])

    def right(self, node: MatchSet) -> None:
        """What they agree on is the union of what they were told."""
        effective = [min(variants.values(), key=lambda each: each.hash) for variants in self.told.values()]
        assert node.state().matches == len(effective)
        assert node.state().conflicts == sum(len(variants) - 1 for variants in self.told.values())
        counted: dict[str, dict[Any, int]] = {}
        for each in effective:
            if each.id not in self.excluded:
                key = outcome(each.result.participants, each.result.ranks)
                mine = counted.setdefault(each.result.config, {})
                mine[key] = mine.get(key, 0) + 1
        for config in {each.result.config for each in effective}:
            assert outcomes(node.db, config) == counted.get(config, {})
        assert dict(node.db.execute("SELECT participant_id, type FROM backbeat_participants")) == self.kinds


TestNodes = Nodes.TestCase
TestNodes.settings = settings(max_examples=30, stateful_step_count=20, suppress_health_check=list(HealthCheck))


def test_the_order_in_which_matches_come_does_not_matter(tmp_path: Path) -> None:
    """A fixed case beside the random ones: thousands, so that ranges are split."""
    found = [played(number, ("a", "b"), (1 + number % 2, 2 - number % 2)) for number in range(3000)]
    with closing(connect(tmp_path / "one.db")) as one, closing(connect(tmp_path / "two.db")) as two:
        left, right = MatchSet(one), MatchSet(two)
        left.merge(found[:2000])
        right.merge(found[:-2000:-1])

        def call(asked: Mapping[str, tuple[str, Mapping[str, Any]]], _wait: float) -> dict[str, Answered]:
            return {node: Answered(answer(right, *question)) for node, question in asked.items()}

        done = exchange(left, {"right": right.state().hex}, call, wait=1, seconds=60, at_once=1, most=1)
        assert (done.pulled.merged, done.pushed) == (1000, 1001)
        assert left.state() == right.state()
        assert done.pulled.known < 10, "only what is missing travels"


@pytest.mark.parametrize("theirs", [0, 3, 150])
def test_a_node_that_knows_little_is_filled_bit_by_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, theirs: int
) -> None:
    """However many matches it lacks, no more of them than a chunk are in memory at once."""
    largest, listed = 0, match_ranges.listed

    def noted(*arguments: Any) -> list[match_ranges.Element]:
        nonlocal largest
        found = listed(*arguments)
        largest = max(largest, len(found))
        return found

    monkeypatch.setattr(match_ranges, "listed", noted)
    with closing(connect(tmp_path / "full.db")) as one, closing(connect(tmp_path / "little.db")) as two:
        full, little = MatchSet(one), MatchSet(two)
        full.merge(played(number) for number in range(2 * reconciliation.CHUNK))
        little.merge(played(number, ranks=(2, 1)) for number in range(0, 26 * theirs, 26))
        little.exclude([("m00007", "crashed")] if theirs else [])
        questions, last = 0, ("", dict[str, Any]())

        def call(asked: Mapping[str, tuple[str, Mapping[str, Any]]], _wait: float) -> dict[str, Answered]:
            nonlocal questions, last
            questions, last = questions + 1, asked["little"]
            return {node: Answered(answer(little, *question)) for node, question in asked.items()}

        exchange(full, {"little": little.state().hex}, call, wait=1, seconds=60, at_once=1, most=1)
        assert last[1]["settle"] is True
        assert full.state() == little.state()
        assert full.state().matches == 2 * reconciliation.CHUNK
        assert largest <= reconciliation.CHUNK
        assert questions < 15


@pytest.mark.parametrize("what", ["exclusions", "participants", "variants"])
def test_one_of_many_is_looked_up_without_reading_all_of_them(tmp_path: Path, what: str) -> None:
    with closing(connect(tmp_path / "one.db")) as db:
        found = MatchSet(db)
        if what == "exclusions":
            found.exclude([(f"m{number:05d}", "crashed") for number in range(2000)])
        elif what == "participants":
            found.tell_types({f"p{number:05d}": "baseline" for number in range(2000)})
        else:
            found.merge(played(number, ranks=ranks) for number in range(2000) for ranks in ((1, 2), (2, 1)))
        one = match_ranges.listed(db, FIRST, LAST)[700]
        hundreds = 0  # of steps of SQLite's machine

        def step() -> int:
            nonlocal hundreds
            hundreds += 1
            return 0

        db.set_progress_handler(step, 100)
        assert one in match_ranges.listed(db, one.key, match_ranges.after(one.key))
    assert hundreds < 20


PLACES = st.tuples(
    st.sampled_from([-2, -1, 0, 1, 3_599_999, 3_600_000, 3_600_001, 7_200_000, 2**50]), st.sampled_from("\0acmz")
)


@given(low=PLACES, high=PLACES)
@settings(max_examples=150, suppress_health_check=list(HealthCheck))
def test_the_sum_of_a_range_is_that_of_its_elements(full: MatchSet, low: Key, high: Key) -> None:
    low, high = ((at, name.strip("\0")) for at, name in (low, high))
    digest = 0
    inside = [each for each in match_ranges.listed(full.db, FIRST, LAST) if low <= each.key < high]
    for each in inside:
        digest ^= int(each.hash, 16)
    found = match_ranges.total(full.db, low, high)
    assert (found.number, found.digest) == (len(inside), digest)
    assert [(each.at, each.id) for each in match_ranges.listed(full.db, low, high)] == [each.key for each in inside]
    parts = match_ranges.split(full.db, low, high) if low < high else []
    assert sum(part.number for part in parts) == len(inside)


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MatchSet]:
    """Matches at the edges of hours, another content, an exclusion and a baseline."""
    with closing(connect(tmp_path_factory.mktemp("full") / "full.db")) as db:
        found = MatchSet(db)
        found.merge(
            match(name, result("hex8", 2, ("a", "b"), ranks), ended)
            for ended in (0, 1, 3_599_999, 3_600_000, 3_600_001, 7_200_000)
            for name in (f"a{ended}", f"m{ended}", f"z{ended}", "one")
            for ranks in ((1, 2), (2, 1))[: 1 + (name == "one")]
        )
        found.exclude([("c", "crashed"), ("n", "crashed")])
        found.tell_types({"b": "baseline", "x": "baseline"})
        yield found
