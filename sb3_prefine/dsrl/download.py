"""Downloading DSRL's files from the Hugging Face Hub: resumable, and visible only when complete and checked."""

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Any

# DSRL's own host no longer exists; its authors put the files here (github.com/liuzuxin/DSRL, issue 21).
REPOSITORY = "YYY-45/DSRL"
# Folder for incomplete files and locks, inside the folder of the datasets.
_INCOMPLETE = ".incomplete"


@contextlib.contextmanager
def download_file(path: Path) -> Iterator[Path]:
    """
    Download one of DSRL's files, which the ``with`` block checks. After the block it is moved to its place.

    An interrupted download stays in the folder ``.incomplete`` next to ``path``, and the next call resumes it. If
    several processes want the same file, the first one downloads it while the others wait. The address, the token and
    the offline mode are huggingface_hub's own settings: ``HF_ENDPOINT``, ``HF_TOKEN``, ``HF_HUB_OFFLINE``.

    :param path: The final path. The file has the same name in the repository.
    :return: The path inside the block, of a file with the length and (if the Hub gives it) the checksum expected.
    :raises ImportError: If huggingface_hub is missing, or too old.
    :raises FileNotFoundError: If the repository has no such file.
    :raises ConnectionError: If the Hub cannot be reached, or the download was interrupted.
    :raises ValueError: If the file is damaged, or the block raised this. The file is then removed.
    """
    hub = _import_client()
    incomplete = path.parent / _INCOMPLETE
    incomplete.mkdir(parents=True, exist_ok=True)
    with hub.utils.WeakFileLock(incomplete / f"{path.name}.lock"):
        if path.exists():
            # Another process has downloaded it.
            yield path
            return
        part = _fetch(hub, path.name, incomplete)
        try:
            yield part
        except ValueError as error:
            part.unlink()
            raise ValueError(f"{path.name}: it was downloaded, is not usable and was removed: {error}") from error
        os.replace(part, path)


def _fetch(hub: ModuleType, file_name: str, folder: Path) -> Path:
    """Download the whole file to ``folder``, under a name that contains its version."""
    try:
        url, metadata = _locate(hub, file_name)
        if metadata.etag is None or metadata.size is None:
            raise ConnectionError(f"{file_name}: {url} does not give its ETag and length. Check HF_ENDPOINT.")
        etag = re.sub(r"\W", "", metadata.etag)
        # The ETag is in the name, so that a part of another version is not continued but removed.
        part = folder / f"{file_name}.{etag[:16]}"
        for other in set(folder.glob(f"{file_name}.*")) - {part, folder / f"{file_name}.lock"}:
            other.unlink()
        if part.exists() and part.stat().st_size > metadata.size:
            # Two processes wrote to it at the same time, on a file system that ignores locks.
            part.unlink()
        with part.open("ab") as file:
            hub.file_download.http_get(
                url,
                file,
                resume_size=file.tell(),
                # Uncompressed, because the lengths are those of the file itself.
                headers=hub.utils.build_hf_headers(library_name="sb3-prefine") | {"Accept-Encoding": "identity"},
                expected_size=metadata.size,
                displayed_filename=file_name,
            )
            file.flush()
            os.fsync(file.fileno())
    except hub.errors.OfflineModeIsEnabled as error:
        raise ConnectionError(f"{file_name}: no download, because HF_HUB_OFFLINE is set. Unset it.") from error
    except (hub.errors.HTTPError, OSError) as error:
        # Errors of the operating system (full disk, missing permission) have an errno and are not about the network.
        if isinstance(error, FileNotFoundError | ConnectionError) or getattr(error, "errno", None) is not None:
            raise
        raise ConnectionError(
            f"{file_name}: the download failed or was interrupted: {error} Call again to resume it."
        ) from error
    # The ETag of large files on the Hub is their SHA-256.
    if len(etag) == 64 and _sha256(part) != etag:
        part.unlink()
        raise ValueError(f"{file_name}: it was damaged and was removed: its SHA-256 is not {etag}. Download it again.")
    return part


def _locate(hub: ModuleType, file_name: str) -> tuple[str, Any]:
    """Find the address and the metadata of a file, in any folder of the repository."""
    url = hub.hf_hub_url(REPOSITORY, file_name, repo_type="dataset")
    try:
        return url, hub.get_hf_file_metadata(url)
    except hub.errors.EntryNotFoundError as error:
        names = hub.list_repo_files(REPOSITORY, repo_type="dataset")
        found = [name for name in names if PurePosixPath(name).name == file_name]
        if not found:
            raise FileNotFoundError(f"{file_name}: the repository {REPOSITORY} on the Hub has no such file.") from error
        url = hub.hf_hub_url(REPOSITORY, found[0], repo_type="dataset")
        return url, hub.get_hf_file_metadata(url)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _import_client() -> ModuleType:
    # Imported here because huggingface_hub is optional.
    try:
        import huggingface_hub
        import huggingface_hub.errors
        import huggingface_hub.file_download
        import huggingface_hub.utils
        from huggingface_hub.file_download import http_get  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f'huggingface_hub: a download needs version 1.26 or newer ({error}). Run pip install "sb3-prefine[hub]".'
        ) from error
    return huggingface_hub
