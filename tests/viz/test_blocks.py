"""Drawings of blocks: the boxes and arrows agree with the papers' figures, and none overlap."""

from collections.abc import Iterator
from itertools import combinations, pairwise, product
from typing import Any

import networkx as nx
import numpy as np
import pytest
import torch
from matplotlib.patches import FancyArrowPatch
from matplotlib.transforms import Bbox
from torch import Tensor, nn

from cnnarch import blocks, viz
from cnnarch.facts.builders import families
from cnnarch.viz._block_graph import block_graph
from docs.generators.block_drawings import Example, example_of
from docs.generators.blocks import block_of, card_of

X = "\N{MULTIPLICATION SIGN}"
Shape = tuple[int, ...]


class Read:
    """The boxes of a drawing as text, and what each of them reads."""

    def __init__(self, module: nn.Module, *input_sizes: Shape) -> None:
        self.graph = block_graph(module, input_sizes)
        boxes = self.graph.nodes(data="box")
        self.text = {node: ", ".join(box.lines).replace(X, "x") for node, box in boxes}

    def find(self, text: str) -> list[int]:
        return [node for node, found in self.text.items() if found == text]

    def inputs(self, node: int) -> list[int]:
        edges = sorted(self.graph.in_edges(node, data="operand"), key=lambda edge: edge[2])
        return [edge[0] for edge in edges]

    def chain(self, node: int) -> list[str]:
        """Return the texts from a box upwards, as long as each box has one input."""
        texts = [self.text[node]]
        while len(inputs := self.inputs(node)) == 1:
            node = inputs[0]
            texts.append(self.text[node])
        return texts

    def operands(self, text: str) -> list[list[str]]:
        """Return the chains that lead to the only box with this text."""
        [node] = self.find(text)
        return [self.chain(source) for source in self.inputs(node)]

    def joins(self) -> str:
        kinds = self.graph.nodes(data="box")
        return " ".join(self.text[n] for n, box in kinds if box.kind in ("join", "split"))


def test_a_bottleneck_has_three_convolutions_and_adds_the_input() -> None:
    """Fig. 5, right, of the ResNet paper."""
    read = Read(blocks.Bottleneck(256, 64), (256, 56, 56))
    branch = ["conv 1x1, 256, BN", "conv 3x3, 64, BN, ReLU", "conv 1x1, 64, BN, ReLU", "input"]
    assert read.operands("+") == [branch, ["input"]]
    assert read.chain(read.find("output")[0])[:3] == ["output", "ReLU", "+"]


def test_a_block_with_a_stride_has_a_projection() -> None:
    read = Read(blocks.Residual(64, 128, 2), (64, 56, 56))
    branch = ["conv 3x3, 128, BN", "conv 3x3, 128, /2, BN, ReLU", "input"]
    assert read.operands("+") == [branch, ["conv 1x1, 128, /2, BN", "input"]]


def test_pre_activation_precedes_each_convolution() -> None:
    """Fig. 1b of the pre-activation paper."""
    read = Read(blocks.PreActResidual(64, 64), (64, 56, 56))
    assert read.operands("+") == [["BN, ReLU, conv 3x3, 64"] * 2 + ["input"], ["input"]]


def test_an_inception_module_concatenates_four_branches() -> None:
    """Fig. 2b and Table 1 (3a) of the GoogLeNet paper."""
    read = Read(blocks.Inception(192, 64, (96, 128), (16, 32), 32), (192, 28, 28))
    assert read.operands("concat") == [
        ["conv 1x1, 64, ReLU", "input"],
        ["conv 3x3, 128, ReLU", "conv 1x1, 96, ReLU", "input"],
        ["conv 5x5, 32, ReLU", "conv 1x1, 16, ReLU", "input"],
        ["conv 1x1, 32, ReLU", "max pool 3x3", "input"],
    ]


def test_squeeze_and_excitation_multiplies_the_input_by_gates() -> None:
    read = Read(blocks.SE(64, 4), (64, 7, 7))
    gate = ["conv 1x1, 64, Sigmoid", "conv 1x1, 4, ReLU", "global avg pool", "input"]
    assert read.operands("x") == [["input"], gate]


def test_cbam_pools_over_positions_then_over_channels() -> None:
    """Fig. 1 of the CBAM paper: two gates in sequence."""
    read = Read(blocks.CBAM(64, 4), (64, 7, 7))
    assert read.operands("stack") == [["global avg pool", "input"], ["global max pool", "input"]]
    first, second = read.find("x")
    assert read.text[read.inputs(first)[0]] == "input"
    assert read.inputs(second)[0] == first
    assert [chain[0] for chain in read.operands("concat")] == [
        "max over channels",
        "avg over channels",
    ]


def test_a_dense_layer_concatenates_its_inputs() -> None:
    read = Read(blocks.DenseLayer(96, 32), (64, 8, 8), (32, 8, 8))
    assert read.operands("concat") == [["input"], ["input"]]
    [output] = read.find("output")
    branch = ["BN, ReLU, conv 3x3, 32", "BN, ReLU, conv 1x1, 128", "concat"]
    assert read.chain(output) == ["output", *branch]


def test_a_dense_block_concatenates_each_output_with_all_before() -> None:
    read = Read(blocks.Dense(64, 3, 32), (64, 8, 8))
    joins = read.find("concat")
    assert len(joins) == 3
    before = read.find("input")
    for join in joins:
        assert read.inputs(join)[0] == before[0]
        assert read.text[read.inputs(join)[1]] == "BN, ReLU, conv 3x3, 32"
        before = [join]
    shapes = [read.graph.edges[next(iter(read.graph.out_edges(j, keys=True)))] for j in joins]
    assert [s["shape"] for s in shapes] == [(64 + n * 32, 8, 8) for n in (1, 2, 3)]


def test_a_shuffle_unit_splits_the_channels() -> None:
    """Fig. 3c of the ShuffleNet V2 paper."""
    read = Read(blocks.ShuffleUnitV2(116, 116), (116, 28, 28))
    branch = ["conv 1x1, 58, BN, ReLU", "depthwise conv 3x3, 58, BN", "conv 1x1, 58, BN, ReLU"]
    assert read.operands("concat") == [["split", "input"], [*branch, "split", "input"]]
    [split] = read.find("split")
    halves = [shape for _, _, shape in read.graph.out_edges(split, data="shape")]
    assert halves == [(58, 28, 28)] * 2


def test_a_ghost_module_concatenates_cheap_maps() -> None:
    read = Read(blocks.GhostModule(16, 24), (16, 32, 32))
    [concat] = read.find("concat")
    primary, cheap = read.inputs(concat)
    assert read.text[primary].startswith("conv 1x1, 12")
    assert read.text[cheap].startswith("depthwise conv 3x3, 12")
    assert read.inputs(cheap) == [primary]


def test_a_residual_inception_scales_the_branches() -> None:
    rows = ((blocks.ConvRow(32),), (blocks.ConvRow(32), blocks.ConvRow(32, 3)))
    read = Read(blocks.ResidualInception(256, rows, scale=0.17), (256, 35, 35))
    [[identity], scaled] = read.operands("+")
    assert identity == "input"
    assert scaled == ["x 0.17", "conv 1x1, 256", "concat"]


def test_a_mixer_layer_transposes_before_the_channels() -> None:
    """196 tokens of 512 channels, as in Fig. 1 of the MLP-Mixer paper."""
    read = Read(blocks.MixerLayer(196, 512, 256, 2048), (512, 14, 14))
    first, second = read.find("+")
    tokens = ["conv 1x1, 196", "conv 1x1, 256, GELU", "LN", "transpose", "input"]
    assert read.chain(read.inputs(first)[1]) == tokens
    channels = ["transpose", "conv 1x1, 512", "conv 1x1, 2048, GELU", "transpose", "LN", "+"]
    assert read.chain(read.inputs(second)[1]) == channels


def test_a_spatial_gate_multiplies_halves() -> None:
    read = Read(blocks.SpatialGate(196, 768), (196, 768))
    gate = ["transpose", "linear, 196", "transpose", "LN", "split", "input"]
    assert read.operands("x") == [["split", "input"], gate]


class Branching(nn.Module):
    """A block with control flow that symbolic tracing rejects."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(4, 4, 3, padding=1) for _ in range(3))
        self.gamma = nn.Parameter(torch.ones(4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        size, _ = x.shape[-1], x.amax()
        for layer in self.layers:
            if size > 4:
                x = nn.functional.relu(layer(x)).add(x)
                size //= 2
        return self.gamma * x / 2


def test_control_flow_and_functions_are_drawn_as_they_ran() -> None:
    read = Read(Branching(), (4, 16, 16))
    first, second = read.find("+")
    assert read.chain(read.inputs(first)[0]) == ["conv 3x3, 4, ReLU", "input"]
    assert read.chain(read.inputs(second)[0])[:2] == ["conv 3x3, 4, ReLU", "+"]
    assert read.chain(read.find("output")[0]) == ["output", "/ 2", "x gamma", "+"]


def test_a_layer_that_overwrites_its_input_is_drawn() -> None:
    read = Read(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(inplace=True)), (3, 9, 9))
    assert read.chain(read.find("output")[0]) == ["output", "conv 3x3, 8, ReLU", "input"]


def test_the_output_has_the_shape_that_the_module_returns() -> None:
    """The last reshape, which only removes dimensions of size 1, is not drawn."""
    module = nn.Sequential(nn.Conv2d(64, 10, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    read = Read(module, (64, 7, 7))
    [output] = read.find("output")
    assert read.chain(output) == ["output", "global avg pool", "conv 1x1, 10", "input"]
    assert [shape for *_, shape in read.graph.in_edges(output, data="shape")] == [(10,)]


def test_dropout_is_not_drawn() -> None:
    read = Read(nn.Sequential(nn.Linear(8, 4), nn.Dropout(0.5), nn.Linear(4, 2)), (8,))
    assert read.chain(read.find("output")[0]) == ["output", "linear, 2", "linear, 4", "input"]


@pytest.mark.parametrize(
    ("layer", "text"),
    [
        (nn.Conv2d(64, 64, 3, 2, groups=32), "conv 3x3, 64, /2, 32 groups"),
        (nn.Conv2d(64, 64, (1, 7), dilation=2), "conv 1x7, 64, dilation 2"),
        (nn.Conv2d(64, 128, 3, groups=64), "depthwise conv 3x3, 128"),
        (nn.ConvTranspose2d(64, 32, 2, 2), "transposed conv 2x2, 32, /2"),
        (nn.MaxPool2d(3, 2, 1), "max pool 3x3, /2"),
        (nn.AdaptiveAvgPool2d(1), "global avg pool"),
        (nn.AdaptiveAvgPool2d((7, 7)), "avg pool to 7x7"),
        (nn.GroupNorm(8, 64), "GN"),
        (nn.Hardswish(), "Hardswish"),
    ],
)
def test_layers_are_described_in_a_few_words(layer: nn.Module, text: str) -> None:
    read = Read(layer, (64, 28, 28))
    assert read.chain(read.find("output")[0]) == ["output", text, "input"]


def test_drawing_leaves_the_module_unchanged() -> None:
    called = []
    block = blocks.Residual(4, 4).train()
    block.register_forward_hook(lambda *_: called.append(1))
    before = {name: value.clone() for name, value in block.state_dict().items()}
    viz.block_diagram(block, (4, 8, 8))
    assert block.training
    assert not called
    assert all(torch.equal(before[name], value) for name, value in block.state_dict().items())


def test_a_wrong_input_size_is_named() -> None:
    with pytest.raises(ValueError, match=r"Residual cannot process inputs of size \(3, 8, 8\)"):
        viz.block_diagram(blocks.Residual(4, 4), (3, 8, 8))


@pytest.mark.parametrize("sizes", [(), (8,), ((4, -8, 8),), ((4, 8.0, 8),), ([],)], ids=str)
def test_sizes_must_be_positive_integers(sizes: tuple[Any, ...]) -> None:
    with pytest.raises(ValueError, match=r"size of each input, such as \(64, 56, 56\), got"):
        viz.block_diagram(blocks.Residual(4, 4), *sizes)


def test_only_modules_are_drawn() -> None:
    with pytest.raises(TypeError, match=r"module must be a torch\.nn\.Module, got str"):
        viz.block_diagram("resnet18", (3, 8, 8))  # type: ignore[arg-type]


def test_a_module_that_returns_no_tensor_is_rejected() -> None:
    class Named(nn.Module):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"x": x}

    with pytest.raises(TypeError, match="Named returns no tensor, got dict"):
        viz.block_diagram(Named(), (3, 8, 8))


def lines(figure: Any) -> Iterator[tuple[Any, Any]]:
    """Yield the start and end of all pieces of the arrows' lines, in data coordinates."""
    for patch in figure.axes[0].patches:
        if isinstance(patch, FancyArrowPatch):
            for points in patch.get_path().to_polygons(closed_only=False):
                yield from pairwise(points)


def check_that_nothing_overlaps(figure: Any) -> None:
    """Check that all texts and boxes are apart and inside, and that arrows end at boxes."""
    figure.draw_without_rendering()
    axes = figure.axes[0]
    patches = [p for p in axes.patches if not isinstance(p, FancyArrowPatch)]
    boxes = [p.get_window_extent() for p in patches]
    texts = {t: t.get_window_extent() for t in axes.texts}
    page = figure.bbox.padded(1)
    assert all(page.contains(*point) for b in (*boxes, *texts.values()) for point in (b.p0, b.p1))
    for (a, first), (b, second) in combinations(texts.items(), 2):
        assert not first.padded(-0.5).overlaps(second), (a.get_text(), b.get_text())
    for a, b in combinations(boxes, 2):
        assert not a.overlaps(b)
    for text, extent in texts.items():
        around = [b for b in boxes if b.overlaps(extent)]
        assert all(b.padded(1).contains(*p) for b in around for p in (extent.p0, extent.p1)), text
    for a, b in lines(figure):
        ways = axes.transData.transform(np.linspace(a, b, 12))
        for obstacle in (*boxes, *(extent.padded(-1) for extent in texts.values())):
            shrunk = Bbox(obstacle.padded(-2))
            assert not any(shrunk.contains(*point) for point in ways)


EXAMPLES = {
    name: example
    for name, value in vars(blocks).items()
    if isinstance(value, type) and issubclass(value, nn.Module)
    if (example := example_of(value))
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_nothing_overlaps(name: str) -> None:
    figure = viz.block_diagram(EXAMPLES[name].module, *EXAMPLES[name].input_sizes)
    assert figure.get_figwidth() <= 7
    check_that_nothing_overlaps(figure)


class Crossing(nn.Module):
    """Branches that are not nested: both layers are read by both sums."""

    def forward(self, x: Tensor) -> Tensor:
        a, b = x.relu(), x.tanh()
        return torch.cat([(a + b).sigmoid(), (a * b).relu()], 1)


class Chain(nn.Module):
    """Layers that each read the output of the previous one and another part of the input."""

    def forward(self, x: Tensor) -> Tensor:
        a, b, c = x.chunk(3, 1)
        y = a.relu()
        z = (b + y).tanh()
        return torch.cat([y, z, (c + z).sigmoid()], 1)


def test_arrows_pass_beside_the_boxes_of_a_chain() -> None:
    """Three arrows skip the next box: from the split to both sums, and from y to the concat."""
    figure = viz.block_diagram(Chain(), (6, 8, 8))
    check_that_nothing_overlaps(figure)
    columns = {round(x, 3) for (x, y), (a, b) in lines(figure) if abs(x - a) < 1e-6 and b - y > 0.5}
    assert len(columns) >= 4


@pytest.mark.parametrize("name", ["DualPath", "MultiScaleConv", "Chain"])
def test_arrows_of_branches_that_are_not_nested_do_not_cross(name: str) -> None:
    example = EXAMPLES.get(name, Example("", Chain(), [(6, 8, 8)]))
    pieces = list(lines(viz.block_diagram(example.module, *example.input_sizes)))
    level = [(a, b) for a, b in pieces if abs(a[1] - b[1]) < 1e-6]
    upright = [(a, b) for a, b in pieces if abs(a[0] - b[0]) < 1e-6]
    for (a, b), (c, d) in product(level, upright):
        between_x = min(a[0], b[0]) + 0.02 < c[0] < max(a[0], b[0]) - 0.02
        between_y = min(c[1], d[1]) + 0.02 < a[1] < max(c[1], d[1]) - 0.02
        assert not (between_x and between_y)


def test_arrows_that_must_cross_pass_no_box() -> None:
    graph = block_graph(Crossing(), [(4, 8, 8)])
    assert not nx.is_tree(graph.to_undirected())
    check_that_nothing_overlaps(viz.block_diagram(Crossing(), (4, 8, 8)))


# The block's class, and its sums, products, concatenations and splits in order, where a paper draws
# the block. A new family needs no entry; its drawing is checked for overlaps.
TYPICAL = {
    "convnext": ("ConvNeXtBlock", "+"),
    "densenet_cifar": ("Dense", "concat concat"),
    "gmlp": ("GMLPLayer", "split x +"),
    "googlenet": ("Inception", "concat"),
    "lenet": ("LeNet", ""),
    "mobilenet_v3": ("InvertedResidual", "x +"),
    "preresnet_cifar": ("PreActResidual", "+"),
    "res2net": ("Res2NetBottleneck", "split + + concat +"),
    "resnet": ("Residual", "+"),
    "shufflenet_v2": ("ShuffleUnitV2", "split concat"),
    "vgg": ("VGGBlock", ""),
}
SLOW = {
    "alexnet": ("AlexNet", ""),
    "bit": ("PreActBottleneck", "+"),
    "cbam_resnet": ("Residual", "stack x concat x +"),
    "convmixer": ("ConvMixerLayer", "+"),
    "convnet": ("ConvNet", ""),
    "convnext_v2": ("ConvNeXtV2Block", "+"),
    "cspnet": ("CrossStage", "split + + + concat"),
    "darknet": ("DarknetResidual", "+"),
    "densenet": ("Dense", "concat concat"),
    "dla": ("AggregationTree", "+ + concat + + concat"),
    "dpn": ("DualPath", "split split + concat"),
    "eca_resnet": ("Bottleneck", "x +"),
    "efficientnet": ("InvertedResidual", "x +"),
    "efficientnet_lite": ("InvertedResidual", "+"),
    "efficientnet_v2": ("InvertedResidual", "x +"),
    "fasternet": ("FasterNetBlock", "split concat +"),
    "ghostnet": ("GhostBottleneck", "concat concat +"),
    "inception_bn": ("DoubleInception", "concat"),
    "inception_next": ("InceptionNeXtBlock", "split concat +"),
    "inception_resnet": ("ResidualInception", "concat +"),
    "inception_v3": ("FactorizedInception", "concat"),
    "inception_v4": ("FactorizedInception", "concat"),
    "mlp_mixer": ("MixerLayer", "+ +"),
    "mnasnet": ("InvertedResidual", "x +"),
    "mobilenet_v1": ("DepthwiseSeparable", ""),
    "mobilenet_v2": ("InvertedResidual", "+"),
    "mobilenet_v4": ("UniversalInvertedBottleneck", "+"),
    "mobileone": ("MobileOneBlock", "+ + + + + + + + +"),  # 4 + 1x1 + BN, then 4 + BN
    "nin": ("NiNBlock", ""),
    "preresnet": ("PreActBottleneck", "+"),
    "pyramidnet_cifar": ("PyramidResidual", "+"),
    "regnet": ("XBlock", "x +"),
    "repvgg": ("RepConvAct", "+ +"),
    "resmlp": ("ResMLPLayer", "+ +"),
    "resnest": ("SplitAttentionBottleneck", "x +"),
    "resnet_cifar": ("Residual", "+"),
    "resnet_d": ("Residual", "+"),
    "resnet_rs": ("Bottleneck", "x +"),
    "resnext": ("Bottleneck", "+"),
    "resnext_cifar": ("Bottleneck", "+"),
    "se_resnet": ("Residual", "x +"),
    "senet": ("HalvedBottleneck", "x +"),
    "shufflenet_v1": ("ShuffleUnit", "+"),
    "sk_resnet": ("SKBottleneck", "stack x +"),
    "squeezenet": ("Fire", "concat"),
    "starnet": ("StarBlock", "x +"),
    "wide_resnet": ("Bottleneck", "+"),
    "wide_resnet_cifar": ("PreActResidual", "+"),
    "xception": ("XceptionModule", "+"),
}


@pytest.mark.parametrize(
    "family", [*TYPICAL, *(pytest.param(family, marks=pytest.mark.slow) for family in SLOW)]
)
def test_the_typical_block_of_a_family_is_that_of_its_paper(family: str) -> None:
    block, size = block_of(card_of(family))
    name, joins = (TYPICAL | SLOW)[family]
    assert type(block).__name__ == name
    assert Read(block, size).joins() == joins


@pytest.mark.slow
@pytest.mark.parametrize("family", families())
def test_nothing_overlaps_in_the_typical_block_of_a_family(family: str) -> None:
    block, size = block_of(card_of(family))
    check_that_nothing_overlaps(viz.block_diagram(block, size))
