"""PREFINE as a person uses it: train, predict, save, load, export; and what it must never do."""

import io
import json
import math
import os
import zipfile

import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_contrib import TQC, TRPO, CrossQ
from stable_baselines3 import A2C, PPO, SAC, TD3
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sb3_prefine import PREFINE, PreferenceBuffer, Trajectories, load_reference
from sb3_prefine.data.columns import COLUMNS
from sb3_prefine.objective import prefine_loss
from sb3_prefine.policies.likelihood import likelihood_of
from tests.worlds import (
    BAD,
    GOOD,
    STATES,
    Anything,
    Recorder,
    assert_same_weights,
    choosing,
    model_of,
    preferences,
    trajectories,
    weights,
)

SMALL = {PPO: {"n_steps": 16, "batch_size": 16}, SAC: {"buffer_size": 10}}
ALGORITHMS = (PPO, A2C, TRPO, SAC, TQC, CrossQ)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_learning_moves_the_policy_to_what_is_preferred_and_away_from_the_rest(algorithm):
    model = PREFINE(model_of(algorithm), preferences(), learning_rate=3e-3, beta=0.2, seed=0, device="cpu")
    before = model.predict(STATES, deterministic=True)[0]
    model.learn(400)
    after = model.predict(STATES, deterministic=True)[0]
    distance = lambda actions, target: np.abs(actions - np.asarray(target)).mean()  # noqa: E731
    assert distance(after, GOOD) < 0.25 < distance(before, GOOD)
    assert distance(after, BAD) > distance(after, GOOD)


@pytest.mark.parametrize(
    ("space", "good", "bad"),
    [
        (spaces.Discrete(4), 2, 0),
        (spaces.MultiDiscrete([3, 4]), [2, 1], [0, 3]),
        (spaces.MultiBinary(3), [1, 0, 1], [0, 1, 0]),
    ],
    ids=["Discrete", "MultiDiscrete", "MultiBinary"],
)
def test_discrete_actions_are_learnt_saved_and_exported(space, good, bad, tmp_path):
    def always(action: object) -> Trajectories:
        columns = {name: getattr(trajectories(GOOD), name) for name in COLUMNS}
        return Trajectories(**{**columns, "actions": np.tile(np.asarray(action), (40, 1)).squeeze()})

    data = PreferenceBuffer(preferred=always(good), dispreferred=always(bad))
    model = PREFINE(model_of(PPO, choosing(space)()), data, learning_rate=3e-3, seed=0, device="cpu").learn(500)
    actions = model.predict(STATES, deterministic=True)[0]
    assert (actions == np.asarray(good)).mean() > 0.95
    model.save(tmp_path / "model")
    for policy in (
        PREFINE.load(tmp_path / "model", device="cpu"),
        PPO.load(model.export(tmp_path / "ppo"), device="cpu"),
    ):
        np.testing.assert_array_equal(policy.predict(STATES, deterministic=True)[0], actions)


@pytest.mark.parametrize("algorithm", [PPO, SAC])
def test_images_are_learnt_from_channel_first(algorithm, tmp_path):
    class Seeing(Anything):
        observation_space = spaces.Box(0, 255, (36, 36, 3), np.uint8)

        def _observe(self) -> np.ndarray:
            return self.np_random.integers(0, 256, (36, 36, 3), dtype=np.uint8)

    source = algorithm("CnnPolicy", Seeing(), policy_kwargs={"net_arch": [8]}, seed=0, device="cpu", **SMALL[algorithm])
    images = np.random.default_rng(0).integers(0, 256, (40, 3, 36, 36), dtype=np.uint8)

    def seen(action: list[float]) -> Trajectories:
        columns = {name: getattr(trajectories(action), name) for name in COLUMNS}
        return Trajectories(**{**columns, "observations": images, "next_observations": images})

    data = PreferenceBuffer(preferred=seen(GOOD), dispreferred=seen(BAD))
    model = PREFINE(source, data, learning_rate=1e-3, batch_size=32, seed=0, device="cpu").learn(3)
    exported = algorithm.load(model.export(tmp_path / "safe"), device="cpu")
    assert not np.allclose(model.predict(images)[0], source.predict(images)[0])
    expected = model.predict(images, deterministic=True)[0]
    np.testing.assert_array_equal(exported.predict(images, deterministic=True)[0], expected)


@pytest.mark.parametrize("algorithm", [PPO, A2C, SAC, TQC])
def test_gsde_policies_learn_and_are_saved_and_exported(algorithm, tmp_path):
    source = model_of(algorithm, use_sde=True)
    model = PREFINE(source, preferences(), learning_rate=3e-3, beta=0.0, seed=0, device="cpu").learn(400)
    actions = model.predict(STATES, deterministic=True)[0]
    assert np.abs(actions - np.asarray(GOOD)).mean() < 0.25
    model.save(tmp_path / "model")
    exported = algorithm.load(model.export(tmp_path / "plain"), device="cpu")
    for policy in (PREFINE.load(tmp_path / "model", device="cpu"), exported):
        np.testing.assert_array_equal(policy.predict(STATES, deterministic=True)[0], actions)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_log_ratio_is_zero_at_the_first_step(algorithm):
    model = PREFINE(model_of(algorithm), preferences(), learning_rate=0.0, beta=1.0, seed=0, device="cpu")
    recorder = Recorder()
    model.set_logger(recorder)
    model.learn(1, log_interval=1)
    [row] = recorder.rows
    assert row["rewards/chosen"] == pytest.approx(0.0, abs=1e-4)
    assert row["rewards/rejected"] == pytest.approx(0.0, abs=1e-4)
    assert row["train/preference_loss"] == pytest.approx(2 * math.log(2.0), abs=1e-4)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_reference_does_not_change_by_a_bit(algorithm):
    source = model_of(algorithm)
    given, frozen = weights(source.policy), None
    model = PREFINE(source, preferences(), learning_rate=1e-2, seed=0, device="cpu")
    frozen = weights(model.reference.policy)
    model.learn(30)
    assert_same_weights(weights(model.reference.policy), frozen)
    assert_same_weights(weights(source.policy), given)
    assert_same_weights(frozen, given)
    assert not any(parameter.requires_grad for parameter in model.reference.policy.parameters())
    assert any(not torch.equal(tensor, frozen[name]) for name, tensor in model.policy.state_dict().items())


@pytest.mark.parametrize("algorithm", [PPO, SAC])
def test_gradient_identity_at_the_reference(algorithm):
    """E[∇loss] = (λ + β/2) ∇BC(D_p) - (β/2) ∇BC(D_np) at θ = ref, by sampling many counterfactuals a state."""
    beta, sft_coef, n_samples = 0.8, 0.1, 4_000
    policy = model_of(algorithm).policy.eval()
    likelihood = likelihood_of(policy, log_std_min=-5.0)
    observations = torch.as_tensor(STATES[:6])
    generator = torch.Generator().manual_seed(0)
    params = likelihood.params(policy, observations)
    data = likelihood.sample(params.detach(), generator)
    is_preferred = torch.arange(6) < 4

    logp_data = likelihood.log_prob(params, data)
    counterfactuals = likelihood.sample(params.detach().repeat(n_samples, 1), generator).view(n_samples, 6, -1)
    logp_cf = likelihood.log_prob(params, counterfactuals).flatten()
    loss, _ = prefine_loss(
        *(logp_data.repeat(n_samples), logp_data.detach().repeat(n_samples), logp_cf, logp_cf.detach()),
        is_preferred.repeat(n_samples),
        beta=beta,
        sft_coef=sft_coef,
    )
    expected = -(sft_coef + beta / 2) * logp_data[:4].mean() + (beta / 2) * logp_data[4:].mean()
    gradients = [
        torch.cat([g.flatten() for g in torch.autograd.grad(x, params, retain_graph=True)]) for x in (loss, expected)
    ]
    difference = (gradients[0] - gradients[1]).norm() / gradients[1].norm()
    assert difference < 0.02


@pytest.mark.parametrize("algorithm", [PPO, SAC])
def test_equal_seeds_give_equal_bits_and_others_do_not(algorithm):
    def run(seed: int) -> dict[str, torch.Tensor]:
        return weights(PREFINE(model_of(algorithm), preferences(), seed=seed, device="cpu").learn(20).policy)

    first = run(3)
    assert_same_weights(first, run(3))
    assert any(not torch.equal(tensor, first[name]) for name, tensor in run(4).items())


def test_without_a_seed_torch_s_global_seed_decides():
    def run() -> dict[str, torch.Tensor]:
        source = model_of(PPO)
        torch.manual_seed(11)
        return weights(PREFINE(source, preferences(), device="cpu").learn(5).policy)

    assert_same_weights(run(), run())


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_saved_and_loaded_it_predicts_and_goes_on_the_same(algorithm, tmp_path):
    model = PREFINE(model_of(algorithm), preferences(), beta=0.3, batch_size=32, seed=0, device="cpu")
    model.learn(20)
    model.save(tmp_path / "model")
    loaded = PREFINE.load(tmp_path / "model", device="cpu")
    assert (loaded.beta, loaded.batch_size, loaded.num_timesteps) == (0.3, 32, 20)
    assert_same_weights(weights(loaded.policy), weights(model.policy))
    assert_same_weights(weights(loaded.reference.policy), weights(model.reference.policy))
    np.testing.assert_array_equal(
        loaded.predict(STATES, deterministic=True)[0], model.predict(STATES, deterministic=True)[0]
    )
    saved, restored = model.optimizer.state_dict()["state"], loaded.optimizer.state_dict()["state"]
    assert saved.keys() == restored.keys()
    assert all(torch.equal(saved[key]["exp_avg"], restored[key]["exp_avg"]) for key in saved)

    loaded.preferences = preferences()
    loaded.learn(10, reset_num_timesteps=False)
    assert loaded.num_timesteps == 30
    assert int(loaded.optimizer.state_dict()["state"][0]["step"]) == 30


def test_a_zip_of_prefine_holds_nothing_pickled_that_loading_needs(tmp_path, monkeypatch):
    PREFINE(model_of(PPO), preferences(), device="cpu").learn(1).save(tmp_path / "model.zip")
    monkeypatch.setattr("cloudpickle.loads", lambda *args: pytest.fail("something was unpickled"))
    assert PREFINE.load(tmp_path / "model.zip", device="cpu").num_timesteps == 1


def test_a_schedule_in_the_zip_is_asked_for_by_name(tmp_path):
    model = PREFINE(model_of(PPO), preferences(), learning_rate=LinearSchedule(1e-3, 0.0, 1.0), device="cpu")
    model.save(tmp_path / "model.zip")
    with pytest.raises(ValueError, match=r"learning_rate cannot be read without unpickling.*learning_rate=\.\.\."):
        PREFINE.load(tmp_path / "model.zip", device="cpu")
    assert PREFINE.load(tmp_path / "model.zip", device="cpu", learning_rate=1e-4).learning_rate == 1e-4
    assert PREFINE.load(tmp_path / "model.zip", device="cpu", trust=True).lr_schedule(1.0) == 1e-3


def test_data_are_not_saved(tmp_path):
    model = PREFINE(model_of(PPO), preferences(), device="cpu").learn(2)
    model.save(tmp_path / "model.zip")
    with zipfile.ZipFile(tmp_path / "model.zip") as archive:
        fields = json.loads(archive.read("data"))
    assert not {"preferences", "_tables", "reference", "_generator"} & set(fields)
    assert PREFINE.load(tmp_path / "model.zip", device="cpu").preferences is None


def test_saving_into_an_open_file_and_loading_from_it():
    model = PREFINE(model_of(SAC), device="cpu")
    file = io.BytesIO()
    model.save(file)
    file.seek(0)
    assert_same_weights(weights(PREFINE.load(file, device="cpu").policy), weights(model.policy))


def test_a_save_that_fails_leaves_the_good_file_and_nothing_else(tmp_path, monkeypatch):
    model = PREFINE(model_of(PPO), preferences(), device="cpu")
    path = tmp_path / "model.zip"
    model.save(path)
    before = path.read_bytes()
    model.learn(1)

    def fail(*args: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    for write in (model.save, model.export):
        with pytest.raises(OSError, match="disk full"):
            write(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_export_is_a_plain_zip_with_nothing_changed_but_the_actor(algorithm, tmp_path):
    source = model_of(algorithm)
    source.learn(120 if algorithm in (SAC, TQC, CrossQ) else 1)
    model = PREFINE(source, preferences(), seed=0, device="cpu").learn(20)
    path = model.export(tmp_path / "safe")
    assert path == tmp_path / "safe.zip"
    exported = algorithm.load(path, device="cpu")
    np.testing.assert_array_equal(
        exported.predict(STATES, deterministic=True)[0], model.predict(STATES, deterministic=True)[0]
    )
    assert exported.num_timesteps == source.num_timesteps
    assert exported.learning_rate == source.learning_rate
    for name, tensor in exported.policy.state_dict().items():
        if "critic" in name or "value" in name:
            assert torch.equal(tensor, source.policy.state_dict()[name]), name
    with zipfile.ZipFile(path) as new, zipfile.ZipFile(io.BytesIO(model.reference.checkpoint.archive)) as old:
        assert new.namelist() == old.namelist()
        assert json.loads(new.read("data")) == json.loads(old.read("data"))
        for name in set(old.namelist()) - {"policy.pth", "data"}:
            assert new.read(name) == old.read(name), name
    # RL goes on from it.
    assert algorithm.load(path, env=Anything(), device="cpu").learn(200).num_timesteps >= 200


def test_a_policy_without_an_algorithm_is_exported_as_sb3_saves_policies(tmp_path):
    policy = model_of(PPO).policy
    model = PREFINE(policy, preferences(), device="cpu").learn(5)
    exported = type(policy).load(model.export(tmp_path / "policy"), device="cpu")
    assert_same_weights(weights(exported), weights(model.policy))


def normalized_model(n_steps: int = 64) -> PPO:
    env = VecNormalize(DummyVecEnv([Anything]))
    return model_of(PPO, env, n_steps=n_steps, batch_size=n_steps).learn(n_steps)


def test_predict_takes_raw_observations_and_normalises_inside():
    source = normalized_model()
    model = PREFINE(source, preferences(), device="cpu")
    expected = source.predict(source.get_vec_normalize_env().normalize_obs(STATES), deterministic=True)[0]
    np.testing.assert_allclose(model.predict(STATES, deterministic=True)[0], expected, rtol=1e-5, atol=1e-6)


def test_the_normaliser_goes_along_with_save_and_export(tmp_path):
    model = PREFINE(normalized_model(), preferences(), device="cpu").learn(3)
    expected = model.predict(STATES, deterministic=True)[0]
    model.save(tmp_path / "model")
    np.testing.assert_array_equal(
        PREFINE.load(tmp_path / "model", device="cpu").predict(STATES, deterministic=True)[0], expected
    )
    path = model.export(tmp_path / "safe.zip")
    vec_env = VecNormalize.load(str(tmp_path / "safe" / "vecnormalize.pkl"), DummyVecEnv([Anything]))
    np.testing.assert_array_equal(
        PPO.load(path, device="cpu").predict(vec_env.normalize_obs(STATES), deterministic=True)[0], expected
    )
    np.testing.assert_array_equal(load_reference(path).predict(STATES, deterministic=True)[0], expected)


def test_a_fine_tuned_model_is_a_reference_for_another_round(tmp_path):
    first = PREFINE(normalized_model(), preferences(), learning_rate=1e-2, device="cpu").learn(20)
    first.save(tmp_path / "first")
    for source in (first, tmp_path / "first.zip"):
        second = PREFINE(source, preferences(), device="cpu")
        assert_same_weights(weights(second.reference.policy), weights(first.policy))
        np.testing.assert_array_equal(second.predict(STATES)[0].shape, (50, 3))


def test_the_zip_of_another_algorithm_opens_as_a_reference(tmp_path):
    source = model_of(SAC)
    source.save(tmp_path / "sac.zip")
    model = PREFINE.load(tmp_path / "sac.zip", device="cpu", preferences=preferences(), beta=0.5)
    assert model.beta == 0.5
    assert_same_weights(weights(model.policy), weights(source.policy))
    model.learn(2)


def test_every_update_calls_back_once_and_a_callback_can_stop():
    class Stop(BaseCallback):
        def _on_step(self) -> bool:
            return self.n_calls < 7

    stop = Stop()
    model = PREFINE(model_of(PPO), preferences(), device="cpu").learn(100, callback=stop)
    assert stop.n_calls == model.num_timesteps == model._n_updates == 7


def test_checkpoints_are_written_without_an_environment(tmp_path):
    model = PREFINE(model_of(PPO), preferences(), device="cpu")
    model.learn(10, callback=[CheckpointCallback(save_freq=5, save_path=str(tmp_path))], progress_bar=True)
    assert PREFINE.load(tmp_path / "rl_model_5_steps.zip", device="cpu").num_timesteps == 5


def test_an_environment_can_be_given_and_is_not_touched_by_training():
    env = Anything()
    model = PREFINE(model_of(PPO), preferences(), env=env, device="cpu").learn(3)
    assert model.get_env() is not None
    assert not hasattr(env, "steps")


def test_logged_values_are_means_over_the_interval():
    recorder = Recorder()
    model = PREFINE(model_of(PPO), preferences(), learning_rate=1e-3, seed=0, device="cpu")
    model.set_logger(recorder)
    model.learn(10, log_interval=5)
    every_step = Recorder()
    model = PREFINE(model_of(PPO), preferences(), learning_rate=1e-3, seed=0, device="cpu")
    model.set_logger(every_step)
    model.learn(10, log_interval=1)
    assert [row["time/total_timesteps"] for row in recorder.rows] == [5, 10]
    for key in ("train/loss", "train/sft_loss", "rewards/margins", "logps/chosen", "train/grad_norm"):
        assert recorder.rows[1][key] == pytest.approx(np.mean([row[key] for row in every_step.rows[5:]]), rel=1e-4)
    assert recorder.rows[1]["train/learning_rate"] == 1e-3
    assert recorder.rows[1]["train/n_updates"] == 10


def test_tensorboard_runs_are_numbered(tmp_path):
    model = PREFINE(model_of(PPO), preferences(), tensorboard_log=str(tmp_path), device="cpu")
    model.learn(2, log_interval=1)
    model.learn(2, log_interval=1)
    assert {path.name for path in tmp_path.iterdir()} == {"PREFINE_1", "PREFINE_2"}
    events = EventAccumulator(str(tmp_path / "PREFINE_1")).Reload()
    assert [event.step for event in events.Scalars("rewards/margins")] == [1, 2]


def test_the_learning_rate_follows_its_schedule():
    recorder = Recorder()
    model = PREFINE(model_of(PPO), preferences(), learning_rate=LinearSchedule(1e-3, 0.0, 1.0), device="cpu")
    model.set_logger(recorder)
    model.learn(4, log_interval=1)
    np.testing.assert_allclose([row["train/learning_rate"] for row in recorder.rows], [1e-3, 7.5e-4, 5e-4, 2.5e-4])


def test_a_gradient_that_is_not_finite_stops_training_with_the_last_good_weights():
    model = PREFINE(model_of(PPO), preferences(), learning_rate=1e25, seed=0, device="cpu")
    with pytest.raises(FloatingPointError, match=r"in update \d+ of this call"):
        model.learn(200)
    assert all(torch.isfinite(tensor).all() for tensor in model.policy.state_dict().values())


def test_the_error_names_the_first_bad_update_and_no_later_one_is_made():
    model = PREFINE(model_of(PPO), preferences(), seed=0, device="cpu")
    after: list[dict[str, torch.Tensor]] = []

    def poison(_locals: dict, _globals: dict) -> bool:
        if model.num_timesteps == 3:
            model.beta = math.nan
        elif model.num_timesteps == 6:
            model.beta = 0.05
        after.append(weights(model.policy))
        return True

    with pytest.raises(FloatingPointError, match="in update 4 of this call"):
        model.learn(10, callback=poison)
    assert_same_weights(after[2], after[-1])
    assert any(not torch.equal(tensor, after[2][name]) for name, tensor in after[1].items())


def test_gradient_clipping_bounds_the_step():
    recorder = Recorder()
    model = PREFINE(model_of(PPO), preferences(), max_grad_norm=1e-12, learning_rate=1e-3, seed=0, device="cpu")
    model.set_logger(recorder)
    before = weights(model.policy)
    model.learn(1, log_interval=1)
    assert recorder.rows[0]["train/grad_norm"] > 0.1
    # Adam's first step is lr * g / (|g| + 1e-8): a clipped gradient of 1e-12 moves nothing by more than lr * 1e-4.
    assert all((tensor - before[name]).abs().max() < 1e-6 for name, tensor in model.policy.state_dict().items())


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"beta": -0.1}, "beta: expected a finite number >= 0, found -0.1"),
        ({"batch_size": 0}, "batch_size: expected a whole number > 0, found 0"),
    ],
)
def test_a_hyperparameter_out_of_range_is_refused_at_once_and_when_loading(kwargs, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        PREFINE(model_of(PPO), preferences(), device="cpu", **kwargs)
    PREFINE(model_of(PPO), device="cpu").save(tmp_path / "model.zip")
    with pytest.raises(ValueError, match=message):
        PREFINE.load(tmp_path / "model.zip", device="cpu", **kwargs)


def test_a_deterministic_policy_is_refused():
    with pytest.raises(TypeError, match=r"TD3Policy .* is deterministic"):
        PREFINE(model_of(TD3), preferences(), device="cpu")


def test_something_that_is_no_policy_is_refused():
    with pytest.raises(TypeError, match=r"policy: expected an SB3 model or policy.*found int"):
        PREFINE(3)


def test_a_missing_normaliser_is_refused(tmp_path):
    normalized_model().save(tmp_path / "model.zip")
    with pytest.raises(ValueError, match=r"normalizer: .* was trained behind VecNormalize"):
        PREFINE(tmp_path / "model.zip")
    with pytest.raises(ValueError, match="normalizer: the model was trained behind VecNormalize"):
        PREFINE(PPO.load(tmp_path / "model.zip", device="cpu"))
    assert load_reference(tmp_path / "model.zip", normalizer=False).normalizer is None


def test_learning_without_data_is_refused():
    with pytest.raises(ValueError, match=r"^preferences: "):
        PREFINE(model_of(PPO), device="cpu").learn(1)


def test_data_of_other_spaces_are_refused_before_any_step():
    data = preferences()
    model = PREFINE(PPO("MlpPolicy", "Pendulum-v1", device="cpu"), device="cpu")
    model.preferences = data
    with pytest.raises(ValueError, match="observations"):
        model.learn(1)
    with pytest.raises(ValueError, match="observations"):
        PREFINE(PPO("MlpPolicy", "Pendulum-v1", device="cpu"), data, device="cpu")


def test_actions_outside_the_box_are_refused_before_any_step():
    good = trajectories(GOOD)
    actions = np.array(good.actions)
    actions[3, 1] = 3.5
    outside = type(good)(**{**{f: getattr(good, f) for f in good.__dataclass_fields__}, "actions": actions})
    with pytest.raises(ValueError, match="actions"):
        PREFINE(model_of(PPO), PreferenceBuffer(preferred=outside, dispreferred=trajectories(BAD)), device="cpu")


def test_an_environment_of_other_spaces_is_refused():
    with pytest.raises(ValueError, match="env: its observation_space is "):
        PREFINE(model_of(PPO), preferences(), env="Pendulum-v1", device="cpu")


def test_an_environment_that_normalises_is_refused():
    with pytest.raises(ValueError, match="env: it is wrapped in VecNormalize"):
        PREFINE(model_of(PPO), preferences(), env=VecNormalize(DummyVecEnv([Anything])), device="cpu")


def test_new_preferences_are_learnt_from_in_the_next_call():
    model = PREFINE(model_of(PPO), preferences(), learning_rate=3e-3, seed=0, device="cpu").learn(1)
    model.preferences = PreferenceBuffer(preferred=trajectories(BAD), dispreferred=trajectories(GOOD))
    model.learn(400)
    actions = model.predict(STATES, deterministic=True)[0]
    assert np.abs(actions - np.asarray(BAD)).mean() < np.abs(actions - np.asarray(GOOD)).mean()
