"""The Hugging Face Hub: every byte to and from it goes through huggingface_hub."""

import os
import re
from pathlib import Path
from typing import NamedTuple

from cnnarch.weights.errors import WeightsError
from cnnarch.weights.files import git_hash, hash_matches, sha256

__all__ = ["HubName", "fetch_from_hub", "parse_hub_name"]

_PREFIX = "hf-hub:"
_NAME = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")


class HubName(NamedTuple):
    """A repository on the hub and, perhaps, a branch, tag or commit of it."""

    repo: str
    revision: str | None = None

    def __str__(self) -> str:
        return f"{_PREFIX}{self.repo}" + (f"@{self.revision}" if self.revision else "")


def parse_hub_name(name: str) -> HubName:
    """From "hf-hub:owner/name[@revision]", with or without the first part.

    Raises:
        WeightsError: it is not such a name.

    >>> parse_hub_name("hf-hub:timm/resnet18.a1_in1k@main")
    HubName(repo='timm/resnet18.a1_in1k', revision='main')
    """
    found = _NAME.fullmatch(name.removeprefix(_PREFIX))
    if found is None:
        raise WeightsError(f"a hub name is {_PREFIX}owner/name[@revision], got {name!r}")
    return HubName(found["repo"], found["revision"])


def fetch_from_hub(name: HubName, *filenames: str, expected: str | None = None) -> Path | None:
    """The first of these files that a repository has, from the cache if it is there.

    The content is compared with `expected`, or with the hash that the hub itself names it by,
    whether it was fetched or found. A file that fails is fetched once more.

    Args:
        name: the repository.
        filenames: in the order of preference.
        expected: the file's sha256, whole or its beginning, if it is published.

    Returns:
        Its path; None if the repository has none of them.

    Raises:
        WeightsError: the repository, the hub or the file's content fails.
    """
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    for place, filename in enumerate(filenames):
        try:
            return _fetch_checked(name, filename, expected)
        except LocalEntryNotFoundError as error:  # the hub cannot be asked
            others = filenames[place + 1 :]
            if not (_is_absent(name, filename) or any(_is_cached(name, one) for one in others)):
                raise WeightsError(_unreachable(name, filename, error)) from error
        except EntryNotFoundError:
            continue
    return None


def _is_cached(name: HubName, filename: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(name.repo, filename, revision=name.revision), str)


def _is_absent(name: HubName, filename: str) -> bool:
    """Whether the cache knows that a repository does not have a file."""
    from huggingface_hub import _CACHED_NO_EXIST, try_to_load_from_cache

    known = try_to_load_from_cache(name.repo, filename, revision=name.revision)
    return known is _CACHED_NO_EXIST


def _fetch_checked(name: HubName, filename: str, expected: str | None) -> Path:
    path = _fetch(name, filename)
    if (fault := _fault(path, expected)) is None:
        return path
    path = _fetch(name, filename, force=True)
    if (fault := _fault(path, expected)) is None:
        return path
    path.resolve().unlink(missing_ok=True)
    path.unlink(missing_ok=True)
    raise WeightsError(f"{name}, {filename}: {fault}; it was fetched twice to {path}")


def _fetch(name: HubName, filename: str, force: bool = False) -> Path:
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError

    try:
        return Path(
            huggingface_hub.hf_hub_download(
                name.repo, filename, revision=name.revision, force_download=force
            )
        )
    except EntryNotFoundError:  # the caller may know another name to try
        raise
    except Exception as error:  # whatever the client's transport raises
        raise WeightsError(_unreachable(name, filename, error)) from error


def _fault(path: Path, expected: str | None) -> str | None:
    """What is wrong with a file's content, None if nothing is or nothing is known of it."""
    if expected is not None and not hash_matches(path, expected):
        return f"expected sha256 {expected}, got {sha256(path)}"
    blob = os.path.basename(os.readlink(path)) if path.is_symlink() else ""
    if re.fullmatch("[0-9a-f]{64}", blob) and (got := sha256(path)) != blob:
        return f"the hub says sha256 {blob}, got {got}"
    if re.fullmatch("[0-9a-f]{40}", blob) and (got := git_hash(path)) != blob:
        return f"the hub says git hash {blob}, got {got}"
    return None


def _unreachable(name: HubName, filename: str, error: Exception) -> str:
    reason = " ".join(str(error).split())
    return (
        f"{filename} of {name} cannot be downloaded ({type(error).__name__}: {reason:.400}). "
        "Without a network, fetch it elsewhere with `cnnarch download` and pass the folder as "
        "weights"
    )
