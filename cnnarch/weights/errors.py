"""The error raised by `cnnarch.weights`."""


class WeightsError(ValueError):
    """Raised if weights cannot be downloaded or read, or do not fit the network.

    The message names the file or URL and states what was expected and what was found. The network
    is left unchanged.
    """
