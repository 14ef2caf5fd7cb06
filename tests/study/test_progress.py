"""Bytes gone through: lines in a log, a bar on a terminal, exact sums from several threads."""

from __future__ import annotations

import io
import json
import re
import threading

import pytest

from lrnb.study import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def lines(capsys: pytest.CaptureFixture) -> list[str]:
    return capsys.readouterr().err.splitlines()


def test_a_log_gets_a_line_now_and_then_and_one_at_the_end(monkeypatch, capsys):
    monkeypatch.setattr(progress, "SAY", 0.0)
    with progress.Meter("merge ties", 4_000_000_000) as meter:
        for _ in range(2):
            meter.update(1_000_000_000)
    found = lines(capsys)
    assert len(found) == 3
    wanted = r"merge ties: 25%, 1\.0 of 4\.0 GB, \d+\.\d\d GB/s, \d+:\d\d left"
    assert re.fullmatch(wanted, found[0])
    assert found[-1].startswith("merge ties: 50%, 2.0 of 4.0 GB")
    assert "\r" not in "".join(found)


def test_what_is_over_soon_leaves_no_line(capsys):
    with progress.Meter("merge ties", 100) as meter:
        for _ in range(100):
            meter.update(1)
    assert lines(capsys) == []


def test_a_terminal_gets_a_bar_with_bytes_a_second(monkeypatch):
    screen = Terminal()
    monkeypatch.delenv("LRNB_PROGRESS", raising=False)
    monkeypatch.setattr("sys.stderr", screen)
    monkeypatch.setattr(progress, "EVERY", 0.0)
    with progress.Meter("merge ties", 4_000_000) as meter:
        meter.update(1_000_000)
    assert screen.getvalue() == ""  # done before one would look
    monkeypatch.setattr(progress, "DELAY", 0.0)
    with progress.Meter("merge ties", 4_000_000) as meter:
        meter.update(1_000_000)
    assert "merge ties" in screen.getvalue() and "B/s" in screen.getvalue()


def test_the_batch_runner_never_gets_a_bar(monkeypatch, tmp_path):
    screen = Terminal()
    monkeypatch.setattr("sys.stderr", screen)
    monkeypatch.setenv("LRNB_PROGRESS", str(tmp_path / "progress.json"))
    with progress.Meter("merge ties", 100) as meter:
        meter.update(50)
    assert screen.getvalue() == ""


def test_updates_of_several_threads_all_count():
    with progress.Meter("merge ties", 100) as meter:
        workers = [threading.Thread(target=lambda: [meter.update(1) for _ in range(2000)]) for _ in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert meter.done == 8000


def test_more_than_expected_is_still_a_hundred_percent():
    meter = progress.Meter("merge ties_sv", 10)
    meter.update(25)
    assert meter.line().startswith("merge ties_sv: 100%")
    assert meter.line().endswith("0:00 left")


def test_a_part_counts_within_the_whole_stage(monkeypatch, tmp_path):
    path = tmp_path / "progress.json"
    monkeypatch.setenv("LRNB_PROGRESS", str(path))
    with progress.part(1, 3), progress.Progress("sft", 100) as second:
        second.update(40)
    found = json.loads(path.read_text())
    assert (found["done"], found["total"]) == (140, 300)
    assert second.done == 40  # of its own
    with progress.Progress("sft", 100) as alone:
        alone.update(40)
    assert json.loads(path.read_text())["total"] == 100


def test_what_ended_well_is_shown_whole_and_what_failed_is_not(monkeypatch):
    monkeypatch.delenv("LRNB_PROGRESS", raising=False)
    with progress.Progress("sft", 100) as whole:
        whole.update(96)  # 12 steps of 100 // 12 tokens
    with pytest.raises(KeyboardInterrupt), progress.Progress("sft", 100) as cut:
        cut.update(96)
        raise KeyboardInterrupt
    assert (whole._bar.n, cut._bar.n) == (100, 96)


def test_without_a_total_what_is_done_is_counted(monkeypatch, tmp_path):
    monkeypatch.setenv("LRNB_PROGRESS", str(tmp_path / "progress.json"))
    with progress.Progress("reading", 0, "documents") as reading:
        assert list(reading.through("abc")) == ["a", "b", "c"]
    found = json.loads((tmp_path / "progress.json").read_text())
    assert (found["done"], found["total"], found["unit"]) == (3, 0, "documents")
