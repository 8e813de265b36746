"""The same tensors give the same logits in other libraries' networks and in ours, both ways."""

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
from tests.oracles.libraries import build, randomise
from tests.small_forms import MANY_PARAMETERS

TWINS, NEAR_TWINS = twins(), near_twins()


def called(twin: Twin | NearTwin) -> str:
    return f"{twin.library}-{twin.name}"


def kind(twin: Twin) -> tuple[object, ...]:
    return cnnarch.get_card(twin.builder).family, twin.library, *twin.options.items()


def every_twin() -> list[object]:
    """All rows; those that are not the smallest of their kind are slow.

    Of a family whose networks all have many parameters, such as VGG, one is enough.
    """
    quick: dict[tuple[object, ...], str] = {}
    families: set[str] = set()
    for twin in sorted(TWINS, key=lambda twin: cnnarch.get_card(twin.builder).params):
        card = cnnarch.get_card(twin.builder)
        if card.params < MANY_PARAMETERS or card.family not in families:
            quick.setdefault(kind(twin), called(twin))
        families.add(card.family)
    return [
        pytest.param(
            twin,
            id=called(twin),
            marks=() if called(twin) in quick.values() else pytest.mark.slow,
        )
        for twin in TWINS
    ]


def images_for(twin: Twin) -> Tensor:
    """An image of a size that their network takes, oblong where it takes any.

    Halved again and again, 86 is even and odd by turns (43, 22, 11, 6), so that paddings and
    poolings must agree: where all maps are odd, TensorFlow's padding is symmetric. 75 is odd and
    even where 86 is not (38, 19, 10, 5).
    """
    size = 86, 75
    if twin.one_size:
        size = cnnarch.get_card(twin.builder).input_size[1:]
    elif twin.library == "pytorchcv":
        size = 86, 86  # its TensorFlow padding takes the height's for the width's
    noise = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(1))
    return 10 * noise  # large enough for ReLU6 to cut off


def theirs_for(twin: Twin, images: Tensor) -> nn.Module:
    if twin.library == "efficientnet_pytorch":  # it pads for the size that it is told
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
    randomise(theirs)
    return theirs.state_dict()


@pytest.mark.parametrize("twin", every_twin())
@torch.no_grad()
def test_the_same_tensors_give_the_same_logits_both_ways(twin: Twin) -> None:
    images = images_for(twin)
    theirs, ours = theirs_for(twin, images), ours_for(twin)
    randomise(theirs)
    ours.load_state_dict(port(theirs.state_dict(), ours), assign=True)
    expected = theirs(images)
    assert_close(ours(images), expected, twin.tolerance)

    again = theirs_for(twin, images)
    again.load_state_dict(export(ours, twin.library), strict=True, assign=True)
    assert_close(again(images), expected, twin.tolerance)


@pytest.mark.parametrize("twin", every_twin())
def test_whose_names_a_state_dict_has_is_found_out(twin: Twin) -> None:
    ours, tensors = ours_for(twin), build(twin).state_dict()
    found, told = find_match(tensors, ours), find_match(tensors, ours, twin.library)
    assert not any(find_mismatches(found, ours).values())
    # Two libraries may agree in everything: then either is right.
    assert list(found.layout.pairs(ours)) == list(told.layout.pairs(ours))
    assert found.layout.required_options(ours) == told.layout.required_options(ours)
    assert found.layout.library == twin.library or twin.library in ("timm", "cadene")


def test_no_network_of_theirs_stands_twice() -> None:
    names = [called(twin) for twin in TWINS]
    assert len(names) == len(set(names))
    same = {(called(twin), twin.builder) for twin in TWINS}
    assert not same & {(called(near), near.builder) for near in NEAR_TWINS}


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
def test_a_network_built_otherwise_is_refused_by_the_name_of_the_option(
    library: str, name: str, option: str
) -> None:
    twin = one_twin(library, name)
    ours = cnnarch.get_model(twin.builder)
    before = {key: tensor.clone() for key, tensor in ours.state_dict().items()}
    with pytest.raises(WeightsError, match=option):
        load(ours, random_tensors(twin))
    assert all(torch.equal(tensor, before[key]) for key, tensor in ours.state_dict().items())


@pytest.mark.parametrize(
    ("name", "option"), [("resnet20_cifar", "shortcut='B'"), ("efficientnet_b0", "norm_eps=1e-05")]
)
def test_a_network_built_otherwise_is_not_exported(name: str, option: str) -> None:
    with pytest.raises(WeightsError, match=option):
        export(cnnarch.get_model(name), "pytorchcv")


@pytest.mark.parametrize("name", ["efficientnet_b0", "efficientnet_b5"])
def test_torchvision_s_eps_is_set(name: str) -> None:
    """It is 1e-5 up to B4 and 1e-3 from B5 on; the default here is the paper's 1e-3."""
    theirs = build(one_twin("torchvision", name))
    with torch.device("meta"):
        ours = cnnarch.get_model(name)
    eps = {m.eps for m in theirs.modules() if isinstance(m, nn.BatchNorm2d)}
    assert {find_match(theirs.state_dict(), ours).layout.required_options(ours)["norm_eps"]} == eps


def near_cases(hidden: bool) -> list[object]:
    many = {n for n in cnnarch.list_models() if cnnarch.get_card(n).params >= MANY_PARAMETERS}
    return [
        pytest.param(near, id=called(near), marks=pytest.mark.slow if near.builder in many else ())
        for near in NEAR_TWINS
        if near.hidden == hidden
    ]


@pytest.mark.parametrize("near", near_cases(hidden=False))
def test_a_network_that_looks_alike_is_refused(near: NearTwin) -> None:
    ours = cnnarch.get_model(near.builder, **near.options)
    with pytest.raises(WeightsError) as caught:
        load(ours, random_tensors(near))
    lines = str(caught.value).splitlines()
    assert len(lines) <= 21
    kinds = ("missing: ", "unexpected: ", "different: ")
    lists_keys = any(line.strip().startswith(kinds) for line in lines)
    assert lists_keys or "no tensor of the checkpoint belongs to" in lines[0]


@pytest.mark.parametrize("near", near_cases(hidden=True))
@torch.no_grad()
def test_a_network_whose_tensors_hide_that_it_is_another_is_refused_by_its_name(
    near: NearTwin,
) -> None:
    theirs = build(near, "cpu")  # the blurring kernels are no part of the state dict
    randomise(theirs)
    tensors = theirs.state_dict()
    ours = cnnarch.get_model(near.builder).eval()
    with pytest.raises(WeightsError, match=near.name):
        match_checkpoint(Checkpoint(near.name, tensors, Config(architecture=near.name)), ours)

    load(ours, tensors)  # nothing shows it, and yet:
    images = 10 * torch.randn(1, 3, 96, 96)
    difference = (ours(images) - theirs(images)).abs().max() / theirs(images).abs().max()
    assert difference > 1e-3


def random_googlenets() -> tuple[nn.Module, cnnarch.ImageClassifier]:
    twin = one_twin("torchvision", "googlenet")
    theirs, ours = build(twin), ours_for(twin)
    randomise(theirs)
    ours.load_state_dict(port(theirs.state_dict(), ours), assign=True)
    return theirs, ours


@pytest.mark.parametrize(("head", "channels"), [("aux1", 512), ("aux2", 528)])
@torch.no_grad()
def test_googlenet_s_auxiliary_heads_are_ported(head: str, channels: int) -> None:
    theirs, ours = random_googlenets()
    features = torch.randn(2, channels, 14, 14)
    # Both average the same pixels, in another order.
    assert_close(getattr(ours, head)(features), getattr(theirs, head)(features), 1e-5)


def test_googlenet_without_auxiliary_heads_leaves_theirs_out() -> None:
    theirs, _ = random_googlenets()
    ours = cnnarch.googlenet_bn()
    ours.load_state_dict(port(theirs.state_dict(), ours))
    exported = export(ours, "torchvision")
    assert exported.keys() == {k for k in theirs.state_dict() if not k.startswith("aux")}


@torch.no_grad()
def test_torchvision_s_densenets_of_2017_have_other_names() -> None:
    """`denselayer1.norm.1` became `denselayer1.norm1`; their published files still have the old."""
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


def test_biases_before_a_norm_must_fit_it() -> None:
    tensors = random_tensors(one_twin("pytorchcv", "bninception"))
    tensors["features.init_block.conv1.conv.bias"] = torch.zeros(3)
    with pytest.raises(WeightsError, match=r"unexpected: features.init_block.conv1.conv.bias"):
        port(tensors, cnnarch.bn_inception())


@pytest.mark.parametrize("name", ["vgg11_lrn", "vgg16_c", "alexnet", "googlenet", "nin"])
def test_networks_that_no_library_has_export_to_none(name: str) -> None:
    with torch.device("meta"):
        ours = cnnarch.get_model(name)
    with pytest.raises(WeightsError, match="has no layout 'torchvision'; it has none"):
        export(ours)
