"""Save networks to folders and to the Hugging Face Hub."""

import os
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import torch

from cnnarch._version import __version__
from cnnarch.blocks._hooks import warn_about_hooks
from cnnarch.blocks._wrappers import gathered, is_sharded, unwrapped
from cnnarch.facts.options import METADATA_KEY
from cnnarch.preprocessing import preprocessing_of
from cnnarch.weights.card import Card, card_text
from cnnarch.weights.config import CONFIG, TENSORS, Config
from cnnarch.weights.errors import WeightsError
from cnnarch.weights.files import atomic_write
from cnnarch.weights.rebuilding import check_rebuilds
from cnnarch.weights.runs import Run, check_is_network_of, read_run
from cnnarch.weights.timm_layout import timm_files

LAYOUTS = ("cnnarch", "timm")
README = "README.md"


def save_pretrained(
    model: Any,
    directory: str | os.PathLike[str],
    *,
    run: str | os.PathLike[str] | None = None,
    layout: str = "cnnarch",
    license: str | None = None,
) -> None:
    """Save a network for `from_pretrained`: model.safetensors, config.json and a model card.

    The config is also stored in the metadata of model.safetensors, so that file can be loaded
    on its own. Each file is replaced atomically, so networks loaded from the folder stay intact.
    Forward hooks are not saved; a warning names the modules that have any.

    Args:
        model: a network created by a builder. Its `preprocessing` and `categories`
            attributes are also saved if they are set.
        directory: the folder, created if it does not exist.
        run: folder of the finished training run that saved these weights. The model card shows its
            test results, its recipe and its plots, which are copied to the folder. Some plots show
            training and test images; a plot that was deleted from the run's folder is omitted.
        layout: "timm" saves timm's tensor names and config, which `timm.create_model` and
            `transformers.pipeline("image-classification")` load, as does `from_pretrained`. The
            dropout rate is not saved.
        license: the license of the weights for the model card, as the Hub names it: "mit",
            "apache-2.0". None means that the card states no license.

    Raises:
        WeightsError: no builder created the network, its layers were changed afterwards, or it
            is on the meta device; `run` is not finished or has other weights; timm does not provide
            the network; `layout` or `license` is not allowed.
        ValueError: the number of channels of its preprocessing is not the network's.
    """
    saved = _Saved(unwrapped(model), layout, None if run is None else Path(run), license)
    _write(saved, Path(directory), str(directory))


def push_to_hub(
    model: Any,
    repo: str,
    *,
    run: str | os.PathLike[str] | None = None,
    layout: str = "cnnarch",
    license: str | None = None,
    private: bool = False,
    token: str | None = None,
    message: str = "Upload model",
) -> str:
    """Save a network to a repository on the Hugging Face Hub, created if it does not exist.

    Args:
        model: as in `save_pretrained`, like `run`, `layout` and `license`.
        repo: "owner/name".
        run: the training run whose results and plots the repository shows.
        layout: "cnnarch" or "timm".
        license: the license of the weights.
        private: whether to make a newly created repository private.
        token: access token; None uses the one stored by `hf auth login`.
        message: commit message.

    Returns:
        URL of the commit.

    Raises:
        WeightsError: the network cannot be saved, or the upload fails.
    """
    import huggingface_hub

    saved = _Saved(unwrapped(model), layout, None if run is None else Path(run), license)
    api = huggingface_hub.HfApi(token=token)
    with tempfile.TemporaryDirectory() as folder:
        _write(saved, Path(folder), f"hf-hub:{repo}")
        try:
            api.create_repo(repo, private=private, exist_ok=True)
            commit = api.upload_folder(repo_id=repo, folder_path=folder, commit_message=message)
        except Exception as error:  # the HTTP client may raise any exception type
            raise WeightsError(f"{repo}: {type(error).__name__}: {error}") from error
    return str(commit.commit_url)


def write_card(model: Any, folder: Path, run: Run) -> None:
    """Write the model card of a run into its folder, where `save_pretrained` saved the network."""
    _write_text(folder / README, card_text(_make_card(model, _make_config(model), folder, run)))


class _Saved(NamedTuple):
    """What to save: the arguments of `save_pretrained`."""

    model: Any
    layout: str
    run: Path | None
    license: str | None


def _make_config(model: Any) -> Config:
    return Config(
        builder=model.builder,
        options=model.options,
        preprocessing=preprocessing_of(model),
        categories=getattr(model, "categories", None),
        conversions=model.conversions,
        version=__version__,
        layout="cnnarch",
    )


def _write(saved: _Saved, folder: Path, source: str) -> None:
    from safetensors.torch import save_file

    model, layout = saved.model, saved.layout
    if layout not in LAYOUTS:
        raise WeightsError(f"layout must be {' or '.join(map(repr, LAYOUTS))}, got {layout!r}")
    if saved.license is not None and not (isinstance(saved.license, str) and saved.license):
        raise WeightsError(f"license must be a name, such as 'mit', got {saved.license!r}")
    check_rebuilds(model)
    warn_about_hooks(model, "are not saved")
    config = _make_config(model)
    run = None if saved.run is None else read_run(saved.run)
    state = model.state_dict()
    is_shared = any(map(is_sharded, state.values()))
    if is_shared:  # every process takes part, the first one saves
        state = gathered(state)
    text, metadata, theirs = config.to_json(), {"format": "pt"}, state
    if layout == "timm":
        theirs, text = timm_files(model, config.preprocessing, config.categories)
    else:
        metadata[METADATA_KEY] = text
    if is_shared and torch.distributed.get_rank() > 0:
        return
    if any(t.is_meta for t in state.values()):
        raise WeightsError("a network on the meta device has no values to save")
    if saved.run is not None:
        check_is_network_of(saved.run, {name: t.detach().cpu() for name, t in state.items()})
    tensors = {name: t.detach().cpu().contiguous().clone() for name, t in theirs.items()}
    with atomic_write(folder / TENSORS) as part:
        save_file(tensors, part, metadata=metadata)
    _write_text(folder / CONFIG, text)
    for picture in run.pictures.values() if run else ():
        if picture.resolve() != (folder / picture.name).resolve():
            with atomic_write(folder / picture.name) as part:
                part.write_bytes(picture.read_bytes())
    card = _make_card(model, config, source, run)._replace(layout=layout, license=saved.license)
    _write_text(folder / README, card_text(card))


def _make_card(model: Any, config: Config, source: object, run: Run | None) -> Card:
    initial = model.weights_source if run is None else run.recipe.get("weights")
    return Card(
        config=config,
        source=str(source),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        initial=initial,
        run=run,
    )


def _write_text(path: Path, text: str) -> None:
    with atomic_write(path) as part:
        part.write_text(text + "\n", encoding="utf-8")
