"""Download checkpoints by their name on the Hugging Face Hub, such as ``hf://sb3/ppo-HalfCheetah-v3``."""

import glob
import re
from pathlib import Path, PurePosixPath
from types import ModuleType

# Only two plain names may precede the colon, so that "C:/x.zip", "./runs/a:b.zip" and "~/a/b:c.zip" are local paths.
_REPO_AND_FILE = re.compile(r"(?P<repo>[\w-][\w.-]*/[\w-][\w.-]*(?:@[^:@\s]+)?):(?P<file>[^:\\]+\.zip)", re.ASCII)
# RL Zoo's push_to_hub uploads the training logs next to the model.
_NOT_CHECKPOINTS = ("train_eval_metrics.zip",)
_SIDECARS = ("config.yml", "vec_normalize.pkl", "vecnormalize.pkl")


def is_hub_id(source: str | Path) -> bool:
    """
    Whether a source names a checkpoint on the Hub instead of a local file.

    The forms are ``hf://OWNER/REPO``, ``hf://OWNER/REPO/FILE.zip`` and ``OWNER/REPO:FILE.zip``, with ``@REVISION``
    after ``REPO`` if it is not the main branch. An existing local path with such a name has precedence. A bare
    ``OWNER/REPO`` is always a local path, because it looks like RL Zoo's ``ppo/HalfCheetah-v3``.

    :param source: The source.
    """
    return _as_uri(source) is not None and not Path(source).exists()


def download_checkpoint(source: str | Path) -> Path:
    """
    Download a checkpoint from the Hub into huggingface_hub's cache, unless it is already there.

    The download contains the zip, its normaliser and its ``config.yml``, if the repository has them where
    ``find_checkpoint`` looks for them, and ``.gitattributes``. All files are from one commit. Without network, the last
    complete download is used. huggingface_hub's environment variables set the address, the cache and the token of a
    private repository: ``HF_ENDPOINT``, ``HF_HUB_CACHE``, ``HF_TOKEN``, ``HF_HUB_OFFLINE``.

    :param source: ``hf://OWNER/REPO[@REVISION][/FILE.zip]`` or ``OWNER/REPO[@REVISION]:FILE.zip``. A revision is a
        branch, a tag or a commit; write a slash in it as ``%2F``. The default file is the zip named like the
        repository, or the only zip.
    :return: The path of the zip in the cache, a link. The sidecar files lie around it as in the repository.
    :raises ImportError: If huggingface_hub is missing, or too old.
    :raises FileNotFoundError: If there is no such repository, revision or file, or if there are several zips. The
        message lists the zips.
    :raises ConnectionError: If the Hub cannot be reached and the cache does not contain the whole checkpoint.
    :raises ValueError: If the source has another form.
    """
    hub = _client()
    repo, revision, file = _parse(source, hub)
    try:
        # Zip and normaliser must match, so the revision is resolved to one commit before the downloads.
        commit = hub.resolve_revision(repo, revision=revision)
        # This download puts the list of files into the cache, where it can be read without network. Every repository
        # has this file.
        hub.snapshot_download(repo, revision=commit, allow_patterns=[".gitattributes"])
        files = {entry.path for entry in hub.get_cached_repo_tree(repo, revision=commit)}
        zip_name = _choose_zip(file, repo, files)
        patterns = [glob.escape(name) for name in (zip_name, *_sidecars(zip_name))]
        folder = hub.snapshot_download(repo, revision=commit, allow_patterns=patterns)
    except hub.errors.GatedRepoError as error:
        raise FileNotFoundError(
            f"policy: the repository {repo} requires its owner's consent. Accept the conditions on its page on the Hub "
            "and log in: hf auth login, or HF_TOKEN."
        ) from error
    except hub.errors.RepositoryNotFoundError as error:
        raise FileNotFoundError(
            f"policy: there is no repository {repo} on the Hub, and no local path {source}. Correct the name or, if "
            "the repository is private, log in: hf auth login, or HF_TOKEN."
        ) from error
    except hub.errors.RevisionNotFoundError as error:
        raise FileNotFoundError(
            f"policy: the repository {repo} has no revision {revision}. Name a branch, a tag or a commit, "
            "or no revision for the main branch."
        ) from error
    except (
        hub.errors.RevisionResolutionError,
        hub.errors.CachedRepoTreeNotFoundError,
        hub.errors.LocalEntryNotFoundError,
        hub.errors.OfflineModeIsEnabled,
    ) as error:
        raise ConnectionError(
            f"policy: the Hub cannot be reached, and the whole checkpoint {source} is not in the cache: {error} "
            "Connect once to download it, or give the path of a local zip."
        ) from error
    # The link is not resolved, because its target has another name and no sidecar files next to it.
    return Path(folder, zip_name)


def _client() -> ModuleType:
    try:
        import huggingface_hub
        import huggingface_hub.errors
        import huggingface_hub.utils
        from huggingface_hub import get_cached_repo_tree, resolve_revision  # noqa: F401
    except ImportError as error:
        raise ImportError(
            'policy: a checkpoint on the Hugging Face Hub needs huggingface_hub 1.26 or newer: pip install "sb3-prefine'
            f'[hub]" ({error}).'
        ) from error
    return huggingface_hub


def _as_uri(source: str | Path) -> str | None:
    """The source as ``hf://…``; None if it has none of the Hub's forms."""
    text = source.as_posix() if isinstance(source, Path) else source
    if text.startswith("hf:/"):
        # A Path keeps only one of the two slashes.
        return "hf://" + text.removeprefix("hf:").lstrip("/")
    found = _REPO_AND_FILE.fullmatch(text)
    return f"hf://{found['repo']}/{found['file']}" if found else None


def _parse(source: str | Path, hub: ModuleType) -> tuple[str, str | None, str]:
    """Repository, revision and file; the file is empty if the source has none."""
    uri = _as_uri(source)
    if uri is None:
        raise ValueError(f"policy: {source} has another form. Write hf://OWNER/REPO or hf://OWNER/REPO/FILE.zip.")
    parsed = hub.utils.parse_hf_uri(uri)
    if parsed.type != "model":
        raise ValueError(f"policy: {source} is a {parsed.type} on the Hub. Name a model repository.")
    return parsed.id, parsed.revision, parsed.path_in_repo


def _choose_zip(given: str, repo: str, files: set[str]) -> str:
    zips = sorted(name for name in files if name.endswith(".zip") and PurePosixPath(name).name not in _NOT_CHECKPOINTS)
    found = ", ".join(zips) or "none"
    if given:
        if given not in zips:
            raise FileNotFoundError(
                f"policy: the repository {repo} has no zip {given} (zips in it: {found}). Correct the name."
            )
        return given
    named_like_it = repo.partition("/")[2] + ".zip"
    if named_like_it in zips:
        return named_like_it
    if len(zips) != 1:
        raise FileNotFoundError(
            f"policy: expected one zip in the repository {repo} (zips in it: {found}). Name the one you mean: "
            f"hf://{repo}/FILE.zip."
        )
    return zips[0]


def _sidecars(zip_name: str) -> list[str]:
    """
    List the paths where ``find_checkpoint`` looks for sidecar files.

    It looks in the folder named like the zip, next to the zip, and in RL Zoo's folder for ``best_model.zip``.
    """
    path = PurePosixPath(zip_name)
    folders = (path.with_suffix(""), path.parent, path.parent / path.parent.name.rpartition("_")[0])
    return [str(folder / name) for folder in folders for name in _SIDECARS]
