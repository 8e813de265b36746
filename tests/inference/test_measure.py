"""Measurements by `optimize`: differences, times, memory and threads."""

import math
import os
import time
from functools import partial
from itertools import pairwise
from mmap import mmap
from pathlib import Path

import pytest
import torch

from cnnarch.inference import _measure
from cnnarch.inference._measure import agreement, alternate, difference, resident_mib, spread


def test_difference_is_relative_to_the_largest_expected_value() -> None:
    assert difference(torch.tensor([1.0, -4.2]), torch.tensor([1.0, -4.0])) == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("actual", "expected", "found"),
    [
        ([0.0, 0.0], [0.0, 0.0], 0.0),
        ([0.0, 1e-9], [0.0, 0.0], math.inf),
        ([1.0, math.nan], [1.0, 1.0], math.inf),
        ([1.0, -math.inf], [1.0, 1.0], math.inf),
        ([1.0], [1.0, 1.0], math.inf),
    ],
)
def test_zeros_nans_and_other_shapes_differ_infinitely(
    actual: list[float], expected: list[float], found: float
) -> None:
    assert difference(torch.tensor(actual), torch.tensor(expected)) == found


def test_spread_measures_the_variation_between_images() -> None:
    assert spread(torch.tensor([[1.0, 2.0], [1.0, 2.0]])) == 0
    assert spread(torch.tensor([[1.0, 2.0], [1.0, 1.5]])) == 0.25
    assert spread(torch.zeros(2, 3)) == 0


def test_agreement_counts_the_images_of_all_batches() -> None:
    right = torch.eye(4)
    assert agreement([right, right[:1]], [right, right[1:2]]) == 0.8
    assert agreement([torch.full((2, 4), math.nan)], [right[:2]]) == 0


def test_functions_alternate_and_slow_ones_take_longer() -> None:
    calls: list[str] = []

    def slow() -> None:
        calls.append("slow")
        time.sleep(0.003)

    first, second = alternate(slow, lambda: calls.append("fast"), 0.1)
    assert min(len(first), len(second)) >= 3
    assert min(first) >= 0.003
    assert sorted(second)[len(second) // 2] < 0.003
    changes = sum(a != b for a, b in pairwise(calls))
    assert changes >= 6


@pytest.mark.parametrize("usual", [0.001, 0.04])
def test_the_first_call_of_a_turn_is_not_counted(
    monkeypatch: pytest.MonkeyPatch, usual: float
) -> None:
    """During the first call, the other function's threads are still spinning."""
    clock, before = 0.0, ""

    def call(name: str) -> None:
        nonlocal clock, before
        clock += usual if name == before else 3 * usual
        before = name

    monkeypatch.setattr(time, "perf_counter", lambda: clock)
    times = alternate(partial(call, "first"), partial(call, "second"), 1.0)
    for found in times:
        assert found == pytest.approx([usual] * len(found))
        assert len(found) >= 3


@pytest.mark.parametrize(
    ("seconds", "spare", "turns"),
    [
        ((0.03, 0.06), 9.0, 1),  # one call each is enough to show which is faster
        ((0.03, 0.03), 9.0, 2),  # one call each is not enough
        ((0.03, 0.03), 0.2, 1),  # not enough time for four more calls to each
    ],
)
def test_long_calls_get_two_turns_if_their_times_are_close(
    monkeypatch: pytest.MonkeyPatch, seconds: tuple[float, float], spare: float, turns: int
) -> None:
    clock = 0.0

    def call(takes: float) -> None:
        nonlocal clock
        clock += takes

    monkeypatch.setattr(time, "perf_counter", lambda: clock)
    times = alternate(*(partial(call, takes) for takes in seconds), 0.01, spare)
    assert [list(found) for found in times] == [pytest.approx([one] * turns) for one in seconds]


def test_resident_memory_grows_with_allocated_memory() -> None:
    before = resident_mib()
    with mmap(-1, 64 * 2**20) as held:  # a tensor might reuse memory that the process already holds
        held.write(bytes(len(held)))
        assert resident_mib() - before == pytest.approx(64, abs=16)


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({}, None),
    ],
)
def test_thread_count_respects_the_control_group_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], cores: int | None
) -> None:
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(_measure, "_CGROUP", tmp_path)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert _measure.usable_threads() == (cores or 8)
