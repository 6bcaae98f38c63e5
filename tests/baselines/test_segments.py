"""The segments that PPL and CPL draw: their place, their frequency, and the data that belong to them."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from stable_baselines3 import PPO

from sb3_prefine import PreferenceBuffer, load_reference
from sb3_prefine.baselines.segments import Segments, build_segments
from sb3_prefine.policies.likelihood import likelihood_of
from tests.baselines.by_hand import buffer, episodes, rows_of, segments_of
from tests.worlds import make_model

REFERENCE = load_reference(make_model(PPO))


def segments(data: PreferenceBuffer) -> Segments:
    return build_segments(data, REFERENCE, likelihood_of(REFERENCE.policy, -5.0), torch.device("cpu"))


@settings(max_examples=60, deadline=None)
@given(*[st.lists(st.integers(1, 12), min_size=1, max_size=4)] * 2, st.integers(1, 15), st.integers(1, 5))
def test_a_segment_stays_in_its_episode_and_is_padded_if_short(preferred, dispreferred, length, n_pairs):
    data = PreferenceBuffer(episodes(preferred), episodes(dispreferred, seed=1))
    batches = segments(data).batches(n_pairs, length, torch.Generator().manual_seed(0))
    lengths = np.array(preferred + dispreferred)
    ends = np.cumsum(lengths)
    for pairs in (next(batches) for _ in range(3)):
        # Segments are not longer than the longest episode.
        assert pairs.is_real.shape == (2, n_pairs, min(length, max(lengths)))
        rows = rows_of(pairs, data)
        is_real = pairs.is_real.numpy()
        episode = np.searchsorted(ends, rows, side="right")
        # Consecutive steps of one episode, then repetitions of its last step.
        assert (episode == episode[..., :1]).all()
        assert (episode[0] < len(preferred)).all()
        assert (episode[1] >= len(preferred)).all()
        np.testing.assert_array_equal(np.diff(rows), is_real[..., 1:])
        assert (np.diff(is_real.astype(int)) <= 0).all()
        np.testing.assert_array_equal(is_real.sum(-1), np.minimum(length, lengths[episode[..., 0]]))
        np.testing.assert_array_equal(pairs.lengths, is_real.sum(-1))
        assert (rows[~is_real] == ends[episode[~is_real]] - 1).all()


def test_actions_and_reference_parameters_belong_to_the_states():
    data = buffer()
    found = segments(data)
    pairs = next(found.batches(3, 4, torch.Generator().manual_seed(0)))
    rows = rows_of(pairs, data).flatten()
    actions = np.concatenate([data.preferred.actions, data.dispreferred.actions])
    np.testing.assert_array_equal(pairs.actions.numpy(), actions[rows])
    with torch.no_grad():
        expected = likelihood_of(REFERENCE.policy, -5.0).params(REFERENCE.policy, pairs.inputs)
    torch.testing.assert_close(pairs.params_ref, expected)


def test_episodes_are_drawn_by_length_and_starts_uniformly():
    """Possible starts of segments of 4 steps: 2 in an episode of 5 steps, 1 in 3 or 1 steps, 7 in 10 steps."""
    data = PreferenceBuffer(episodes([5, 3, 1]), episodes([10], seed=1))
    batches = segments(data).batches(50, 4, torch.Generator().manual_seed(0))
    firsts = np.concatenate([rows_of(next(batches), data)[..., 0] for _ in range(400)], axis=1)
    for found, expected in (
        (firsts[0], {0: 5 / 9 / 2, 1: 5 / 9 / 2, 5: 3 / 9, 8: 1 / 9}),
        (firsts[1], {9 + place: 1 / 7 for place in range(7)}),
    ):
        places, counts = np.unique(found, return_counts=True)
        assert places.tolist() == list(expected)
        assert chisquare(counts, 20_000 * np.array(list(expected.values()))).pvalue > 1e-3


def test_the_segments_of_a_pair_are_drawn_independently():
    data = PreferenceBuffer(episodes([4, 4]), episodes([4, 4], seed=1))
    batches = segments(data).batches(50, 4, torch.Generator().manual_seed(0))
    firsts = np.concatenate([rows_of(next(batches), data)[..., 0] for _ in range(200)], axis=1)
    _, counts = np.unique(firsts, axis=1, return_counts=True)
    assert chisquare(counts, [2_500] * 4).pvalue > 1e-3


def test_equal_seeds_give_equal_segments():
    def drawn(seed: int) -> torch.Tensor:
        batches = segments(buffer()).batches(2, 4, torch.Generator().manual_seed(seed))
        return torch.stack([next(batches).inputs for _ in range(150)])

    assert torch.equal(drawn(0), drawn(0))
    assert not torch.equal(drawn(0), drawn(1))


def test_weights_are_multiplied_and_labels_averaged():
    """The order of a pair is right if both labels are right, and with probability 1/2 if one of them is."""
    weights, labels = ([1.0, 2.0, 0.0], [3.0, 1.0, 0.5]), ([1.0, 0.25, 0.5], [0.75, 1.0, 0.0])
    data = buffer(
        preferred_weights=weights[0],
        dispreferred_weights=weights[1],
        preferred_labels=labels[0],
        dispreferred_labels=labels[1],
    )
    pairs = next(segments(data).batches(200, 4, torch.Generator().manual_seed(0)))
    lengths = [*data.preferred.episode_lengths, *data.dispreferred.episode_lengths]
    first, second = np.repeat(np.arange(6), lengths)[rows_of(pairs, data)[..., 0]]
    w, q = np.concatenate(weights), np.concatenate(labels)
    np.testing.assert_allclose(pairs.pair_weights, w[first] * w[second])
    right = q[first] * q[second]
    same_set = q[first] * (1 - q[second]) + (1 - q[first]) * q[second]
    np.testing.assert_allclose(pairs.labels, right + 0.5 * same_set, atol=1e-6)
    plain = next(segments(buffer()).batches(2, 4, torch.Generator().manual_seed(0)))
    assert (plain.weights, plain.pair_weights, plain.labels) == (None, None, None)


def test_by_step_arranges_values_by_segment_and_zeros_the_padding():
    data = buffer()
    pairs = next(segments(data).batches(20, 4, torch.Generator().manual_seed(0)))
    rows = rows_of(pairs, data)
    sums = pairs.by_step(torch.as_tensor(rows.flatten() + 1.0)).sum(-1)
    expected = [[(segment + 1.0).sum() for segment in of_set] for of_set in segments_of(pairs, data)]
    assert min(len(segment) for of_set in segments_of(pairs, data) for segment in of_set) < 4
    np.testing.assert_array_equal(sums, expected)


@pytest.mark.parametrize("n_draws", [1, 2])
def test_batches_continue_after_a_hundred_updates(n_draws):
    batches = segments(buffer()).batches(1, 2, torch.Generator().manual_seed(0))
    assert len({float(next(batches).inputs.sum()) for _ in range(100 * n_draws + 1)}) > 20
