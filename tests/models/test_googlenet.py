"""GoogLeNet against its paper (Szegedy et al., 2014), a reimplementation and torchvision."""

import copy
import io
import math
from collections.abc import Iterator
from functools import partial

import pytest
import torch
import torchvision
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

import cnnarch
from cnnarch import AuxLogits
from cnnarch.blocks import LRN, AuxiliaryHead, Inception
from cnnarch.models.googlenet import PAPER, TORCHVISION, GoogLeNet, GoogLeNetConfig, InceptionRow
from cnnarch.testing import assert_close, assert_parameters
from tests.oracles.in_order import randomize_norms

ROW = InceptionRow(8, (8, 16), (4, 8), 8)
ROWS = ((ROW,), (ROW,), (ROW,))
WITH_AUXILIARY_HEADS = ((ROW,), (ROW,) * 5, (ROW,))
SMALL_FORMS = {
    "published": partial(GoogLeNet, PAPER, ROWS),
    "published-small_images": partial(GoogLeNet, PAPER, ROWS, small_images=True),
    "published-aux_logits": partial(
        GoogLeNet, PAPER, WITH_AUXILIARY_HEADS, num_classes=10, aux_logits=True
    ),
    "batch_norm": partial(GoogLeNet, GoogLeNetConfig(norm=nn.BatchNorm2d), ROWS),
    "torchvision": partial(GoogLeNet, TORCHVISION, ROWS),
    "torchvision-aux_logits": partial(
        GoogLeNet, TORCHVISION, WITH_AUXILIARY_HEADS, num_classes=10, aux_logits=True
    ),
}

BLOCKS = {  # row of Table 1 to module
    **{f"inception_3{row}": f"stages.1.{i}" for i, row in enumerate("ab")},
    **{f"inception_4{row}": f"stages.2.{i}" for i, row in enumerate("abcde")},
    **{f"inception_5{row}": f"stages.3.{i}" for i, row in enumerate("ab")},
}
TABLE_1 = {  # "#1x1", "#3x3 reduce", "#3x3", "#5x5 reduce", "#5x5", "pool proj"
    "inception_3a": (64, 96, 128, 16, 32, 32),
    "inception_3b": (128, 128, 192, 32, 96, 64),
    "inception_4a": (192, 96, 208, 16, 48, 64),
    "inception_4b": (160, 112, 224, 24, 64, 64),
    "inception_4c": (128, 128, 256, 24, 64, 64),
    "inception_4d": (112, 144, 288, 32, 64, 64),
    "inception_4e": (256, 160, 320, 32, 128, 128),
    "inception_5a": (256, 160, 320, 32, 128, 128),
    "inception_5b": (384, 192, 384, 48, 128, 128),
}


def without_dropout(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


class GoogLeNetByHand:
    """The paper's network without modules, built from weights and biases in execution order."""

    def __init__(self, tensors: list[Tensor]) -> None:
        self.tensors: Iterator[Tensor] = iter(tensors)

    def conv(self, x: Tensor, stride: int = 1) -> Tensor:
        weight, bias = next(self.tensors), next(self.tensors)
        return functional.conv2d(x, weight, bias, stride, weight.shape[-1] // 2).clamp(min=0)

    def pool(self, x: Tensor) -> Tensor:
        """Pool as Caffe does: windows start at the first pixel and cover all pixels."""
        missing = [2 * math.ceil((size - 3) / 2) + 3 - size for size in x.shape[-2:]]
        padded = functional.pad(x, (0, missing[1], 0, missing[0]), value=-torch.inf)
        return functional.max_pool2d(padded, 3, 2)

    def norm(self, x: Tensor) -> Tensor:
        return functional.local_response_norm(x, 5, alpha=1e-4, beta=0.75, k=1.0)

    def inception(self, x: Tensor) -> Tensor:
        one = self.conv(x)
        three = self.conv(self.conv(x))
        five = self.conv(self.conv(x))
        return torch.cat([one, three, five, self.conv(functional.max_pool2d(x, 3, 1, 1))], 1)

    def auxiliary(self, x: Tensor) -> Tensor:
        x = self.conv(functional.avg_pool2d(x, 5, 3)).flatten(1)
        x = functional.linear(x, next(self.tensors), next(self.tensors)).clamp(min=0)
        return functional.linear(x, next(self.tensors), next(self.tensors))

    def __call__(self, x: Tensor, auxiliary: bool = False) -> list[Tensor]:
        x = self.norm(self.pool(self.conv(x, 2)))
        x = self.pool(self.norm(self.conv(self.conv(x))))
        x = self.pool(self.inception(self.inception(x)))
        a = self.inception(x)
        d = self.inception(self.inception(self.inception(a)))
        x = self.pool(self.inception(d))
        x = self.inception(self.inception(x)).mean((2, 3))
        logits = functional.linear(x, next(self.tensors), next(self.tensors))
        return [logits, self.auxiliary(a), self.auxiliary(d)] if auxiliary else [logits]


@pytest.mark.parametrize("name", ["googlenet", "googlenet_bn"])
@pytest.mark.parametrize("row", TABLE_1)
def test_branches_have_the_widths_of_table_1(name: str, row: str) -> None:
    with torch.device("meta"):
        block = cnnarch.get_model(name).get_submodule(BLOCKS[row])
    convs = [m for m in block.modules() if isinstance(m, nn.Conv2d)]
    assert tuple(c.out_channels for c in convs) == TABLE_1[row]
    wide = 5 if name == "googlenet" else 3
    assert [c.kernel_size[0] for c in convs] == [1, 1, 3, 1, wide, 1]


def test_each_stage_has_one_stride_and_starts_with_its_pool() -> None:
    info = cnnarch.googlenet().feature_info
    names = ["conv1", "conv2", "inception_3", "inception_4", "inception_5"]
    assert [r.name for r in info] == names
    assert [r.stride for r in info] == [2, 4, 8, 16, 32]
    assert [r.channels for r in info] == [64, 192, 480, 832, 1024]


def test_conv2_includes_the_1x1_reduction() -> None:
    """In the "convolution" row, "#3x3 reduce" is 64: 64 to 64 channels, then 64 to 192."""
    for model in (cnnarch.googlenet(), cnnarch.googlenet_bn()):
        convs = [m for m in model.stages[0].modules() if isinstance(m, nn.Conv2d)]
        assert [(c.out_channels, c.kernel_size) for c in convs] == [(64, (1, 1)), (192, (3, 3))]


def test_every_path_has_the_papers_22_layers_with_weights() -> None:
    """Sec. 5: the network has a depth of 22, counting each Inception block as two layers."""
    model = cnnarch.googlenet()
    blocks = sum(isinstance(m, Inception) for m in model.modules())
    assert blocks == 9
    assert 1 + 2 + 2 * blocks + 1 == 22


def test_the_papers_network_has_biases_two_lrns_and_no_batchnorm() -> None:
    model = cnnarch.googlenet()
    kinds = [type(m) for m in model.stages[0]]
    assert (kinds[0], kinds[1], kinds[-1]) == (nn.MaxPool2d, LRN, LRN)
    lrns = [m for m in model.modules() if isinstance(m, LRN)]
    # Caffe's alpha 1e-4 is divided by n = 5.
    assert [(m.n, m.alpha, m.beta, m.k) for m in lrns] == [(5, pytest.approx(2e-5), 0.75, 1.0)] * 2
    assert not any(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    assert all(m.bias is not None for m in model.modules() if isinstance(m, nn.Conv2d))


def test_torchvisions_network_has_batchnorm_with_eps_1e_3_and_no_lrn() -> None:
    model = cnnarch.googlenet_bn(aux_logits=True)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    convs = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert len(norms) == len(convs)
    assert {(n.eps, n.momentum) for n in norms} == {(1e-3, 0.1)}
    assert all(c.bias is None for c in convs)
    assert not any(isinstance(m, LRN) for m in model.modules())


def test_batchnorm_with_5x5_kernels_can_be_built_from_the_class() -> None:
    with torch.device("meta"):
        model = GoogLeNet(GoogLeNetConfig(norm=nn.BatchNorm2d))
    assert_parameters(model, 7_005_832)
    # Each of the 7,280 convolution filters has a scale and a shift instead of a bias.
    filters = sum(m.out_channels for m in model.modules() if isinstance(m, nn.Conv2d))
    assert 6_998_552 + filters == 7_005_832
    assert model.stages[1][1].branch5x5.conv.conv.kernel_size == (5, 5)


def test_parameter_counts_of_auxiliary_heads_match_the_paper_and_torchvision() -> None:
    with torch.device("meta"):
        assert_parameters(cnnarch.googlenet(aux_logits=True), 13_378_280)
        assert_parameters(cnnarch.googlenet_bn(aux_logits=True), 13_004_888)


def test_auxiliary_heads_add_their_multiply_adds_in_training() -> None:
    """The heads pool 512 and 528 channels to 4x4. The total is 1,591,044,096 multiply-adds."""
    heads = sum(16 * c * 128 + 2048 * 1024 + 1024 * 1000 for c in (512, 528))
    assert 1_582_671_872 + heads == 1_591_044_096
    model = cnnarch.googlenet(aux_logits=True)
    for head, channels in ((model.aux1, 512), (model.aux2, 528)):
        size = (channels, 14, 14)
        assert cnnarch.analysis.count_macs(head, size) == 16 * channels * 128 + 3_121_152


@pytest.mark.parametrize("size", [(224, 224), (97, 131), (31, 64)])
def test_logits_match_the_reimplementation(size: tuple[int, int]) -> None:
    """Pixel values are in the hundreds so that the LRN constants have an effect."""
    model = cnnarch.googlenet(num_classes=20).eval()
    images = 100 * torch.randn(2, 3, *size)
    with torch.no_grad():
        (expected,) = GoogLeNetByHand(list(model.parameters()))(images)
        assert_close(model(images), expected)


def test_the_lrn_constants_affect_the_logits() -> None:
    model = cnnarch.googlenet(num_classes=20).eval()
    images = 100 * torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        logits = model(images)
        for lrn in (m for m in model.modules() if isinstance(m, LRN)):
            lrn.alpha = 1e-4
        assert ((model(images) - logits).norm() / logits.norm()) > 0.1


def test_auxiliary_logits_match_the_reimplementation() -> None:
    model = without_dropout(cnnarch.googlenet(num_classes=20, aux_logits=True)).train()
    images = 100 * torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        outputs = model(images)
        expected = GoogLeNetByHand(list(model.parameters()))(images, auxiliary=True)
    assert isinstance(outputs, AuxLogits)
    for found, wanted in zip(outputs, expected, strict=True):
        assert_close(found, wanted)


def test_training_outputs_match_torchvision_with_auxiliary_heads() -> None:
    ours = without_dropout(cnnarch.googlenet_bn(num_classes=20, aux_logits=True))
    theirs = torchvision.models.googlenet(
        num_classes=20, aux_logits=True, init_weights=False, dropout=0.0, dropout_aux=0.0
    )
    source = ours.state_dict()
    order = sorted(source, key=lambda key: key.startswith("head."))  # torchvision's head comes last
    target = theirs.state_dict()
    assert [source[k].shape for k in order] == [v.shape for v in target.values()]
    theirs.load_state_dict(dict(zip(target, (source[k] for k in order), strict=True)))
    images = torch.randn(4, 3, 96, 96)
    found, expected = ours.train()(images), theirs.train()(images)
    assert_close(found.logits, expected.logits, 1e-4)
    assert_close(found.aux1, expected.aux_logits1, 1e-4)
    assert_close(found.aux2, expected.aux_logits2, 1e-4)


def test_the_output_is_a_tensor_unless_training_with_auxiliary_heads() -> None:
    images = torch.randn(2, 3, 64, 64)
    plain = cnnarch.googlenet(num_classes=3)
    assert isinstance(plain.train()(images), Tensor)
    assert not any(isinstance(m, AuxiliaryHead) for m in plain.modules())
    asked = cnnarch.googlenet(num_classes=3, aux_logits=True)
    assert isinstance(asked.eval()(images), Tensor)
    outputs = asked.train()(images)
    assert isinstance(outputs, AuxLogits)
    assert outputs._fields == ("logits", "aux1", "aux2")
    assert [tuple(o.shape) for o in outputs] == [(2, 3)] * 3


def test_auxiliary_heads_do_not_change_the_logits() -> None:
    plain, asked = (
        cnnarch.googlenet(num_classes=3),
        cnnarch.googlenet(num_classes=3, aux_logits=True),
    )
    asked.load_state_dict(plain.state_dict() | {
        k: v for k, v in asked.state_dict().items() if k.startswith("aux")
    })  # fmt: skip
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(asked.eval()(images), plain.eval()(images))
    without_dropout(asked).train()
    assert torch.equal(asked(images).logits, plain(images))


@pytest.mark.parametrize(("name", "side"), [("googlenet", 31), ("googlenet_bn", 15)])
def test_auxiliary_heads_can_be_trained_on_the_smallest_image(name: str, side: int) -> None:
    model = cnnarch.get_model(name, num_classes=3, aux_logits=True).train()
    outputs = model(torch.randn(4, 3, side, side + 9))
    torch.stack(
        [functional.cross_entropy(o, torch.tensor([0, 1, 2, 0])) for o in outputs]
    ).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_checkpointing_does_not_change_results_with_auxiliary_heads() -> None:
    plain = cnnarch.googlenet_bn(num_classes=3, aux_logits=True, small_images=True).train()
    saving = copy.deepcopy(plain)
    saving.set_grad_checkpointing(True)
    images, labels = torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 0])
    calls: list[int] = []
    saving.stages[2][1].branch1x1.conv.register_forward_hook(lambda *_: calls.append(1))
    for model in (plain, saving):
        torch.manual_seed(1)
        torch.stack([functional.cross_entropy(o, labels) for o in model(images)]).sum().backward()
    assert len(calls) == 2
    for a, b in zip(plain.parameters(), saving.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)
    for a, b in zip(plain.buffers(), saving.buffers(), strict=True):
        assert torch.equal(a, b)


def test_every_module_runs_in_training_with_auxiliary_heads() -> None:
    model = cnnarch.googlenet(num_classes=3, aux_logits=True)
    ran: set[str] = set()
    names = {n for n, m in model.named_modules() if not isinstance(m, nn.ModuleList)}
    for name in names:
        model.get_submodule(name).register_forward_hook(lambda *_, name=name: ran.add(name))
    model.train()(torch.randn(1, 3, 64, 64))
    assert ran == names


def test_every_head_receives_a_new_classifier() -> None:
    model = cnnarch.googlenet(num_classes=3, aux_logits=True).train()
    images = torch.randn(1, 3, 64, 64)
    model.reset_classifier(5)
    assert [tuple(o.shape) for o in model(images)] == [(1, 5)] * 3
    model.reset_classifier(0)
    assert [tuple(o.shape) for o in model(images)] == [(1, 1024)] * 3


def test_auxiliary_logits_can_be_compiled_traced_exported_and_saved() -> None:
    model = cnnarch.googlenet(num_classes=3, aux_logits=True, small_images=True)
    without_dropout(model).train()
    images = torch.randn(2, 3, 32, 32)
    expected = model(images)
    compiled = torch.compile(model, fullgraph=True, backend="eager")(images)
    traced = torch.fx.symbolic_trace(model)(images)
    program = torch.export.export(model, (images,))
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file).module()(images)
    for outputs in (compiled, traced, program.module()(images), loaded):
        assert isinstance(outputs, AuxLogits)
        for found, wanted in zip(outputs, expected, strict=True):
            assert_close(found, wanted)


def test_the_minimum_size_is_exact_for_both_networks_and_each_side() -> None:
    """When sizes are rounded up, a 2x2 pool needs one pixel and a 3x3 pool needs two.

    From last to first, the four pools therefore need 2, 4, 8 and 16 pixels. The stem rounds up and
    needs 31 pixels, or 15 if the last pool is 2x2 as in torchvision. Without the first pool and the
    stem's stride, these minimum sizes are 8 and 4.
    """
    for build, side, small in ((cnnarch.googlenet, 31, 8), (cnnarch.googlenet_bn, 15, 4)):
        for min_size, options in ((side, {}), (small, {"small_images": True})):
            model = build(num_classes=2, **options).eval()
            assert model.min_input_size == min_size
            for size in (
                (min_size, min_size),
                (min_size, 50),
                (min_size + 1, min_size),
                (min_size + 2, min_size + 3),
            ):
                assert model(torch.randn(1, 3, *size)).isfinite().all()
            with pytest.raises(ValueError, match=f"at least {min_size}x{min_size} pixels"):
                model(torch.randn(1, 3, 50, min_size - 1))
            model.min_input_size = 1
            with pytest.raises(RuntimeError):
                model(torch.randn(1, 3, 50, min_size - 1))


@pytest.mark.parametrize("name", ["googlenet", "googlenet_bn"])
def test_small_images_give_a_4x4_map_with_a_3x3_stem_of_stride_1(name: str) -> None:
    model = cnnarch.get_model(name, small_images=True).eval()
    maps = model.forward_stages(torch.randn(1, 3, 32, 32))
    assert [m.shape[-1] for m in maps] == [32, 32, 16, 8, 4]
    assert model.stem.conv.kernel_size == (3, 3)
    usual = {k: v.shape for k, v in cnnarch.get_model(name).state_dict().items()}
    small = [v.shape for v in model.state_dict().values()]
    assert small[0] == (64, 3, 3, 3)
    assert small[1:] == list(usual.values())[1:]


def test_dropout_is_40_percent_before_the_classifier() -> None:
    """Table 1, row "dropout (40%)"."""
    assert cnnarch.googlenet().head.dropout.p == 0.4
    assert cnnarch.googlenet(dropout=0.1, aux_logits=True).aux1.dropout.p == 0.7
    with pytest.raises(ValueError, match=r"dropout must be in \[0, 1\)"):
        cnnarch.googlenet(dropout=1)


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        (ROWS[:2], r"stages must have 3 entries, got \(\(InceptionRow"),
        (ROWS * 2, "stages must have 3 entries"),
        (((ROW,), (), (ROW,)), "depth of a stage must be an integer of at least 1, got 0"),
        (ROWS, "rows of inception_4 with auxiliary heads must have 5 entries"),
    ],
)
def test_invalid_stages_are_rejected(
    stages: tuple[tuple[InceptionRow, ...], ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        GoogLeNet(PAPER, stages, aux_logits=True)


def test_it_learns_a_tiny_batch_of_digits() -> None:
    """Without BatchNorm, training depends strongly on the initialization."""
    digits = load_digits()
    images = torch.tensor(digits.images[:8], dtype=torch.float32).unsqueeze(1) / 8 - 1
    images = nn.functional.interpolate(images, scale_factor=2)
    labels = torch.tensor(digits.target[:8])
    options = {"num_classes": 10, "in_channels": 1, "aux_logits": True, "small_images": True}
    model = cnnarch.googlenet(**options, dropout=0.0).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-4)
    losses = []
    for _ in range(20):
        main, *auxiliary = (functional.cross_entropy(y, labels) for y in model(images))
        losses.append(main.item())
        optimizer.zero_grad()
        (main + 0.3 * sum(auxiliary)).backward()  # the paper's weights for the three losses
        optimizer.step()
    assert losses[0] > 2
    assert losses[-1] < 0.1


def test_calibration_includes_the_auxiliary_heads() -> None:
    """Calibration runs in training mode, so it updates the statistics of the heads."""
    model = cnnarch.googlenet_bn(num_classes=3, aux_logits=True)
    randomize_norms(model, torch.randn(4, 3, 64, 64))
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert all(n.num_batches_tracked == 1 for n in norms)
