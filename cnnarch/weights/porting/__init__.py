"""Names of our networks' tensors in other libraries: one file of rules per family.

docs/adding_a_family.md explains how to write one. A generator walks a network and yields pairs of
module names, so one rule covers every depth and works in both directions: `port` renames theirs
to ours, and `export` ours to theirs.

- A pair names a module, whose tensors have the same names in both libraries (weight,
  running_mean, ...), or a single tensor. The longest match wins. Pairs for modules that a network
  does not have are ignored, so a rule may name a shortcut that only some blocks have.
- A layout fits a network if its pairs cover every tensor. Layouts that do not fit are skipped, so
  a file may contain rules for several classes. `tests/oracles` detects forgotten tensors.
- The layout of a checkpoint is detected by its names, and then by the caller's options. Two
  layouts may have the same names and differ in `required_options`, like timm's `efficientnet_b0`
  and `tf_efficientnet_b0`. List the more common one first.
- `required_options` contains what tensors do not show: eps, the position of a stride, the padding.
  Loading sets these builder options or raises an error. List them even if they are defaults,
  whenever the network has two forms.
"""

import importlib
import importlib.util

from cnnarch.weights.porting._layout import Layout, Pair

__all__ = ["Layout", "Pair", "layouts_of"]


def layouts_of(model: object) -> tuple[Layout, ...]:
    """Return the layouts of a network in other libraries, from the rules of its family.

    A user's subclass has the layouts of its base class. Other networks have none.
    """
    for cls in type(model).__mro__:
        package, _, family = cls.__module__.rpartition(".")
        rules = f"{__name__}.{family}"
        if package == "cnnarch.models" and importlib.util.find_spec(rules):
            return importlib.import_module(rules).LAYOUTS
    return ()
