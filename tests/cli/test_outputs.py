import os
from pathlib import Path

import pytest

from sb3_prefine.cli.outputs import check_outputs


def test_paths_that_cannot_be_written_are_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError, match=r"file: .*--overwrite"):
        check_outputs(None, tmp_path / "new", tmp_path / "file", overwrite=False)
    check_outputs(None, tmp_path / "new" / "er", tmp_path / "file", overwrite=True)
    with pytest.raises(IsADirectoryError, match=rf"^{tmp_path}: "):
        check_outputs(tmp_path, overwrite=True)
    with pytest.raises(NotADirectoryError, match=rf"^{tmp_path / 'file' / 'new' / 'er'}: "):
        check_outputs(tmp_path / "file" / "new" / "er", overwrite=True)
    with pytest.raises(ValueError, match=rf"^{tmp_path / 'new'}: "):
        check_outputs(tmp_path / "new", None, tmp_path / "." / "new", overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


def test_folder_without_write_permission_is_refused(tmp_path, monkeypatch):
    # The tests may run as root, which may write everywhere.
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    with pytest.raises(PermissionError, match=rf"^{tmp_path / 'new' / 'er'}: "):
        check_outputs(tmp_path / "new" / "er", overwrite=False)
