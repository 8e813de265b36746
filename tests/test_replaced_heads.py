"""Facts of a network whose head or classifier was replaced."""

import pytest
import torch
from torch import nn

import cnnarch


def replaced() -> cnnarch.ImageClassifier:
    model = cnnarch.resnet20_cifar()
    model.head = nn.Sequential(  # type: ignore[assignment]
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 3)
    )
    return model


def test_the_number_of_classes_follows_a_replaced_head() -> None:
    assert replaced().num_classes == 3


@pytest.mark.parametrize(
    "use",
    [
        lambda model: model.reset_classifier(5),
        lambda model: model.get_classifier(),
        lambda model: model.num_features,
        lambda model: setattr(model, "categories", ["a", "b", "c"]),
        lambda model: cnnarch.freeze(model, upto="head"),
    ],
    ids=["reset_classifier", "get_classifier", "num_features", "categories", "freeze"],
)
def test_calls_that_need_the_classifier_layer_say_that_the_head_was_replaced(use: object) -> None:
    assert callable(use)
    with pytest.raises(ValueError, match=r"head was replaced|nothing would be trained"):
        use(replaced())


def test_class_names_must_fit_the_classifier() -> None:
    with pytest.raises(ValueError, match="got 3 class names for 10 classes"):
        cnnarch.resnet20_cifar().categories = ["a", "b", "c"]
    with pytest.raises(ValueError, match="got 1 class names for 0 classes"):
        cnnarch.resnet20_cifar(num_classes=0).categories = ["a"]


def test_freezing_a_network_whose_classifier_has_no_parameters_is_an_error() -> None:
    model = cnnarch.lenet5_1998()
    with pytest.raises(ValueError, match="nothing would be trained"):
        cnnarch.freeze(model, upto="head")
    assert all(p.requires_grad for p in model.parameters())


def test_hooks_that_a_copy_lacks_are_named() -> None:
    from cnnarch.inference import fuse

    model = cnnarch.resnet20_cifar().eval()
    model.stem.register_forward_hook(lambda _module, _inputs, output: output / 10)
    with pytest.warns(UserWarning, match="forward hooks of stem do not run in the copy"):
        fuse(model)
    with pytest.warns(UserWarning, match="forward hooks of stem are not exported"):
        cnnarch.weights.export(cnnarch_with_hook(), "timm")


def cnnarch_with_hook() -> cnnarch.ImageClassifier:
    model = cnnarch.resnet18()
    model.stem.register_forward_pre_hook(lambda _module, inputs: (2 * inputs[0],))
    return model


def test_a_fused_network_keeps_the_name_of_its_network() -> None:
    from cnnarch.analysis import summary
    from cnnarch.inference import fuse

    fused = fuse(cnnarch.resnet20_cifar().eval())
    assert (fused.builder, fused.fused_from) == (None, "resnet20_cifar")
    assert summary(fused).input_size == (3, 32, 32)


@pytest.mark.parametrize("shape", [(32, 32), (3, 0, 0)])
def test_a_transform_names_the_shape_that_it_expects(shape: tuple[int, ...]) -> None:
    from cnnarch.preprocessing import Preprocessing

    with pytest.raises(ValueError, match=r"expected images of shape \(\.\.\., C, H, W\)"):
        Preprocessing(32, 32).transform()(torch.rand(shape))


def test_preprocessing_rejects_a_mean_in_place_of_the_interpolation() -> None:
    from cnnarch.preprocessing import Preprocessing

    with pytest.raises(TypeError, match="interpolation must be a string"):
        Preprocessing(32, 32, (0.5,), (0.5,))  # type: ignore[arg-type]
