"""Networks selected by size, cost and published accuracy."""

import json
import logging
import math
import re
from typing import Any

import pytest

import cnnarch
from cnnarch.weights import get_weights
from cnnarch.weights.costs import cost_of, cost_on_sheet, setting_of
from cnnarch.weights.selection import ORDERS, Bounds, RatedNetwork, select
from tests.oracles.catalog import COSTS, costs_as_json, count_costs

ENTRIES = [e for name in cnnarch.list_models(weights=True) for e in get_weights(name).values()]
EVERY = select(cnnarch.list_models())
PUBLISHED = [rated for rated in EVERY if rated.top1 is not None]


def rated(name: str, **bounds: float) -> RatedNetwork:
    (found,) = select([name], Bounds(**bounds))
    return found


# --- values, by hand from the pages that publish them ---


@pytest.mark.parametrize(
    ("name", "tag", "pixels", "top1"),
    [
        ("vgg16_bn", "IMAGENET1K_V1", 224, 73.36),  # torchvision's page of models
        ("resnext101_64x4d", "IMAGENET1K_V1", 224, 83.246),
        ("resnet34", "TIMM_RA4_E3600_R224_IN1K", 224, 77.492),  # timm's results-imagenet.csv
        ("inception_v4", "TIMM_TF_IN1K", 299, 80.144),
        ("convnext_tiny", "TIMM_IN12K_FT_IN1K_384", 384, 85.154),
    ],
)
def test_a_network_has_its_highest_published_accuracy(
    name: str, tag: str, pixels: int, top1: float
) -> None:
    found = rated(name)
    assert found.weights is not None
    assert found.cost is not None
    assert (found.weights.tag, found.top1) == (tag, top1)
    assert found.cost.input_size == (3, pixels, pixels)


def test_a_bound_applies_to_the_images_of_the_accuracy() -> None:
    """ConvNeXt's README: ConvNeXt-T needs 4.5 G for 224 pixels and 13.1 G for 384."""
    large, small = rated("convnext_tiny"), rated("convnext_tiny", max_macs=5e9)
    assert large.cost is not None
    assert small.cost is not None
    assert round(large.cost.macs / 1e9, 1) == 13.1
    assert round(small.cost.macs / 1e9, 1) == 4.5
    assert small.weights is not None
    assert small.top1 == small.weights.metrics["acc@1"] < (large.top1 or 0)
    assert select(["convnext_tiny"], Bounds(max_macs=4e9)) == []


def test_accuracies_of_other_widths_do_not_count() -> None:
    """MobileNetV2 1.4 has 6.1 M parameters and 76.528 %, and the default width 3.5 M."""
    wide = get_weights("mobilenet_v2")["TIMM_RA_IN1K_MOBILENETV2_140"]
    found = rated("mobilenet_v2")
    assert (wide.metrics["acc@1"], round(cost_of(wide).params / 1e6, 1)) == (76.528, 6.1)
    assert (found.top1 or 0) < 76.528
    assert found.cost is not None
    assert found.cost.params == found.card.params == 3_504_872


def test_accuracies_on_other_data_sets_do_not_count() -> None:
    found = rated("lenet5")
    assert found.top1 is None
    assert found.weights is not None
    assert found.weights.metrics["acc@1"] > 90  # on Fashion-MNIST
    assert found.weights.tag == "FASHION_MNIST"


def test_a_network_without_checkpoints_is_listed_without_them() -> None:
    assert rated("plain18")[1:] == (None, None, None)


# --- conditions ---


def test_limits_include_equal_values() -> None:
    """ResNet-50 has 25,557,032 parameters and 4,089,184,256 multiply-adds."""
    for key, value in (("max_params", 25_557_032), ("max_macs", 4_089_184_256)):
        limits: dict[str, Any] = {key: value}
        assert "resnet50" in cnnarch.list_models(**limits)
        assert "resnet50" not in cnnarch.list_models(**{key: value - 1})
    assert "vgg16_bn" in cnnarch.list_models(min_top1=73.36)
    assert "vgg16_bn" not in cnnarch.list_models(min_top1=73.361)


def test_conditions_select_all_networks_that_meet_them_and_no_others() -> None:
    found = cnnarch.list_models(max_params=30e6, max_macs=5e9, min_top1=80)
    for network in EVERY:
        card = network.card
        small = card.params <= 30e6 and card.macs <= 5e9
        accurate = any(
            (entry.metrics.get("acc@1") or 0) >= 80
            for entry in get_weights(card.name).values()
            if entry.dataset == "ImageNet-1K"
            and cost_of(entry).params == card.params
            and cost_of(entry).macs <= 5e9
        )
        assert (card.name in found) == (small and accurate), card.name


def test_conditions_combine_with_the_others() -> None:
    names = cnnarch.list_models("vgg1[16]*", family="vgg", weights=True, max_params=138e6)
    assert names == ["vgg11", "vgg11_bn"]  # VGG-16 has 138.36 M parameters
    assert cnnarch.list_models("nothing*", max_params=1e6, sort="top1") == []


def test_left_out_networks_are_counted_in_a_log_message(caplog: pytest.LogCaptureFixture) -> None:
    """No library publishes accuracies for VGG with LRN and with 1x1 convolutions."""
    caplog.set_level(logging.INFO, "cnnarch")
    assert len(cnnarch.list_models(family="vgg", min_top1=0)) == 8
    assert caplog.messages == ["left out 2 networks: no top-1 on ImageNet-1K is published"]
    caplog.clear()
    cnnarch.list_models(family="lenet", max_params=1e6, min_top1=50)
    (message,) = caplog.messages
    assert message.endswith("networks: no top-1 on ImageNet-1K is published within the bounds")
    caplog.clear()
    cnnarch.list_models(family="vgg", max_params=25)
    assert caplog.messages[0].startswith("the networks have at least 132,863,336 parameters and ")


@pytest.mark.parametrize(
    ("bounds", "error", "message"),
    [
        ({"max_params": -1}, ValueError, "max_params must be a positive number, got -1"),
        ({"max_params": 0}, ValueError, "max_params must be a positive number, got 0"),
        ({"max_macs": math.nan}, ValueError, "max_macs must be a positive number, got nan"),
        ({"max_macs": math.inf}, ValueError, "max_macs must be a positive number, got inf"),
        ({"max_params": "25M"}, TypeError, "max_params must be a number or None, got '25M'"),
        ({"max_params": True}, TypeError, "max_params must be a number or None, got True"),
        ({"min_top1": 0.8}, ValueError, "min_top1 is in percent, got 0.8; did you mean 80?"),
        ({"min_top1": 800}, ValueError, "min_top1 must be from 0 to 100 percent, got 800"),
        ({"min_top1": -1}, ValueError, "min_top1 must be from 0 to 100 percent, got -1"),
        ({"min_top1": math.nan}, ValueError, "min_top1 must be from 0 to 100 percent, got nan"),
        ({"min_top1": [80]}, TypeError, "min_top1 must be a number or None, got [80]"),
        ({"sort": "-top1"}, ValueError, "cannot sort by '-top1'; did you mean 'top1'?"),
        ({"sort": "flops"}, ValueError, "cannot sort by 'flops'; available: name, year, params"),
        ({"sort": None}, TypeError, "sort must be a string, got None"),
        ({"weights": "DEFAULT"}, TypeError, "weights must be True or False, got 'DEFAULT'"),
        ({"max_mac": 1e9}, TypeError, "no argument 'max_mac'; did you mean 'max_macs'?"),
        ({"pretrained": True}, TypeError, "no argument 'pretrained'; pass weights=True"),
    ],
)
def test_wrong_values_are_rejected(
    bounds: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=re.escape(message)):
        cnnarch.list_models(**bounds)
    with pytest.raises(error, match=re.escape(message)):  # also if no network is left to compare
        cnnarch.list_models("nothing*", **bounds)


# --- order ---


def test_networks_are_sorted_with_missing_values_last() -> None:
    """The years are those of the papers; ConvNet has none."""
    names = ["vgg11_lrn", "vgg19_bn", "lenet5", "vgg16_bn", "convnet", "alexnet_owt"]
    order = {sort: [each.card.name for each in select(names, sort=sort)] for sort in ORDERS}
    assert order == {
        "name": sorted(names),
        "year": ["alexnet_owt", "vgg11_lrn", "vgg16_bn", "vgg19_bn", "lenet5", "convnet"],
        "params": ["convnet", "lenet5", "alexnet_owt", "vgg11_lrn", "vgg16_bn", "vgg19_bn"],
        "macs": ["lenet5", "convnet", "alexnet_owt", "vgg11_lrn", "vgg16_bn", "vgg19_bn"],
        "top1": ["vgg19_bn", "vgg16_bn", "alexnet_owt", "convnet", "lenet5", "vgg11_lrn"],
    }


def test_all_networks_are_kept_without_conditions() -> None:
    assert [each.card.name for each in EVERY] == cnnarch.list_models()
    for sort in ORDERS:
        assert sorted(cnnarch.list_models(sort=sort)) == cnnarch.list_models()


# --- costs ---


def test_every_checkpoint_has_a_cost() -> None:
    """After adding checkpoints, run `python -m tests.oracles.catalog`."""
    for entry in ENTRIES:
        cost = cost_of(entry)
        assert cost.params > 0
        assert cost.macs > 0


def test_costs_are_stored_only_for_what_no_sheet_lists() -> None:
    rows = [
        (row["network"], row["options"], row["input_size"]) for row in json.loads(COSTS.read_text())
    ]
    settings = [setting_of(entry) for entry in ENTRIES]
    needed = [each for each in settings if cost_on_sheet(each) is None]
    assert {json.dumps(row, sort_keys=True) for row in rows} == {
        json.dumps(each, sort_keys=True) for each in needed
    }


@pytest.mark.parametrize(
    ("name", "millions", "billions"),
    [("convnext_large", 198, 101.0), ("convnext_xlarge", 350, 179)],
)
def test_a_checkpoint_costs_what_its_paper_states(
    name: str, millions: int, billions: float
) -> None:
    """Table 1 of the ConvNeXt paper lists both networks for 384 pixels."""
    cost = cost_of(get_weights(name)["TIMM_FB_IN22K_FT_IN1K_384"])
    assert round(cost.params / 1e6) == millions
    assert cost.macs / 1e9 == pytest.approx(billions, abs=0.1)


@pytest.mark.slow
def test_costs_agree_with_the_networks() -> None:
    counted = costs_as_json(count_costs(ENTRIES)).splitlines()
    assert sorted(COSTS.read_text().replace(",\n", "\n").splitlines()) == sorted(
        line.removesuffix(",") for line in counted
    )
