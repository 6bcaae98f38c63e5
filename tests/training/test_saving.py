"""Zips of PREFINE.save from an untrusted source."""

import io
import json
import os
import zipfile
from pathlib import Path

import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.save_util import data_to_json

from sb3_prefine import PREFINE
from sb3_prefine.reference.archive import saved_algorithm
from sb3_prefine.training.saving import custom_objects_for_load
from tests.worlds import make_model, preferences


class Hostile:
    """An object that creates a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def hostile_zip(tmp_path: Path, into: set[str]) -> Path:
    """Write a zip of PREFINE in which the named fields and those of the reference run code when they are unpickled."""
    PREFINE(make_model(PPO), preferences(), device="cpu").learn(1).save(tmp_path / "good.zip")
    bomb = json.loads(data_to_json({"bomb": Hostile(tmp_path / "made")}))["bomb"]

    def poison(content: bytes, names: set[str] | None) -> str:
        fields = json.loads(content)
        for name, field in fields.items():
            if isinstance(field, dict) and ":serialized:" in field and (names is None or name in names):
                field[":serialized:"] = bomb[":serialized:"]
        fields.update({name: bomb for name in names or () if name not in fields})
        return json.dumps(fields)

    with zipfile.ZipFile(tmp_path / "good.zip") as old, zipfile.ZipFile(tmp_path / "their.zip", "w") as new:
        for name in old.namelist():
            content: bytes | str = old.read(name)
            if name == "data":
                content = poison(old.read(name), into)
            elif name == "reference/checkpoint.zip":
                inner = io.BytesIO()
                with zipfile.ZipFile(io.BytesIO(old.read(name))) as a, zipfile.ZipFile(inner, "w") as b:
                    for part in a.namelist():
                        b.writestr(part, poison(a.read(part), None) if part == "data" else a.read(part))
                content = inner.getvalue()
            new.writestr(name, content)
    return tmp_path / "their.zip"


def test_loading_a_hostile_zip_runs_no_code(tmp_path):
    their = hostile_zip(
        tmp_path, {"policy_class", "observation_space", "action_space", "lr_schedule", "ep_info_buffer"}
    )
    assert PREFINE.load(their, device="cpu").num_timesteps == 1
    assert not (tmp_path / "made").exists()


def test_unknown_pickled_field_is_refused_by_name(tmp_path):
    their = hostile_zip(tmp_path, {"extra"})
    with pytest.raises(ValueError, match=r"their\.zip: extra "):
        PREFINE.load(their, device="cpu")
    assert not (tmp_path / "made").exists()


def test_given_object_replaces_a_pickled_field(tmp_path):
    their = hostile_zip(tmp_path, {"extra"})
    assert custom_objects_for_load(their, {"extra": 3})["extra"] == 3
    assert PREFINE.load(their, device="cpu", custom_objects={"extra": 3}).extra == 3
    assert not (tmp_path / "made").exists()


def test_saved_algorithm_tells_prefine_zips_from_others(tmp_path):
    make_model(PPO).save(tmp_path / "ppo.zip")
    PREFINE(make_model(PPO), device="cpu").save(tmp_path / "prefine.zip")
    (tmp_path / "text.zip").write_text("no zip")
    assert [saved_algorithm(tmp_path / name) for name in ("ppo.zip", "prefine.zip", "text.zip")] == [
        None,
        "PREFINE",
        None,
    ]
