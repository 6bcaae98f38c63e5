"""Downloads with huggingface_hub's own client, from a small local server with the Hub's protocol."""

import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import huggingface_hub.constants
import huggingface_hub.file_download
import huggingface_hub.hf_api
import pytest

from sb3_prefine import dsrl
from tests.dsrl.hub_server import BLOCK, Hub
from tests.dsrl.test_filters import assert_same, random_episodes

NAME = dsrl.TASKS["BallRun"].file_name


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A local Hub that has BallRun's dataset, and an empty folder of datasets."""
    hub = Hub({NAME: DATASET})
    url = f"http://127.0.0.1:{hub.server_port}"
    # HF_ENDPOINT sets these when huggingface_hub is imported.
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", BLOCK)
    # The user is logged in. Only the Hub itself may get the token.
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    # Skip the second that the client waits before it tries again.
    monkeypatch.setattr(
        huggingface_hub.file_download, "time", SimpleNamespace(sleep=lambda seconds: None, time=time.time)
    )
    monkeypatch.setenv("DSRL_DATASET_DIR", str(tmp_path / "datasets"))
    yield hub
    if hub.thread.is_alive():
        hub.stop()


def dataset(seed: int = 0) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        random_episodes(30, seed=seed).to_hdf5(Path(folder, NAME))
        return Path(folder, NAME).read_bytes()


EPISODES = random_episodes(30)
DATASET = dataset()


def folder() -> Path:
    return dsrl.dataset_path("BallRun").parent


def incomplete() -> list[str]:
    """List the incomplete downloads, without the locks."""
    return sorted(path.name for path in (folder() / ".incomplete").glob("*") if path.suffix != ".lock")


def incomplete_size() -> int:
    """Return the size of the incomplete file."""
    (name,) = incomplete()
    return (folder() / ".incomplete" / name).stat().st_size


def assert_arrived() -> None:
    assert dsrl.dataset_path("BallRun").read_bytes() == DATASET
    assert sorted(path.name for path in folder().iterdir()) == [".incomplete", NAME]
    assert incomplete() == []


def assert_nothing_arrived() -> None:
    assert not dsrl.dataset_path("BallRun").exists()
    assert [path.name for path in folder().iterdir()] == [".incomplete"]


def test_a_missing_dataset_is_downloaded_once(hub):
    assert_same(dsrl.load("BallRun"), EPISODES)
    assert_arrived()
    assert hub.served == [(0, len(DATASET))]
    assert_same(dsrl.load("OfflineBallRun-v0"), EPISODES)
    assert len(hub.served) == 1


def test_an_existing_file_is_loaded_without_network(hub):
    dsrl.load("BallRun")
    hub.stop()
    assert_same(dsrl.load("BallRun"), EPISODES)


def test_a_broken_connection_is_resumed_in_the_same_call(hub):
    hub.budget = len(DATASET) // 2

    def refill(n_sent: int) -> None:
        if hub.budget is not None and hub.budget < BLOCK and hub.served:
            hub.budget = None

    hub.at_block = refill
    assert_same(dsrl.load("BallRun"), EPISODES)
    assert_arrived()
    assert len(hub.served) == 2
    assert hub.served[1][0] == hub.served[0][1] >= len(DATASET) // 2 - BLOCK


def test_a_failed_download_is_resumed_by_the_next_call(hub):
    hub.budget = len(DATASET) // 2
    with pytest.raises(ConnectionError, match=rf"^{NAME}: "):
        dsrl.load("BallRun")
    assert_nothing_arrived()
    n_bytes = incomplete_size()
    assert n_bytes >= len(DATASET) // 2 - BLOCK
    hub.budget = None
    hub.served.clear()
    assert_same(dsrl.load("BallRun"), EPISODES)
    assert_arrived()
    assert hub.served == [(n_bytes, len(DATASET) - n_bytes)]


@pytest.fixture
def _ctrl_c_works() -> Iterator[None]:
    """Restore SIGINT, which a shell ignores for processes in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_ctrl_c_works")
def test_an_interrupted_download_is_resumed_by_the_next_call(hub):
    interrupted = threading.Event()

    def press_ctrl_c(n_sent: int) -> None:
        if n_sent == 30 * BLOCK:
            # Wait until a part of the file is on the disk.
            deadline = time.monotonic() + 20
            while incomplete_size() < 10 * BLOCK and time.monotonic() < deadline:
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGINT)
            interrupted.wait(20)

    hub.at_block = press_ctrl_c
    with pytest.raises(KeyboardInterrupt):
        dsrl.load("BallRun")
    interrupted.set()
    hub.at_block = lambda n_sent: None
    assert_nothing_arrived()
    n_bytes = incomplete_size()
    assert 10 * BLOCK <= n_bytes <= 30 * BLOCK
    assert_same(dsrl.load("BallRun"), EPISODES)
    assert_arrived()
    assert (n_bytes, len(DATASET) - n_bytes) in hub.served


def test_a_part_of_another_version_is_not_resumed(hub):
    other = dataset(seed=1)
    hub.files[NAME] = other
    hub.budget = len(other) // 2
    with pytest.raises(ConnectionError):
        dsrl.load("BallRun")
    hub.files[NAME], hub.budget = DATASET, None
    assert_same(dsrl.load("BallRun"), EPISODES)
    assert_arrived()
    assert hub.served[-1] == (0, len(DATASET))


@pytest.mark.parametrize("content", [DATASET, DATASET + b"written by two at once"], ids=["whole", "too long"])
def test_a_whole_file_that_was_not_checked_is_checked(hub, content):
    hub.budget = 0
    with pytest.raises(ConnectionError):
        dsrl.load("BallRun")
    (folder() / ".incomplete" / incomplete()[0]).write_bytes(content)
    hub.budget = None
    hub.served.clear()
    assert_same(dsrl.load("BallRun"), EPISODES)
    assert_arrived()
    assert hub.served == ([] if content == DATASET else [(0, len(DATASET))])


def test_a_file_damaged_in_the_download_is_removed(hub):
    damaged = bytearray(DATASET)
    damaged[len(damaged) // 2] ^= 1
    hub.damage[NAME] = bytes(damaged)
    with pytest.raises(ValueError, match=rf"^{NAME}: .*SHA-256 .*[0-9a-f]{{64}}"):
        dsrl.load("BallRun")
    assert_nothing_arrived()
    assert incomplete() == []
    hub.damage.clear()
    assert_same(dsrl.load("BallRun"), EPISODES)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (DATASET[: len(DATASET) // 2], "damaged"),
        (b"<!DOCTYPE html><html>Too many requests</html>", "not an HDF5 file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n", "not an HDF5 file"),
    ],
    ids=["half a file", "a page", "a pointer"],
)
def test_a_file_that_is_damaged_on_the_hub_is_removed(hub, content, message):
    hub.files[NAME] = content
    with pytest.raises(ValueError, match=rf"^{NAME}: .*removed: .*{message}"):
        dsrl.load("BallRun")
    assert_nothing_arrived()
    assert incomplete() == []


def test_a_downloaded_file_of_another_task_is_removed(hub):
    hub.files[dsrl.TASKS["AntRun"].file_name] = DATASET
    with pytest.raises(ValueError, match=r"removed: .*7 and 2.*AntRun .*33 and 8"):
        dsrl.load("AntRun")
    assert_nothing_arrived()
    assert incomplete() == []


def test_files_in_folders_of_the_repository_are_found(hub):
    hub.files = {"README.md": b"# DSRL", f"bullet/{NAME}": DATASET}
    assert_same(dsrl.load("BallRun"), EPISODES)
    assert_arrived()


def test_a_file_missing_on_the_hub_is_named_with_alternatives(hub):
    hub.files = {"README.md": b"# DSRL"}
    with pytest.raises(FileNotFoundError, match=rf"^{NAME}: .*YYY-45/DSRL") as caught:
        dsrl.load("BallRun")
    for alternative in (
        f"put {NAME} into {folder()}",
        f"https://huggingface.co/datasets/YYY-45/DSRL/resolve/main/{NAME}",
        "python -m benchmarks generate rollout BallRun",
    ):
        assert alternative in str(caught.value)


@pytest.mark.parametrize("way", ["the server is off", "HF_HUB_OFFLINE", "the Hub is out of order", "not the Hub"])
@pytest.mark.parametrize("task", ["BallRun", "AntRun", "easysparse"])
def test_without_the_hub_the_error_says_where_to_put_the_file(hub, monkeypatch, way, task):
    hub.files[dsrl.TASKS[task].file_name] = DATASET
    if way == "HF_HUB_OFFLINE":
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    elif way == "the Hub is out of order":
        hub.status = 500
    elif way == "not the Hub":
        hub.gives_etag = False
    else:
        hub.stop()
    with pytest.raises(ConnectionError) as caught:
        dsrl.load(task)
    file_name = dsrl.TASKS[task].file_name
    assert f"put {file_name} into {folder()}" in str(caught.value)
    # Episodes can be generated for the paper's tasks only.
    assert ("python -m benchmarks generate rollout BallRun" in str(caught.value)) == (task == "BallRun")
    assert_nothing_arrived()


def test_without_huggingface_hub_the_error_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setenv("DSRL_DATASET_DIR", str(tmp_path))
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=rf'^huggingface_hub: .*"sb3-prefine\[hub\]".*put {NAME} into {tmp_path}'):
        dsrl.load("BallRun")
    assert list(tmp_path.iterdir()) == []
    random_episodes(3).to_hdf5(tmp_path / NAME)
    assert len(dsrl.load("BallRun")) == 3


def test_concurrent_loads_download_a_file_once(hub):
    with ThreadPoolExecutor(4) as pool:
        loaded = list(pool.map(dsrl.load, ["BallRun"] * 4))
    for trajectories in loaded:
        assert_same(trajectories, EPISODES)
    assert_arrived()
    assert hub.served == [(0, len(DATASET))]


def test_a_full_disk_is_not_reported_as_a_network_error(hub, monkeypatch):
    def no_room(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(huggingface_hub.file_download, "http_get", no_room)
    with pytest.raises(OSError, match=r"^\[Errno 28\] No space left on device$"):
        dsrl.load("BallRun")


def test_the_download_shows_its_progress(hub, capfd, monkeypatch):
    # huggingface_hub shows the progress on a terminal, or if this is set.
    monkeypatch.setenv("TQDM_POSITION", "-1")
    dsrl.load("BallRun")
    shown = capfd.readouterr().err
    assert NAME in shown
    assert "100%" in shown


def test_permissions_of_downloads_follow_the_umask(hub):
    old = os.umask(0o027)
    try:
        dsrl.load("BallRun")
    finally:
        os.umask(old)
    assert dsrl.dataset_path("BallRun").stat().st_mode & 0o777 == 0o640
