"""Sequences for recurrent policies, compared with the policy stepped along each episode."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sb3_contrib import RecurrentPPO

from sb3_prefine import PREFINE, PreferenceBuffer, Trajectories, load_reference
from sb3_prefine.policies.base import SequenceInputs
from sb3_prefine.policies.likelihood import likelihood_of
from sb3_prefine.reference.reference import Reference
from sb3_prefine.training import sequence_tables
from sb3_prefine.training.draw_rows import UPDATES_PER_DRAW
from sb3_prefine.training.sequence_tables import SEQUENCE_LENGTH, SequenceTables, build_sequence_tables, hidden_states
from tests.families import DictEnv
from tests.worlds import ACTIONS, OBSERVATIONS, RandomEnv

LENGTHS = [66, 5, 32, 33], [40, 1]


def recurrent(env: Any = None, policy: str = "MlpLstmPolicy", **policy_kwargs: Any) -> RecurrentPPO:
    """Make an untrained model with large weights, so that its hidden states matter."""
    kwargs = {"net_arch": [8], "lstm_hidden_size": 6, **policy_kwargs}
    model = RecurrentPPO(policy, env or RandomEnv(), policy_kwargs=kwargs, seed=0, device="cpu")
    with torch.no_grad():
        for weight in model.policy.lstm_actor.parameters():
            weight.mul_(3.0)
    return model


def episodes(lengths: list[int], seed: int = 0, observations: Any = None) -> Trajectories:
    rng = np.random.default_rng(seed)
    n = sum(lengths)
    if observations is None:
        observations = rng.normal(size=(n, OBSERVATIONS)).astype(np.float32)
    ends = np.zeros(n, bool)
    ends[np.cumsum(lengths) - 1] = True
    low, high = RandomEnv.action_space.low, RandomEnv.action_space.high
    return Trajectories(
        observations=observations,
        next_observations=observations,
        actions=rng.uniform(low, high, (n, ACTIONS)),
        rewards=np.ones(n),
        costs=np.zeros(n),
        terminals=np.zeros(n, bool),
        timeouts=ends,
    )


def buffer(**kwargs: Any) -> PreferenceBuffer:
    return PreferenceBuffer(episodes(LENGTHS[0]), episodes(LENGTHS[1], seed=1), **kwargs)


def tables_of(data: PreferenceBuffer, reference: Reference, policy: Any = None) -> SequenceTables:
    likelihood = likelihood_of(reference.policy, -5.0)
    return build_sequence_tables(data, reference, likelihood, policy or reference.trainable_copy())


def stepped(policy: Any, data: Trajectories) -> tuple[torch.Tensor, torch.Tensor]:
    """Step a policy along the data: log-probs of the actions (N,), and the hidden states before each step (N, H)."""
    scores, hidden = [], []
    with torch.no_grad():
        for episode in data:
            states = tuple(torch.zeros(policy.lstm_actor.num_layers, 1, policy.lstm_actor.hidden_size) for _ in "hc")
            for row in range(episode.n_transitions):
                seen = episode.observations
                now = (
                    seen[row : row + 1]
                    if isinstance(seen, np.ndarray)
                    else {k: v[row : row + 1] for k, v in seen.items()}
                )
                hidden.append(states[0][-1, 0])
                starts = torch.tensor([float(row == 0)])
                dist, states = policy.get_distribution(policy.obs_to_tensor(now)[0], states, starts)
                scores.append(dist.log_prob(torch.tensor(episode.actions[row : row + 1]))[0])
    return torch.stack(scores), torch.stack(hidden)


def both(policy: Any, data: PreferenceBuffer) -> tuple[torch.Tensor, torch.Tensor]:
    one, other = stepped(policy, data.preferred), stepped(policy, data.dispreferred)
    return torch.cat((one[0], other[0])), torch.cat((one[1], other[1]))


# The tables


@settings(max_examples=25, deadline=None)
@given(*[st.lists(st.integers(1, 2 * SEQUENCE_LENGTH + 2), min_size=1, max_size=5)] * 2)
def test_every_step_is_in_one_sequence_and_the_rest_is_padding(preferred, dispreferred):
    data = PreferenceBuffer(episodes(preferred), episodes(dispreferred, seed=1))
    tables = tables_of(data, REFERENCE)
    n_sequences = [-(-length // SEQUENCE_LENGTH) for length in (*preferred, *dispreferred)]
    assert tables.n_preferred == sum(n_sequences[: len(preferred)])
    assert tables.positions.tolist() == [i for n in n_sequences for i in range(n)]
    real = tables.weights > 0
    # In the order of the data, once each.
    expected = [np.concatenate([getattr(s, name) for s in (data.preferred, data.dispreferred)]) for name in SEEN]
    np.testing.assert_array_equal(tables.observations[real], expected[0])
    np.testing.assert_array_equal(tables.actions[real], expected[1])
    # Padding is at the end of a sequence.
    assert (real.int().diff(dim=1) <= 0).all()
    lengths = np.array(preferred + dispreferred)
    assert real.sum(1)[np.cumsum(n_sequences) - 1].tolist() == ((lengths - 1) % SEQUENCE_LENGTH + 1).tolist()


SEEN = ("observations", "actions")
REFERENCE = load_reference(recurrent())


@pytest.mark.parametrize(
    "policy_kwargs",
    [{}, {"n_lstm_layers": 2}, {"shared_lstm": True, "enable_critic_lstm": False}, {"share_features_extractor": False}],
    ids=["one layer", "two layers", "shared", "separate extractors"],
)
def test_reference_scores_sequences_as_it_does_step_by_step(policy_kwargs):
    """The hidden states continue from one sequence to the next and start at zero with each episode."""
    reference, data = load_reference(recurrent(**policy_kwargs)), buffer()
    tables = tables_of(data, reference)
    scores = likelihood_of(reference.policy, -5.0).log_prob(tables.params_ref, tables.actions)
    torch.testing.assert_close(scores[tables.weights > 0], both(reference.policy, data)[0], rtol=1e-4, atol=1e-4)


def test_dict_observations_are_cut_into_sequences():
    reference = load_reference(recurrent(DictEnv(), "MultiInputLstmPolicy"))
    rng = np.random.default_rng(0)
    sets = []
    for lengths in ([35, 3], [34]):
        seen = {
            "camera": rng.integers(0, 256, (sum(lengths), 1, 36, 36), dtype=np.uint8),
            "speed": rng.normal(size=(sum(lengths), 2)).astype(np.float32),
        }
        sets.append(episodes(lengths, observations=seen))
    data = PreferenceBuffer(*sets)
    tables = tables_of(data, reference)
    assert tables.observations["camera"].shape == (5, SEQUENCE_LENGTH, 1, 36, 36)
    scores = likelihood_of(reference.policy, -5.0).log_prob(tables.params_ref, tables.actions)
    torch.testing.assert_close(scores[tables.weights > 0], both(reference.policy, data)[0], rtol=1e-4, atol=1e-4)


def test_hidden_states_start_at_zero_with_each_episode():
    reference = load_reference(recurrent())
    one, other = episodes([70]), episodes([45], seed=1)
    after = tables_of(PreferenceBuffer(other + one, other), reference)
    alone = tables_of(PreferenceBuffer(one, other), reference)
    torch.testing.assert_close(after.params_ref[2:5], alone.params_ref[:3], rtol=1e-5, atol=1e-6)
    # The scores depend on the hidden state: without the first sequence, the second has other scores.
    rows = slice(SEQUENCE_LENGTH, None)
    cut = episodes([70 - SEQUENCE_LENGTH], observations=np.array(one.observations[rows]))
    assert not torch.allclose(tables_of(PreferenceBuffer(cut, other), reference).params_ref[:2], alone.params_ref[1:3])


def test_hidden_states_of_batches_are_those_of_the_learning_policy():
    data, policy = buffer(), recurrent().policy
    policy.set_training_mode(False)
    other = recurrent()
    with torch.no_grad():
        for weight in other.policy.parameters():
            weight.add_(0.1)
    tables = tables_of(data, load_reference(other), policy)
    hidden, _ = hidden_states(policy, tables.observations, tables.positions)
    first = np.concatenate([start + np.arange(0, n, SEQUENCE_LENGTH) for start, n in starts_and_lengths(data)])
    torch.testing.assert_close(hidden[-1], both(policy, data)[1][first], rtol=1e-4, atol=1e-5)
    batch = next(tables.batches(SEQUENCE_LENGTH, torch.Generator().manual_seed(0)))
    drawn = (batch.inputs.states[0][-1][:, None] == hidden[-1][None]).all(-1)
    assert drawn.any(1).all()


def starts_and_lengths(data: PreferenceBuffer) -> list[tuple[int, int]]:
    lengths = [int(n) for s in (data.preferred, data.dispreferred) for n in s.episode_lengths]
    return list(zip(np.cumsum([0, *lengths[:-1]]).tolist(), lengths, strict=True))


@pytest.mark.parametrize("chunk", [1, 4, 8])
def test_reference_runs_over_a_few_sequences_at_a_time(chunk, monkeypatch):
    """The data are 10 sequences from 6 episodes."""
    reference, data = load_reference(recurrent()), buffer()
    expected = tables_of(data, reference)
    assert len(expected.positions) == 10
    monkeypatch.setattr(sequence_tables, "SEQUENCES_PER_FORWARD_PASS", chunk)
    sizes = []
    original = torch.nn.LSTM.forward

    def forward(self: Any, inputs: torch.Tensor, states: Any = None) -> Any:
        sizes.append(inputs.shape[1])
        return original(self, inputs, states)

    monkeypatch.setattr(torch.nn.LSTM, "forward", forward)
    found = tables_of(data, reference)
    assert max(sizes) == chunk
    torch.testing.assert_close(found.params_ref, expected.params_ref, rtol=1e-5, atol=1e-6)
    states, expected_states = (hidden_states(found.policy, t.observations, t.positions) for t in (found, expected))
    torch.testing.assert_close(states, expected_states)


def test_weights_and_labels_of_an_episode_reach_its_steps():
    data = buffer(preferred_weights=[1.0, 2.0, 0.0, 3.0], dispreferred_labels=[0.5, 0.25])
    tables = tables_of(data, REFERENCE)
    assert tables.weights[3].tolist() == [2.0] * 5 + [0.0] * 27
    assert tables.weights[4].tolist() == [0.0] * 32
    assert tables.weights[6].tolist() == [3.0] + [0.0] * 31
    assert tables.labels[:7].unique().tolist() == [1.0]
    assert tables.labels[[7, 8, 9], 0].tolist() == [0.5, 0.5, 0.25]


# Batches


@pytest.mark.parametrize(("batch_size", "n_drawn"), [(1, 1), (32, 1), (47, 1), (49, 2), (96, 3)])
def test_batch_holds_whole_sequences_of_both_sets(batch_size, n_drawn):
    tables = tables_of(buffer(), REFERENCE)
    batches = tables.batches(batch_size, torch.Generator().manual_seed(0))
    found: tuple[set, set] = (set(), set())
    for batch in (next(batches) for _ in range(60)):
        assert isinstance(batch.inputs, SequenceInputs)
        n = n_drawn * SEQUENCE_LENGTH
        assert batch.sets.is_preferred.tolist() == [True] * n + [False] * n
        seen = batch.inputs.observations.unflatten(0, (2 * n_drawn, SEQUENCE_LENGTH))
        chosen = (seen[:, None] == tables.observations[None]).flatten(2).all(-1).int().argmax(1)
        torch.testing.assert_close(seen, tables.observations[chosen], rtol=0, atol=0)
        for name, rows in (
            ("actions", batch.actions),
            ("params_ref", batch.params_ref),
            ("weights", batch.sets.weights),
        ):
            torch.testing.assert_close(rows, getattr(tables, name)[chosen].flatten(0, 1), rtol=0, atol=0)
        found[0].update(chosen[:n_drawn].tolist())
        found[1].update(chosen[n_drawn:].tolist())
    assert found == (set(range(7)), set(range(7, 10)))


def test_hidden_states_are_computed_again_every_100_updates():
    policy = recurrent().policy
    tables = tables_of(buffer(), REFERENCE, policy)
    old, _ = hidden_states(policy, tables.observations, tables.positions)
    batches = tables.batches(SEQUENCE_LENGTH, torch.Generator().manual_seed(0))
    next(batches)
    with torch.no_grad():
        for weight in policy.lstm_actor.parameters():
            weight.mul_(0.5)
    new, _ = hidden_states(policy, tables.observations, tables.positions)
    hidden = [next(batches).inputs.states[0] for _ in range(2 * UPDATES_PER_DRAW)]

    def are_of(found: torch.Tensor, states: torch.Tensor) -> bool:
        return bool((found[-1][:, None] == states[-1][None]).all(-1).any(1).all())

    assert all(are_of(found, old) for found in hidden[: UPDATES_PER_DRAW - 1])
    assert all(are_of(found, new) for found in hidden[UPDATES_PER_DRAW - 1 :])


def test_padding_does_not_change_what_is_learnt():
    """Other observations and actions in the padding lead to the same weights."""

    def learnt(replace: bool) -> dict[str, torch.Tensor]:
        model = PREFINE(recurrent(), buffer(), batch_size=128, learning_rate=1e-2, seed=0, device="cpu").learn(0)
        batch: Any = next(model.current_tables().batches(128, torch.Generator().manual_seed(0)))
        unreal = batch.sets.weights == 0
        assert 0 < unreal.sum() < len(unreal)
        if replace:
            batch.inputs.observations[unreal] = 9.0
            batch.actions[unreal] = -9.0
        model.train(batch)
        return {name: weight.clone() for name, weight in model.policy.state_dict().items()}

    plain, replaced = learnt(False), learnt(True)
    for name, weight in plain.items():
        torch.testing.assert_close(replaced[name], weight, rtol=1e-5, atol=1e-6)
    assert any(not torch.equal(plain[name], weight) for name, weight in recurrent().policy.state_dict().items())


def test_sft_loss_is_the_mean_over_steps_of_drawn_sequences():
    model = PREFINE(recurrent(), buffer(), batch_size=96, beta=0.0, sft_coef=1.0, seed=0, device="cpu")
    batch = next(model.current_tables().batches(96, torch.Generator().manual_seed(0)))
    model.train(batch)
    found = float(model.metrics.pop()["train/sft_loss"])
    policy = model.reference.policy
    every = both(policy, buffer())[0]
    tables = model.current_tables()
    ids = torch.full(tables.weights.shape, -1)
    ids[tables.weights > 0] = torch.arange(len(every))
    seen = batch.inputs.observations.unflatten(0, (6, SEQUENCE_LENGTH))[:3]
    chosen = (seen[:, None] == tables.observations[None]).flatten(2).all(-1).int().argmax(1)
    rows = ids[chosen].flatten()
    assert found == pytest.approx(-float(every[rows[rows >= 0]].mean()), rel=1e-4)


def test_non_finite_normalised_observations_are_refused(monkeypatch):
    reference = load_reference(recurrent())
    monkeypatch.setattr(Reference, "normalize", lambda self, seen: seen * np.float32(np.inf))
    with pytest.raises(ValueError, match=r"^preferences: .*not finite"):
        tables_of(buffer(), reference)
