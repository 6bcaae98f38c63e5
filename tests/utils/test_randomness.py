"""The isolated random state and the caller's do not change each other."""

import random

import numpy as np
import pytest
import torch

from sb3_prefine.utils.randomness import IsolatedRandomState


def draw():
    return random.random(), np.random.rand(), torch.rand(1).item()  # noqa: NPY002


def reseed(seed):
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)


def test_the_callers_random_numbers_do_not_change():
    reseed(1)
    expected = [draw(), draw()]
    reseed(1)
    drawn = [draw()]
    with IsolatedRandomState(0):
        draw()
    assert [*drawn, draw()] == expected


def test_isolated_numbers_do_not_depend_on_the_caller():
    def draws(caller_seed):
        reseed(caller_seed)
        own = IsolatedRandomState(7)
        with own:
            first = draw()
        draw()
        with own:  # continues where the first block stopped
            return first, draw()

    first, second = draws(1)
    assert draws(2) == (first, second)
    assert first != second


def test_another_seed_gives_other_numbers():
    with IsolatedRandomState(0):
        zero = draw()
    with IsolatedRandomState(1):
        one = draw()
    assert all(a != b for a, b in zip(zero, one, strict=True))


def test_an_exception_restores_the_callers_state():
    reseed(1)
    expected = draw()
    reseed(1)
    with pytest.raises(ZeroDivisionError), IsolatedRandomState(0):
        raise ZeroDivisionError
    assert draw() == expected
