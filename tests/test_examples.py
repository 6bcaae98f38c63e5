"""The examples run, and reach the results of README.md and docs/policies.md."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from examples import continue_with_rl, make_demo_data, mixture_policy, retrofit_zoo_checkpoint
from sb3_prefine import PREFINE, Trajectories, load_reference
from tests.worlds import RandomEnv, make_model, preferences

PAGE = (Path(__file__).parent.parent / "docs" / "policies.md").read_text()
ACTOR = ("mlp_extractor.policy_net.", "action_net.", "log_std")
CRITIC = ("mlp_extractor.value_net.", "value_net.")


def test_sac_checkpoint_of_the_zoo_becomes_safe(zoo, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = retrofit_zoo_checkpoint.retrofit("sac", retrofit_zoo_checkpoint.slower_gaits(episodes=10), seeds=(0,))
    assert result.before.mean_cost > 900
    [after] = result.after
    assert after.mean_cost <= retrofit_zoo_checkpoint.COST_LIMIT
    assert after.mean_reward >= 0.95 * result.data.episode_returns.mean()
    assert result.n_reached == 1
    assert (tmp_path / "runs" / "sac-HalfCheetah-safe-0.zip").is_file()
    table = retrofit_zoo_checkpoint.markdown([result])
    assert f"| SAC | {result.before.mean_reward:,.0f} / {result.before.mean_cost:.0f} |" in table


@pytest.mark.parametrize("algo", ["ppo", "a2c"])
def test_ppo_and_a2c_checkpoints_of_the_zoo_are_trained(zoo, tmp_path, monkeypatch, algo):
    monkeypatch.chdir(tmp_path)
    gaits = retrofit_zoo_checkpoint.slower_gaits(episodes=1)
    result = retrofit_zoo_checkpoint.retrofit(algo, gaits, seeds=(7,), steps=3, episodes=1)
    assert len(result.data) == 2
    assert load_reference(tmp_path / "runs" / f"{algo}-HalfCheetah-safe-7.zip").algo == algo


def test_demo_data_can_be_made_again(tmp_path, monkeypatch):
    shipped = make_demo_data.FOLDER
    monkeypatch.setattr(make_demo_data, "FOLDER", tmp_path)
    monkeypatch.setattr(make_demo_data, "TIMESTEPS", 2_048)
    make_demo_data.train()
    assert load_reference(tmp_path / "reference.zip").normalizer is not None

    # Record the episodes with the shipped policy, because a policy of 2,048 steps cannot run yet.
    (tmp_path / "reference" / "vecnormalize.pkl").write_bytes((shipped / "reference" / "vecnormalize.pkl").read_bytes())
    (tmp_path / "reference.zip").write_bytes((shipped / "reference.zip").read_bytes())
    make_demo_data.choose_episodes()
    for name in ("preferred", "dispreferred"):
        made, ships = (Trajectories.from_hdf5(folder / f"{name}.hdf5") for folder in (tmp_path, shipped))
        assert len(made) == len(ships)
        # Compare medians, because processors round differently, and a rounding can make the cheetah fall.
        assert np.median(made.episode_returns) == pytest.approx(np.median(ships.episode_returns), rel=0.1)
        assert np.median(made.episode_costs) == pytest.approx(np.median(ships.episode_costs), abs=100)


def test_mixture_keeps_both_ways_and_a_gaussian_cannot(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before, after = mixture_policy.retrofit(n_components=3)
    assert before.episode_costs.mean() == pytest.approx(20 / 3, abs=1)  # hits every third pole
    assert after.episode_costs.mean() < 1
    assert after.episode_returns.mean() == pytest.approx(20 * (1 - 0.4), abs=0.5)  # like the preferred data
    assert re.fullmatch(r"return [\d.]+, cost 0\.\d, [345]\d% on the left", mixture_policy.summary(after))
    assert (tmp_path / "runs" / "slalom-3.zip").is_file()
    _, after = mixture_policy.retrofit(n_components=1)
    assert after.episode_costs.mean() > 5


@pytest.fixture(scope="module")
def mixture() -> tuple[mixture_policy.Mixture, torch.Tensor, MixtureSameFamily]:
    """A mixture of 3 components over 2 actions, its parameters in 4 states, and torch's distribution with them."""
    torch.manual_seed(0)
    box = spaces.Box(-1.0, 1.0, (2,), np.float32)
    policy = mixture_policy.Mixture(box, box, n_components=3)
    params = policy.params(3 * torch.randn(4, 2)).detach()
    logits, means, log_stds = params[:, :3], params[:, 3:9].reshape(4, 3, 2), params[:, 9:].reshape(4, 3, 2)
    normals = Independent(Normal(means, log_stds.clamp(-3, 1).exp()), 1)
    return policy, params, MixtureSameFamily(Categorical(logits=logits), normals)


def test_mixture_log_prob_is_equal_to_torch(mixture):
    policy, params, expected = mixture
    actions = torch.randn(5, 4, 2)
    torch.testing.assert_close(policy.log_prob(params, actions), expected.log_prob(actions))


def test_mixture_samples_have_the_mean_and_variance_of_torch(mixture):
    policy, params, expected = mixture
    generator = torch.Generator().manual_seed(1)
    n = 20_000
    samples = policy.sample(params.repeat(n, 1), generator).reshape(n, 4, 2)
    error = expected.stddev / n**0.5
    assert ((samples.mean(dim=0) - expected.mean).abs() < 5 * error).all()
    assert ((samples.var(dim=0) / expected.variance - 1).abs() < 0.1).all()
    again = policy.sample(params.repeat(n, 1), torch.Generator().manual_seed(1)).reshape(n, 4, 2)
    assert torch.equal(again, samples)
    assert (policy.sample(params, None) != policy.sample(params, None)).all()


def test_mixture_mode_is_the_mean_of_the_heaviest_component(mixture):
    policy, params, expected = mixture
    heaviest = expected.mixture_distribution.probs.argmax(dim=-1)
    for row, action in enumerate(policy.mode(params)):
        assert torch.equal(action, expected.component_distribution.mean[row, heaviest[row]])


def exported(tmp_path: Path) -> tuple[PPO, Path]:
    """A PPO with a normaliser, trained for 80 steps, and the zip that PREFINE exported from it."""
    source = make_model(PPO, VecNormalize(make_vec_env(RandomEnv, 2)), n_steps=20, batch_size=20, n_epochs=2).learn(80)
    return source, PREFINE(source, preferences(), seed=0, device="cpu").learn(20).export(tmp_path / "safe")


def changed_parameters(before: dict[str, torch.Tensor], model: PPO) -> set[str]:
    """The names of the parameters that are not equal to the bit."""
    return {key for key, value in model.policy.state_dict().items() if not torch.equal(value, before[key])}


def test_rl_continues_from_an_export_with_the_original_critic(tmp_path):
    source, path = exported(tmp_path)
    env = VecNormalize.load(str(tmp_path / "safe" / "vecnormalize.pkl"), make_vec_env(RandomEnv, 3))
    model = PPO.load(path, env=env, device="cpu")
    with pytest.raises(IsADirectoryError):
        PPO.load(tmp_path / "safe")  # the normaliser's folder
    weights = source.policy.state_dict()
    assert {key for key in weights if key.startswith(ACTOR)} | {
        key for key in weights if key.startswith(CRITIC)
    } == set(weights)
    changed = changed_parameters(weights, model)
    assert changed == {key for key in weights if key.startswith(ACTOR)}  # and the critic not by a bit

    # As with a zip of PPO itself, the counters and the optimizer continue.
    assert (model.num_timesteps, model._n_updates) == (80, 4)
    moments = model.policy.optimizer.state_dict()["state"], source.policy.optimizer.state_dict()["state"]
    assert all(torch.equal(moments[0][i]["exp_avg"], moments[1][i]["exp_avg"]) for i in moments[1])
    assert env.obs_rms.count == source.get_vec_normalize_env().obs_rms.count
    statistics = env.obs_rms.mean.copy()
    old_episodes = list(source.ep_info_buffer)
    model.learn(60, reset_num_timesteps=False)
    assert (model.num_timesteps, model._n_updates) == (140, 6)
    assert list(model.ep_info_buffer)[: len(old_episodes)] == old_episodes
    model.learn(60)
    assert (model.num_timesteps, model._n_updates) == (60, 8)
    assert not any(episode in old_episodes for episode in model.ep_info_buffer)
    assert changed_parameters(weights, model) == set(weights)

    # The normaliser stays as it was exported, until training is set.
    assert np.array_equal(env.obs_rms.mean, statistics)
    env.training = True
    model.learn(60)
    assert not np.array_equal(env.obs_rms.mean, statistics)


def test_frozen_actor_does_not_change_while_the_critic_learns(tmp_path):
    _, path = exported(tmp_path)
    env = VecNormalize.load(str(tmp_path / "safe" / "vecnormalize.pkl"), make_vec_env(RandomEnv, 3))
    model = PPO.load(path, env=env, device="cpu")
    before = {key: value.clone() for key, value in model.policy.state_dict().items()}
    continue_with_rl.freeze_actor(model, True)
    model.learn(60)
    assert changed_parameters(before, model) == {key for key in before if key.startswith(CRITIC)}
    continue_with_rl.freeze_actor(model, False)
    model.learn(60)
    assert changed_parameters(before, model) == set(before)


def test_rl_continues_with_the_policy_of_the_demo(tmp_path, monkeypatch):
    monkeypatch.setattr(continue_with_rl, "CRITIC_STEPS", 2_048)
    path = continue_with_rl.make_safe(tmp_path / "safe", steps=10)
    setting = continue_with_rl.PENALTY, True
    run = continue_with_rl.continue_training(path, *setting, seed=0, steps=3 * 2_048)
    assert len(run.rewards) == len(run.costs) == 3
    assert run.critic.explained_variance <= 1
    assert run.critic.value > run.critic.earned  # the original critic does not know the penalty
    row = continue_with_rl.markdown({setting: [run]}).splitlines()[-1]
    assert row.startswith(f"| reward - 5 cost | yes | {run.critic.explained_variance:.2f} |")
    assert row.endswith(f"| {run.rewards[-1]:,.0f} / {run.costs[-1]:.0f} |")


def test_cost_is_subtracted_from_the_reward():
    env = continue_with_rl.CostInReward(RandomEnv(), penalty=5.0)
    env.reset(seed=0)
    assert env.step(np.array([1.0, 0.5, 0.0]))[1] == 1.5 - 5.0
    assert env.step(np.array([-1.0, 0.5, 0.0]))[1] == -0.5


def test_table_in_the_docs_has_the_rows_of_the_example():
    assert continue_with_rl.markdown({}) in PAGE
    for penalty, critic_first in (
        (0.0, False),
        (0.0, True),
        (continue_with_rl.PENALTY, False),
        (continue_with_rl.PENALTY, True),
    ):
        start = f"| reward{f' - {penalty:g} cost' if penalty else ''} | {'yes' if critic_first else 'no'} |"
        assert f"\n{start}" in PAGE
