"""Contract checks for your own pytest files. cnnarch's test suite runs the same checks.

`CHECKS` contains one function per rule of the contract. Each function accepts a network, leaves
it unchanged, and raises AssertionError if it breaks the rule. Most checks take milliseconds, and
those that compile or export take about a second.

`check_classifier` runs all checks:

>>> import cnnarch
>>> check_classifier(cnnarch.convnet())
"""

from collections.abc import Callable

from cnnarch.contract.classifier import ImageClassifier
from cnnarch.testing import assertions, conversion, examples, learning, outputs
from cnnarch.testing.assertions import *
from cnnarch.testing.conversion import *
from cnnarch.testing.examples import *
from cnnarch.testing.learning import *
from cnnarch.testing.outputs import *

__all__ = ["CHECKS", "check_classifier"]
__all__ += assertions.__all__
__all__ += conversion.__all__
__all__ += examples.__all__
__all__ += learning.__all__
__all__ += outputs.__all__

CHECKS: tuple[Callable[[ImageClassifier], None], ...] = tuple(
    getattr(module, name) for module in (outputs, learning, conversion) for name in module.__all__
)
"""All contract checks, with the slow ones last."""


def check_classifier(model: ImageClassifier) -> None:
    """Run every check in `CHECKS`.

    Args:
        model: a network with a classifier; left unchanged.

    Raises:
        AssertionError: the network breaks a rule. The message says what was found.
    """
    for check in CHECKS:
        check(model)
