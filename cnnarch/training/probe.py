"""Initialize a classifier with a logistic regression on its input."""

import warnings
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from cnnarch.blocks._wrappers import unwrapped
from cnnarch.contract.classifier import ImageClassifier
from cnnarch.contract.modes import evaluating
from cnnarch.training.classes import weights_of_classes
from cnnarch.training.data import ImageSet
from cnnarch.training.recipe import Recipe

MAX_IMAGES = 10_000
BATCH = 32
STRENGTH = 0.1  # C in scikit-learn, for features whose overall standard deviation is 1


def initialize_as_probe(
    model: nn.Module, images: ImageSet, recipe: Recipe, device: torch.device
) -> None:
    """Initialize a new classifier with a logistic regression on its input, without augmentation.

    A randomly initialized classifier would distort the pretrained features in the first steps. A
    classifier that was loaded for the same classes is kept, as is one that is not a linear layer
    with a bias.

    Source: Kumar et al., "Fine-Tuning can Distort Pretrained Features and Underperform
    Out-of-Distribution", 2022, arXiv 2202.10054.
    """
    network = unwrapped(model)
    if not isinstance(network, ImageClassifier) or not needs_probe(network, images):
        return
    generator = torch.Generator().manual_seed(recipe.seed)
    chosen = torch.randperm(len(images), generator=generator)[:MAX_IMAGES]
    before = next(iter(network.parameters())).device
    features = _features(network.to(device), images, chosen, device)
    network.to(before)
    if not features.isfinite().all():
        raise ValueError("the classifier's input is infinite or NaN; check the weights")
    fitted = fit_probe(features.numpy(), images, chosen, recipe)
    with torch.no_grad():
        for parameter, values in zip(network.get_classifier().parameters(), fitted, strict=True):
            parameter.copy_(values)


def needs_probe(model: ImageClassifier, images: ImageSet) -> bool:
    """Return whether a network's classifier is linear and was not loaded for the same classes."""
    classifier = model.get_classifier()
    is_linear = type(classifier) is nn.Linear and classifier.bias is not None
    is_loaded = tuple(model.categories or ()) == images.classes
    return is_linear and not is_loaded and len(set(images.labels.tolist())) > 1


def fit_probe(
    features: np.ndarray, images: ImageSet, chosen: Tensor, recipe: Recipe
) -> tuple[Tensor, Tensor]:
    """Return the weight and bias of a classifier fitted to the features of the chosen images.

    A class without images gets the lowest logit.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    if recipe.balanced_sampling:
        recipe = replace(recipe, balanced_sampling=False, class_weights="balanced")
    labels, weights = images.labels[chosen], weights_of_classes(recipe, images)
    # One scale for all features keeps the important ones larger. With a scale for each, the
    # accuracy on 4 to 20 images per class was lower.
    center = features.mean(0)
    scale = max(float((features - center).std()), 1e-12)
    scaled = (features - center) / scale
    regression = LogisticRegression(C=STRENGTH, max_iter=500)
    with warnings.catch_warnings():  # training continues from the result
        warnings.simplefilter("ignore", ConvergenceWarning)
        weight_of_image = None if weights is None else weights[labels].numpy()
        regression.fit(scaled, labels.numpy(), weight_of_image)
    rows, offsets = regression.coef_, regression.intercept_
    if len(rows) == 1:  # for two classes, scikit-learn returns the difference between the logits
        rows, offsets = np.concatenate([-rows, rows]) / 2, np.concatenate([-offsets, offsets]) / 2
    lowest = (scaled @ rows.T + offsets).min()
    rows = rows / scale
    offsets = offsets - rows @ center
    weight = np.zeros((len(images.classes), features.shape[1]))
    bias = np.full(len(images.classes), lowest)
    weight[regression.classes_], bias[regression.classes_] = rows, offsets
    return torch.from_numpy(weight), torch.from_numpy(bias)


def _features(
    model: ImageClassifier, images: ImageSet, chosen: Tensor, device: torch.device
) -> Tensor:
    """Return the classifier's input for the chosen images, on the CPU."""
    found = []
    with evaluating(model):
        for batch in torch.split(chosen, BATCH):
            maps = model.forward_features(images.inputs(batch).to(device))
            found.append(model.forward_head(maps, pre_logits=True).float().cpu())
    return torch.cat(found)
