import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import DQN, PPO, TD3

from sb3_prefine import PREFINE, PreferenceBuffer, Trajectories, evaluate_policy
from sb3_prefine.callbacks import CostEvalCallback, EarlyStopping
from sb3_prefine.cli.demo import DATA
from sb3_prefine.cli.options import Hyperparameters
from tests.cli.conftest import ENV
from tests.worlds import BAD, GOOD, assert_same_weights, env_with_actions, make_model, trajectories

FAST_TRAINING = ("--learning-rate", 3e-3, "--batch-size", 64, "--device", "cpu")


def weights_in(path):
    """The policy's weights in a plain zip."""
    return PPO.load(path, device="cpu").policy.state_dict()


def sets_of(two_sets):
    return ("--preferred", two_sets[0], "--dispreferred", two_sets[1])


# Data


def test_data_option_selects_the_same_as_from_costs(call, policy, data, tmp_path):
    outcome = call(
        *("train", policy, "--data", data, "--cost-limit", 30, "--n-preferred", 2, "--n-dispreferred", 3),
        *("--data-seed", 6, "--seed", 1, "--steps", 20, "--out", tmp_path / "safe", *FAST_TRAINING),
    )
    assert outcome.code == 0, outcome
    preferences = PreferenceBuffer.from_costs(Trajectories.from_hdf5(data), 30, 2, 3, seed=6)
    expected = PREFINE(policy, preferences, learning_rate=3e-3, batch_size=64, seed=1, device="cpu").learn(20)
    assert_same_weights(weights_in(tmp_path / "safe.zip"), expected.policy.state_dict())
    assert f"Wrote {tmp_path / 'safe.zip'}: a plain Stable-Baselines3 zip (ppo)." in outcome.out
    [row] = [line for line in outcome.out.splitlines() if line.strip().startswith("preferred data")]
    assert row.split()[2] == "2"


def test_several_files_make_one_set(call, policy, two_sets, tmp_path):
    slow, fast = two_sets
    outcome = call(
        *("train", policy, "--preferred", slow, "--dispreferred", fast, fast, "--held-out", 0),
        *("--seed", 1, "--steps", 5, "--out", tmp_path / "safe.zip", *FAST_TRAINING),
    )
    assert outcome.code == 0, outcome
    bad = Trajectories.from_hdf5(fast)
    preferences = PreferenceBuffer(Trajectories.from_hdf5(slow), bad + bad)
    expected = PREFINE(policy, preferences, learning_rate=3e-3, batch_size=64, seed=1, device="cpu").learn(5)
    assert_same_weights(weights_in(tmp_path / "safe.zip"), expected.policy.state_dict())


def test_mmap_streams_the_data_through_the_buffer(call, policy, two_sets, tmp_path):
    outcome = call(
        *("train", policy, *sets_of(two_sets), "--mmap", "--buffer-size", 200, "--held-out", 0),
        *("--seed", 1, "--steps", 5, "--out", tmp_path / "safe.zip", *FAST_TRAINING),
    )
    assert outcome.code == 0, outcome
    preferences = PreferenceBuffer(*(Trajectories.from_hdf5(path, mmap=True) for path in two_sets))
    options = {"learning_rate": 3e-3, "batch_size": 64, "seed": 1, "device": "cpu"}
    expected = PREFINE(policy, preferences, buffer_size=200, **options).learn(5)
    assert_same_weights(weights_in(tmp_path / "safe.zip"), expected.policy.state_dict())
    all_in_memory = PREFINE(policy, preferences, **options).learn(5)
    with pytest.raises(AssertionError):
        assert_same_weights(weights_in(tmp_path / "safe.zip"), all_in_memory.policy.state_dict())


def test_training_stops_early_with_held_out_episodes(call, policy, two_sets, tmp_path):
    outcome = call(
        *("train", policy, *sets_of(two_sets), "--held-out", 0.3, "--patience", 1, "--seed", 1, "--steps", 2000),
        *("--out", tmp_path / "safe.zip", "--learning-rate", 1e-2, "--batch-size", 64, "--device", "cpu"),
    )
    assert outcome.code == 0, outcome
    preferences = PreferenceBuffer(*(Trajectories.from_hdf5(path) for path in two_sets))
    rest, held_out = preferences.split(0.3, seed=1)
    expected = PREFINE(policy, rest, learning_rate=1e-2, batch_size=64, seed=1, device="cpu")
    stopping = EarlyStopping(held_out, patience=1)
    expected.learn(2000, stopping)
    assert expected.num_timesteps < 2000, "the settings must lead to an early stop"
    assert_same_weights(weights_in(tmp_path / "safe.zip"), expected.policy.state_dict())
    assert f"Training stopped after {expected.num_timesteps:,} gradient steps." in outcome.out
    assert f"The weights are those after {stopping.best_timestep:,}," in outcome.out


def test_too_few_episodes_are_not_held_out(call, policy, data, tmp_path):
    outcome = call(
        *("train", policy, "--data", data, "--cost-limit", 30, "--n-preferred", 2, "--n-dispreferred", 3),
        *("--steps", 3, "--out", tmp_path / "safe", *FAST_TRAINING),
    )
    assert re.search(r"^No early stopping: .* 2 episodes .* 10%", outcome.out, flags=re.MULTILINE)
    assert "3 gradient steps in" in outcome.out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], r"--preferred, --dispreferred: "),
        (["--preferred", "DATA"], r"--preferred, --dispreferred: "),
        (["--dispreferred", "DATA"], r"--preferred, --dispreferred: "),
        (["--data", "DATA", "--preferred", "DATA"], r"--preferred, --dispreferred: "),
        (["--data", "DATA"], "--cost-limit: "),
        (["--data", "DATA", "--cost-limit", "0"], r"cost_limit\b.*\b0\b"),
        (["--data", "DATA", "--cost-limit", "30", "--eval-freq", "-1", "--eval-env", ENV], "eval_freq: .*-1"),
        (["--data", "DATA", "--cost-limit", "30", "--steps", "0"], "--steps: .*0"),
        (["--data", "DATA", "--cost-limit", "30", "--held-out", "1"], "--held-out: .*1"),
        (["--data", "DATA", "--cost-limit", "30", "--patience", "0"], "--patience: .*0"),
        (["--data", "DATA", "--cost-limit", "30", "--beta", "-1"], "beta: .*-1"),
        (["--preferred", "DATA", "--dispreferred", "DATA", "--eval-env", ENV], "--eval-cost-limit: "),
        (["--preferred", "DATA", "--dispreferred", "nowhere.hdf5"], r"nowhere\.hdf5: "),
    ],
)
def test_wrong_options_are_refused_before_training(call, policy, data, tmp_path, options, message):
    options = [str(data) if option == "DATA" else option for option in options]
    outcome = call("train", policy, "--out", tmp_path / "safe.zip", "--eval-episodes", 1, *options)
    assert re.match(message, outcome.error)
    assert "updates" not in outcome.err
    assert list(tmp_path.iterdir()) == []


def test_policy_without_a_likelihood_is_refused_in_one_line(call, two_sets, tmp_path):
    make_model(TD3, ENV).save(tmp_path / "td3.zip")
    outcome = call("train", tmp_path / "td3.zip", *sets_of(two_sets), "--out", tmp_path / "safe.zip")
    assert re.match(r"policy: .*TD3Policy", outcome.error)
    assert len(outcome.err.splitlines()) == 1


def test_data_of_another_environment_are_refused(call, two_sets, tmp_path):
    make_model(PPO).save(tmp_path / "other.zip")
    outcome = call("train", tmp_path / "other.zip", *sets_of(two_sets), "--out", tmp_path / "safe.zip")
    assert re.search(r"\(7,\).*\(5,\)", outcome.error)


def test_divergence_is_an_error_and_writes_no_file(call, policy, two_sets, tmp_path):
    outcome = call(
        *("train", policy, *sets_of(two_sets), "--out", tmp_path / "safe.zip"),
        *("--learning-rate", 1e30, "--steps", 20, "--device", "cpu"),
    )
    assert "not finite" in outcome.error
    assert list(tmp_path.iterdir()) == []


# Hyperparameters and files


def test_all_hyperparameters_reach_the_model(call, policy, two_sets, tmp_path):
    values = {
        "learning_rate": 1e-3,
        "batch_size": 32,
        "beta": 0.1,
        "sft_coef": 0.7,
        "loss_type": "robust",
        "label_smoothing": 0.1,
        "log_ratio_bound": 5.0,
        "n_counterfactuals": 2,
        "counterfactuals": "reference",
        "log_std_min": -4.0,
        "max_grad_norm": 0.5,
        "buffer_size": 500,
    }
    defaults = vars(Hyperparameters())
    assert set(values) == set(defaults) - {"fixed_std", "temperature"}
    assert not set(values.items()) & set(defaults.items())
    options = [text for name, value in values.items() for text in (f"--{name.replace('_', '-')}", value)]
    outcome = call(
        *("train", policy, *sets_of(two_sets), "--out", tmp_path / "safe.zip", "--save-model", tmp_path / "model"),
        *("--steps", 3, "--seed", 8, "--device", "cpu", *options),
    )
    assert outcome.code == 0, outcome
    model = PREFINE.load(tmp_path / "model.zip", device="cpu")
    assert {name: getattr(model, name) for name in values} == values
    assert model.seed == 8
    assert model.num_timesteps == 3
    assert_same_weights(weights_in(tmp_path / "safe.zip"), model.policy.state_dict())


@pytest.mark.parametrize(("algorithm", "name"), [(TD3, "fixed_std"), (DQN, "temperature")])
def test_fixed_std_and_temperature_reach_the_model(call, tmp_path, algorithm, name):
    env = env_with_actions(spaces.Discrete(4))() if algorithm is DQN else None
    make_model(algorithm, env, buffer_size=100).save(tmp_path / "source.zip")
    for file, action, number in (("good.hdf5", GOOD, 2), ("bad.hdf5", BAD, 0)):
        episodes = trajectories(action)
        if algorithm is DQN:
            episodes = replace(episodes, actions=np.full(len(episodes.rewards), number))
        episodes.to_hdf5(tmp_path / file)
    outcome = call(
        *("train", tmp_path / "source.zip", *sets_of((tmp_path / "good.hdf5", tmp_path / "bad.hdf5"))),
        *("--out", tmp_path / "safe.zip", "--save-model", tmp_path / "model", "--steps", 3),
        *(f"--{name.replace('_', '-')}", 0.3, "--device", "cpu"),
    )
    assert outcome.code == 0, outcome
    model = PREFINE.load(tmp_path / "model.zip", device="cpu")
    assert getattr(model, name) == 0.3
    assert_same_weights(algorithm.load(tmp_path / "safe.zip").policy.state_dict(), model.policy.state_dict())


def test_fine_tuned_zip_can_be_trained_again(call, policy, two_sets, tmp_path):
    arguments = (*sets_of(two_sets), "--steps", 5, *FAST_TRAINING)
    for source, name in ((policy, "one"), (tmp_path / "one.zip", "two")):
        outcome = call(
            "train", source, *arguments, "--out", tmp_path / name, "--save-model", tmp_path / f"{name}_model"
        )
        assert outcome.code == 0, outcome
    assert call("train", tmp_path / "one_model.zip", *arguments, "--out", tmp_path / "also_two").code == 0
    assert_same_weights(weights_in(tmp_path / "two.zip"), weights_in(tmp_path / "also_two.zip"))
    assert not torch.equal(weights_in(tmp_path / "one.zip")["log_std"], weights_in(tmp_path / "two.zip")["log_std"])


def test_normaliser_is_written_next_to_the_exported_zip(call, tmp_path):
    outcome = call(
        *("train", DATA / "reference.zip", "--preferred", DATA / "preferred.hdf5"),
        *("--dispreferred", DATA / "dispreferred.hdf5", "--steps", 2, "--out", tmp_path / "safe.zip"),
    )
    assert outcome.code == 0, outcome
    assert (tmp_path / "safe" / "vecnormalize.pkl").is_file()
    assert "VecNormalize over" in call("info", tmp_path / "safe.zip").out


def test_tensorboard_option_writes_logs(call, policy, two_sets, tmp_path):
    outcome = call(
        *("train", policy, *sets_of(two_sets), "--out", tmp_path / "safe.zip", "--steps", 100),
        *("--tensorboard", tmp_path / "logs", *FAST_TRAINING),
    )
    assert outcome.code == 0, outcome
    assert list((tmp_path / "logs" / "PREFINE_1").glob("events.out.tfevents.*"))


@pytest.mark.parametrize("name", ["safe.zip", "safe_best.zip", "model.zip"])
def test_existing_files_are_not_replaced(call, policy, two_sets, tmp_path, name):
    (tmp_path / name).write_text("mine")
    outcome = call(
        *("train", policy, *sets_of(two_sets), "--out", tmp_path / "safe", "--save-model", tmp_path / "model"),
        *("--eval-env", ENV, "--eval-cost-limit", 30),
    )
    assert re.match(rf".*{name}: .*--overwrite", outcome.error)
    assert (tmp_path / name).read_text() == "mine"


def test_two_outputs_cannot_share_a_file(call, policy, two_sets, tmp_path):
    outcome = call(
        "train", policy, *sets_of(two_sets), "--out", tmp_path / "safe", "--save-model", tmp_path / "safe.zip"
    )
    assert "safe.zip" in outcome.error
    assert list(tmp_path.iterdir()) == []


# Evaluation


@pytest.fixture
def train_with_evaluation(call, policy, two_sets, tmp_path):
    """Trains for 80 steps with an evaluation every 20 steps."""

    def train_with_evaluation(*options, sets=two_sets):
        outcome = call(
            *("train", policy, *sets_of(sets), "--out", tmp_path / "safe.zip", "--steps", 80, *FAST_TRAINING),
            *("--eval-env", ENV, "--eval-cost-limit", 60, "--eval-episodes", 3, "--eval-freq", 20),
            *("--eval-seed", 11, "--eval-n-envs", 3, *options),
        )
        assert outcome.code == 0, outcome
        return outcome

    return train_with_evaluation


def test_training_is_evaluated_and_the_best_safe_policy_is_kept(train_with_evaluation, policy, two_sets, tmp_path):
    outcome = train_with_evaluation("--held-out", 0)

    preferences = PreferenceBuffer(*(Trajectories.from_hdf5(path) for path in two_sets))
    expected = PREFINE(policy, preferences, learning_rate=3e-3, batch_size=64, seed=0, device="cpu")
    callback = CostEvalCallback(
        ENV, cost_limit=60, eval_freq=20, n_eval_episodes=3, seed=12, best_model_save_path=tmp_path / "py", verbose=0
    )
    expected.learn(80, callback)
    best = PREFINE.load(tmp_path / "py" / "best_model.zip", device="cpu")
    assert 20 < best.num_timesteps < 80, "the settings must make neither the first nor the last the best"
    assert_same_weights(weights_in(tmp_path / "safe.zip"), expected.policy.state_dict())
    assert_same_weights(weights_in(tmp_path / "safe_best.zip"), best.policy.state_dict())

    rows = {line[:22].strip(): line for line in outcome.out.splitlines()}
    for name, model in (
        ("reference", policy),
        ("after 80 steps", expected),
        (f"best safe: {best.num_timesteps} steps", best),
    ):
        evaluation = evaluate_policy(model, ENV, 3, seed=11)
        assert f"{evaluation.mean_reward:,.0f}" in rows[name]
        assert f"{evaluation.mean_cost:,.1f}" in rows[name]
        assert f"{evaluation.violation_rate(60):.0%}" in rows[name]
    assert [
        line.partition(":")[0] for line in outcome.out.splitlines() if line.startswith("after ") and ":" in line
    ] == [f"after {step} steps" for step in (20, 40, 60, 80)]
    assert f"Wrote {tmp_path / 'safe_best.zip'}" in outcome.out


def test_old_best_file_is_deleted_if_no_policy_is_safe(train_with_evaluation, policy, two_sets, tmp_path):
    (tmp_path / "safe_best.zip").write_bytes(policy.read_bytes())
    outcome = train_with_evaluation("--overwrite", sets=two_sets[::-1])  # fast balls are preferred
    assert "No policy found during training was safe." in outcome.out
    assert not (tmp_path / "safe_best.zip").exists()
    assert "best safe" not in outcome.out


def test_evaluation_uses_the_limit_of_the_data_by_default(call, policy, data, tmp_path):
    outcome = call(
        *("train", policy, "--data", data, "--cost-limit", 35, "--n-preferred", 2, "--n-dispreferred", 3),
        *("--out", tmp_path / "safe.zip", "--steps", 2, "--eval-env", ENV, "--eval-episodes", 1, "--eval-freq", 0),
    )
    assert "over 35" in outcome.out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["safe.zip"]


def test_environment_without_costs_is_refused(call, tmp_path):
    pendulum = make_model(PPO, "Pendulum-v1")
    pendulum.save(tmp_path / "pendulum.zip")
    assert call("collect", tmp_path / "pendulum.zip", "Pendulum-v1", "--out", tmp_path / "x", "--episodes", 2).code == 0
    outcome = call(
        *("train", tmp_path / "pendulum.zip", "--preferred", tmp_path / "x", "--dispreferred", tmp_path / "x"),
        *("--out", tmp_path / "safe.zip", "--steps", 2, "--eval-freq", 1, "--eval-episodes", 1),
        *("--eval-env", "Pendulum-v1", "--eval-cost-limit", 1),
    )
    assert re.match(r'eval_env: .*info\["cost"\]', outcome.error)


def test_exported_zip_acts_like_the_trained_model(train_with_evaluation, tmp_path):
    train_with_evaluation("--save-model", tmp_path / "model")
    observations = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
    model = PREFINE.load(tmp_path / "model.zip", device="cpu")
    exported = PPO.load(tmp_path / "safe.zip", device="cpu")
    np.testing.assert_array_equal(
        exported.predict(observations, deterministic=True)[0], model.predict(observations, deterministic=True)[0]
    )
