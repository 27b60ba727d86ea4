from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from workers import datadir
from workers.datadir import UpError


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory that commands run in."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    return folder


class TestADataDirectory:
    def test_is_held_by_one_process_that_the_next_is_told_of(self, data: Path) -> None:
        with datadir.hold(data):
            other = "import sys; from pathlib import Path; from workers import datadir\n"
            other += "with datadir.hold(Path(sys.argv[1])): pass"
            argv = [sys.executable, "-c", other, str(data)]
            second = subprocess.run(argv, check=False, capture_output=True, text=True, cwd=Path(__file__).parents[2])
            assert f"{data} is in use by another `backbeat up`: pid {os.getpid()} since 2" in second.stderr
        with datadir.hold(data):
            pass  # it was let go

    def test_names_its_new_holder_and_not_the_last(self, data: Path) -> None:
        (data / datadir.LOCK).write_text("pid 999999999 since ever\n" * 3)
        with datadir.hold(data):
            assert (data / datadir.LOCK).read_text().startswith(f"pid {os.getpid()} since ")
            with pytest.raises(UpError, match=f"pid {os.getpid()} "), datadir.hold(data):
                pass

    def test_keeps_its_identity_when_it_moves_and_a_copy_gets_another(self, data: Path, tmp_path: Path) -> None:
        mark = datadir.identity(data)
        assert datadir.identity(data) == mark
        copy = shutil.copytree(data, tmp_path / "copy")
        assert datadir.identity(data.rename(tmp_path / "moved")) == mark
        assert datadir.identity(copy) != mark


class TestARecord:
    def test_is_read_back_and_for_its_owner_only(self, data: Path) -> None:
        datadir.write_record(data, "redis://:secret@127.0.0.1:1/0")
        record = datadir.read_record(data)
        assert record is not None
        assert (record.pid, record.redis_url) == (os.getpid(), "redis://:secret@127.0.0.1:1/0")
        assert record.alive
        assert stat.S_IMODE((data / datadir.RECORD).stat().st_mode) == 0o600
        assert [path.name for path in data.iterdir()] == [datadir.RECORD]  # nothing half written

    @pytest.mark.parametrize("text", ["", "{", "[]", '"x"', "{}", '{"pid": 1}'])
    def test_that_is_damaged_counts_as_none(self, data: Path, text: str) -> None:
        (data / datadir.RECORD).write_text(text)
        assert datadir.read_record(data) is None

    def test_of_a_process_that_is_gone_is_dead_even_when_its_number_lives(self) -> None:
        created = psutil.Process().create_time()
        assert not datadir.Record(os.getpid(), created - 100, "", "").alive
        assert not datadir.Record(2**22 + 1, created, "", "").alive


class TestCommandsFind:
    def test_nothing_where_nothing_was_started(self) -> None:
        assert datadir.found_here() == {}

    def test_what_keeps_its_data_in_the_default_place(self, here: Path) -> None:
        default = here / ".backbeat"
        default.mkdir()
        assert datadir.link(default, "mark") is None
        datadir.write_record(default, "redis://one")
        assert {folder: record.redis_url for folder, record in datadir.found_here().items()} == {default: "redis://one"}

    def test_what_was_started_here_wherever_its_data_are(self, data: Path, here: Path) -> None:
        link = datadir.link(data, "mark")
        assert link is not None
        datadir.write_record(data, "redis://two")
        assert list(datadir.found_here()) == [data]
        datadir.unlink(link)
        assert datadir.found_here() == {}
        assert list(here.iterdir()) == []

    def test_the_living_first(self, data: Path, tmp_path: Path) -> None:
        dead = tmp_path / "dead"
        dead.mkdir()
        for folder in (data, dead):
            datadir.link(folder, folder.name)
            datadir.write_record(folder, f"redis://{folder.name}")
        record = dead / datadir.RECORD
        record.write_text(record.read_text().replace(f'"pid": {os.getpid()}', '"pid": 4194305'))
        assert list(datadir.found_here()) == [data]
        (data / datadir.RECORD).unlink()
        assert list(datadir.found_here()) == [dead]

    def test_nothing_behind_a_link_to_what_is_gone(self, data: Path) -> None:
        datadir.link(data, "mark")
        data.rmdir()
        assert datadir.found_here() == {}

    def test_a_link_again_after_a_crash(self, data: Path) -> None:
        assert datadir.link(data, "mark") == datadir.link(data, "mark")
