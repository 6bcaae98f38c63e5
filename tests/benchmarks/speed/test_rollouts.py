import json
from dataclasses import asdict

import pytest

from benchmarks.speed import rollouts


@pytest.mark.parametrize("policy", ["PPO", "SAC"])
def test_shares_follow_from_the_measured_speeds(policy, monkeypatch):
    monkeypatch.setattr(rollouts, "GROUP_SIZE", 2)
    found = rollouts.measure("Pendulum-v1", policy, n_workers=1, rounds=1)
    assert (found.env, found.policy, found.n_episodes, found.n_envs, found.n_workers) == (
        "Pendulum-v1",
        policy,
        2,
        2,
        1,
    )
    for part in (found.evaluate, found.collect):
        assert part.share == pytest.approx(part.steps_per_second / part.raw_steps_per_second, rel=1e-2)
        assert part.steady_share == pytest.approx(part.steady_steps_per_second / part.raw_steps_per_second, rel=1e-2)
        assert part.start == pytest.approx(1 - part.share / part.steady_share)
        # The policy takes longer than the pendulum.
        assert 0 < part.share < 0.9
    shares = asdict(found.parts)
    assert sum(shares.values()) == pytest.approx(1)
    assert all(0 < share < 1 for share in shares.values())
    assert found.make_ms > 0
    assert json.loads(json.dumps(asdict(found))) == asdict(found)


def test_environment_alone_replays_the_same_episodes():
    policy = rollouts._make_reference("Pendulum-v1", "PPO")
    recorded = rollouts._record_episodes("Pendulum-v1", policy, 3, 2, deterministic=False)
    data = rollouts.collect(policy, "Pendulum-v1", 3, n_envs=2, seed=0, progress_bar=False)
    env = rollouts.gym.make("Pendulum-v1")
    for i, episode in enumerate(recorded):
        observation, _ = env.reset(seed=episode.seed)
        for t, action in enumerate(episode.actions):
            assert observation.tolist() == data[i].observations[t].tolist()
            observation, *_ = env.step(action)
