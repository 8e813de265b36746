"""The one error of this room."""

__all__ = ["WeightsError"]


class WeightsError(ValueError):
    """Weights that cannot be downloaded or read, or do not fit the network.

    The message says which file or address, what was expected and what came. The network that
    they were for is as it was.
    """
