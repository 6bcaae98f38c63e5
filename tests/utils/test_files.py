"""Atomic writes: a file appears whole or not at all."""

import os
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sb3_prefine.utils.files import open_atomically, with_zip_suffix, write_atomically


@given(content=st.binary(max_size=1000))
def test_written_content_is_read_back(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("files") / "file.bin"
    write_atomically(path, b"before")
    write_atomically(str(path), content)
    assert path.read_bytes() == content
    assert os.listdir(path.parent) == ["file.bin"]


def test_a_failed_write_keeps_the_existing_file(tmp_path, monkeypatch):
    path = tmp_path / "file.bin"
    path.write_bytes(b"good")

    def fail(*args: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"good"
    assert os.listdir(tmp_path) == ["file.bin"]


def test_replacing_shows_the_file_after_the_last_write(tmp_path):
    path = tmp_path / "file.bin"
    with open_atomically(path) as file:
        file.write(b"12")
        assert not path.exists()
        file.seek(0)
        assert file.read() == b"12"
        file.write(b"3")
    assert path.read_bytes() == b"123"
    with pytest.raises(TypeError, match="bytes-like"), open_atomically(path) as file:
        file.writelines([b"4", "no bytes"])  # type: ignore[list-item]
    assert path.read_bytes() == b"123"
    assert os.listdir(tmp_path) == ["file.bin"]


def test_a_missing_folder_raises_file_not_found(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_atomically(tmp_path / "gone" / "file.bin", b"")


def test_permissions_follow_the_umask(tmp_path):
    before = os.umask(0o022)
    try:
        write_atomically(tmp_path / "file.bin", b"")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file.bin").stat().st_mode) == 0o644


@pytest.mark.parametrize(("given", "expected"), [("a/model", "a/model.zip"), ("a/model.zip", "a/model.zip")])
def test_zip_suffix_is_added_to_paths_without_suffix(given, expected):
    assert str(with_zip_suffix(given)) == expected
