"""What all pictures share: figures without a window, images as people see them, colours."""

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "BLUE",
    "DOTS",
    "GRAY",
    "GREEN",
    "ORANGE",
    "RED",
    "LabelledImages",
    "Normalisation",
    "Shown",
    "cut",
    "in_any_script",
    "new_figure",
    "short",
    "show_image",
    "shown",
]

# Okabe and Ito's colours, which colour-blind readers can tell apart.
BLUE, ORANGE, GREEN, RED, GRAY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#666666"

DOTS = 150  # to an inch


class Normalisation(Protocol):
    """How a network's input was scaled, such as a `cnnarch.weights.Preprocessing`."""

    @property
    def mean(self) -> Sequence[float]:
        """What was subtracted from each channel, in units where white is 1."""

    @property
    def std(self) -> Sequence[float]:
        """What each channel was divided by then."""


class LabelledImages(Protocol):
    """Images with labels, such as `cnnarch.training.ImageSet`."""

    @property
    def labels(self) -> Tensor:
        """Class indices."""

    @property
    def classes(self) -> Sequence[str]:
        """Names of the classes."""

    @property
    def preprocessing(self) -> Normalisation:
        """From pixels to the network's input."""

    def inputs(self, indices: Tensor) -> Tensor:
        """What a network reads of the images at `indices`."""


class Shown(NamedTuple):
    """Images for a picture.

    Args:
        inputs: as the network reads them, (N, C, H, W).
        pixels: as people see them, N arrays of (H, W) or (H, W, 3) in [0, 1].
        labels: class indices; None where they are not known.
        classes: names of the classes; None where they are not known.
    """

    inputs: Tensor
    pixels: list[Any]
    labels: list[int] | None
    classes: Sequence[str] | None

    def name(self, index: int) -> str:
        """A class's name, or its number where names are not known; ValueError if it has none."""
        if self.classes is None:
            return str(index)
        if not 0 <= index < len(self.classes):
            raise ValueError(f"there are {len(self.classes)} names of classes, none for {index}")
        return self.classes[index]


def short(name: str, most: int) -> str:
    """What fits of a name; of names such as "tench, Tinca tinca" the first.

    Long ones lose letters before their end, by which many names differ.
    """
    fits = name.split(",")[0]
    if len(fits) > most:
        end = fits[-(most // 3) :]
        fits = cut(fits, most - len(end)) + end
    return fits.replace("$", r"\$")  # Matplotlib takes what two dollars enclose for a formula


def cut(text: str, most: int) -> str:
    """The text, or its beginning and dots if it has more letters."""
    return text if len(text) <= most else text[: most - 1] + "\N{HORIZONTAL ELLIPSIS}"


def shown(
    images: Tensor | LabelledImages,
    count: int,
    labels: Tensor | Sequence[int] | None = None,
    classes: Sequence[str] | None = None,
    preprocessing: Normalisation | None = None,
) -> Shown:
    """The first `count` images, their normalisation undone for the eye.

    Raises:
        ValueError: images that are not (N, C, H, W), or fewer labels than images.
    """
    if not isinstance(images, Tensor):
        chosen = torch.arange(min(count, len(images.labels)))
        labels, classes = images.labels[chosen], images.classes
        preprocessing, images = images.preprocessing, images.inputs(chosen)
    if images.dim() != 4:
        raise ValueError(f"expected images of shape (N, C, H, W), got {tuple(images.shape)}")
    images = images[:count].detach().cpu().float()
    pixels = images
    if preprocessing is not None:
        mean, std = (
            torch.tensor(v)[:, None, None] for v in (preprocessing.mean, preprocessing.std)
        )
        pixels = images * std + mean
    elif images.min() < 0 or images.max() > 1:  # normalised, it is not known how: use the range
        pixels = (images - images.min()) / (images.max() - images.min())
    # Of images with other than 3 channels the first is shown, in gray.
    pixels = pixels.clamp(0, 1)[:, : 3 if pixels.shape[1] == 3 else 1].permute(0, 2, 3, 1)
    numbers = None if labels is None else [int(label) for label in labels[:count]]
    if numbers is not None and len(numbers) < len(images):
        raise ValueError(f"{len(images)} images need as many labels, got {len(numbers)}")
    return Shown(images, list(pixels.squeeze(3).numpy()), numbers, classes)


def new_figure(width: float, height: float) -> "Figure":
    """An empty figure of this size in inches, which no window shows.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "pictures need more packages: pip install 'cnnarch[train]'", name=error.name
        ) from error
    return Figure(figsize=(width, height), layout="constrained", facecolor="white", dpi=DOTS)


def in_any_script(figure: "Figure") -> "Figure":
    """Give texts that the usual font cannot print an installed one that can, if there is any."""
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        usual = text.get_fontfamily()
        others = (_font_for(letter) for letter in text.get_text() if not letter.isascii())
        families = dict.fromkeys([*usual, *(name for name in others if name)])
        if len(families) > len(usual):
            text.set_fontfamily(list(families))
    return figure


@functools.cache
def _font_for(letter: str) -> str | None:
    """A font that has the letter, where the usual one has not."""
    from matplotlib.font_manager import FontProperties, findfont, fontManager
    from matplotlib.ft2font import FT2Font

    def has_letter(path: str) -> bool:
        return ord(letter) in FT2Font(path).get_charmap()

    if has_letter(findfont(FontProperties())):
        return None
    # The font of the last resort has a box for every letter.
    fonts = [font for font in fontManager.ttflist if not font.name.startswith("Last Resort")]
    return next((font.name for font in fonts if has_letter(font.fname)), None)


def show_image(axes: "Axes", pixels: Any, color: str | None = None) -> None:
    """Draw an image without ticks, in a frame if a colour is given."""
    axes.imshow(pixels, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(visible=color is not None, color=color, linewidth=2)
