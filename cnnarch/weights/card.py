"""Write model cards: a README.md with the metadata that the Hugging Face Hub reads."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from cnnarch.facts.builders import family_of
from cnnarch.facts.cards import Paper
from cnnarch.facts.sheets import facts_of, read_sheet
from cnnarch.facts.text import printable, shape_text
from cnnarch.preprocessing import Preprocessing
from cnnarch.weights.catalog import find_weights
from cnnarch.weights.config import Config
from cnnarch.weights.rebuilding import chosen_options
from cnnarch.weights.runs import PICTURES, Run

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

TASK = "image-classification"
HUB = "hf-hub:"
HUB_DATA = {
    "mnist": "ylecun/mnist",
    "fashion_mnist": "zalando-datasets/fashion_mnist",
    "cifar10": "uoft-cs/cifar10",
    "cifar100": "uoft-cs/cifar100",
}
"""Names on the Hub of data sets that `cnnarch.training.load_data` reads."""
_FOLDER = "folder:"
_LISTED_CLASSES = 100


class Card(NamedTuple):
    """What a model card describes.

    Args:
        config: the network's config.
        source: the argument of `from_pretrained` that loads the network.
        parameters: number of parameters.
        initial: the source of the initial weights; None for a new network or an unknown source.
        run: the training run; None if the card does not show one.
        layout: "cnnarch" or "timm".
        license: the license of the weights, as the Hub names it; None if it is not stated.
    """

    config: Config
    source: str
    parameters: int
    initial: str | None = None
    run: Run | None = None
    layout: str = "cnnarch"
    license: str | None = None

    @property
    def builder(self) -> str:
        """Name of the builder."""
        return str(self.config.builder)

    @property
    def num_classes(self) -> int:
        """Number of classes; 0 for a network that returns features."""
        return int(self.config.options["num_classes"])


def card_text(card: Card) -> str:
    """Return the contents of README.md."""
    sections = [_head(card), _usage(card), *_results(card), _network(card), *_classes(card)]
    sections += [*_training(card), _license(card)]
    return f"---\n{_metadata(card)}\n---\n" + "\n\n".join(sections)


def _metadata(card: Card) -> str:
    from huggingface_hub import ModelCardData

    task = TASK if card.num_classes else "image-feature-extraction"
    libraries = ["timm", "transformers"] if card.layout == "timm" else []
    results = _eval_results(card.run) if card.run else []
    data = HUB_DATA.get(str(card.run.results["data"])) if card.run else None
    facts = ModelCardData(
        library_name=card.layout,
        pipeline_tag=task,
        license=card.license,
        tags=[task, "cnnarch", *libraries, card.builder],
        datasets=[data] if data else None,
        base_model=_hub_name(card.builder, card.initial),
        metrics=[result.metric_type for result in results] or None,
    )
    if results:
        facts.model_name = Path(card.source).name or card.builder
        facts.eval_results = results
    return str(facts.to_yaml())


def _eval_results(run: Run) -> "list[EvalResult]":
    from huggingface_hub import EvalResult

    data, test = str(run.results["data"]), run.results["test"]
    kind = "imagefolder" if data.startswith(_FOLDER) else HUB_DATA.get(data, data)
    return [
        EvalResult(
            task_type=TASK,
            dataset_type=kind,
            dataset_name=_data_name(run),
            dataset_split="test",
            metric_type=metric,
            metric_name=name,
            metric_value=round(test[key], 4),
        )
        for metric, name, key in (("accuracy", "Accuracy", "top1"), ("f1", "Macro F1", "macro_f1"))
        if key in test
    ]


def _head(card: Card) -> str:
    title = f"# {card.builder}"
    if card.run is not None:
        title += f" on {_code(_data_name(card.run))}"
    paper = facts_of(card.builder).paper
    origin = f" ([{paper.authors}, {paper.year}]({paper.link}))" if paper and paper.link else ""
    kind = f"An image classifier for {card.num_classes:,} classes"
    if card.num_classes == 0:
        kind = "A network that returns the features of images"
    return f"{title}\n\n{kind}: `{card.builder}`{origin}, built and saved with cnnarch."


def _usage(card: Card) -> str:
    load = f"model = cnnarch.from_pretrained({_quoted(card.source)})"
    parts = ["## Use it", _python("import cnnarch", load)]
    if card.num_classes:
        command = printable(f"cnnarch predict --model {shlex.quote(card.source)} photo.jpg")
        parts.append(f"```console\n{command}\n```")
    if card.layout == "timm":
        parts += _timm_usage(card)
    return "\n\n".join(parts)


def _timm_usage(card: Card) -> Iterator[str]:
    name = card.source if card.source.startswith(HUB) else f"local-dir:{card.source}"
    yield "In timm:"
    yield _python("import timm", f"model = timm.create_model({_quoted(name)}, pretrained=True)")
    if card.num_classes and card.config.options["in_channels"] == 3:  # it converts images to RGB
        model = card.source.removeprefix(HUB)
        yield "In transformers:"
        yield _python(
            "from transformers import pipeline",
            f'classify = pipeline("{TASK}", model={_quoted(model)})',
            'classify("photo.jpg")',
        )


def _quoted(text: str) -> str:
    """Return a literal in double quotes, as formatters write it."""
    literal = repr(text)
    return f'"{literal[1:-1]}"' if '"' not in literal and literal[0] == "'" else literal


def _python(first: str, *lines: str) -> str:
    return "\n".join(["```python", first, "", *lines, "```"])


def _results(card: Card) -> Iterator[str]:
    if card.run is None:
        return
    results = card.run.results
    test, epochs = results["test"], results["epochs"]
    yield (
        f"## Results\n\nMeasured on the test split of {_code(_data_name(card.run))} "
        f"({results['test_images']:,} images), after one training run of {epochs:,} "
        f"epoch{'s' * (epochs != 1)} with seed {results['seed']}."
    )
    names = {"top1": "Accuracy", "top5": "Top-5 accuracy", "macro_f1": "F1, mean over classes"}
    names["calibration_error"] = "Calibration error"
    rows = [f"| {name} | {test[key]:.2%} |" for key, name in names.items() if key in test]
    rows.append(f"| Loss | {test['loss']:.4f} |")
    yield "\n".join(["| metric | value |", "|---|---:|", *rows])
    for name in card.run.pictures:
        picture = PICTURES[name]
        yield f"### {picture.title}\n\n![{picture.alt}]({name}.png)"


def _network(card: Card) -> str:
    facts, builder = facts_of(card.builder), card.builder
    chosen = chosen_options(builder, card.config.options)
    options = ", ".join(f"`{k}={v!r}`" for k, v in chosen.items()) or "all defaults"
    idea = " ".join(read_sheet(family_of(builder)).idea.split())
    form = facts.forms[0]
    lines = [f"- Parameters: {card.parameters:,}", f"- Options: {options}"]
    if facts.paper:
        lines.insert(0, f"- Paper: {_paper(facts.paper)}")
    lines.append(
        f"- With default options and {shape_text(form.input_size)} images: {form.params:,} "
        f"parameters, {form.macs:,} multiply-adds"
    )
    lines += [f"- Departure from the paper: {' '.join(each.split())}" for each in facts.departs]
    images = _describe_preprocessing(card.config.preprocessing)
    return "\n\n".join([f"## Network\n\n{idea}", "\n".join(lines), images])


def _paper(paper: Paper) -> str:
    title = f"[{paper.title}]({paper.link})" if paper.link else paper.title
    return f"{title}, {paper.authors}, {paper.year}"


def _describe_preprocessing(preprocessing: Preprocessing | None) -> str:
    if preprocessing is None:
        return "The image preprocessing was not recorded."
    side = "both sides" if preprocessing.squash else "shorter side"
    return (
        f"Images: {side} resized to {preprocessing.resize_size} "
        f"({preprocessing.interpolation}), center crop of {preprocessing.crop_size}, scaled to "
        f"[0, 1], mean {preprocessing.mean}, std {preprocessing.std}."
    )


def _classes(card: Card) -> Iterator[str]:
    """Yield the class names, one on a line of a code block, where no character is markup."""
    if names := card.config.categories:
        shown = [f"{i} {printable(name)}" for i, name in enumerate(names[:_LISTED_CLASSES])]
        more = len(names) - len(shown)
        if more:
            shown.append(f"... and {more:,} more in config.json")
        yield "\n".join(["## Classes", "", "```text", *shown, "```"])


def _training(card: Card) -> Iterator[str]:
    if card.run is None:
        return
    results = card.run.results
    text = _recipe_text(card.run)
    yield (
        f"## Training\n\nTrained on {results['train_images']:,} images. To repeat the run, save "
        "the recipe as `recipe.yaml` and run `cnnarch train --config recipe.yaml`."
    )
    yield f"<details>\n<summary>Recipe</summary>\n\n```yaml\n{text}```\n\n</details>"


def _recipe_text(run: Run) -> str:
    """Return recipe.yaml without the paths of files on the machine that trained."""
    import yaml

    recipe = dict(run.recipe)
    if str(recipe.get("data", "")).startswith(_FOLDER):
        recipe["data"] = f"{_FOLDER}{_data_name(run)}"
    if _is_path(weights := recipe.get("weights")):
        recipe["weights"] = Path(str(weights)).name
    return yaml.safe_dump(recipe, sort_keys=False, width=100, allow_unicode=True)


def _license(card: Card) -> str:
    text = f"## License\n\nThe license of these weights is {card.license or 'not stated'}."
    entry = card.initial and find_weights(card.builder, card.initial)
    if entry:
        where = f" ([source]({entry.source}))" if str(entry.source).startswith("https:") else ""
        return (
            f"{text} The initial weights were {_code(str(entry.tag))}{where}, whose license is "
            f"{entry.license}."
        )
    if hub := _hub_name(card.builder, card.initial):
        return f"{text} The initial weights were [{hub}](https://huggingface.co/{hub})."
    return text


def _hub_name(builder: str, initial: str | None) -> str | None:
    """Return the repository on the Hub that the initial weights come from."""
    entry = initial and find_weights(builder, initial)
    address = entry.url if entry else initial or ""
    found = re.fullmatch(rf"{HUB}([\w.-]+/[\w.-]+)(@.*)?", address)
    return found[1] if found else None


def _is_path(weights: object) -> bool:
    text = str(weights or "")
    return "/" in text.replace("\\", "/") and not text.startswith((HUB, "https://", "http://"))


def _data_name(run: Run) -> str:
    """Return the name of the data set, or of the folder that contains the images."""
    data = str(run.results["data"])
    if not data.startswith(_FOLDER):
        return data
    return Path(run.results.get("data_folder") or data.removeprefix(_FOLDER)).name


def _code(text: str) -> str:
    """Return text as a code span of Markdown, whatever characters it contains."""
    text = printable(text)
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence, space = "`" * (longest + 1), " " * bool(longest)
    return f"{fence}{space}{text}{space}{fence}"
