"""Checkpoints by their name on the Hugging Face Hub, such as ``hf://sb3/ppo-HalfCheetah-v3``."""

import glob
import re
from pathlib import Path, PurePosixPath
from types import ModuleType

# Beside a local path this is all that can stand before the colon: two plain names. "C:/x.zip", "./runs/a:b.zip" and
# "~/a/b:c.zip" are no such thing.
_REPO_AND_FILE = re.compile(r"(?P<repo>[\w-][\w.-]*/[\w-][\w.-]*(?:@[^:@\s]+)?):(?P<file>[^:\\]+\.zip)", re.ASCII)
# RL Zoo's push_to_hub puts the logs of the training beside the model.
_NO_CHECKPOINTS = ("train_eval_metrics.zip",)
_SIDECARS = ("config.yml", "vec_normalize.pkl", "vecnormalize.pkl")


def is_hub_id(source: str | Path) -> bool:
    """
    Whether a source names a checkpoint on the Hub and not a file here.

    These do: ``hf://OWNER/REPO``, ``hf://OWNER/REPO/FILE.zip`` and ``OWNER/REPO:FILE.zip``, with ``@REVISION`` after
    ``REPO`` if it is not the main branch. What exists as a local path is that path, whatever it is called. A bare
    ``OWNER/REPO`` is a local path too: it could not be told from RL Zoo's ``ppo/HalfCheetah-v3``.
    """
    return _as_uri(source) is not None and not Path(source).exists()


def download_checkpoint(source: str | Path) -> Path:
    """
    Fetch a checkpoint from the Hub into huggingface_hub's cache, or find it there.

    With the zip come its normaliser and ``config.yml``, if the repository has them where ``find_checkpoint`` looks for
    them; nothing else is downloaded but ``.gitattributes``. All are of one commit. Without network the last one that
    was fetched whole is used. The address, the cache and the token of a private repository are huggingface_hub's own:
    ``HF_ENDPOINT``, ``HF_HUB_CACHE``, ``HF_TOKEN``, ``HF_HUB_OFFLINE``.

    :param source: ``hf://OWNER/REPO[@REVISION][/FILE.zip]`` or ``OWNER/REPO[@REVISION]:FILE.zip``; a revision is a
        branch, a tag or a commit (a slash in it is written ``%2F``). Without a file it is the zip named like the
        repository, or the only one
    :return: the zip in the cache, a link there; its sidecars stand around it as in the repository
    :raises ImportError: huggingface_hub is missing, or too old
    :raises FileNotFoundError: no such repository, revision or file, or several zips; says which there are
    :raises ConnectionError: the Hub cannot be reached, and the cache does not hold the whole checkpoint
    :raises ValueError: not a name of that form
    """
    hub = _client()
    repo, revision, file = _parse(source, hub)
    try:
        # Zip and normaliser belong together: the revision becomes one commit before anything is fetched.
        commit = hub.resolve_revision(repo, revision=revision)
        # The listing comes into the cache with a download, and is read from there with or without network. This file
        # is in every repository.
        hub.snapshot_download(repo, revision=commit, allow_patterns=[".gitattributes"])
        files = {entry.path for entry in hub.get_cached_repo_tree(repo, revision=commit)}
        zip_name = _choose_zip(file, repo, files)
        wanted = [glob.escape(name) for name in (zip_name, *_sidecars(zip_name))]
        folder = hub.snapshot_download(repo, revision=commit, allow_patterns=wanted)
    except hub.errors.GatedRepoError as error:
        raise FileNotFoundError(
            f"policy: the repository {repo} asks for its owner's consent. Open its page on the Hub, accept, and "
            "log in: hf auth login, or HF_TOKEN."
        ) from error
    except hub.errors.RepositoryNotFoundError as error:
        raise FileNotFoundError(
            f"policy: there is no repository {repo} on the Hub, nor a local path {source}. Correct the name, or, "
            "if it is private, log in: hf auth login, or HF_TOKEN."
        ) from error
    except hub.errors.RevisionNotFoundError as error:
        raise FileNotFoundError(
            f"policy: the repository {repo} has no revision {revision}. Name a branch, a tag or a commit, "
            "or none for the main branch."
        ) from error
    except (
        hub.errors.RevisionResolutionError,
        hub.errors.CachedRepoTreeNotFoundError,
        hub.errors.LocalEntryNotFoundError,
        hub.errors.OfflineModeIsEnabled,
    ) as error:
        raise ConnectionError(
            f"policy: the Hub cannot be reached, and the whole checkpoint {source} is not in the cache: {error} "
            "Connect once to fetch it, or give the path of a local zip."
        ) from error
    # Not resolved: the link's target has another name, and no sidecars beside it.
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
    """The source as ``hf://…``; None if it has no form of the Hub's."""
    text = source.as_posix() if isinstance(source, Path) else source
    if text.startswith("hf:/"):
        # A Path keeps one slash of the two.
        return "hf://" + text.removeprefix("hf:").lstrip("/")
    found = _REPO_AND_FILE.fullmatch(text)
    return f"hf://{found['repo']}/{found['file']}" if found else None


def _parse(source: str | Path, hub: ModuleType) -> tuple[str, str | None, str]:
    """Repository, revision and file; the file is empty if none is named."""
    uri = _as_uri(source)
    if uri is None:
        raise ValueError(f"policy: {source} is not of the form hf://OWNER/REPO, with or without /FILE.zip.")
    place = hub.utils.parse_hf_uri(uri)
    if place.type != "model":
        raise ValueError(f"policy: {source} is a {place.type} on the Hub. Checkpoints are in model repositories.")
    return place.id, place.revision, place.path_in_repo


def _choose_zip(given: str, repo: str, files: set[str]) -> str:
    zips = sorted(name for name in files if name.endswith(".zip") and PurePosixPath(name).name not in _NO_CHECKPOINTS)
    found = ", ".join(zips) or "none"
    if given:
        if given not in zips:
            raise FileNotFoundError(f"policy: the repository {repo} has no zip {given} (zips in it: {found}).")
        return given
    named_like_it = repo.partition("/")[2] + ".zip"
    if named_like_it in zips:
        return named_like_it
    if len(zips) != 1:
        raise FileNotFoundError(
            f"policy: one zip is expected in the repository {repo} (zips in it: {found}). Name the one you mean: "
            f"hf://{repo}/FILE.zip."
        )
    return zips[0]


def _sidecars(zip_name: str) -> list[str]:
    """Where ``find_checkpoint`` looks: the zip's own folder, beside it, and RL Zoo's folder for ``best_model.zip``."""
    path = PurePosixPath(zip_name)
    folders = (path.with_suffix(""), path.parent, path.parent / path.parent.name.rpartition("_")[0])
    return [str(folder / name) for folder in folders for name in _SIDECARS]
