"""Twins produce the same logits as our networks after porting and after exporting."""

import pytest
import torch
from torch import Tensor, nn

import cnnarch
from cnnarch.facts.cards import NearTwin, Twin
from cnnarch.facts.sheets import near_twins, twins
from cnnarch.testing import assert_close
from cnnarch.weights import WeightsError, export, load, port
from cnnarch.weights.checkpoint import Checkpoint
from cnnarch.weights.config import Config
from cnnarch.weights.layouts import find_match, find_mismatches
from cnnarch.weights.loading import match_checkpoint
from tests.oracles.libraries import build, randomize
from tests.small_forms import MANY_PARAMETERS

TWINS, NEAR_TWINS = twins(), near_twins()


def label(twin: Twin | NearTwin) -> str:
    return f"{twin.library}-{twin.name}"


def kind(twin: Twin) -> tuple[object, ...]:
    return cnnarch.get_card(twin.builder).family, twin.library, *twin.options.items()


def every_twin() -> list[object]:
    """Return all twins. All except the smallest of each kind are marked as slow.

    Families that consist of large networks, such as VGG, have only one quick twin.
    """
    quick: dict[tuple[object, ...], str] = {}
    families: set[str] = set()
    for twin in sorted(TWINS, key=lambda twin: cnnarch.get_card(twin.builder).params):
        card = cnnarch.get_card(twin.builder)
        if card.params < MANY_PARAMETERS or card.family not in families:
            quick.setdefault(kind(twin), label(twin))
        families.add(card.family)
    return [
        pytest.param(
            twin,
            id=label(twin),
            marks=() if label(twin) in quick.values() else pytest.mark.slow,
        )
        for twin in TWINS
    ]


def images_for(twin: Twin) -> Tensor:
    """Return a random image, which is non-square if the network accepts any size.

    Repeated halving of 86 alternates between even and odd sizes (43, 22, 11, 6), which
    reveals differences in padding and pooling: TensorFlow's padding is symmetric for odd sizes.
    Halving 75 gives even sizes where 86 gives odd ones and vice versa (38, 19, 10, 5).
    """
    size = 86, 75
    if twin.one_size is True:
        size = cnnarch.get_card(twin.builder).input_size[1:]
    elif twin.one_size:
        size = twin.one_size, twin.one_size
    elif twin.multiple_of > 1:
        size = 3 * twin.multiple_of, 2 * twin.multiple_of
    elif twin.library == "pytorchcv":
        size = 86, 86  # its TensorFlow padding also uses the height for the width
    noise = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(1))
    return 10 * noise  # large enough for ReLU6 to clip


def theirs_for(twin: Twin, images: Tensor) -> nn.Module:
    if twin.library == "efficientnet_pytorch":  # its padding depends on this size
        return build(twin, image_size=tuple(images.shape[-2:]))
    return build(twin)


def ours_for(twin: Twin) -> cnnarch.ImageClassifier:
    with torch.device("meta"):
        return cnnarch.get_model(twin.builder, **twin.options).eval()


def one_twin(library: str, name: str) -> Twin:
    (twin,) = [twin for twin in twins(library=library) if twin.name == name]
    return twin


def random_tensors(twin: Twin | NearTwin) -> dict[str, Tensor]:
    theirs = build(twin)
    randomize(theirs)
    return theirs.state_dict()


@pytest.mark.parametrize("twin", every_twin())
@torch.no_grad()
def test_ported_and_exported_tensors_produce_the_same_logits(twin: Twin) -> None:
    images = images_for(twin)
    theirs, ours = theirs_for(twin, images), ours_for(twin)
    randomize(theirs)
    ours.load_state_dict(port(theirs.state_dict(), ours), assign=True)
    expected = theirs(images)
    assert_close(ours(images), expected, twin.tolerance)

    again = theirs_for(twin, images)
    again.load_state_dict(export(ours, twin.library), strict=True, assign=True)
    assert_close(again(images), expected, twin.tolerance)


@pytest.mark.parametrize("twin", every_twin())
def test_the_library_of_a_state_dict_is_detected(twin: Twin) -> None:
    ours, tensors = ours_for(twin), build(twin).state_dict()
    found, named = find_match(tensors, ours), find_match(tensors, ours, twin.library)
    assert not any(find_mismatches(found, ours).values())
    # If two libraries have identical layouts, either is correct.
    assert list(found.layout.pairs(ours)) == list(named.layout.pairs(ours))
    assert found.layout.required_options(ours) == named.layout.required_options(ours)
    assert found.layout.library == twin.library or twin.library in ("timm", "cadene")


def test_no_network_is_listed_twice() -> None:
    names = [label(twin) for twin in TWINS]
    assert len(names) == len(set(names))
    same = {(label(twin), twin.builder) for twin in TWINS}
    assert not same & {(label(near), near.builder) for near in NEAR_TWINS}


@pytest.mark.parametrize(
    ("library", "name", "option"),
    [
        ("pytorchcv", "resnet20_cifar10", "shortcut='B'"),
        ("pytorchcv", "seresnet18", "ceil_pool=False"),
        ("timm", "seresnet50", "(ceil_pool|stride_in_1x1)=False"),
        ("timm", "seresnext50_32x4d", "ceil_pool=False"),
        pytest.param("timm", "senet154", "ceil_pool=False", marks=pytest.mark.slow),
        ("timm", "mobilenetv1_100", "activation='relu6'"),
    ],
)
def test_conflicting_options_are_rejected_by_name(library: str, name: str, option: str) -> None:
    twin = one_twin(library, name)
    ours = cnnarch.get_model(twin.builder)
    before = {key: tensor.clone() for key, tensor in ours.state_dict().items()}
    with pytest.raises(WeightsError, match=option):
        load(ours, random_tensors(twin))
    assert all(torch.equal(tensor, before[key]) for key, tensor in ours.state_dict().items())


@pytest.mark.parametrize(
    ("name", "option"), [("resnet20_cifar", "shortcut='B'"), ("efficientnet_b0", "norm_eps=1e-05")]
)
def test_a_network_with_conflicting_options_is_not_exported(name: str, option: str) -> None:
    with pytest.raises(WeightsError, match=option):
        export(cnnarch.get_model(name), "pytorchcv")


@pytest.mark.parametrize("name", ["efficientnet_b0", "efficientnet_b5"])
def test_torchvisions_eps_is_required(name: str) -> None:
    """The eps is 1e-5 up to B4 and 1e-3 from B5. Our default is the paper's 1e-3."""
    theirs = build(one_twin("torchvision", name))
    with torch.device("meta"):
        ours = cnnarch.get_model(name)
    eps = {m.eps for m in theirs.modules() if isinstance(m, nn.BatchNorm2d)}
    assert {find_match(theirs.state_dict(), ours).layout.required_options(ours)["norm_eps"]} == eps


def near_cases(hidden: bool) -> list[object]:
    many = {n for n in cnnarch.list_models() if cnnarch.get_card(n).params >= MANY_PARAMETERS}
    return [
        pytest.param(near, id=label(near), marks=pytest.mark.slow if near.builder in many else ())
        for near in NEAR_TWINS
        if near.hidden == hidden
    ]


@pytest.mark.parametrize("near", near_cases(hidden=False))
def test_a_near_twin_is_rejected(near: NearTwin) -> None:
    ours = cnnarch.get_model(near.builder, **near.options)
    with pytest.raises(WeightsError) as caught:
        load(ours, random_tensors(near))
    lines = str(caught.value).splitlines()
    assert len(lines) <= 21
    kinds = ("missing: ", "unexpected: ", "different: ")
    lists_keys = any(line.strip().startswith(kinds) for line in lines)
    assert lists_keys or "none of the checkpoint's tensors belong to" in lines[0]


@pytest.mark.parametrize("near", near_cases(hidden=True))
@torch.no_grad()
def test_a_hidden_near_twin_is_rejected_by_its_name(
    near: NearTwin,
) -> None:
    theirs = build(near, "cpu")  # the blur kernels are not in the state dict
    randomize(theirs)
    tensors = theirs.state_dict()
    ours = cnnarch.get_model(near.builder).eval()
    with pytest.raises(WeightsError, match=near.name):
        match_checkpoint(Checkpoint(near.name, tensors, Config(architecture=near.name)), ours)

    load(ours, tensors)  # tensors without metadata load, but the logits differ
    images = 10 * torch.randn(1, 3, 96, 96)
    difference = (ours(images) - theirs(images)).abs().max() / theirs(images).abs().max()
    assert difference > 1e-3


def random_googlenets() -> tuple[nn.Module, cnnarch.ImageClassifier]:
    twin = one_twin("torchvision", "googlenet")
    theirs, ours = build(twin), ours_for(twin)
    randomize(theirs)
    ours.load_state_dict(port(theirs.state_dict(), ours), assign=True)
    return theirs, ours


@pytest.mark.parametrize(("head", "channels"), [("aux1", 512), ("aux2", 528)])
@torch.no_grad()
def test_googlenets_auxiliary_heads_are_ported(head: str, channels: int) -> None:
    theirs, ours = random_googlenets()
    features = torch.randn(2, channels, 14, 14)
    # The values are averaged in a different order.
    assert_close(getattr(ours, head)(features), getattr(theirs, head)(features), 1e-5)


def test_googlenet_without_auxiliary_heads_does_not_export_them() -> None:
    theirs, _ = random_googlenets()
    ours = cnnarch.googlenet_bn()
    ours.load_state_dict(port(theirs.state_dict(), ours))
    exported = export(ours, "torchvision")
    assert exported.keys() == {k for k in theirs.state_dict() if not k.startswith("aux")}


@torch.no_grad()
def test_torchvisions_2017_densenets_are_ported() -> None:
    """Their published files still use the name `denselayer1.norm.1` for `denselayer1.norm1`."""
    tensors = random_tensors(one_twin("torchvision", "densenet121"))
    old = {
        key.replace("norm1", "norm.1")
        .replace("norm2", "norm.2")
        .replace("conv1", "conv.1")
        .replace("conv2", "conv.2"): tensor
        for key, tensor in tensors.items()
    }
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    with torch.device("meta"):
        ours = cnnarch.densenet121()
    ported, expected = port(old, ours), port(tensors, ours)
    assert ported.keys() == expected.keys()
    assert all(torch.equal(tensor, expected[key]) for key, tensor in ported.items())


def test_biases_before_a_norm_must_match_its_shape() -> None:
    tensors = random_tensors(one_twin("pytorchcv", "bninception"))
    tensors["features.init_block.conv1.conv.bias"] = torch.zeros(3)
    with pytest.raises(WeightsError, match=r"unexpected: features.init_block.conv1.conv.bias"):
        port(tensors, cnnarch.bn_inception())


@pytest.mark.parametrize("name", ["vgg11_lrn", "vgg16_c", "alexnet", "googlenet", "nin"])
def test_networks_that_no_library_provides_cannot_be_exported(name: str) -> None:
    with torch.device("meta"):
        ours = cnnarch.get_model(name)
    with pytest.raises(WeightsError, match="has no layout 'torchvision'; it has none"):
        export(ours)
