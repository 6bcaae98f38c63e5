"""Training uses one thread for small networks and all threads for large ones."""

import pytest
import torch
from stable_baselines3 import PPO, SAC

from sb3_prefine import PREFINE
from sb3_prefine.baselines import BC
from sb3_prefine.utils.threads import count_flops, limit_threads
from tests.worlds import RandomEnv, make_model, preferences


@pytest.fixture
def two_threads():
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


def test_count_flops_counts_matrix_products_and_convolutions():
    linear, convolution = torch.nn.Linear(30, 20), torch.nn.Conv2d(3, 8, 5)
    # One multiplication and one addition for each weight, at each position of the filter.
    assert count_flops(lambda: linear(torch.zeros(7, 30))) == 2 * 7 * 30 * 20
    assert count_flops(lambda: convolution(torch.zeros(1, 3, 12, 12))) == 2 * 8 * 8 * (8 * 3 * 5 * 5)


def test_small_updates_use_one_thread_and_large_ones_all(two_threads):
    layer = torch.nn.Linear(1000, 1000)

    def threads(n_states):
        with limit_threads(lambda: layer(torch.zeros(1, 1000)), n_states):
            return torch.get_num_threads()

    assert threads(160) == 1  # 3 x 160 x 2e6 is just below 1e9
    assert threads(170) == 2
    assert torch.get_num_threads() == 2
    with pytest.raises(KeyError), limit_threads(lambda: None, 1):
        raise KeyError
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: PREFINE(make_model(PPO), preferences(), batch_size=64, device="cpu"), 1),
        (lambda: PREFINE(wide(), preferences(), batch_size=64, device="cpu"), 2),
        (lambda: BC("GaussianPolicy", preferences().preferred, env=RandomEnv(), batch_size=64, device="cpu"), 1),
    ],
)
def test_learn_chooses_threads_by_the_size_of_the_network(make, expected, two_threads):
    seen = []
    make().learn(2, lambda *_: seen.append(torch.get_num_threads()) or True)
    assert seen == [expected, expected]
    assert torch.get_num_threads() == 2


def wide() -> SAC:
    return make_model(SAC, policy_kwargs={"net_arch": [1200, 1200]}, buffer_size=1)
