"""Tensor names of our networks in other libraries: one file of rules per family.

docs/adding_a_family.md explains how to write rules. A generator iterates over a network and yields
pairs of module names, so one rule covers every depth and works in both directions: `port`
renames theirs to ours, and `export` ours to theirs.

- A pair names a module, whose tensors have the same names in both libraries (weight,
  running_mean, ...), or a single tensor. The longest match is used. Pairs for modules that a
  network lacks are ignored, so a rule may name a shortcut that only some blocks have.
- A layout fits a network if its pairs cover all tensors. Layouts that do not fit are skipped, so
  a file may contain rules for several classes. `tests/oracles` detects omitted tensors.
- The layout of a checkpoint is detected from its tensor names, and then from the caller's
  options. Two layouts may use the same names but differ in `required_options`, like timm's
  `efficientnet_b0` and `tf_efficientnet_b0`. List the more common layout first.
- `required_options` returns what cannot be inferred from the tensors, such as eps, padding or the
  position of a stride. Loading sets these builder options or raises an error. If a network has two
  variants, return these options even if they are the defaults.
"""

import importlib
import importlib.util

from cnnarch.weights.porting._layout import Layout, Pair

__all__ = ["Layout", "Pair", "layouts_of"]


def layouts_of(model: object) -> tuple[Layout, ...]:
    """Return the layouts of a network in other libraries, from the rules of its family.

    A user's subclass inherits the layouts of its base class. Other networks have no layouts.
    """
    for cls in type(model).__mro__:
        package, _, family = cls.__module__.rpartition(".")
        rules = f"{__name__}.{family}"
        if package == "cnnarch.models" and importlib.util.find_spec(rules):
            return importlib.import_module(rules).LAYOUTS
    return ()
