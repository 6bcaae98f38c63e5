"""Files of every algorithm: saving and continuing, exporting, and opening the files of others."""

import io
import json
import os
import zipfile

import numpy as np
import pytest
from stable_baselines3 import SAC
from stable_baselines3.common.utils import LinearSchedule

from sb3_prefine import PREFINE, collect, evaluate_policy
from sb3_prefine.baselines import BC
from tests.algorithms.cases import (
    DISCRIMINATOR_STEPS,
    each_algorithm,
    each_sb3_policy,
    every_case,
    predicted,
)
from tests.worlds import GOOD, STATES, RandomEnv, assert_same_weights, make_model, preferences, trajectories, weights


@every_case
@pytest.mark.parametrize("cut", [3, DISCRIMINATOR_STEPS, DISCRIMINATOR_STEPS + 2])
def test_a_loaded_model_continues_as_the_saved_one(case, cut, tmp_path, monkeypatch):
    model = case.make().learn(cut)
    model.save(tmp_path / "model")
    monkeypatch.setattr("cloudpickle.loads", lambda *args: pytest.fail("something was unpickled"))
    loaded = case.algorithm.load(tmp_path / "model", device="cpu")
    assert (loaded.num_timesteps, getattr(loaded, case.data_name)) == (cut, None)
    for name in ("batch_size", *case.options):
        assert getattr(loaded, name) == getattr(model, name)
    np.testing.assert_array_equal(predicted(loaded, STATES), predicted(model, STATES))
    assert_same_weights(weights(loaded.reference.policy), weights(model.reference.policy))

    setattr(loaded, case.data_name, case.make_data()[case.data_name])
    # A file does not contain the state of the random numbers: both models start from the seed.
    model.set_random_seed(0)
    for each in (model, loaded):
        each.learn(6, reset_num_timesteps=False)
    assert loaded.num_timesteps == model.num_timesteps == cut + 6
    assert_same_weights(case.weights_of(loaded), case.weights_of(model))
    for optimizer in case.optimizers:
        states, expected = (getattr(each, optimizer).state_dict()["state"] for each in (loaded, model))
        assert states.keys() == expected.keys()
        for parameter in states:
            assert_same_weights(states[parameter], expected[parameter])


@each_algorithm
def test_data_and_reference_are_not_among_the_saved_fields(case, tmp_path):
    case.make().learn(2).save(tmp_path / "model")
    with zipfile.ZipFile(tmp_path / "model.zip") as archive:
        fields = json.loads(archive.read("data"))
    assert fields["batch_size"] == 16
    assert not {"preferences", "trajectories", "reference"} & set(fields)
    # Nothing that refers to networks or data on the device.
    assert not [name for name in fields if (name.startswith("_") and "likelihood" in name) or "table" in name]


@each_algorithm
def test_a_pickled_schedule_is_asked_for_by_name(case, tmp_path):
    case.make(learning_rate=LinearSchedule(1e-3, 0.0, 1.0)).save(tmp_path / "model")
    path = tmp_path / "model.zip"
    with pytest.raises(ValueError, match=r"learning_rate cannot be read without unpickling"):
        case.algorithm.load(path, device="cpu")
    assert case.algorithm.load(path, device="cpu", learning_rate=1e-4).learning_rate == 1e-4
    assert case.algorithm.load(path, device="cpu", trust=True).lr_schedule(1.0) == 1e-3


@each_algorithm
def test_a_model_is_saved_to_and_loaded_from_an_open_file(case):
    file, model = io.BytesIO(), case.make()
    model.save(file)
    file.seek(0)
    assert_same_weights(case.weights_of(case.algorithm.load(file, device="cpu")), case.weights_of(model))


@each_algorithm
def test_a_failing_save_keeps_the_existing_file(case, tmp_path, monkeypatch):
    model, path = case.make(make_model(SAC)), tmp_path / "model.zip"
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


@every_case
def test_parameters_are_copied_to_another_model(case):
    model, other = case.make().learn(7), case.make(seed=1)
    other.set_parameters(model.get_parameters(), device="cpu")
    for network in case.networks:
        assert_same_weights(weights(getattr(other, network)), weights(getattr(model, network)))
    np.testing.assert_array_equal(predicted(other, STATES), predicted(model, STATES))


@every_case
def test_the_export_opens_with_the_class_of_the_policy(case, tmp_path):
    model = case.make().learn(7)
    path = model.export(tmp_path / "policy")
    assert path == tmp_path / "policy.zip"
    exported = (
        type(model.policy).load(str(path), device="cpu")
        if isinstance(case.policy, str)
        else case.policy.load(path, device="cpu")
    )
    # The plain class knows no normaliser.
    observations = model.reference.normalize(STATES)
    np.testing.assert_array_equal(predicted(exported, observations), predicted(model, STATES))


@each_sb3_policy
def test_the_export_keeps_the_critics_of_the_source(case, tmp_path):
    source = make_model(case.policy)
    exported = case.policy.load(case.make(source).learn(7).export(tmp_path / "policy"), device="cpu")
    kept = {
        name: weight for name, weight in exported.policy.state_dict().items() if "critic" in name or "value" in name
    }
    assert kept
    assert_same_weights(kept, {name: source.policy.state_dict()[name] for name in kept})


@every_case
def test_model_file_and_reference_are_starting_points_for_prefine(case, tmp_path):
    model = case.make().learn(7)
    model.save(tmp_path / "model")
    expected, reference = predicted(model, STATES), model.to_reference()
    np.testing.assert_array_equal(predicted(reference, STATES), expected)
    for source in (model, tmp_path / "model.zip", reference):
        tuned = PREFINE(source, preferences(), batch_size=8, learning_rate=1e-2, device="cpu")
        np.testing.assert_array_equal(predicted(tuned, STATES), expected)
        tuned.learn(3)
        np.testing.assert_array_equal(predicted(tuned.reference, STATES), expected)
        assert (predicted(tuned, STATES) != expected).any()
    # The reference is a snapshot.
    model.learn(3, reset_num_timesteps=False)
    np.testing.assert_array_equal(predicted(reference, STATES), expected)


@each_algorithm
@pytest.mark.parametrize("other", [SAC, BC, PREFINE], ids=lambda algorithm: algorithm.__name__)
def test_the_file_of_another_algorithm_is_a_starting_point(case, other, tmp_path):
    source = make_model(SAC)
    if other is BC:
        source = BC(source, trajectories(GOOD), device="cpu").learn(2)
    elif other is PREFINE:
        source = PREFINE(source, preferences(), batch_size=8, device="cpu").learn(2)
    source.save(tmp_path / "other")
    options = {} if case.algorithm is other else {**case.options, **case.make_data(), "batch_size": 4}
    opened = case.algorithm.load(tmp_path / "other", device="cpu", **options)
    assert type(opened) is case.algorithm
    assert_same_weights(weights(opened.policy), weights(source.policy))
    if case.algorithm is not other:
        assert opened.num_timesteps == 0
        assert_same_weights(weights(opened.reference.policy), weights(source.policy))
        assert opened.learn(2).num_timesteps == 2


@each_algorithm
def test_a_model_is_collected_from_and_evaluated(case):
    model = case.make().learn(2)
    assert len(collect(model, RandomEnv, 3, progress_bar=False)) == 3
    assert len(evaluate_policy(model, RandomEnv, 3)) == 3
