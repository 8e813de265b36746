"""The error and the warning of `cnnarch.weights`."""


class WeightsError(ValueError):
    """Raised if weights cannot be downloaded or read, or do not fit the network.

    The message names the file or URL and states what was expected and what was found. The network
    is left unchanged.
    """


class UnrecordedOptionsWarning(UserWarning):
    """Warns that a checkpoint does not record options that its tensors do not show."""
