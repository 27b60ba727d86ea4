"""A section in a file of its own: the inventory, in our words and in those of RingRift's host files."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict, Field

from fleet.inventory import StaticNode
from fleet.options import FleetOptions
from schedules.plan import Plan, PlanError, load

ROOT = Path(__file__).parents[2]
HOSTS = ROOT.parent / "shared" / "data" / "ringrift_hosts_example.yaml"
needs_hosts = pytest.mark.skipif(not HOSTS.is_file(), reason=f"RingRift's file is not at {HOSTS}")

OURS = """\
hosts:
  n1:
    host: gpu-1.example.com
    addresses: [10.0.0.11, "FD00::0:11"]
    tailscale_ip: 100.64.0.11
    public_ip: 8.8.4.4
    ssh_user: ubuntu
    ssh_port: 2222
    ssh_key: ~/.ssh/id_cluster
  n2: {}
"""
THEIRS = """\
p2p_voters: [cpu-voter-1]
sync_routing: {excluded_hosts: []}
hosts:
  gpu-node-1:
    ssh_host: 8.8.4.4
    tailscale_ip: <tailscale-ip>
    ssh_user: ubuntu
    ringrift_path: ~/ringrift/ai-service
    memory_gb: 432
    nat_blocked: true
"""


def read(folder: Path, hosts: str | None, plan: str = "inventory: fleet.yaml\n") -> Plan:
    if hosts is not None:
        (folder / "fleet.yaml").write_text(hosts)
    (folder / "plan.yaml").write_text(plan)
    return load(folder / "plan.yaml", {}, FleetOptions)


def problems(folder: Path, hosts: str | None, plan: str = "inventory: fleet.yaml\n") -> list[str]:
    with pytest.raises(PlanError) as caught:
        read(folder, hosts, plan)
    return [str(problem).replace(f"{folder}/", "") for problem in caught.value.problems]


def test_every_key_of_a_node(tmp_path: Path) -> None:
    hosts = read(tmp_path, OURS).sections.inventory.hosts
    assert hosts["n1"] == StaticNode(
        host="gpu-1.example.com",
        addresses=("10.0.0.11", "fd00::11"),
        tailscale_ip="100.64.0.11",
        public_ip="8.8.4.4",
        ssh_user="ubuntu",
        ssh_port=2222,
        ssh_key="~/.ssh/id_cluster",
    )
    assert hosts["n2"] == StaticNode()
    assert hosts["n1"].model_fields_set == StaticNode.model_fields.keys()


def test_the_section_may_also_stand_in_the_plan_or_be_absent(tmp_path: Path) -> None:
    assert read(tmp_path, None, "inventory: {hosts: {n1: {host: a.b}}}").sections.inventory.hosts["n1"].host == "a.b"
    assert read(tmp_path, None, "notify: {}").sections.inventory.hosts == {}
    assert read(tmp_path, "hosts:\n  # nobody yet\n").sections.inventory.hosts == {}


def test_a_file_of_ringrift_is_read_and_says_once_what_means_nothing_here(tmp_path: Path) -> None:
    plan = read(tmp_path, THEIRS)
    assert plan.sections.inventory.hosts == {"gpu-node-1": StaticNode(host="8.8.4.4", ssh_user="ubuntu")}
    ignored, blank = (warning.replace(f"{tmp_path}/", "") for warning in plan.warnings)
    assert ignored == (
        "fleet.yaml: ignored, since they mean nothing here: "
        "hosts.*.memory_gb, hosts.*.nat_blocked, hosts.*.ringrift_path, p2p_voters, sync_routing"
    )
    assert blank == ("fleet.yaml: as if absent, since they are still to be filled in: hosts.gpu-node-1.tailscale_ip")


@needs_hosts
def test_ringrifts_example_is_read_as_it_is(tmp_path: Path) -> None:
    plan = read(tmp_path, HOSTS.read_text())
    hosts = plan.sections.inventory.hosts
    assert {name: node.ssh_user for name, node in hosts.items()} == {
        "coordinator-node": "your-user", "gpu-node-1": "ubuntu", "cpu-voter-1": "root",
    }  # fmt: skip
    assert {node.ssh_key for node in hosts.values()} == {"~/.ssh/id_cluster"}
    assert len(plan.warnings) == 2
    filled = re.sub(r"<.*?>", "10.0.0.7", HOSTS.read_text())
    plan = read(tmp_path, filled)
    assert {(node.host, node.tailscale_ip) for node in plan.sections.inventory.hosts.values()} == {("10.0.0.7",) * 2}
    assert len(plan.warnings) == 1


@needs_hosts
def test_any_misspelt_key_of_ringrifts_example_is_a_mistake_on_its_line(tmp_path: Path) -> None:
    lines = HOSTS.read_text().splitlines()
    first = lines.index("hosts:")
    for number in range(first, len(lines)):
        if not (found := re.match(r"( {4})?(\w+):", lines[number])):
            continue
        wrong = [*lines]
        wrong[number] = lines[number].replace(f"{found[2]}:", f"{found[2]}zz:", 1)
        (problem,) = problems(tmp_path, "\n".join(wrong))
        assert problem.startswith(f"fleet.yaml:{number + 1}: "), problem
        assert "unknown key" in problem


@pytest.mark.parametrize(
    ("hosts", "said"),
    [
        (None, "fleet.yaml: cannot be read: No such file or directory"),
        ("", "fleet.yaml: is empty, not a mapping with the keys hosts"),
        ("hosts: [n1]", "fleet.yaml:1: hosts: should be a mapping of keys to values (value [...])"),
        ("hosts:\n  n1: {hots: a.b}", "fleet.yaml:2: hosts.n1.hots: unknown key (value 'a.b'); did you mean 'host'?"),
        ("hosts:\n  n1: {host: 10.0.0.256}", "fleet.yaml:2: hosts.n1.host: '10.0.0.256' is no host: give a DNS name"),
        ("hosts:\n  n1: {ssh_host: -oX}", "fleet.yaml:2: hosts.n1.ssh_host: '-oX' is no host: give a DNS name"),
        ("hosts:\n  n1: {ssh_host: a.b, host: a.c}", "fleet.yaml:2: hosts.n1.ssh_host: means the same as 'host'"),
        ("hosts:\n  n1: {tailscale_ip: a.b}", "fleet.yaml:2: hosts.n1.tailscale_ip: 'a.b' is no address: give one"),
        ("hosts:\n  n1: {addresses: [fe80::1%eth0]}", "fleet.yaml:2: hosts.n1.addresses[0]: 'fe80::1%eth0' is no"),
        ("hosts:\n  n1: {ssh_port: 70000}", "fleet.yaml:2: hosts.n1.ssh_port: should be less than or equal to 65535"),
        ("hosts:\n  n1: {ssh_port: '22'}", "fleet.yaml:2: hosts.n1.ssh_port: should be a valid integer (value '22')"),
        ("hosts:\n  n1: {ssh_user: -l}", "fleet.yaml:2: hosts.n1.ssh_user: should match pattern"),
        ("hosts:\n  n1: {ssh_key: -oX}", "fleet.yaml:2: hosts.n1.ssh_key: should match pattern"),
        ("hosts:\n  ../n1: {}", "fleet.yaml:2: hosts.../n1: should match pattern"),
        ("hosts:\n  n1: {}\n  n1: {}", "fleet.yaml:3: hosts.n1: given twice, first on line 2"),
        ("hosts: {}\nextends: x.yaml", "fleet.yaml:2: extends: unknown key (value 'x.yaml'); accepted: hosts"),
    ],
)
def test_a_mistake_is_named_with_its_place_in_its_own_file(tmp_path: Path, hosts: str | None, said: str) -> None:
    (problem,) = problems(tmp_path, hosts)
    assert problem.startswith(said)


def test_mistakes_of_both_files_are_reported_together(tmp_path: Path) -> None:
    found = problems(tmp_path, "hosts:\n  n1: {port: 1}\n", "inventory: fleet.yaml\nnotify: {url: []}\n")
    assert [problem.partition(": ")[0] for problem in found] == ["plan.yaml:2", "fleet.yaml:2"]


def test_only_a_section_that_is_declared_so_may_be_a_file(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, None, "notify: fleet.yaml\n")
    assert problem.startswith("plan.yaml:1: notify: should be a mapping")


def test_the_file_lies_beside_the_one_that_names_it_also_when_that_is_extended(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    read(tmp_path / "base", OURS)
    path = tmp_path / "mine.yaml"
    path.write_text("extends: base/plan.yaml\n")
    assert set(load(path, {}, FleetOptions).sections.inventory.hosts) == {"n1", "n2"}
    (tmp_path / "other.yaml").write_text(THEIRS)
    path.write_text("extends: base/plan.yaml\ninventory: other.yaml\n")
    assert set(load(path, {}, FleetOptions).sections.inventory.hosts) == {"gpu-node-1"}


class Colours(BaseModel):
    model_config = ConfigDict(extra="forbid")

    red: str = "<none>"


class Sections(BaseModel):
    colours: Colours = Field(default=Colours(), json_schema_extra={"in_file": True})


def test_in_other_files_angle_brackets_are_plain_text(tmp_path: Path) -> None:
    (tmp_path / "colours.yaml").write_text("red: <dark>\n")
    (tmp_path / "plan.yaml").write_text("colours: colours.yaml\n")
    assert load(tmp_path / "plan.yaml", {}, Sections).sections.colours.red == "<dark>"


def test_the_shipped_inventory_shows_every_key_and_loads_with_and_without_its_example(tmp_path: Path) -> None:
    shipped = (ROOT / "config" / "fleet.yaml").read_text()
    assert read(tmp_path, shipped).sections.inventory.hosts == {}
    example = re.sub(r"^( *)# ( *[a-z0-9_-]+:.*)$", r"\1\2", shipped, flags=re.MULTILINE)
    (node,) = read(tmp_path, example).sections.inventory.hosts.values()
    assert node.model_fields_set == StaticNode.model_fields.keys()


@pytest.mark.parametrize("key", ["auth_key", "auth_keyfile"])
def test_an_auth_key_where_its_files_name_should_be_is_not_shown(tmp_path: Path, key: str) -> None:
    (problem,) = problems(tmp_path, None, f"tailnet: {{{key}: tskey-auth-secret}}\n")
    assert "did you mean 'auth_key_file'?" in problem
    assert "secret" not in problem


@pytest.mark.parametrize("flags", ["--auth-key=tskey-secret", "[tskey-secret]", "[auth-key=secret]", "{a: secret}"])
def test_an_auth_key_among_the_flags_is_not_shown(tmp_path: Path, flags: str) -> None:
    (problem,) = problems(tmp_path, None, f"tailnet: {{up_flags: {flags}}}\n")
    assert "tailnet.up_flags" in problem
    assert "secret" not in problem
