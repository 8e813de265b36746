"""The error that `cnnarch.weights` raises."""

__all__ = ["WeightsError"]


class WeightsError(ValueError):
    """Weights cannot be downloaded or read, or do not fit the network.

    The message names the file or address, what was expected and what was found. The network is
    unchanged.
    """
