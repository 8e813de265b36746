"""Helpers shared by all figures: image selection, fonts and colors."""

import functools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, fontManager
from matplotlib.ft2font import FT2Font
from matplotlib.text import Text
from torch import Tensor, nn

from cnnarch.facts.text import printable
from cnnarch.inputs import is_image_set
from cnnarch.preprocessing import Preprocessing, preprocessing_of
from cnnarch.viz._photographs import is_photographs, read_photographs

if TYPE_CHECKING:
    from cnnarch.images import ImageLike
    from cnnarch.training.data import ImageSet

# The Okabe-Ito palette, whose colors color-blind readers can distinguish.
BLUE, ORANGE, GREEN, RED, GRAY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#666666"

DOTS = 150  # per inch


Images: TypeAlias = "ImageSet | ImageLike | Iterable[ImageLike]"
"""Network inputs as floats, a data set with labels and preprocessing, or photographs."""


class Selection(NamedTuple):
    """Images to show in a figure.

    Args:
        inputs: network inputs, (N, C, H, W).
        labels: class indices, or None if they are unknown.
        classes: class names, or None if they are unknown.
        preprocessing: normalization of the inputs, or None if it is unknown.
    """

    inputs: Tensor
    labels: list[int] | None
    classes: Sequence[str] | None
    preprocessing: Preprocessing | None

    def pixels(self) -> list[Any]:
        """Return denormalized images: arrays (H, W) or (H, W, 3) in [0, 1].

        If the normalization is unknown and values lie outside [0, 1], all values are rescaled to
        that range. For images that do not have three channels, only the first channel is shown.
        """
        pixels = self.inputs
        if self.preprocessing is not None:
            mean, std = pixels.new_tensor([self.preprocessing.mean, self.preprocessing.std])
            pixels = pixels * std[:, None, None] + mean[:, None, None]
        elif pixels.min() < 0 or pixels.max() > 1:
            pixels = (pixels - pixels.min()) / (pixels.max() - pixels.min())
        pixels = pixels.clamp(0, 1)[:, : 3 if pixels.shape[1] == 3 else 1].permute(0, 2, 3, 1)
        return list(pixels.squeeze(3).numpy())

    def names(self, indices: Iterable[int], length: int) -> list[str]:
        """Return the text to show for classes: their short names, or indices if they are unknown.

        Raises:
            ValueError: there are class names, but none for one of the indices.
        """
        if self.classes is None:
            return list(map(str, indices))
        short, found = short_names(self.classes, length), []
        for index in indices:
            if not 0 <= index < len(self.classes):
                raise ValueError(f"there are {len(self.classes)} class names, but none for {index}")
            found.append(short[self.classes[index]])
        return found


def select_images(
    images: Images,
    count: int,
    labels: Tensor | Sequence[int] | None = None,
    classes: Sequence[str] | None = None,
    preprocessing: Preprocessing | None = None,
    model: nn.Module | None = None,
) -> Selection:
    """Return the first `count` images, with missing metadata taken from the data set or network.

    Raises:
        ValueError: the images are not (N, C, H, W), there are fewer labels than images, or a
            photograph cannot be read.
        TypeError: `images` are of another type.
    """
    classes = classes or getattr(model, "categories", None)
    inputs: Tensor
    data: Any = images
    if is_image_set(images):
        data = data if model is None else data.matched_to(model)
        indices = torch.arange(min(count, len(data.labels)))
        labels, classes = data.labels[indices], data.classes
        preprocessing, inputs = data.preprocessing, data.inputs(indices)
    elif is_photographs(images):
        preprocessing = preprocessing_of(model, preprocessing)
        inputs = read_photographs(data, count, preprocessing)
    else:
        inputs = torch.as_tensor(data)
        inputs = inputs[None] if inputs.dim() == 3 else inputs
    if inputs.dim() != 4:
        raise ValueError(f"expected images of shape (N, C, H, W), got {tuple(inputs.shape)}")
    inputs = inputs[:count].detach().cpu().float()
    indices_of_classes = None if labels is None else [int(label) for label in labels[:count]]
    if indices_of_classes is not None and len(indices_of_classes) < len(inputs):
        raise ValueError(f"expected {len(inputs)} labels, got {len(indices_of_classes)}")
    return Selection(
        inputs,
        indices_of_classes,
        classes,
        preprocessing_of(model, preprocessing),
    )


def short_names(names: Iterable[str], length: int) -> dict[str, str]:
    """Return the text to show for each name: of limited length, but different for each name.

    Synonyms are omitted, such as "Tinca tinca" in "tench, Tinca tinca", and characters are removed
    from the middle because many names differ only at the end. Where this makes names equal, fewer
    characters are removed, or the position among the names is added.
    """
    names = list(dict.fromkeys(names))
    forms = {name: _shorten(name.split(", ")[0], length) for name in names}
    for limit in range(length, length * 3 // 2 + 1):
        for name in _repeated(forms):
            forms[name] = _shorten(name, limit)
    for name in _repeated(forms):
        forms[name] += f" #{names.index(name)}"
    # Matplotlib reads text between two dollar signs as a formula.
    return {name: form.replace("$", r"\$") for name, form in forms.items()}


def _repeated(forms: Mapping[str, str]) -> list[str]:
    """Return the names whose short form is also that of another name."""
    counts = Counter(forms.values())
    return [name for name, form in forms.items() if counts[form] > 1]


def _shorten(name: str, length: int) -> str:
    name = printable(name)
    if len(name) > length:
        end = name[-(length // 3) :]
        name = truncate(name, length - len(end)) + end
    return name


def truncate(text: str, length: int) -> str:
    """Return the text, truncated with an ellipsis if it is longer than `length`."""
    return text if len(text) <= length else text[: length - 1] + "\N{HORIZONTAL ELLIPSIS}"


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of this size, in inches, without opening a window."""
    return Figure(figsize=(width, height), layout="constrained", facecolor="white", dpi=DOTS)


def add_fallback_fonts(figure: Figure) -> Figure:
    """Add installed fonts for characters that the default font lacks.

    Matplotlib supports fallback fonts, but they must be listed by name.
    """
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        fonts = [_font_for(letter) for letter in text.get_text() if not letter.isascii()]
        if any(fonts):
            text.set_fontfamily([*text.get_fontfamily(), *filter(None, dict.fromkeys(fonts))])
    return figure


@functools.cache
def _font_for(letter: str) -> str | None:
    """Return a font that contains this character, or None if the default font does."""

    def has_letter(path: str) -> bool:
        return ord(letter) in FT2Font(path).get_charmap()

    if has_letter(findfont(FontProperties())):
        return None
    # The Last Resort font contains every character, but draws only boxes.
    fonts = [font for font in fontManager.ttflist if not font.name.startswith("Last Resort")]
    return next((font.name for font in fonts if has_letter(font.fname)), None)


def show_image(axes: Axes, pixels: Any, color: str | None = None) -> None:
    """Show an image without ticks, and with a frame if a color is given."""
    axes.imshow(pixels, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(visible=color is not None, color=color, linewidth=2)
