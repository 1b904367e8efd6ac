"""Progress in lines and as a bar, by a clock that the test moves."""

import sys

import pytest

from tmkd_lightning.utils import progress as module
from tmkd_lightning.utils.progress import progress


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    """Seconds that have passed, in the only entry."""
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def work(clock: list[float], seconds: float, count: int) -> list[int]:
    """Takes that long for each of several items."""
    done = []
    for item in progress(range(count), "Reading", count, "images"):
        done.append(item)
        clock[0] += seconds
    return done


def test_lines_come_after_two_seconds_and_then_every_ten(clock, capsys) -> None:
    assert work(clock, 1.0, 15) == list(range(15))
    assert capsys.readouterr().err.splitlines() == [
        "Reading: 2 of 15 images in 2 s",
        "Reading: 12 of 15 images in 12 s",
        "Reading: 15 of 15 images in 15 s",
    ]


def test_what_is_over_soon_says_nothing(clock, capsys) -> None:
    work(clock, 0.1, 15)
    work(clock, 1.0, 0)
    assert capsys.readouterr() == ("", "")


def test_what_is_broken_off_says_no_end(clock, capsys) -> None:
    for _ in progress(range(9), "Fitting", 9, "fits"):
        clock[0] += 2.0
        if clock[0] > 102:
            break
    assert capsys.readouterr().err.splitlines() == ["Fitting: 1 of 9 fits in 2 s"]


def test_a_terminal_shows_a_bar(monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert list(progress([5, 6], "Reading", 2, "images")) == [5, 6]
    shown = capsys.readouterr().err
    assert "\rReading:   0%|" in shown
    assert "images/s" in shown or "? images" in shown
