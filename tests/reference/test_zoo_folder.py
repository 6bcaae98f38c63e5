"""RL Zoo's folders: the zip and its sidecar files."""

from pathlib import Path

import gymnasium as gym
import pytest
from sb3_contrib.common.wrappers import TimeFeatureWrapper

from sb3_prefine.reference.zoo_folder import find_checkpoint


def zoo_folder(root: Path, config: str = "normalize: true\n", pickle: bool = True) -> Path:
    """ppo/Env-v1_1/{Env-v1.zip, best_model.zip, Env-v1/{config.yml, vecnormalize.pkl}}"""
    folder = root / "ppo" / "Env-v1_1"
    (folder / "Env-v1").mkdir(parents=True)
    for name in ("Env-v1.zip", "best_model.zip", "rl_model_100_steps.zip"):
        (folder / name).touch()
    (folder / "Env-v1" / "config.yml").write_text(config)
    if pickle:
        (folder / "Env-v1" / "vecnormalize.pkl").touch()
    return folder


@pytest.mark.parametrize("source", ["ppo/Env-v1_1", "ppo/Env-v1", "ppo/Env-v1_1/Env-v1", "ppo/Env-v1_1/Env-v1.zip"])
def test_folder_of_rl_zoo_is_found(tmp_path, source):
    folder = zoo_folder(tmp_path)
    found = find_checkpoint(tmp_path / source)
    assert found.zip_path == folder / "Env-v1.zip"
    assert found.normalizer_path == folder / "Env-v1" / "vecnormalize.pkl"
    assert found.normalizes_observations


def test_best_model_has_the_same_sidecars(tmp_path):
    folder = zoo_folder(tmp_path)
    found = find_checkpoint(folder / "best_model.zip")
    assert found.normalizer_path == folder / "Env-v1" / "vecnormalize.pkl"


@pytest.mark.parametrize(("source", "algo"), [("ppo/Env-v1", None), ("Env-v1", "ppo"), ("ppo/Env-v1_1", "ppo")])
def test_name_is_found_in_rl_trained_agents(tmp_path, monkeypatch, source, algo):
    folder = zoo_folder(tmp_path)
    monkeypatch.setenv("RL_TRAINED_AGENTS", str(tmp_path))
    assert find_checkpoint(source, algo).zip_path == folder / "Env-v1.zip"


def test_layout_of_the_hub_is_found(tmp_path):
    for name in ("ppo-Env-v1.zip", "vec_normalize.pkl"):
        (tmp_path / name).touch()
    (tmp_path / "config.yml").write_text("normalize: \"{'norm_obs': True, 'norm_reward': False}\"\n")
    found = find_checkpoint(tmp_path)
    assert found.zip_path == tmp_path / "ppo-Env-v1.zip"
    assert found.normalizer_path == tmp_path / "vec_normalize.pkl"
    assert found.normalizes_observations


def test_error_for_a_missing_checkpoint_lists_the_tried_paths(tmp_path, monkeypatch):
    monkeypatch.setenv("RL_TRAINED_AGENTS", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"^policy: .*ppo/Gone-v0.*Gone-v0_1"):
        find_checkpoint("ppo/Gone-v0")
    monkeypatch.delenv("RL_TRAINED_AGENTS")
    with pytest.raises(FileNotFoundError, match=r"^policy: .*RL_TRAINED_AGENTS is not set"):
        find_checkpoint("ppo/Gone-v0")


def test_error_for_several_zips_lists_them(tmp_path):
    for name in ("a.zip", "b.zip"):
        (tmp_path / name).touch()
    with pytest.raises(FileNotFoundError, match=r"^policy: .*found: a\.zip, b\.zip"):
        find_checkpoint(tmp_path)


ORDERED = """!!python/object/apply:collections.OrderedDict
- - - env_wrapper
    - sb3_contrib.common.wrappers.TimeFeatureWrapper
  - - normalize
    - true
"""


def test_ordered_dict_of_the_zoo_is_read(tmp_path):
    zoo_folder(tmp_path, ORDERED)
    [wrapper] = find_checkpoint(tmp_path / "ppo" / "Env-v1").env_wrappers()
    assert isinstance(wrapper(gym.make("Pendulum-v1")), TimeFeatureWrapper)


@pytest.mark.parametrize(
    ("config", "n_wrappers"),
    [
        ("env_wrapper: utils.wrappers.TimeFeatureWrapper", 1),
        ("env_wrapper:\n- sb3_contrib.common.wrappers.TimeFeatureWrapper:\n    max_steps: 7", 1),
        ("env_wrapper:\n- gymnasium.wrappers.ClipAction\n- sb3_contrib.common.wrappers.TimeFeatureWrapper", 2),
        ("normalize: false", 0),
    ],
)
def test_env_wrapper_is_read_as_text_mapping_or_list(tmp_path, config, n_wrappers):
    zoo_folder(tmp_path, config)
    found = find_checkpoint(tmp_path / "ppo" / "Env-v1")
    assert len(found.env_wrappers()) == n_wrappers
    env = gym.make("Pendulum-v1").unwrapped
    for wrapper in found.env_wrappers():
        env = wrapper(env)
    if "max_steps" in config:
        assert env._max_steps == 7


def test_wrapper_of_another_module_needs_trust(tmp_path):
    zoo_folder(tmp_path, "env_wrapper: their_code.Wrapper")
    found = find_checkpoint(tmp_path / "ppo" / "Env-v1")
    with pytest.raises(ValueError, match=r"Env-v1\.zip: .*their_code\.Wrapper"):
        found.env_wrappers()
    [wrapper] = found.env_wrappers(trust=True)
    with pytest.raises(ImportError, match=r"^their_code\.Wrapper"):
        wrapper(gym.make("Pendulum-v1"))


@pytest.mark.parametrize(
    "config", ["frame_stack: 4", "vec_env_wrapper: stable_baselines3.common.vec_env.VecFrameStack"]
)
def test_unsupported_vec_env_wrapper_is_refused(tmp_path, config):
    zoo_folder(tmp_path, config)
    with pytest.raises(ValueError, match=rf"Env-v1\.zip: .*{config.split(':')[0]}"):
        find_checkpoint(tmp_path / "ppo" / "Env-v1").env_wrappers()


@pytest.mark.parametrize("config", ["!!python/object/apply:os.mkdir ['made']", "a: [", "- 1"])
def test_configuration_that_is_not_plain_yaml_is_refused(tmp_path, config, monkeypatch):
    monkeypatch.chdir(tmp_path)
    zoo_folder(tmp_path, config)
    with pytest.raises(ValueError, match=r"config\.yml (cannot|contains)"):
        find_checkpoint(tmp_path / "ppo" / "Env-v1")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    "path",
    [
        "stable_baselines3.common.save_util.load_from_pkl",
        "gymnasium.wrappers.Gone",
        "stable_baselines3.common.logger.Logger",
    ],
)
def test_named_function_that_is_no_env_wrapper_is_not_called(tmp_path, path):
    zoo_folder(tmp_path, f"env_wrapper: {path}")
    [wrapper] = find_checkpoint(tmp_path / "ppo" / "Env-v1").env_wrappers()
    with pytest.raises(ValueError, match=f"^{path} "):
        wrapper(gym.make("Pendulum-v1"))
