"""Save a network so that it can be rebuilt, and share it."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from torch import nn

from cnnarch._version import __version__
from cnnarch.preprocessing import Preprocessing
from cnnarch.weights.config import CONFIG, METADATA_KEY, TENSORS, Config
from cnnarch.weights.errors import WeightsError
from cnnarch.weights.files import atomic_write
from cnnarch.weights.rebuilding import check_rebuilds, chosen_options

__all__ = ["push_to_hub", "save_pretrained"]

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
    """Write model.safetensors, config.json and a model card; `from_pretrained` rebuilds.

    The tensors' file carries the config too, so it can be moved alone. Files are replaced in one
    step each: a network that was loaded from the same folder is not disturbed.

    Args:
        model: a network that a builder made. Its attributes `preprocessing` and `categories`,
            if they are set, are saved with it.
        directory: made if it is not there.

    Raises:
        WeightsError: no builder made the network, its layers were changed since, or they have no
            values.
    """
    config = _config(model)
    _write(model, Path(directory), config, str(directory))


def push_to_hub(
    model: Any,
    repo: str,
    *,
    private: bool = False,
    token: str | None = None,
    message: str = "Upload model",
) -> str:
    """Save a network to a repository on the Hugging Face Hub, which is made if it is not there.

    Args:
        model: as in `save_pretrained`.
        repo: "owner/name".
        private: whether a new repository is private.
        token: of the hub; None takes the one that `hf auth login` stored.
        message: of the commit.

    Returns:
        The address of the commit.

    Raises:
        WeightsError: the network cannot be saved, or the hub refuses.
    """
    import huggingface_hub

    config = _config(model)
    api = huggingface_hub.HfApi(token=token)
    with tempfile.TemporaryDirectory() as folder:
        _write(model, Path(folder), config, f"hf-hub:{repo}")
        try:
            api.create_repo(repo, private=private, exist_ok=True)
            commit = api.upload_folder(repo_id=repo, folder_path=folder, commit_message=message)
        except Exception as error:  # whatever the client's transport raises
            raise WeightsError(f"{repo}: {type(error).__name__}: {error}") from error
    return str(commit.commit_url)


def _config(model: Any) -> Config:
    check_rebuilds(model)
    return Config(
        builder=model.builder,
        options=model.options,
        preprocessing=getattr(model, "preprocessing", None),
        categories=getattr(model, "categories", None),
        version=__version__,
        layout="cnnarch",
    )


def _write(model: nn.Module, folder: Path, config: Config, source: str) -> None:
    from safetensors.torch import save_file

    state = model.state_dict()
    if any(t.is_meta for t in state.values()):
        raise WeightsError("a network on the meta device has no values to save")
    tensors = {name: t.detach().cpu().contiguous().clone() for name, t in state.items()}
    text = config.to_json()
    metadata = {"format": "pt", METADATA_KEY: json.dumps(json.loads(text))}
    with atomic_write(folder / TENSORS) as part:
        save_file(tensors, part, metadata=metadata)
    for name, content in ((CONFIG, text), ("README.md", _card(config, source))):
        with atomic_write(folder / name) as part:
            part.write_text(content + "\n", encoding="utf-8")


def _card(config: Config, source: str) -> str:
    chosen = chosen_options(str(config.builder), config.options)
    options = ", ".join(f"`{k}={v!r}`" for k, v in chosen.items()) or "as by default"
    images = _images(config.preprocessing)
    return _CARD.format(builder=config.builder, options=options, source=source, images=images)


def _images(preprocessing: Preprocessing | None) -> str:
    if preprocessing is None:
        return "How images are to be prepared was not recorded."
    return (
        f"Images: shorter side resized to {preprocessing.resize_size} "
        f"({preprocessing.interpolation}), centre crop of {preprocessing.crop_size}, scaled to "
        f"[0, 1], mean {preprocessing.mean}, std {preprocessing.std}."
    )
