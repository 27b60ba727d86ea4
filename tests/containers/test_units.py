"""The units under a real systemd, installed as deploy/README.md says: they start, work, drain, come back, and are held.

The machine is a container of our image with Debian's systemd and Redis. What of the README's steps is not done in it is
`git clone ... && make install`, which would take a minute: it has a copy of this folder, and the image's environment.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.clusters.watch import ANYWHERE, write_config
from tests.containers.engine import ROOT, docker, succeeds
from tests.waiting import until
from workers.probe import ROLES

pytestmark = [pytest.mark.containers, pytest.mark.timeout(300)]

IMAGE = """
FROM backbeat
USER root
RUN apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \\
        systemd systemd-sysv redis-server sudo > /dev/null \\
    && userdel backbeat && ln -s . /opt/backbeat/.venv
STOPSIGNAL SIGRTMIN+3
ENTRYPOINT []
CMD ["/lib/systemd/systemd"]
"""
#: What a job does here: it tries what it may not, and says what it is.
PLAYER = """
for place in /etc /usr /opt/backbeat /var/lib /run /home /root /sys/kernel; do
    touch $place/mine 2> /dev/null && echo "wrote to $place"
done
for place in /var/lib/backbeat /run/backbeat /tmp; do touch $place/mine || echo "may not write to $place"; done
id -un
grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/self/status
sleep 2
"""
#: The commands of deploy/README.md, the last of which probes.
*STEPS, PROBE = re.findall(
    r"^    (\S.*?)(?:  +#.*)?$",
    (ROOT / "deploy/README.md").read_text().partition("\n## Bare nodes\n")[2].partition("\n## ")[0],
    re.MULTILINE,
)
EDIT = """cp /given/* /etc/backbeat
sed -i s#^BACKBEAT_CONFIG=.*#BACKBEAT_CONFIG=/etc/backbeat/loops.yaml# /etc/backbeat/backbeat.env
"""
BACKBEAT = "sudo -u backbeat env BACKBEAT_RUN=/run/backbeat BACKBEAT_REDIS_URL=redis://127.0.0.1:6379/0 {command}"
ENQUEUE = """
from redis import Redis
from fleet.jobs import JobQueue, JobSpec
print(*JobQueue(Redis("127.0.0.1", decode_responses=True)).enqueue([JobSpec(kind="selfplay", config="hex8_2p")]))
"""
#: The units that are started.
UNITS = [f"backbeat-{role}" for role in ROLES]


def rights() -> list[str]:
    """What systemd needs in a container: control groups of its own, which it mounts itself where there is version 1."""
    if docker("info", "-f", "{{.CgroupVersion}}").strip() != "1":
        return ["--privileged"]
    # not privileged: that asks for all rights there are, and who runs this may not have the one to exceed limits
    ours = ["--cap-add", "ALL", "--cap-drop", "SYS_RESOURCE", "--security-opt", "seccomp=unconfined"]
    return [*ours, "--cgroupns", "private", "--tmpfs", "/sys/fs/cgroup"]


class Machine:
    """A container whose first process is systemd."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        docker("build", "-q", "-t", name, "-", stdin=IMAGE)
        mounts = ("-v", f"{ROOT}:/source:ro", "-v", f"{folder}:/given:ro")
        docker("run", "-d", "--name", name, *rights(), "--tmpfs", "/run", "--tmpfs", "/tmp", *mounts, name)

    def _exec(self, command: str) -> tuple[str, ...]:
        """A command of root's, in a shell without the image's variables."""
        path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        return "exec", "-w", "/opt/backbeat", self.name, "env", "-i", path, "sh", "-c", command

    def __call__(self, command: str, *, check: bool = True) -> str:
        return docker(*self._exec(command), check=check)

    def succeeds(self, command: str) -> bool:
        return succeeds(*self._exec(command))

    def unit(self, name: str, *properties: str) -> list[str]:
        """What systemd says of a unit."""
        return [self(f"systemctl show {name} --value -p {each}").strip() for each in properties]

    def ready(self) -> bool:
        return all(self.succeeds(PROBE.replace("ready agent", f"ready {role}")) for role in ROLES)

    def backbeat(self, *words: str) -> str:
        return self(BACKBEAT.format(command=" ".join(("/opt/backbeat/.venv/bin/backbeat", *words))), check=False)

    def job(self) -> str:
        return self(f"/opt/backbeat/.venv/bin/python -c '{ENQUEUE}'").strip()

    def status_of(self, job: str) -> str:
        return str(json.loads(self.backbeat("jobs", "show", job, "--json") or "{}").get("status"))

    def journal(self) -> str:
        return self("journalctl --no-pager -o cat -u 'backbeat-*' | tail -50", check=False)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    tmp_path.chmod(0o755)
    config = tmp_path / "loops.yaml"
    write_config(config)
    player = {"jobs": {"selfplay": {"command": ["sh", "/etc/backbeat/player.sh"]}}}
    config.write_text(yaml.safe_dump({**yaml.safe_load(config.read_text()), **player}))
    (tmp_path / "player.sh").write_text(PLAYER)
    name = f"backbeat-test-units-{os.getpid()}"
    try:
        yield Machine(name, tmp_path)
    finally:
        docker("rm", "-f", "-v", name, check=False)
        docker("rmi", "-f", name, check=False)


def test_the_units_start_work_come_back_and_drain_and_may_do_no_more_than_they_need(machine: Machine) -> None:
    until(lambda: machine.succeeds("systemctl is-active multi-user.target"), 60, lambda: docker("logs", machine.name))
    machine("tar -C /source --exclude=.venv --exclude=.git -c . | tar -x -C /opt/backbeat")
    assert "git clone" in STEPS[1]
    for step in (STEPS[0], *STEPS[2:]):
        machine(step)
        if "backbeat.env" in step:
            machine(EDIT)
    until(machine.ready, 60, machine.journal)
    assert machine(f"systemctl is-active {' '.join(UNITS)}").split() == ["active"] * 4
    assert machine(f"systemctl is-enabled {' '.join(UNITS)}").split() == ["enabled"] * 4

    def ran() -> int:
        return int(json.loads(machine.backbeat("status", "--json"))["loops"][ANYWHERE]["run_count"])

    until(lambda: ran() > 1, 30, machine.journal)

    # a job runs, and is held as its worker is
    job = machine.job()
    until(lambda: machine.status_of(job) == "completed", 30, lambda: machine.backbeat("jobs", "show", job))
    said = machine.backbeat("jobs", "logs", job)
    assert "wrote to" not in said
    assert "may not write to" not in said
    nothing = "0" * 16
    assert re.search(
        rf"^backbeat\nCapEff:\t{nothing}\nCapBnd:\t{nothing}\nNoNewPrivs:\t1\nSeccomp:\t2$", said, re.MULTILINE
    ), said

    # the other units too: even root could write nowhere else from where they are
    for unit in UNITS:
        (pid,) = machine.unit(unit, "MainPID")
        held = machine(f"grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/{pid}/status")
        assert held.split()[1::2] == [nothing, nothing, "1", "2"], unit
        for place in ("/etc", "/usr", "/opt/backbeat", "/var/lib", "/root"):
            tried = machine(f"nsenter -t {pid} -m touch {place}/mine 2>&1", check=False)
            assert "Read-only file system" in tried, (unit, place, tried)

    # what is killed comes back, and is ready again
    lost = machine.job()
    until(lambda: machine.status_of(lost) == "running", 30, machine.journal)
    for unit in UNITS:
        machine(f"systemctl kill --kill-who=main -s KILL {unit}")
    until(
        lambda: all(machine.unit(unit, "NRestarts") == ["1"] for unit in UNITS) and machine.ready(), 60, machine.journal
    )
    until(lambda: machine.status_of(lost) == "completed", 30, lambda: machine.backbeat("jobs", "show", lost))

    # a stop waits for what runs
    last = machine.job()
    until(lambda: machine.status_of(last) == "running", 30, machine.journal)
    machine(f"systemctl stop {' '.join(UNITS)}")
    assert machine.status_of(last) == "completed"
    for unit in UNITS:
        assert machine.unit(unit, "ActiveState", "Result", "ExecMainStatus") == ["inactive", "success", "0"], unit
