"""Download from the Hugging Face Hub with huggingface_hub, and verify the cached files.

Hashes are checked here because huggingface_hub does not check files that are already cached.
"""

import os
import re
from pathlib import Path
from typing import NamedTuple

from cnnarch.weights.errors import WeightsError
from cnnarch.weights.files import hash_matches, open_regular, sha256

_PREFIX = "hf-hub:"
_NAME = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")


class HubName(NamedTuple):
    """A repository on the hub, optionally with a branch, tag or commit."""

    repo: str
    revision: str | None = None

    def __str__(self) -> str:
        return f"{_PREFIX}{self.repo}" + (f"@{self.revision}" if self.revision else "")


def parse_hub_name(name: str) -> HubName:
    """Parse "hf-hub:owner/name[@revision]", where the prefix is optional.

    Raises:
        WeightsError: the name is not in this format.

    >>> parse_hub_name("hf-hub:timm/resnet18.a1_in1k@main")
    HubName(repo='timm/resnet18.a1_in1k', revision='main')
    """
    found = _NAME.fullmatch(name.removeprefix(_PREFIX))
    if found is None:
        raise WeightsError(f"a hub name must be {_PREFIX}owner/name[@revision], got {name!r}")
    return HubName(found["repo"], found["revision"])


def fetch_from_hub(name: HubName, *filenames: str, expected: str | None = None) -> Path | None:
    """Return the first of `filenames` in a repository, downloading it unless it is cached.

    The content is checked against `expected`, or against the hash that the hub lists for the file.
    A file with the wrong content is downloaded once more.

    Args:
        name: the repository.
        filenames: file names in order of preference.
        expected: published sha256 of the file, in full or its leading hex digits.

    Returns:
        The path, or None if the repository contains none of the files.

    Raises:
        WeightsError: the hub or the repository cannot be reached, or the content is wrong.
    """
    from huggingface_hub import _CACHED_NO_EXIST, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    def look_up(filename: str) -> object:
        return try_to_load_from_cache(name.repo, filename, revision=name.revision)

    for index, filename in enumerate(filenames):
        try:
            return _fetch_checked(name, filename, expected)
        except LocalEntryNotFoundError as error:  # offline, and the file is not cached
            is_other_cached = any(isinstance(look_up(f), str) for f in filenames[index + 1 :])
            if not (look_up(filename) is _CACHED_NO_EXIST or is_other_cached):
                raise WeightsError(_download_message(name, filename, error)) from error
        except EntryNotFoundError:
            continue
    return None


def _fetch_checked(name: HubName, filename: str, expected: str | None) -> Path:
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError

    for force in (False, True):
        try:
            file = huggingface_hub.hf_hub_download(
                name.repo, filename, revision=name.revision, force_download=force
            )
        except EntryNotFoundError:  # the caller may try another file name
            raise
        except Exception as error:  # the HTTP client may raise any exception type
            raise WeightsError(_download_message(name, filename, error)) from error
        path = Path(file)
        if (problem := _find_content_problem(path, expected)) is None:
            return path
    path.resolve().unlink(missing_ok=True)
    path.unlink(missing_ok=True)
    raise WeightsError(f"{name}, {filename}: {problem}; it was downloaded twice to {path}")


def _find_content_problem(path: Path, expected: str | None) -> str | None:
    """Describe how a file differs from its known hashes; None if it matches or none are known."""
    from huggingface_hub.utils.sha import git_hash

    if expected is not None and not hash_matches(path, expected):
        return f"expected sha256 {expected}, got {sha256(path)}"
    blob = os.path.basename(os.readlink(path)) if path.is_symlink() else ""
    if re.fullmatch("[0-9a-f]{64}", blob) and (got := sha256(path)) != blob:
        return f"the hub lists sha256 {blob}, got {got}"
    if re.fullmatch("[0-9a-f]{40}", blob):
        with open_regular(path) as file:
            got = git_hash(file.read())
        if got != blob:
            return f"the hub lists git hash {blob}, got {got}"
    return None


def _download_message(name: HubName, filename: str, error: Exception) -> str:
    reason = " ".join(str(error).split())
    return (
        f"{filename} of {name} cannot be downloaded ({type(error).__name__}: {reason:.400}). "
        "For a machine without internet access, run `cnnarch download` elsewhere and pass the "
        "folder as weights"
    )
