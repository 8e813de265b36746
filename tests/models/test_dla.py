"""DLA against the paper (Yu et al., 2017) and the authors' code, as ported by timm."""

from functools import partial

import pytest
import timm
import torch
from torch import nn

import cnnarch
from cnnarch.blocks import AggregationNode, AggregationTree
from cnnarch.models.dla import DLA, DLARow, bottleneck
from cnnarch.weights import WeightsError, port

SMALL = DLARow(partial(bottleneck, groups=2), (1, 2, 1, 1), (4, 4, 8, 8, 12, 12), residual=True)
SMALL_FORMS = {"residual": partial(DLA, SMALL)}

NETWORKS = cnnarch.list_models(family="dla")


def on_meta(name: str) -> DLA:
    with torch.device("meta"):
        return cnnarch.get_model(name)


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        *(("dla34", 34), ("dla46_c", 46), ("dla46x_c", 46), ("dla60", 60), ("dla60x", 60)),
        *(("dla60x_c", 60), ("dla102", 102), ("dla102x", 102), ("dla102x2", 102)),
        ("dla169", 165),  # counted from its trees; the name says 169
    ],
)
def test_the_name_counts_the_layers_with_weights(name: str, layers: int) -> None:
    """As in ResNets, projections are not counted."""
    kinds = nn.Conv2d | nn.Linear
    paths = [path for path, m in on_meta(name).named_modules() if isinstance(m, kinds)]
    assert len([p for p in paths if ".shortcut." not in p]) == layers


@pytest.mark.parametrize("name", NETWORKS)
def test_each_stage_halves_the_map_and_the_stem_does_not(name: str) -> None:
    rows = on_meta(name).feature_info
    assert [row.name for row in rows] == [f"stage{i}" for i in range(1, 7)]
    assert [row.stride for row in rows] == [1, 2, 4, 8, 16, 32]


@pytest.mark.parametrize("name", NETWORKS)
def test_trees_merge_their_input_from_stage_4_on(name: str) -> None:
    trees = [stage[0] for stage in on_meta(name).stages[1:]]
    assert all(isinstance(tree, AggregationTree) for tree in trees)
    assert [tree.pool is not None for tree in trees] == [False, True, True, True]


@pytest.mark.parametrize("name", NETWORKS)
def test_nodes_are_residual_in_networks_of_more_than_100_layers(name: str) -> None:
    nodes = [m for m in on_meta(name).modules() if isinstance(m, AggregationNode)]
    assert {node.residual for node in nodes} == {name.startswith(("dla102", "dla169"))}


@pytest.mark.parametrize(
    ("name", "width", "groups"),
    [("dla60", 64, 1), ("dla60x", 128, 32), ("dla102x2", 256, 64), ("dla46x_c", 64, 32)],
)
def test_the_3x3_convolutions_of_stage_3_have_these_groups(
    name: str, width: int, groups: int
) -> None:
    """Bottlenecks halve the channels, split blocks keep them, and 64 groups double them."""
    conv = on_meta(name).stages[1][0].first.branch.conv.conv
    assert (conv.in_channels, conv.groups) == (width, groups)


def test_a_shortcut_has_a_pool_and_a_projection_only_where_the_shape_changes() -> None:
    names = [
        [n for n, _ in stage[0].first.shortcut.named_children()] if i else []
        for i, stage in enumerate(on_meta("dla46_c").stages)
    ]
    # Stage 4 has 64 channels, as stage 3. The first block of stage 5 is in its subtree.
    assert names == [[], ["pool", "project"], [], [], ["pool", "project"]]
    first = [on_meta("dla46_c").stages[i][0].subtrees[0].first.shortcut for i in (2, 3)]
    assert [[n for n, _ in m.named_children()] for m in first] == [["pool"], ["pool", "project"]]


def test_small_images_give_a_4x4_map() -> None:
    model = cnnarch.dla46_c(small_images=True, num_classes=10).eval()
    shapes = [m.shape[-1] for m in model.forward_stages(torch.zeros(1, 3, 32, 32))]
    assert shapes == [32, 32, 32, 16, 8, 4]


def test_unused_projections_of_the_authors_files_are_dropped() -> None:
    """The authors' code also creates a projection for trees of trees, as for level4 here."""
    with torch.device("meta"):
        theirs = timm.create_model("dla46_c").state_dict()
    ours = on_meta("dla46_c")
    assert "level4.tree1.project.0.weight" in theirs
    norm = {f"level4.project.1.{k}": torch.zeros(128) for k in ("weight", "bias", "running_mean")}
    unused = {"level4.project.0.weight": torch.zeros(128, 64, 1, 1), **norm}
    assert port({**theirs, **unused}, ours).keys() == port(theirs, ours).keys()
    with pytest.raises(WeightsError, match=r"unexpected: level3.tree1.project.0.weight"):
        port({**theirs, "level3.tree1.project.0.weight": torch.zeros(64, 64, 1, 1)}, ours)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"levels": (1, 1, 1)}, r"levels must have 4 entries, got \(1, 1, 1\)"),
        ({"channels": (4, 4)}, r"channels must have 6 entries, got \(4, 4\)"),
        ({"levels": (1, 0, 1, 1)}, "levels must be an integer of at least 1, got 0"),
    ],
)
def test_a_wrong_row_is_rejected(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DLA(SMALL._replace(**changes))
