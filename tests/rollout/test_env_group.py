"""How environments and episodes are divided into groups."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sb3_prefine.rollout.env_group import GROUP_SIZE, MIN_GROUP_SIZE, make_groups


@pytest.mark.parametrize(
    ("n_envs", "sizes"),
    [(1, [1]), (11, [11]), (12, [6, 6]), (20, [10, 10]), (32, [16, 16]), (33, [11, 11, 11]), (64, [16] * 4)],
)
def test_the_number_of_groups_is_the_smallest_possible(n_envs, sizes):
    assert [group.n_envs for group in make_groups(100, n_envs, seed=3)] == sizes


@given(n_episodes=st.integers(1, 200), share=st.floats(0, 1), seed=st.integers(0, 2**32 - 1))
def test_each_episode_is_in_one_group_with_its_own_seed(n_episodes, share, seed):
    n_envs = max(1, round(share * n_episodes))
    groups = make_groups(n_episodes, n_envs, seed)
    starts = [start for group in groups for start in group.starts]
    assert sorted(index for index, _ in starts) == list(range(n_episodes))
    assert sum(group.n_envs for group in groups) == n_envs
    assert all(group.n_envs <= min(GROUP_SIZE, len(group.starts)) for group in groups)
    assert len(groups) == 1 or all(group.n_envs >= MIN_GROUP_SIZE for group in groups)
    # However many environments there are, an episode's seed is the same.
    assert dict(starts) == dict(make_groups(n_episodes, 1, seed)[0].starts)


def test_the_first_group_uses_the_seed_and_others_derive_one():
    seeds = [group.seed for group in make_groups(48, 48, seed=3)]
    assert seeds[0] == 3
    assert len(set(seeds)) == 3
