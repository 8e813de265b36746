"""Option types that several families share. They let type checkers verify a builder's keywords."""

from cnnarch.contract.classifier import ModelOptions

__all__ = ["CommonOptions", "DropoutOptions"]


class DropoutOptions(ModelOptions, total=False):
    """Options of networks with dropout."""

    dropout: float


class CommonOptions(DropoutOptions, total=False):
    """Options of most ImageNet networks."""

    small_images: bool
