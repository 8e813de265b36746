"""MLP-Mixer against its paper (Tolstikhin et al., 2021) and timm."""

from functools import partial

import pytest
import torch
from timm.models.mlp_mixer import MlpMixer as TimmMixer
from torch import Tensor, nn

import cnnarch
from cnnarch.models.mlp_mixer import MLPMixer
from cnnarch.testing import assert_close, assert_parameters

NAMES = cnnarch.list_models(family="mlp_mixer")
TINY = (3, 4, 16, 64, 8)  # layers, patch, C, D_C, D_S
SMALL_FORMS = {
    "mlp_mixer": partial(MLPMixer, 2, 8, 16, 32, 8, image_size=16),
    "drop_path": partial(MLPMixer, *TINY, image_size=16, drop_path=0.5),
}


def on_meta(name: str, **options: object) -> cnnarch.ImageClassifier:
    with torch.device("meta"):
        return cnnarch.get_model(name, **options)


def images(batch: int, side: int) -> Tensor:
    return torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(0))


def same_weights(ours: nn.Module, theirs: nn.Module) -> None:
    """Copy tensors in order; linear layers correspond to 1x1 convolutions."""
    for parameter in ours.parameters():
        if parameter.dim() == 1:  # give norms and biases random values
            nn.init.normal_(parameter, 0.5, 0.3)
    pairs = zip(theirs.state_dict().items(), ours.state_dict().values(), strict=True)
    theirs.load_state_dict({name: mine.reshape(other.shape) for (name, other), mine in pairs})
    ours.eval()
    theirs.eval()


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        *(("mixer_s32", 8), ("mixer_s16", 8), ("mixer_b32", 12), ("mixer_b16", 12)),
        *(("mixer_l32", 24), ("mixer_l16", 24), ("mixer_h14", 32)),
    ],
)
def test_every_mixer_layer_is_a_stage_with_the_patch_size_as_stride(name: str, layers: int) -> None:
    model = on_meta(name)
    patch = int(name[-2:])
    rows = model.feature_info
    assert [r.name for r in rows] == ["stem", *(f"mixer_layer_{i + 1}" for i in range(layers))]
    assert {r.stride for r in rows} == {patch}
    assert model.stem.kernel_size == model.stem.stride == (patch, patch)
    assert model.stem.padding == (0, 0)


def test_hidden_widths_are_half_and_four_times_the_channels() -> None:
    """Table 1: D_S = C / 2 and D_C = 4 C, for C = 512, 768, 1024 and 1280."""
    for name in NAMES:
        model = on_meta(name)
        layer = model.stages[0][0]
        channels = {"s": 512, "b": 768, "l": 1024, "h": 1280}[name[6]]
        assert model.num_features == channels
        assert layer.token_mlp.conv1.out_channels == channels // 2
        assert layer.channel_mlp.conv1.out_channels == 4 * channels


@pytest.mark.parametrize("image_size", [8, 20, 64])
def test_outputs_match_timm_at_other_image_sizes(image_size: int) -> None:
    ours = MLPMixer(*TINY, image_size=image_size, num_classes=7)
    theirs = TimmMixer(img_size=image_size, num_blocks=3, patch_size=4, embed_dim=16, num_classes=7)
    same_weights(ours, theirs)
    x = images(3, image_size)
    with torch.no_grad():
        assert_close(ours(x), theirs(x))


def test_a_training_step_matches_timm() -> None:
    ours = MLPMixer(*TINY, image_size=32, num_classes=5)
    theirs = TimmMixer(img_size=32, num_blocks=3, patch_size=4, embed_dim=16, num_classes=5)
    same_weights(ours, theirs)
    labels = torch.arange(4)
    losses = []
    for model in (ours, theirs):
        losses.append(nn.functional.cross_entropy(model.train()(images(4, 32)), labels))
        losses[-1].backward()
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-5)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert a.grad is not None
        torch.testing.assert_close(a.grad.reshape(b.shape), b.grad, rtol=1e-3, atol=1e-5)


def test_the_last_map_is_the_output_of_the_final_layer_norm() -> None:
    """After a freshly initialized LayerNorm, each pixel has mean 0 and variance 1."""
    model = MLPMixer(*TINY, image_size=32).eval()
    *_, before, last = model.forward_stages(images(2, 32))
    assert (last.mean(1).abs() < 1e-5).all()
    assert ((last.var(1, correction=0) - 1).abs() < 1e-3).all()
    assert not ((before.var(1, correction=0) - 1).abs() < 1e-3).any()


def test_the_head_averages_the_tokens() -> None:
    model = MLPMixer(*TINY, image_size=32, num_classes=0).eval()
    features = model.forward_features(images(2, 32))
    assert_close(model.forward_head(features), features.mean((2, 3)))


def test_image_size_changes_only_the_token_mixing_mlps() -> None:
    """S/32 has 64 tokens at 256 pixels, not 49; each extra token adds 513 parameters per layer."""
    more = 8 * (64 - 49) * (2 * 256 + 1)
    assert_parameters(on_meta("mixer_s32", image_size=256), 19_104_624 + more)


@pytest.mark.parametrize("image_size", [230, 225, 31])
def test_an_image_size_that_is_not_a_multiple_of_the_patch_size_is_rejected(
    image_size: int,
) -> None:
    message = f"image_size must be .*{'32' if image_size > 31 else 'at least 32'}, got {image_size}"
    with pytest.raises(ValueError, match=message):
        cnnarch.mixer_s32(image_size=image_size)


@pytest.mark.parametrize("image_size", [0, 224.0, "224", True])
def test_an_image_size_that_is_not_an_integer_is_rejected(image_size: int) -> None:
    with pytest.raises(ValueError, match="image_size must be an integer of at least 32, got "):
        cnnarch.mixer_s32(image_size=image_size)


def test_only_the_given_image_size_is_accepted() -> None:
    model = MLPMixer(*TINY, image_size=32).eval()
    assert (model.min_input_size, model.fixed_input_size) == (32, True)
    for size in ((28, 28), (36, 36), (32, 36), (36, 32)):
        with pytest.raises(ValueError, match=f"of 32x32 pixels, got {size[0]}x{size[1]}"):
            model(torch.zeros(1, 3, *size))


def test_weights_use_lecun_initialization_and_biases_are_zero() -> None:
    """The std is fan_in^-1/2, even in the classifier, which the paper initializes to zero."""
    model = cnnarch.mixer_s32()
    for layer, fan_in in ((model.stem, 3 * 32 * 32), (model.head.classifier, 512)):
        spread = layer.weight.std().item() * fan_in**0.5
        assert abs(spread - 1) < 5 / (2 * layer.weight.numel()) ** 0.5
        assert torch.equal(layer.bias, torch.zeros_like(layer.bias))
    departs = cnnarch.get_card("mixer_s32").departs
    assert any("initializes it to zero" in sentence for sentence in departs)


def test_a_new_classifier_uses_the_same_initialization() -> None:
    model = MLPMixer(*TINY, image_size=32, num_classes=3)
    model.reset_classifier(500)
    assert 0.9 < model.head.classifier.weight.std().item() * 16**0.5 < 1.1
    assert not model.head.classifier.bias.any()


def test_drop_path_increases_linearly_from_zero_to_its_rate() -> None:
    model = MLPMixer(5, *TINY[1:], image_size=32, drop_path=0.4)
    rates = [
        [m.rate for m in stage.modules() if type(m).__name__ == "StochasticDepth"]
        for stage in model.stages
    ]
    expected = [0.0, 0.1, 0.2, 0.3, 0.4]
    assert [first for first, _ in rates] == pytest.approx(expected)
    assert [second for _, second in rates] == pytest.approx(expected)


def test_gelu_is_exact_and_each_use_has_its_own_module() -> None:
    gelus = [m for m in on_meta("mixer_s32").modules() if isinstance(m, nn.GELU)]
    assert len(gelus) == 2 * 8
    assert {g.approximate for g in gelus} == {"none"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 4, 16, 64, 8), "layers must be an integer of at least 1, got 0"),
        ((3, 0, 16, 64, 8), "patch_size must be an integer of at least 1, got 0"),
        ((3, 4, 1.5, 64, 8), "hidden_size must be an integer of at least 1, got 1.5"),
        ((3, 4, 16, 0, 8), "channel_dim must be an integer of at least 1, got 0"),
        ((3, 4, 16, 64, 0), "token_dim must be an integer of at least 1, got 0"),
    ],
)
def test_arguments_out_of_range_are_rejected(
    arguments: tuple[int, int, int, int, int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        MLPMixer(*arguments, image_size=32)
