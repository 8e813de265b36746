"""Weights for classes with different numbers of images."""

import torch
from torch import Tensor

from cnnarch.facts.suggestions import suggest
from cnnarch.training.data import ImageSet
from cnnarch.training.recipe import Recipe


def weights_of_classes(recipe: Recipe, images: ImageSet) -> Tensor | None:
    """Return the factor for the loss of each class, or None if there is none.

    The balanced weight of a class with n of N images in K classes is N / (K n), as in
    scikit-learn. Classes without images are not counted and have weight 0.

    Raises:
        ValueError: the recipe weights a class that does not exist, or all weights are 0.
    """
    if recipe.class_weights is None:
        return None
    counts = torch.bincount(images.labels, minlength=len(images.classes))
    if recipe.class_weights == "balanced":
        weights = len(images) / (counts.count_nonzero() * counts.clamp(min=1))
        return weights.masked_fill(counts == 0, 0.0).float()
    given = {str(name): weight for name, weight in recipe.class_weights.items()}  # YAML reads 3: 2
    for name in given:
        if name not in images.classes:
            hint = suggest(name, list(images.classes))
            raise ValueError(f"class_weights: there is no class {name!r}; {hint}")
    found = torch.tensor([given.get(name, 1.0) for name in images.classes])
    if not found[counts > 0].any():
        raise ValueError("class_weights must be above 0 for at least one class")
    return found
