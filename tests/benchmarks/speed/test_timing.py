"""Interleaved timing."""

import time

import numpy as np
import pytest

from benchmarks.speed.timing import Timing, measure


def test_every_round_starts_with_another_contender():
    calls = []
    contenders = {name: lambda n, name=name: calls.append((name, n)) for name in "abc"}
    timing = measure(contenders, steps=4, rounds=3, progress="test")
    # One more round is the warm-up.
    assert [name for name, _ in calls] == list("abc") + list("abc") + list("cab") + list("bca")
    assert {n for _, n in calls} == {4}
    assert timing.wall.shape == timing.cpu.shape == (3, 3)


def test_times_are_per_step():
    timing = measure({"sleep": lambda n: time.sleep(0.01 * n)}, steps=2, rounds=3, progress="test")
    assert 0.01 <= timing.median("sleep") < 0.1
    assert timing.cpu.max() < 0.005


def test_ratio_compares_times_within_a_round():
    rng = np.random.default_rng(0)
    base = rng.uniform(1.0, 5.0, 200)  # disturbances affect both
    noise = rng.normal(1.0, 0.1, 200)
    timing = Timing(("a", "b"), np.stack((2.0 * base * noise, base), axis=1), np.zeros((200, 2)))
    middle, low, high = timing.ratio("a", "b")
    assert low < middle < high
    assert middle == pytest.approx(2.0, rel=0.03)
    assert high - low < 0.15
    assert timing.ratio("b", "b") == (1.0, 1.0, 1.0)
