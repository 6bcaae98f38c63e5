import json
from dataclasses import asdict

import pytest
import rollout_speed


@pytest.mark.parametrize("algorithm", ["PPO", "SAC"])
def test_the_shares_are_of_what_was_measured(algorithm):
    found = rollout_speed.measure("Pendulum-v1", algorithm, n_episodes=2, n_envs=2, n_workers=1, rounds=1)
    assert (found.env, found.algorithm, found.n_envs, found.n_workers) == ("Pendulum-v1", algorithm, 2, 1)
    for part in (found.evaluate, found.collect):
        assert part.share == pytest.approx(part.steps_per_second / found.raw_steps_per_second, rel=1e-2)
        assert part.share_in_one_process == pytest.approx(found.raw_cpu_us / part.cpu_us)
        # A policy takes longer than a pendulum.
        assert 0 < part.share_in_one_process < 0.9
    assert json.loads(json.dumps(asdict(found))) == asdict(found)
