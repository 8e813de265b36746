"""In-place activations, which keep one fewer feature map in memory."""

from torch import nn

DROPOUTS = (
    *(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d),
    *(nn.AlphaDropout, nn.FeatureAlphaDropout),
)


def set_inplace(model: nn.Module, inplace: bool = True) -> None:
    """Let all activations overwrite their input, saving memory without changing the results.

    In cnnarch's networks, no other layer reads the input of these activations: the first ReLU of an
    Xception module, whose input the shortcut also reads, stays out of place. Hooks, replaced
    `forward` methods and attribution methods that read that input see overwritten values.
    `torch.func.vmap` and tracers still work. The peak memory of a training step hardly changes,
    because PyTorch keeps the input or output of an activation for the backward pass anyway. To
    reduce peak memory, use `set_grad_checkpointing`.

    Args:
        model: any module, modified in place. In networks from other libraries, another layer may
            read the input of an activation.
        inplace: whether activations overwrite their input.

    >>> import cnnarch
    >>> model = cnnarch.resnet18()
    >>> set_inplace(model)
    >>> model.stem.act
    ReLU(inplace=True)
    """
    for module in model.modules():
        if supports_inplace(module):
            setattr(module, "inplace", inplace)  # noqa: B010 - mypy rejects a plain assignment


def supports_inplace(module: nn.Module) -> bool:
    """Return whether `module` is an activation that can overwrite its input.

    Activations with the attribute `shares_input` cannot: another layer reads their input.
    """
    shares = getattr(module, "shares_input", False)
    return hasattr(module, "inplace") and not isinstance(module, DROPOUTS) and not shares
