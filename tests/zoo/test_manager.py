import csv
import re

import gymnasium as gym
import numpy as np
import optuna
import pytest
import yaml
from rl_zoo3.hyperparams_opt import HYPERPARAMS_SAMPLER
from stable_baselines3.common.callbacks import BaseCallback

from sb3_prefine import PREFINE, PreferenceBuffer, Trajectories, collect, evaluate_policy, load_reference
from tests.worlds import assert_same_weights, weights
from tests.zoo.conftest import ENV_ID

SHORT = ("-n", "20", "--eval-freq", "-1")


def run_folder(tmp_path, number=1):
    return tmp_path / "logs" / "prefine" / f"{ENV_ID}_{number}"


def load_run(tmp_path, number=1):
    return PREFINE.load(run_folder(tmp_path, number) / f"{ENV_ID}.zip")


class DoubleCost(gym.Wrapper):
    """A wrapper of the task, which doubles the cost."""

    def step(self, action):
        *rest, info = self.env.step(action)
        return *rest, {**info, "cost": 2 * info["cost"]}


class Counter(BaseCallback):
    """A callback of the task, which counts its calls."""

    calls = 0

    def _on_step(self):
        Counter.calls += 1
        return True


# A run gives the same as PREFINE alone


def test_run_learns_the_same_as_prefine(train, tmp_path, case):
    selection = ["cost_limit:20", "n_preferred:2", "n_dispreferred:3", "data_seed:4"]
    train(*SHORT, "-params", f"pretrained:'{case.folder}'", f"dataset:'{case.dataset}'", *selection, "batch_size:32")
    preferences = PreferenceBuffer.from_costs(
        Trajectories.from_hdf5(case.dataset), cost_limit=20, n_preferred=2, n_dispreferred=3, seed=4
    )
    # beta and sft_coef come from the file: the paper's values for Bullet.
    model = PREFINE(case.folder, preferences, batch_size=32, beta=0.2, sft_coef=1.0, seed=3, device="cpu")
    assert_same_weights(weights(load_run(tmp_path).policy), weights(model.learn(20).policy))
    assert not (run_folder(tmp_path) / "evaluations.npz").exists()


def test_names_are_found_in_the_folder_of_rl_trained_agents(train, tmp_path, case, monkeypatch):
    monkeypatch.setenv("RL_TRAINED_AGENTS", str(case.folder.parent.parent))
    train(*SHORT, "-params", f"pretrained:'ppo/{ENV_ID}'", *case.two_sets)
    assert load_run(tmp_path).num_timesteps == 20
    config = yaml.safe_load((run_folder(tmp_path) / ENV_ID / "config.yml").read_text())
    assert config["pretrained"] == f"ppo/{ENV_ID}"
    assert "cost_limit" not in config  # no episodes were selected


def test_conf_file_replaces_the_file_of_the_package(train, tmp_path, case):
    entry = {
        "n_timesteps": 15,
        "learning_rate": "lin_0.001",
        "sft_coef": 0.5,
        "pretrained": str(case.folder),
        "dataset": str(case.dataset),
        "cost_limit": 20,
        "n_preferred": 2,
        "n_dispreferred": 2,
    }
    (tmp_path / "mine.yml").write_text(yaml.safe_dump({"default": entry}))
    train("--eval-freq", "-1", "-conf", str(tmp_path / "mine.yml"))
    with pytest.raises(ValueError, match="learning_rate"):
        load_run(tmp_path)
    model = PREFINE.load(run_folder(tmp_path) / f"{ENV_ID}.zip", trust=True)
    assert (model.num_timesteps, model.sft_coef) == (15, 0.5)
    assert model.lr_schedule(1.0) == 0.001
    assert model.lr_schedule(0.5) == 0.0005


# Evaluation


@pytest.mark.parametrize(("eval_freq", "timesteps"), [(30, [30]), (31, range(3, 33, 3))])
def test_eval_freq_beyond_the_last_step_becomes_a_tenth(train, tmp_path, case, capsys, eval_freq, timesteps):
    options = ("-n", "30", "--eval-freq", str(eval_freq), "--eval-episodes", "1", "-params")
    train(*options, f"pretrained:'{case.folder}'", *case.two_sets)
    np.testing.assert_array_equal(np.load(run_folder(tmp_path) / "evaluations.npz")["timesteps"], timesteps)
    told = re.search(r"--eval-freq 31 .* every 3 steps", capsys.readouterr().out)
    assert bool(told) == (eval_freq == 31)


def test_evaluation_uses_the_env_kwargs_of_the_hyperparameters(train, tmp_path, case):
    hyperparams = [f"pretrained:'{case.folder}'", *case.two_sets, "env_kwargs:{'max_episode_steps': 30}"]
    train("-n", "2", "--eval-freq", "2", "--eval-episodes", "1", "-params", *hyperparams)
    assert np.load(run_folder(tmp_path) / "evaluations.npz")["ep_lengths"].tolist() == [[30]]


def test_without_a_safe_model_no_best_model_is_saved(train, tmp_path, case):
    hyperparams = [f"pretrained:'{case.folder}'", *case.two_sets, "learning_rate:0.0", "eval_cost_limit:80"]
    train("-n", "2", "--eval-freq", "1", "--eval-episodes", "1", "-params", *hyperparams)
    assert np.load(run_folder(tmp_path) / "evaluations.npz")["costs"].min() > 80
    assert not (run_folder(tmp_path) / "best_model.zip").exists()


def test_wrappers_and_callbacks_of_the_task_are_applied(train, tmp_path, case):
    Counter.calls = 0
    extras = [f"env_wrapper:'{__name__}.DoubleCost'", f"callback:'{__name__}.Counter'", "learning_rate:0.0"]
    options = ("-n", "2", "--eval-freq", "1", "--eval-episodes", "1", "-params")
    train(*options, f"pretrained:'{case.folder}'", *case.two_sets, *extras)
    train(*options, f"pretrained:'{case.folder}'", *case.two_sets, "learning_rate:0.0")
    doubled, single = (np.load(run_folder(tmp_path, number) / "evaluations.npz")["costs"] for number in (1, 2))
    np.testing.assert_array_equal(doubled, 2 * single)
    assert Counter.calls == 2
    config = yaml.safe_load((run_folder(tmp_path) / ENV_ID / "config.yml").read_text())
    assert config["env_wrapper"] == [f"{__name__}.DoubleCost"]


# Wrappers and normaliser of the reference


def test_env_wrapper_of_the_policy_is_applied(train, enjoy, tmp_path, timed_case, capsys):
    hyperparams = [f"pretrained:'{timed_case.folder}'", *timed_case.two_sets, "learning_rate:0.02"]
    train("-n", "20", "--eval-freq", "10", "--eval-episodes", "1", "-params", *hyperparams)
    model = load_run(tmp_path)
    assert model.observation_space.shape == (8,)
    config = yaml.safe_load((run_folder(tmp_path) / ENV_ID / "config.yml").read_text())
    assert config["env_wrapper"] == [{"sb3_contrib.common.wrappers.TimeFeatureWrapper": {}}]
    # The environment's own observations have one component less.
    last = np.load(run_folder(tmp_path) / "evaluations.npz")["results"][-1]
    np.testing.assert_array_equal(evaluate_policy(model, ENV_ID, 1, seed=3).episode_rewards, last)

    capsys.readouterr()
    enjoy("-n", "100")
    played = float(re.search(r"Episode Reward: (-?[\d.]+)", capsys.readouterr().out).group(1))
    assert played == pytest.approx(float(last[0]), abs=50)

    train(*SHORT, "-i", str(run_folder(tmp_path) / f"{ENV_ID}.zip"), "-params", *timed_case.two_sets)
    train(*SHORT, "-i", str(timed_case.zip_path), "-params", *timed_case.two_sets)
    assert [load_run(tmp_path, number).observation_space.shape for number in (2, 3)] == [(8,), (8,)]


def test_env_wrapper_of_the_policy_is_not_applied_twice(train, timed_case):
    path = "sb3_contrib.common.wrappers.TimeFeatureWrapper"
    hyperparams = [f"pretrained:'{timed_case.folder}'", *timed_case.two_sets, f"env_wrapper:'{path}'"]
    with pytest.raises(ValueError, match=r"\(9,\)") as raised:
        train(*SHORT, "-params", *hyperparams)
    assert raised.value.__notes__[0].startswith(f"env_wrapper: {path} ")


def test_env_wrapper_of_a_run_of_prefine_is_not_applied_twice(train, tmp_path, timed_case):
    train(*SHORT, "-params", f"pretrained:'{timed_case.folder}'", *timed_case.two_sets)
    path = "sb3_contrib.common.wrappers.TimeFeatureWrapper"
    for given in (f"env_wrapper:'{path}'", f"env_wrapper:[{{'{path}': {{}}}}]"):
        with pytest.raises(ValueError, match=rf"^env_wrapper: {path} "):
            train(*SHORT, "-params", f"pretrained:'{run_folder(tmp_path)}'", *timed_case.two_sets, given)


def test_walker2d_of_the_zoo_is_trained_twice(train, tmp_path, zoo):
    """An old zip with a time feature and float32 spaces. Today's environment has no time feature and is float64."""
    env_id = "SafetyWalker2dVelocity-v1"
    reference = load_reference(zoo / "ppo" / "Walker2d-v3_1")
    assert reference.observation_space.dtype == np.float32
    assert gym.make(env_id).observation_space.dtype == np.float64
    sets = []
    for name, factor in (("preferred", 0.6), ("dispreferred", 1.0)):
        episodes = collect(
            reference, env_id, 1, seed=0, progress_bar=False, action_transform=lambda a, factor=factor: factor * a
        )
        episodes.to_hdf5(tmp_path / f"{name}.hdf5")
        sets.append(episodes)
    two_sets = [f"{name}:'{tmp_path / name}.hdf5'" for name in ("preferred", "dispreferred")]
    options = ("--env", env_id, "-n", "2", "--eval-freq", "2", "--eval-episodes", "1")
    first, second = (tmp_path / "logs" / "prefine" / f"{env_id}_{number}" for number in (1, 2))
    train(*options, "-params", "pretrained:'ppo/Walker2d-v3'", *two_sets)
    train(*options, "-i", str(first / f"{env_id}.zip"), "-params", *two_sets)
    for run in (first, second):
        assert np.load(run / "evaluations.npz")["costs"].min() > 100

    expected = PREFINE.load(first / f"{env_id}.zip", preferences=PreferenceBuffer(*sets), seed=3, device="cpu").learn(2)
    again = PREFINE.load(second / f"{env_id}.zip", device="cpu")
    assert again.observation_space.shape == (18,)
    assert_same_weights(weights(again.policy), weights(expected.policy))
    assert_same_weights(weights(again.reference.policy), weights(reference.policy))


# Continuing with -i


def test_continuing_a_run_of_prefine_keeps_its_reference(train, tmp_path, case):
    train(*SHORT, "-params", f"pretrained:'{case.folder}'", *case.two_sets)
    first = run_folder(tmp_path) / f"{ENV_ID}.zip"
    train(*SHORT, "-i", str(first), "-params", *case.two_sets, "beta:0.4")
    again = load_run(tmp_path, 2)
    assert again.beta == 0.4

    preferences = PreferenceBuffer(Trajectories.from_hdf5(case.preferred), Trajectories.from_hdf5(case.dispreferred))
    expected = PREFINE.load(first, device="cpu", preferences=preferences, beta=0.4, seed=3).learn(20)
    assert_same_weights(weights(again.policy), weights(expected.policy))
    # The reference is that of the first run, not the result of the first run.
    assert_same_weights(weights(again.reference.policy), weights(load_reference(case.folder).policy))


def test_continuing_a_zip_of_ppo_starts_from_it(train, tmp_path, case):
    """RL Zoo would wrap the environment in the vecnormalize.pkl next to the zip."""
    train(*SHORT, "-i", str(case.zip_path), "-params", *case.two_sets)
    train(*SHORT, "-params", f"pretrained:'{case.folder}'", *case.two_sets)
    assert_same_weights(weights(load_run(tmp_path, 1).policy), weights(load_run(tmp_path, 2).policy))
    assert load_run(tmp_path).reference.normalizer is not None


# Optuna


def test_search_and_a_run_with_its_result(train, tmp_path, case):
    hyperparams = [f"pretrained:'{case.folder}'", *case.two_sets, "eval_cost_limit:20"]
    study_options = ("--storage", str(tmp_path / "study.log"), "--study-name", "s")
    train(
        *("-n", "20", "--eval-episodes", "1", "-optimize", "--n-trials", "2", "--n-evaluations", "2"),
        *("--no-optim-plots", "--optimization-log-path", str(tmp_path / "trials"), *study_options),
        *("-params", *hyperparams),
    )
    [report] = (tmp_path / "logs" / "prefine").glob(f"report_{ENV_ID}_2-trials-20-*.csv")
    rows = list(csv.DictReader(report.open()))
    assert len(rows) == 2
    for number, row in enumerate(rows):
        evaluations = np.load(tmp_path / "trials" / f"trial_{number}" / "evaluations.npz")
        np.testing.assert_array_equal(evaluations["timesteps"], [10, 20])
        reward, cost = evaluations["results"][-1].mean(), evaluations["costs"][-1].mean()
        assert float(row["user_attrs_mean_cost"]) == cost
        assert float(row["value"]) == pytest.approx(reward if cost <= 20 else -1e9 - (cost - 20))

    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(tmp_path / "study.log")))
    study = optuna.load_study(storage=storage, study_name="s")
    assert (tmp_path / "study.log").stat().st_size < 20_000  # without weights
    train(*SHORT, *study_options, "--trial-id", "1", "-params", *hyperparams)
    model = load_run(tmp_path, 2)
    assert {name: getattr(model, name) for name in study.trials[1].params} == study.trials[1].params


def test_trial_learns_the_same_as_prefine_with_its_own_seed(train, tmp_path, case):
    train(
        *("-n", "10", "--eval-episodes", "1", "-optimize", "--n-trials", "2", "--no-optim-plots"),
        *("--optimization-log-path", str(tmp_path)),
        *("-params", f"pretrained:'{case.folder}'", *case.two_sets, "log_std_min:-1.5", "eval_cost_limit:100"),
    )
    preferences = PreferenceBuffer(Trajectories.from_hdf5(case.preferred), Trajectories.from_hdf5(case.dispreferred))
    for number in range(2):
        trial = PREFINE.load(tmp_path / f"trial_{number}" / "best_model.zip")
        assert trial.log_std_min == -1.5
        drawn = {name: getattr(trial, name) for name in ("learning_rate", "batch_size", "beta", "sft_coef")}
        model = PREFINE(case.folder, preferences, log_std_min=-1.5, seed=3 + number, device="cpu", **drawn)
        assert_same_weights(weights(trial.policy), weights(model.learn(10).policy))


def test_trial_that_diverges_is_pruned(train, tmp_path, case, monkeypatch):
    draws = iter([1e30, 1e-4])
    monkeypatch.setitem(HYPERPARAMS_SAMPLER, "prefine", lambda *_: {"learning_rate": next(draws)})
    train(
        *("-n", "100", "--eval-episodes", "1", "-optimize", "--n-trials", "2", "--no-optim-plots"),
        *("-params", f"pretrained:'{case.folder}'", *case.two_sets, "batch_size:32"),
    )
    [report] = (tmp_path / "logs" / "prefine").glob("report_*.csv")
    assert [row["state"] for row in csv.DictReader(report.open())] == ["PRUNED", "COMPLETE"]


# Refused runs


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--algo", "ppo"), r"^--algo ppo: .*--algo prefine"),
        ((), r"^pretrained: "),
        (("-params", "pretrained:'x'", "normalize:True"), r"^normalize: .*True"),
        (("-params", "pretrained:'x'", "dataset:'x'", "learning_rate:'3e-4'"), r"^learning_rate: .*'3e-4'"),
    ],
)
def test_wrong_arguments_are_refused(train, tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        train(*arguments)
    assert not (tmp_path / "logs").exists()


def test_search_cannot_continue_a_run(train, case):
    with pytest.raises(ValueError, match=f"^-i {case.zip_path}: .*pretrained:'"):
        train("-optimize", "-i", str(case.zip_path))


def test_missing_policy_is_named(train, case):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        train("-params", "pretrained:'nowhere'", *case.two_sets)
