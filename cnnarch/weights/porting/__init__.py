"""What other libraries call the tensors of our networks: one short rule file a family.

docs/adding_a_family.md says how to write one. A generator says which module of ours is which of
theirs, by walking the network it is given, so indices are plain arithmetic and one rule serves
every depth. Because it gives pairs and not rewriting steps, it reads both ways: `port` renames
theirs to ours, `export` ours to theirs.

- A pair names a module (all its tensors keep their own names: weight, running_mean, ...) or a
  single tensor. The longest match wins. Pairs for modules that a network does not have are
  ignored, so a rule may name a shortcut that only some blocks have.
- A layout fits a network if its pairs cover every tensor; else it is passed over. So a file may
  hold rules for several classes, and a forgotten tensor shows in `tests/oracles`.
- Which layout a checkpoint has is found by comparing names (and then what the caller asked for),
  so two layouts may share their names and differ in `needs`, as timm's `efficientnet_b0` and
  `tf_efficientnet_b0` do. Put the commoner one first.
- `needs` holds what tensors do not show: eps, the place of a stride, the padding. They are
  builder options; loading applies them or refuses. State them all, defaults too, wherever two
  forms of the network exist.
"""

import importlib
import importlib.util

from cnnarch.weights.porting._layout import Layout, Pair

__all__ = ["Layout", "Pair", "layouts_of"]


def layouts_of(model: object) -> tuple[Layout, ...]:
    """The other libraries' layouts of a network: those of the model file its class comes from.

    Subclasses that users write have the layouts of what they derive from; a network that is not
    of this package has none.
    """
    for cls in type(model).__mro__:
        package, _, family = cls.__module__.rpartition(".")
        rules = f"{__name__}.{family}"
        if package == "cnnarch.models" and importlib.util.find_spec(rules):
            layouts: tuple[Layout, ...] = importlib.import_module(rules).LAYOUTS
            return layouts
    return ()
