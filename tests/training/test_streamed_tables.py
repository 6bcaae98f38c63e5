"""Data that stay on disk: all transitions are equally likely, and few of them are in memory."""

import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3 import PPO

from sb3_prefine import PREFINE, PreferenceBuffer, Trajectories, collect, load_reference
from sb3_prefine.policies.base import MaskedInputs
from sb3_prefine.policies.likelihood import likelihood_of
from sb3_prefine.training.streamed_tables import DRAWS_PER_TRANSITION, StreamedTables, cut_into_blocks, open_tables
from sb3_prefine.training.transition_tables import Batch, TransitionTables, build_tables
from tests.families import FAMILIES
from tests.worlds import ACTIONS, BAD, GOOD, OBSERVATIONS, assert_same_weights, make_model, trajectories, weights

CPU = torch.device("cpu")


def mapped(trajectories: Trajectories, path: Path) -> Trajectories:
    """Write episodes to disk and open them there."""
    trajectories.to_hdf5(path)
    return Trajectories.from_hdf5(path, mmap=True)


def on_disk(buffer: PreferenceBuffer, folder: Path) -> PreferenceBuffer:
    return PreferenceBuffer(
        mapped(buffer.preferred, folder / "preferred.hdf5"),
        mapped(buffer.dispreferred, folder / "dispreferred.hdf5"),
        preferred_weights=buffer.preferred_weights,
        dispreferred_labels=buffer.dispreferred_labels,
    )


def numbered(n_preferred: int, n_dispreferred: int) -> PreferenceBuffer:
    """Make episodes of ten transitions, each with its number as the first entry of its observation."""
    sets = []
    for first, n in ((0, n_preferred), (n_preferred, n_dispreferred)):
        t = trajectories(GOOD if first == 0 else BAD, n // 10, seed=first)
        observations = t.observations.copy()
        observations[:, 0] = first + np.arange(n)
        parts = {name: getattr(t, name) for name in ("actions", "rewards", "costs", "terminals", "timeouts")}
        sets.append(Trajectories(observations=observations, next_observations=observations, **parts))
    return PreferenceBuffer(*sets)


def open_stream(buffer: PreferenceBuffer, buffer_size: int, model: Any = None) -> Any:
    reference = load_reference(model or make_model(PPO))
    return open_tables(buffer, reference, likelihood_of(reference.policy, -5.0), CPU, buffer_size)


def rows_of(batch: Batch) -> list[int]:
    return [int(row) for row in batch.inputs[:, 0]]  # type: ignore[index]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# Which transitions are drawn


@settings(deadline=None)  # on a busy machine the first call may wait
@given(first=st.integers(0, 50), n=st.integers(1, 60), length=st.integers(1, 70), seed=st.integers(0, 99))
def test_a_pass_yields_all_rows_in_blocks_of_consecutive_rows(first, n, length, seed):
    blocks = cut_into_blocks(range(first, first + n), length, np.random.default_rng(seed))
    for _ in range(3):
        one_pass = [next(blocks) for _ in range(-(-n // length))]
        assert {len(block) for block in one_pass} == {length}
        times = Counter(np.concatenate(one_pass).tolist())
        assert set(times) == set(range(first, first + n))
        assert sum(times.values()) - n < length
        for block in one_pass:
            np.testing.assert_array_equal((block - block[0]) % n, np.arange(length) % n)


@pytest.mark.parametrize("position", [0, 3, 7])
def test_all_rows_are_equally_likely_in_every_block(position):
    """23 rows in blocks of 4: the last block of a pass is padded. Chi-square test over seeds, at 1 in a million."""
    counts = np.zeros(23)
    n_seeds = 5_000
    for seed in range(n_seeds):
        blocks = cut_into_blocks(range(23), 4, np.random.default_rng(seed))
        for _ in range(position):
            next(blocks)
        counts[next(blocks)[seed % 4]] += 1
    expected = n_seeds / 23
    assert ((counts - expected) ** 2 / expected).sum() < 70.0  # 22 degrees of freedom


def test_all_rows_are_drawn_equally_often(tmp_path):
    buffer = on_disk(numbered(320, 480), tmp_path)
    batches = open_stream(buffer, 320).batches(16, generator())  # 16 blocks of 10 of each set
    counts: Counter[int] = Counter()
    for _ in range(1_200):
        counts.update(rows_of(next(batches)))
    for rows in (range(320), range(320, 800)):
        found = np.array([counts[row] for row in rows])
        expected = 1_200 * 16 / len(rows)
        assert found.sum() == 1_200 * 16
        # The standard deviation of independent draws would be the square root of their expected number.
        assert found.std() < 1.3 * expected**0.5
        assert abs(found - expected).max() < 6 * expected**0.5


def test_batches_come_from_few_blocks_which_are_replaced(tmp_path):
    buffer = on_disk(numbered(4_000, 4_000), tmp_path)
    stream = open_stream(buffer, 1_600)  # 16 blocks of 50 of each set
    batches = stream.batches(100, generator())
    # Two updates draw 200 preferred transitions, four times a block: a block is replaced after every second update.
    seen = [{row // 50 for row in rows_of(next(batches))[:100]} for _ in range(40)]
    assert DRAWS_PER_TRANSITION == 4
    assert all(len(blocks) <= 17 * 2 for blocks in seen)
    early, late = set.union(*seen[:4]), set.union(*seen[36:])
    assert len(early & late) < len(early)
    assert len(set.union(*seen)) > len(early)


@pytest.mark.parametrize(
    ("sizes", "buffer_size", "expected"),
    [
        ((500, 500), 100, (48, 48)),  # 50 each, in blocks of 3
        ((20, 500), 100, (20, 80)),  # the smaller set is held completely
        ((500, 20), 100, (80, 20)),
        ((60, 500), 100, (48, 48)),
        ((500, 500), 1, (1, 1)),
    ],
)
def test_tables_in_memory_do_not_exceed_buffer_size(tmp_path, monkeypatch, sizes, buffer_size, expected):
    stream = open_stream(on_disk(numbered(*sizes), tmp_path), buffer_size)
    held: list[TransitionTables] = []
    empty_tables = stream.builder.empty_tables

    def remember(*args: Any) -> TransitionTables:
        held.append(empty_tables(*args))
        return held[-1]

    monkeypatch.setattr(stream.builder, "empty_tables", remember)
    batches = stream.batches(16, generator())
    for _ in range(20):
        next(batches)
    [tables] = held
    assert (tables.n_preferred, len(tables.actions) - tables.n_preferred) == expected
    if expected[0] == sizes[0]:
        assert tables.observations[:20, 0].tolist() == list(range(20))  # type: ignore[index]


@pytest.mark.parametrize("batch_size", [1, 7, 64, 300])
def test_number_of_draws_decides_when_blocks_are_replaced(tmp_path, monkeypatch, batch_size):
    stream = open_stream(on_disk(numbered(500, 20), tmp_path), 100)
    n_scored = []
    score = stream.builder.score
    monkeypatch.setattr(stream.builder, "score", lambda rows: n_scored.append(len(rows)) or score(rows))
    batches = stream.batches(batch_size, generator())
    next(batches)
    # One row for the shapes, the 20 rows of the smaller set, and 16 blocks of 5.
    assert sorted(n_scored) == [1] + [5] * 16 + [20]
    for _ in range(50):
        next(batches)
    # 50 updates are complete: the last batch is still in use.
    assert len(n_scored) - 18 == 50 * batch_size // (DRAWS_PER_TRANSITION * 5)


# Values of the rows


@pytest.mark.parametrize("name", ["PPO", "SAC", "PPO, Discrete", "PPO, Dict", "MaskablePPO, Discrete"])
def test_streamed_rows_equal_those_of_tables_of_all_data(tmp_path, name):
    family = next(family for family in FAMILIES if family.name == name)
    model = family.make()
    data = [collect(model, family.env(), 12, n_envs=1, seed=seed, progress_bar=False) for seed in (0, 1000)]
    rng = np.random.default_rng(0)
    buffer = PreferenceBuffer(*data, preferred_weights=1 + rng.random(12), dispreferred_labels=rng.random(12))
    reference = load_reference(model)
    likelihood = likelihood_of(reference.policy, -5.0)
    whole = build_tables(buffer, reference, likelihood, CPU)
    stream = open_tables(on_disk(buffer, tmp_path), reference, likelihood, CPU, 100)
    assert isinstance(stream, StreamedTables)

    def flat(inputs: Any) -> torch.Tensor:
        masks = []
        if isinstance(inputs, MaskedInputs):
            inputs, masks = inputs.observations, [inputs.action_masks]
        parts = list(inputs.values()) if isinstance(inputs, dict) else [inputs]
        return torch.cat([part.flatten(1).double() for part in (*parts, *masks)], dim=1)

    known = flat(
        whole.observations if whole.action_masks is None else MaskedInputs(whole.observations, whole.action_masks)
    )
    batches = stream.batches(16, generator())
    for batch in (next(batches) for _ in range(20)):
        found = (flat(batch.inputs)[:, None] == known[None]).all(-1)
        assert found.any(1).all()
        rows = found.int().argmax(1)
        assert ((rows < whole.n_preferred) == batch.sets.is_preferred).all()
        torch.testing.assert_close(batch.actions, whole.actions[rows])
        torch.testing.assert_close(batch.params_ref, whole.params_ref[rows])
        torch.testing.assert_close(batch.sets.weights, whole.weights[rows])  # type: ignore[index]
        torch.testing.assert_close(batch.labels, whole.labels[rows])  # type: ignore[index]


# Training


def trained(buffer: PreferenceBuffer, buffer_size: int, seed: int = 0, n: int = 60) -> dict[str, torch.Tensor]:
    model = PREFINE(make_model(PPO), buffer, batch_size=16, buffer_size=buffer_size, seed=seed, device="cpu")
    return weights(model.learn(n).policy)


def test_data_on_disk_that_fit_in_memory_train_exactly_the_same(tmp_path):
    buffer = numbered(200, 500)
    assert_same_weights(trained(on_disk(buffer, tmp_path), 700), trained(buffer, 1))


def test_seed_decides_the_batches_of_a_stream(tmp_path):
    buffer = on_disk(numbered(200, 500), tmp_path)
    once = trained(buffer, 100)
    assert_same_weights(trained(buffer, 100), once)
    other = trained(buffer, 100, seed=1)
    assert not all(torch.equal(other[name], tensor) for name, tensor in once.items())


def test_stream_learns_the_same_as_all_data(tmp_path):
    """The mean action moves the same distance from the reference's towards the preferred action."""
    buffer = PreferenceBuffer(trajectories(GOOD, 200), trajectories(BAD, 200, seed=1))
    states = torch.tensor(buffer.preferred.observations[:200])
    reference = load_reference(make_model(PPO))
    distance = []
    for data, buffer_size in ((buffer, 1), (on_disk(buffer, tmp_path), 400)):
        model = PREFINE(
            reference, data, batch_size=64, learning_rate=3e-3, buffer_size=buffer_size, seed=0, device="cpu"
        )
        model.learn(300)
        with torch.no_grad():
            mean = model.policy.get_distribution(states).mode().mean(0)
        distance.append(float((mean - torch.tensor(GOOD)).norm()))
    with torch.no_grad():
        before = reference.policy.get_distribution(states).mode().mean(0)
    assert max(distance) < 0.5 * float((before - torch.tensor(GOOD)).norm())
    assert abs(distance[0] - distance[1]) < 0.2


def test_data_in_memory_are_never_streamed():
    assert isinstance(open_stream(numbered(200, 500), 100), TransitionTables)


def test_training_on_a_stream_can_continue(tmp_path):
    buffer = on_disk(numbered(200, 500), tmp_path)
    model = PREFINE(make_model(PPO), buffer, batch_size=16, buffer_size=100, seed=0, device="cpu").learn(10)
    model.learn(10, reset_num_timesteps=False)
    assert model.num_timesteps == 20


_TRAIN = """
import sys
import torch
from stable_baselines3 import PPO
from sb3_prefine import PREFINE, PreferenceBuffer, Trajectories
import sb3_prefine.data.hdf5
from tests.worlds import RandomEnv, preferences

def resident(kind):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith(kind))

model = PPO("MlpPolicy", RandomEnv(), device="cpu", policy_kwargs={"net_arch": [16]})
PREFINE(model, preferences(), device="cpu").learn(2)
before = resident("RssAnon"), resident("RssFile")
t = Trajectories.from_hdf5(sys.argv[1], mmap=True)
half = len(t) // 2
PREFINE(model, PreferenceBuffer(t[:half], t[half:]), buffer_size=60_000, batch_size=2048, device="cpu").learn(300)
print(resident("RssAnon") - before[0], resident("RssFile") - before[1])
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_training_on_a_stream_takes_little_memory(tmp_path):
    """The data have 150 MB on disk. 300 updates of 2 × 2,048 transitions read all of them about once."""
    n = 2_500_000
    rng = np.random.default_rng(0)
    with h5py.File(tmp_path / "t.hdf5", "w") as file:
        for name, width in (("observations", OBSERVATIONS), ("next_observations", OBSERVATIONS), ("actions", ACTIONS)):
            file.create_dataset(name, data=rng.random((n, width), np.float32))
        for name in ("rewards", "costs"):
            file.create_dataset(name, data=np.zeros(n, np.float32))
        file.create_dataset("terminals", data=np.zeros(n, bool))
        file.create_dataset("timeouts", data=np.arange(1, n + 1) % 1000 == 0)
    command = [sys.executable, "-c", _TRAIN, str(tmp_path / "t.hdf5")]
    found = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True)
    anonymous, file_backed = map(float, found.stdout.split())
    assert anonymous < 40
    assert file_backed < 40
