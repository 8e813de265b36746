"""Save networks to folders and to the Hugging Face Hub."""

import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cnnarch._version import __version__
from cnnarch.blocks._hooks import warn_about_hooks
from cnnarch.blocks._wrappers import gathered, is_sharded, unwrapped
from cnnarch.facts.options import METADATA_KEY
from cnnarch.preprocessing import Preprocessing, preprocessing_of
from cnnarch.weights.config import CONFIG, TENSORS, Config
from cnnarch.weights.errors import WeightsError
from cnnarch.weights.files import atomic_write
from cnnarch.weights.rebuilding import check_rebuilds, chosen_options

_CARD = """\
---
library_name: cnnarch
pipeline_tag: image-classification
tags:
- image-classification
- cnnarch
---
# {builder}

Options: {options}.

```python
import cnnarch

model = cnnarch.from_pretrained({source!r})
```

{images}
"""


def save_pretrained(model: Any, directory: str | os.PathLike[str]) -> None:
    """Save a network for `from_pretrained`: model.safetensors, config.json and a model card.

    The config is also stored in the metadata of model.safetensors, so that file can be loaded
    on its own. Each file is replaced atomically, so networks loaded from the folder stay intact.
    Forward hooks are not saved; a warning names the modules that have any.

    Args:
        model: a network created by a builder. Its `preprocessing` and `categories`
            attributes are also saved if they are set.
        directory: the folder, created if it does not exist.

    Raises:
        WeightsError: no builder created the network, its layers were changed afterwards, or it
            is on the meta device.
        ValueError: the number of channels of its preprocessing is not the network's.
    """
    model = unwrapped(model)
    config = _make_config(model)
    _write(model, Path(directory), config, str(directory))


def push_to_hub(
    model: Any,
    repo: str,
    *,
    private: bool = False,
    token: str | None = None,
    message: str = "Upload model",
) -> str:
    """Save a network to a repository on the Hugging Face Hub, created if it does not exist.

    Args:
        model: as in `save_pretrained`.
        repo: "owner/name".
        private: whether to make a newly created repository private.
        token: access token; None uses the one stored by `hf auth login`.
        message: commit message.

    Returns:
        URL of the commit.

    Raises:
        WeightsError: the network cannot be saved, or the upload fails.
    """
    import huggingface_hub

    model = unwrapped(model)
    config = _make_config(model)
    api = huggingface_hub.HfApi(token=token)
    with tempfile.TemporaryDirectory() as folder:
        _write(model, Path(folder), config, f"hf-hub:{repo}")
        try:
            api.create_repo(repo, private=private, exist_ok=True)
            commit = api.upload_folder(repo_id=repo, folder_path=folder, commit_message=message)
        except Exception as error:  # the HTTP client may raise any exception type
            raise WeightsError(f"{repo}: {type(error).__name__}: {error}") from error
    return str(commit.commit_url)


def _make_config(model: Any) -> Config:
    check_rebuilds(model)
    warn_about_hooks(model, "are not saved")
    return Config(
        builder=model.builder,
        options=model.options,
        preprocessing=preprocessing_of(model),
        categories=getattr(model, "categories", None),
        conversions=model.conversions,
        version=__version__,
        layout="cnnarch",
    )


def _write(model: nn.Module, folder: Path, config: Config, source: str) -> None:
    from safetensors.torch import save_file

    state = model.state_dict()
    if any(map(is_sharded, state.values())):  # every process takes part, the first one saves
        state = gathered(state)
        if torch.distributed.get_rank() > 0:
            return
    if any(t.is_meta for t in state.values()):
        raise WeightsError("a network on the meta device has no values to save")
    tensors = {name: t.detach().cpu().contiguous().clone() for name, t in state.items()}
    text = config.to_json()
    with atomic_write(folder / TENSORS) as part:
        save_file(tensors, part, metadata={"format": "pt", METADATA_KEY: text})
    for name, content in ((CONFIG, text), ("README.md", _card(config, source))):
        with atomic_write(folder / name) as part:
            part.write_text(content + "\n", encoding="utf-8")


def _card(config: Config, source: str) -> str:
    chosen = chosen_options(str(config.builder), config.options)
    options = ", ".join(f"`{k}={v!r}`" for k, v in chosen.items()) or "all defaults"
    images = _describe_preprocessing(config.preprocessing)
    return _CARD.format(builder=config.builder, options=options, source=source, images=images)


def _describe_preprocessing(preprocessing: Preprocessing | None) -> str:
    if preprocessing is None:
        return "The image preprocessing was not recorded."
    side = "both sides" if preprocessing.squash else "shorter side"
    return (
        f"Images: {side} resized to {preprocessing.resize_size} "
        f"({preprocessing.interpolation}), center crop of {preprocessing.crop_size}, scaled to "
        f"[0, 1], mean {preprocessing.mean}, std {preprocessing.std}."
    )
