"""Checkpoints on the Hub: the client of huggingface_hub against a small local server of the Hub's protocol."""

import sys
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import huggingface_hub
import huggingface_hub.constants
import huggingface_hub.hf_api
import numpy as np
import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_prefine import PREFINE, load_reference
from sb3_prefine.reference.hub import download_checkpoint, is_hub_id
from sb3_prefine.reference.zoo_folder import find_checkpoint
from tests.reference.hub_server import Hub
from tests.worlds import OBSERVATIONS, RandomEnv, make_model

STATES = np.random.default_rng(7).normal(3.0, 2.0, (50, OBSERVATIONS)).astype(np.float32)
NAME = "ppo-Anything-v0"
REPO = f"sb3/{NAME}"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A local Hub, and an empty cache."""
    hub = Hub()
    # HF_ENDPOINT and HF_HUB_CACHE set these when huggingface_hub is imported.
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    # The developer's own token must not be sent.
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", True)
    monkeypatch.chdir(tmp_path)
    yield hub
    hub.stop()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a model behind VecNormalize, as RL Zoo's push_to_hub uploads them."""
    folder = tmp_path_factory.mktemp("model")
    env = VecNormalize(DummyVecEnv([RandomEnv]))
    make_model(PPO, env, n_steps=32, batch_size=32).learn(32).save(folder / f"{NAME}.zip")
    env.save(str(folder / "vec_normalize.pkl"))
    (folder / "config.yml").write_text("normalize: true\n")
    for name in ("args.yml", "env_kwargs.yml", "replay.mp4", "results.json", "train_eval_metrics.zip"):
        (folder / name).write_text("not needed")
    with zipfile.ZipFile(folder / f"{NAME}.zip") as archive:
        unpacked = {f"{NAME}/{name}": archive.read(name) for name in archive.namelist()}
    return {**unpacked, **{path.name: path.read_bytes() for path in folder.iterdir()}}


def local(files: Mapping[str, bytes], folder: Path) -> Path:
    """Write the files into a folder."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def go_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set HF_HUB_OFFLINE=1, which avoids the five retries of the client."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


def actions_of(path: Path) -> np.ndarray:
    return load_reference(path).predict(STATES, deterministic=True)[0]


@pytest.mark.parametrize(
    "source",
    [
        f"hf://{REPO}",
        f"hf://{REPO}/",
        Path(f"hf://{REPO}"),
        f"hf://{REPO}/{NAME}.zip",
        f"{REPO}:{NAME}.zip",
        f"hf://{REPO}@main",
        f"{REPO}@main:{NAME}.zip",
    ],
    ids=str,
)
def test_only_zip_normaliser_and_configuration_are_downloaded(hub, files, tmp_path, source):
    hub.push(REPO, files)
    assert is_hub_id(source)
    path = download_checkpoint(source)
    assert sorted(hub.fetched) == sorted([".gitattributes", "config.yml", f"{NAME}.zip", "vec_normalize.pkl"])
    found = find_checkpoint(path)
    assert found.zip_path.name == f"{NAME}.zip"
    assert found.normalizer_path == path.parent / "vec_normalize.pkl"
    assert found.normalizes_observations
    np.testing.assert_array_equal(actions_of(path), actions_of(local(files, tmp_path / "local") / f"{NAME}.zip"))


@pytest.mark.parametrize("source", [f"hf://{REPO}", f"{REPO}:{NAME}.zip"])
@pytest.mark.parametrize("open_it", [load_reference, PREFINE, PREFINE.load], ids=["load_reference", "PREFINE", "load"])
def test_name_on_the_hub_works_like_a_path(hub, files, tmp_path, open_it, source):
    hub.push(REPO, files)
    expected = actions_of(local(files, tmp_path / "local") / f"{NAME}.zip")
    np.testing.assert_array_equal(open_it(source).predict(STATES, deterministic=True)[0], expected)


@pytest.mark.parametrize("name", ["ppo/HalfCheetah-v3", "sac/Pendulum-v1", "dqn/CartPole-v1"])
def test_zoo_checkpoint_from_the_hub_acts_the_same(hub, zoo, name):
    algo, env_id = name.split("/")
    folder = zoo / algo / f"{env_id}_1"
    sidecars = {path.name.replace("vecn", "vec_n"): path.read_bytes() for path in (folder / env_id).iterdir()}
    hub.push(f"sb3/{algo}-{env_id}", {f"{algo}-{env_id}.zip": (folder / f"{env_id}.zip").read_bytes(), **sidecars})
    here, there = load_reference(folder), load_reference(download_checkpoint(f"hf://sb3/{algo}-{env_id}"))
    assert (there.normalizer is None) == (here.normalizer is None)
    assert there.config == here.config
    states = np.random.default_rng(0).normal(size=(20, *here.observation_space.shape)).astype(np.float32)
    expected = here.predict(states, deterministic=True)[0]
    np.testing.assert_array_equal(there.predict(states, deterministic=True)[0], expected)


LAYOUTS = {
    "the Hub's": ("a.zip", ["config.yml", "vec_normalize.pkl"]),
    "RL Zoo's": ("Env-v1_1/Env-v1.zip", ["Env-v1_1/Env-v1/config.yml", "Env-v1_1/Env-v1/vecnormalize.pkl"]),
    "RL Zoo's best model": (
        "ppo/Env-v1_1/best_model.zip",
        ["ppo/Env-v1_1/Env-v1/config.yml", "ppo/Env-v1_1/Env-v1/vecnormalize.pkl"],
    ),
    "a folder of its own": ("a.zip", ["a/config.yml", "a/vec_normalize.pkl"]),
    "characters of a pattern": ("a[1].zip", ["a[1]/config.yml", "vec_normalize.pkl"]),
    "no sidecars": ("a.zip", []),
}


@pytest.mark.parametrize(("zip_name", "sidecars"), LAYOUTS.values(), ids=LAYOUTS)
def test_same_sidecars_are_found_on_the_hub_and_in_a_local_copy(hub, tmp_path, zip_name, sidecars):
    elsewhere = ["other/config.yml", "other/vec_normalize.pkl", "a1.zip", "vec_normalize.pkl.bak"]
    files = {name: f"content: {name}".encode() for name in (zip_name, *sidecars, *elsewhere)}
    hub.push("me/repo", files)
    copy = find_checkpoint(local(files, tmp_path / "copy") / zip_name)
    fetched = find_checkpoint(download_checkpoint(f"hf://me/repo/{zip_name}"))
    assert sorted(hub.fetched) == sorted([".gitattributes", zip_name, *sidecars])
    assert fetched.zip_path.read_bytes() == copy.zip_path.read_bytes()
    assert fetched.config == copy.config
    read = [found.normalizer_path and found.normalizer_path.read_bytes() for found in (fetched, copy)]
    assert read[0] == read[1]
    assert (read[0] is None) == (not sidecars)


@pytest.mark.parametrize(
    ("zips", "expected"),
    [
        (["model.zip"], "model.zip"),
        (["runs/1/model.zip", "train_eval_metrics.zip"], "runs/1/model.zip"),
        (["another.zip", "repo.zip", "runs/repo.zip"], "repo.zip"),
    ],
)
def test_default_file_is_the_only_zip_or_the_repository_s_namesake(hub, zips, expected):
    hub.push("me/repo", {name: name.encode() for name in zips})
    assert download_checkpoint("hf://me/repo").read_text() == expected


def test_second_opening_downloads_nothing(hub, files):
    hub.push(REPO, files)
    first = download_checkpoint(f"hf://{REPO}")
    hub.fetched.clear()
    assert download_checkpoint(f"hf://{REPO}") == first
    assert hub.fetched == []


@pytest.mark.parametrize("way", ["the server is off", "HF_HUB_OFFLINE"])
def test_cache_is_used_without_network(hub, files, monkeypatch, way):
    hub.push(REPO, files, "v1")
    sources = (f"hf://{REPO}", f"{REPO}:{NAME}.zip", f"hf://{REPO}@v1")
    before = [download_checkpoint(source) for source in sources]
    expected = actions_of(before[0])
    if way == "HF_HUB_OFFLINE":
        go_offline(monkeypatch)
    else:
        hub.stop()
    assert [download_checkpoint(source) for source in sources] == before
    np.testing.assert_array_equal(actions_of(before[0]), expected)


def test_error_without_network_and_without_cache(hub, files):
    hub.push(REPO, files)
    hub.stop()
    with pytest.raises(ConnectionError, match=rf"^policy: the Hub .*hf://{REPO}"):
        download_checkpoint(f"hf://{REPO}")


def test_zip_cached_by_another_tool_is_not_used_without_network(hub, files, monkeypatch):
    """It may lack its normaliser."""
    hub.push(REPO, files)
    huggingface_hub.hf_hub_download(REPO, f"{NAME}.zip")
    go_offline(monkeypatch)
    with pytest.raises(ConnectionError, match=r"^policy: .*the whole checkpoint"):
        download_checkpoint(f"hf://{REPO}")


def test_incomplete_download_is_completed_or_else_not_used(hub, files, monkeypatch):
    hub.push(REPO, files)
    normalizer = download_checkpoint(f"hf://{REPO}").parent / "vec_normalize.pkl"
    normalizer.unlink()
    download_checkpoint(f"hf://{REPO}")
    assert normalizer.read_bytes() == files["vec_normalize.pkl"]
    normalizer.unlink()
    go_offline(monkeypatch)
    with pytest.raises(ConnectionError, match=r"^policy: .*the whole checkpoint"):
        download_checkpoint(f"hf://{REPO}")


def test_new_commit_is_downloaded_and_a_revision_stays(hub, files):
    old = hub.push(REPO, files, "v1", "refs/pr/1", "topic/fast")
    first = download_checkpoint(f"hf://{REPO}")
    new = hub.push(REPO, {**files, "vec_normalize.pkl": b"other statistics"})
    second = download_checkpoint(f"hf://{REPO}")
    assert (first.parent.name, second.parent.name) == (old, new)
    assert (second.parent / "vec_normalize.pkl").read_bytes() == b"other statistics"
    for revision in ("v1", old, "refs/pr/1", "topic%2Ffast"):
        assert download_checkpoint(f"hf://{REPO}@{revision}") == first
        assert download_checkpoint(f"{REPO}@{revision}:{NAME}.zip") == first


def test_push_during_a_download_does_not_mix_two_commits(hub, files, monkeypatch):
    commit = hub.push(REPO, files)
    answer = hub.answer

    def push_after_the_listing(route: str) -> tuple[int, dict[str, str], bytes]:
        answered = answer(route)
        if "/tree/" in route:
            hub.push(REPO, {**files, "vec_normalize.pkl": b"other statistics"})
        return answered

    monkeypatch.setattr(hub, "answer", push_after_the_listing)
    path = download_checkpoint(f"hf://{REPO}")
    assert path.parent.name == commit
    assert (path.parent / "vec_normalize.pkl").read_bytes() == files["vec_normalize.pkl"]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("hf://me/gone", r"me/gone .*hf://me/gone\."),
        ("me/gone:a.zip", r"me/gone .*me/gone:a\.zip"),
        ("hf://me/gated", r"me/gated"),
        ("hf://me/two@v9", r"me/two .*revision v9"),
        (f"hf://me/two@{'0' * 40}", rf"me/two .*revision {'0' * 40}"),
        ("hf://me/two", r"me/two \(zips in it: a\.zip, b\.zip\)"),
        ("hf://me/two/c.zip", r"me/two .*c\.zip \(zips in it: a\.zip, b\.zip\)"),
        ("hf://me/two/README.md", r"me/two .*README\.md"),
        ("hf://me/none", r"me/none \(zips in it: none\)"),
    ],
)
def test_error_for_a_missing_name_lists_the_existing_zips(hub, source, message):
    hub.push("me/two", {"a.zip": b"a", "b.zip": b"b"})
    hub.push("me/none", {"config.yml": b"{}"})
    hub.status["me/gated"] = (403, "GatedRepo")
    with pytest.raises(FileNotFoundError, match=f"^policy: .*{message}"):
        download_checkpoint(source)
    assert not {"a.zip", "b.zip"} & set(hub.fetched)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("hf://gpt2", "hf://gpt2"),
        ("hf://datasets/me/data", "^policy: hf://datasets/me/data is a dataset"),
        ("models/v1.zip", r"^policy: models/v1\.zip"),
    ],
)
def test_name_that_is_no_checkpoint_is_refused(hub, source, message):
    with pytest.raises(ValueError, match=message):
        download_checkpoint(source)


@pytest.mark.parametrize(
    "source",
    [
        "sb3/ppo-HalfCheetah-v3",
        "ppo/HalfCheetah-v3",
        "model.zip",
        "C:/models/model.zip",
        "C:\\models\\model.zip",
        "C:model.zip",
        "d:/model.zip",
        "\\\\server\\share\\model.zip",
        "/runs/12:30/model.zip",
        "/models/ppo:1.zip",
        "./models/ppo:1.zip",
        "../ppo:1.zip",
        "../models/ppo:1.zip",
        "~/models/ppo:1.zip",
        "~/ppo:1.zip",
        "a/b/c:model.zip",
        "models/ppo:model",
        "models/ppo:sub\\model.zip",
        "https://huggingface.co/sb3/ppo-HalfCheetah-v3",
    ],
)
def test_local_path_is_no_hub_id(source):
    assert not is_hub_id(source)


@pytest.mark.parametrize("source", ["models/ppo:model.zip", "hf://models/ppo.zip"])
def test_existing_local_path_has_precedence(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert is_hub_id(source)
    path = Path(source)
    path.parent.mkdir(parents=True)
    path.touch()
    assert not is_hub_id(source)
    assert not is_hub_id(path)


def test_error_without_huggingface_hub_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert is_hub_id(f"hf://{REPO}")
    with pytest.raises(ImportError, match=r"^policy: .*sb3-prefine\[hub\]"):
        download_checkpoint(f"hf://{REPO}")


def test_folder_of_trained_agents_has_precedence_over_the_hub(tmp_path, monkeypatch):
    agents = tmp_path / "agents"
    (agents / "models").mkdir(parents=True)
    (agents / "models" / "ppo:1.zip").touch()
    monkeypatch.setenv("RL_TRAINED_AGENTS", str(agents))
    assert find_checkpoint("models/ppo:1.zip").zip_path == agents / "models" / "ppo:1.zip"
