"""DSRL's files from the Hugging Face Hub: resumed where they were cut off, and seen only once they are whole."""

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Any

# DSRL's own host is gone; its authors put the files here (github.com/liuzuxin/DSRL, issue 21).
REPOSITORY = "YYY-45/DSRL"
# Inside the folder of the datasets: what is not whole yet, and the locks.
_UNFINISHED = ".incomplete"


@contextlib.contextmanager
def downloaded(path: Path) -> Iterator[Path]:
    """
    Download a file of DSRL's, to be checked inside the ``with`` block, and put it in its place after that.

    What was fetched before a failure stays in the folder ``.incomplete`` beside ``path``, and the next call goes on
    from there. Processes that want the same file wait for the first of them. The address, a token and being offline are
    huggingface_hub's own settings: ``HF_ENDPOINT``, ``HF_TOKEN``, ``HF_HUB_OFFLINE``.

    :param path: where the file belongs; its name is that in the repository
    :return: where the file is inside the block: it has the length and, where the Hub tells it, the checksum that it
        should have
    :raises ImportError: huggingface_hub is missing, or too old
    :raises FileNotFoundError: the repository has no such file
    :raises ConnectionError: the Hub cannot be reached, or the download was cut off
    :raises ValueError: the file came damaged, or the block raised this; the file is removed
    """
    hub = _client()
    unfinished = path.parent / _UNFINISHED
    unfinished.mkdir(parents=True, exist_ok=True)
    with hub.utils.WeakFileLock(unfinished / f"{path.name}.lock"):
        if path.exists():
            # Another process was faster.
            yield path
            return
        part = _fetch(hub, path.name, unfinished)
        try:
            yield part
        except ValueError as error:
            part.unlink()
            raise ValueError(f"{path.name} was downloaded, is not usable and was removed: {error}") from error
        os.replace(part, path)


def _fetch(hub: ModuleType, file_name: str, folder: Path) -> Path:
    """The whole file, under a name of its own in ``folder``."""
    try:
        url, metadata = _locate(hub, file_name)
        if metadata.etag is None or metadata.size is None:
            raise ConnectionError(f"{url} does not tell the file's ETag and length, as the Hub does.")
        etag = re.sub(r"\W", "", metadata.etag)
        # Half of another version is not gone on with.
        part = folder / f"{file_name}.{etag[:16]}"
        for other in set(folder.glob(f"{file_name}.*")) - {part, folder / f"{file_name}.lock"}:
            other.unlink()
        if part.exists() and part.stat().st_size > metadata.size:
            # Two processes wrote at once, where the file system ignores locks.
            part.unlink()
        with part.open("ab") as file:
            hub.file_download.http_get(
                url,
                file,
                resume_size=file.tell(),
                # Lengths are those of the file itself.
                headers=hub.utils.build_hf_headers(library_name="sb3-prefine") | {"Accept-Encoding": "identity"},
                expected_size=metadata.size,
                displayed_filename=file_name,
            )
            file.flush()
            os.fsync(file.fileno())
    except hub.errors.OfflineModeIsEnabled as error:
        raise ConnectionError(f"{file_name} cannot be downloaded: HF_HUB_OFFLINE is set.") from error
    except (hub.errors.HTTPError, OSError) as error:
        # The operating system's own errors (a full disk, a missing right) have a number and are not about the network.
        if isinstance(error, FileNotFoundError | ConnectionError) or getattr(error, "errno", None) is not None:
            raise
        raise ConnectionError(
            f"{file_name} cannot be downloaded, or not to its end: {error} The next call goes on from there."
        ) from error
    # An ETag of the Hub's large files is their SHA-256.
    if len(etag) == 64 and _sha256(part) != etag:
        part.unlink()
        raise ValueError(f"{file_name} came damaged and was removed: its SHA-256 is not {etag}. Download it again.")
    return part


def _locate(hub: ModuleType, file_name: str) -> tuple[str, Any]:
    """The file's address and what the Hub tells of it, at the repository's root or in any folder."""
    url = hub.hf_hub_url(REPOSITORY, file_name, repo_type="dataset")
    try:
        return url, hub.get_hf_file_metadata(url)
    except hub.errors.EntryNotFoundError as error:
        names = hub.list_repo_files(REPOSITORY, repo_type="dataset")
        found = [name for name in names if PurePosixPath(name).name == file_name]
        if not found:
            raise FileNotFoundError(f"The repository {REPOSITORY} on the Hub has no file {file_name}.") from error
        url = hub.hf_hub_url(REPOSITORY, found[0], repo_type="dataset")
        return url, hub.get_hf_file_metadata(url)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _client() -> ModuleType:
    try:
        import huggingface_hub
        import huggingface_hub.errors
        import huggingface_hub.file_download
        import huggingface_hub.utils
        from huggingface_hub.file_download import http_get  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f'A download needs huggingface_hub 1.26 or newer: pip install "sb3-prefine[hub]" ({error}).'
        ) from error
    return huggingface_hub
