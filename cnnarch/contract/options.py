"""Option types shared by several families, which let type checkers verify builder arguments."""

from cnnarch.contract.classifier import ModelOptions


class DropoutOptions(ModelOptions, total=False):
    """Options for networks with dropout."""

    dropout: float


class CommonOptions(DropoutOptions, total=False):
    """Options for most ImageNet networks."""

    small_images: bool


class BranchOptions(DropoutOptions, total=False):
    """Options for networks with residual branches."""

    drop_path: float
    zero_init_residual: bool


class ResidualOptions(BranchOptions, total=False):
    """Options for most residual ImageNet networks."""

    small_images: bool


class DeployOptions(CommonOptions, total=False):
    """Options for networks whose branches are merged for inference."""

    deploy: bool
