"""Classifier heads, which turn the last feature map into logits."""

from collections.abc import Callable

from torch import Tensor, nn

from cnnarch.blocks._checks import check_integer, check_probability

__all__ = ["ClassifierHead"]


class ClassifierHead(nn.Sequential):
    """before -> pool -> flatten -> hidden -> dropout -> classifier; unused parts are absent.

    Args:
        num_features: width of the classifier's input.
        num_classes: number of logits; 0 omits the dropout and the classifier.
        before: a module applied to the map, such as EfficientNet's last 1x1 convolution.
        pool: the pool applied before flattening; None means global average pooling.
        hidden: a module applied to the flattened vector, such as VGG's first two linear layers.
        dropout: probability of zeroing an input value of the classifier, in [0, 1).
        make_classifier: creates the last layer from its input and output widths.

    Shape:
        (N, C, H, W) -> (N, num_classes), or (N, num_features) if num_classes is 0

    Raises:
        ValueError: num_classes or dropout is out of range.

    >>> import torch
    >>> ClassifierHead(512, 10)(torch.zeros(1, 512, 7, 7)).shape
    torch.Size([1, 10])
    """

    def __init__(
        self,
        num_features: int,
        num_classes: int,
        *,
        before: nn.Module | None = None,
        pool: nn.Module | None = None,
        hidden: nn.Module | None = None,
        dropout: float = 0.0,
        make_classifier: Callable[[int, int], nn.Module] = nn.Linear,
    ) -> None:
        check_probability("dropout", dropout)
        super().__init__()
        self.num_features = num_features
        self.dropout_rate = dropout
        self.make_classifier = make_classifier
        if before is not None:
            self.before = before
        self.pool = nn.AdaptiveAvgPool2d(1) if pool is None else pool
        self.flatten = nn.Flatten()
        if hidden is not None:
            self.hidden = hidden
        self.reset_classifier(num_classes)

    @property
    def num_classes(self) -> int:
        """Number of logits, read from the classifier's last layer; 0 without a classifier.

        If a replacement classifier does not expose its width, the previous number is returned.
        """
        classifier = self._modules.get("classifier")
        if classifier is None or isinstance(classifier, nn.Identity):
            return 0
        width = output_width(classifier)
        return self._num_classes if width is None else width

    def pre_logits(self, x: Tensor) -> Tensor:
        """Return the classifier's input before dropout: (N, C, H, W) -> (N, num_features)."""
        for name, module in self.named_children():
            if name == "dropout":
                break
            x = module(x)
        return x

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the classifier with one for `num_classes` classes; 0 removes it."""
        check_integer("num_classes", num_classes, 0)
        self._num_classes = num_classes
        for name in ("dropout", "classifier"):
            self._modules.pop(name, None)
        if num_classes:
            # Kept even at rate 0, so layer names do not depend on the rate.
            self.dropout = nn.Dropout(self.dropout_rate)
            self.classifier = self.make_classifier(self.num_features, num_classes)


def output_width(module: nn.Module) -> int | None:
    """Return the number of outputs of a module or of its last layer, or None if it is unknown."""
    for layer in (module, *reversed(list(module.modules()))):
        width = getattr(layer, "out_features", getattr(layer, "out_channels", None))
        if isinstance(width, int):
            return width
    return None
