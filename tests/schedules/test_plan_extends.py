"""One configuration may take over what another one has."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict

from schedules.plan import Plan, PlanError, load


class Sections(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    targets: dict[str, float] = {}
    urls: tuple[str, ...] = ()


class Options(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    depth: int = 5


BASE = "a: {interval: 10s, depth: 7}\nb: {interval: 20s}\ntargets: {x: 1.0}\n"


def read(folder: Path, text: str, base: str = BASE) -> Plan:
    (folder / "base.yaml").write_text(base)
    (folder / "mine.yaml").write_text(text)
    return load(folder / "mine.yaml", {"a": Options, "b": Options}, Sections)


def test_what_is_not_here_comes_from_there_whole(tmp_path: Path) -> None:
    plan = read(tmp_path, "extends: base.yaml\na: {interval: 1s}\nurls: [json://x]\n")
    assert plan.stanzas["a"].interval == 1
    assert plan.stanzas["a"].options == Options()  # a stanza is taken over whole, or not at all
    assert plan.stanzas["b"].interval == 20
    assert plan.sections == Sections(targets={"x": 1.0}, urls=("json://x",))


def test_nothing_but_extends_is_the_other_file(tmp_path: Path) -> None:
    plan = read(tmp_path, "extends: base.yaml\n")
    assert {name: stanza.interval for name, stanza in plan.stanzas.items()} == {"a": 10, "b": 20}


def test_a_file_that_is_extended_may_extend_another(tmp_path: Path) -> None:
    (tmp_path / "first.yaml").write_text(BASE)
    plan = read(tmp_path, "extends: base.yaml\nb: {interval: 3s}\n", "extends: first.yaml\na: {interval: 1s}\n")
    assert {name: stanza.interval for name, stanza in plan.stanzas.items()} == {"a": 1, "b": 3}
    assert plan.sections == Sections(targets={"x": 1.0})


@pytest.mark.parametrize(
    ("text", "base", "said"),
    [
        ("extends: nobody.yaml\n", BASE, "nobody.yaml: cannot be read"),
        ("extends: [base.yaml]\n", BASE, "mine.yaml:1: extends: should be the name of a file"),
        ("extends: mine.yaml\n", BASE, "mine.yaml:1: extends: leads back to this file"),
        ("extends: base.yaml\n", "extends: ../*/mine.yaml\n", "mine.yaml: cannot be read"),
        ("extends: base.yaml\n", "extends: mine.yaml\n", "base.yaml:1: extends: leads back to this file, or to one"),
        ("extends: base.yaml\n", "a: {interval: 10s}\n", "base.yaml: b: loop 'b' has no stanza"),
        ("extends: base.yaml\na: {intervall: 3s}\n", BASE, "mine.yaml:2: a.intervall: unknown key"),
        ("extnds: base.yaml\n", BASE, "did you mean 'extends'"),
    ],
)
def test_mistakes_name_the_file_they_are_in(tmp_path: Path, text: str, base: str, said: str) -> None:
    with pytest.raises(PlanError) as caught:
        read(tmp_path, text, base)
    assert said in str(caught.value)
