"""One suite over the whole registry, without an exclusion list."""

import copy
import inspect
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from cnnarch import ImageClassifier, get_card, get_model_builder
from cnnarch.contract.classifier import ModelOptions
from cnnarch.facts.builders import option_parameters
from cnnarch.testing import assert_close, calibrate, check_classifier, example_images

Build = Callable[..., ImageClassifier]


def train_step(model: ImageClassifier, images: Tensor) -> Tensor:
    """One backward pass; returns the loss."""
    model.train()
    output = model(images)
    outputs = [output] if isinstance(output, Tensor) else [o for o in output if o is not None]
    labels = torch.arange(len(images)) % model.num_classes
    loss = torch.stack([nn.functional.cross_entropy(o, labels) for o in outputs]).sum()
    loss.backward()
    return loss.detach()


def smaller(model: ImageClassifier) -> int:
    """A side that keeps a training step quick; BatchNorm needs more than one value a channel."""
    return model.min_input_size if model.fixed_input_size else max(model.min_input_size, 48)


def test_keeps_the_contract(model: ImageClassifier) -> None:
    check_classifier(model)


@pytest.mark.parametrize("num_classes", [0, 7, 1000])
def test_num_classes_is_the_width_of_the_logits(builder: Build, num_classes: int) -> None:
    model = builder(num_classes=num_classes).eval()
    logits = model(example_images(model, 1, smaller(model)))
    assert logits.shape == (1, num_classes or model.num_features)
    assert model.num_classes == num_classes


@pytest.mark.parametrize("in_channels", [1, 3, 4, 13])
def test_any_number_of_input_channels_trains(builder: Build, in_channels: int) -> None:
    model = builder(in_channels=in_channels, num_classes=2)
    assert model.in_channels == in_channels
    assert train_step(model, example_images(model, 2, smaller(model))).isfinite()


def test_one_image_gives_what_it_gives_in_a_batch(model: ImageClassifier) -> None:
    twin = copy.deepcopy(model).double()  # deep networks add up the rounding of single precision
    images = example_images(twin, 3).double()
    with torch.no_grad():
        assert_close(twin(images[1:2]), twin(images)[1:2], 1e-9)


def test_odd_and_oblong_images_pass_where_the_size_is_free(model: ImageClassifier) -> None:
    images = torch.randn(1, model.in_channels, 97, 131)
    if model.fixed_input_size:
        with pytest.raises(ValueError, match=f"expected images of {model.min_input_size}x"):
            model(images)
    else:
        assert model(images).shape == (1, model.num_classes)


def test_the_minimum_size_is_tight(model: ImageClassifier) -> None:
    least = model.min_input_size
    assert model(torch.randn(1, model.in_channels, least, least)).isfinite().all()
    if least == 1:
        return
    for height, width in ((least - 1, least), (least, least - 1)):
        image = torch.randn(1, model.in_channels, height, width)
        with pytest.raises(ValueError, match=rf"{least}x{least} pixels, got {height}x{width}"):
            model(image)
        # The layers themselves must need it: the check alone would make any number "tight".
        if not model.fixed_input_size:
            unchecked = copy.deepcopy(model)
            unchecked.min_input_size = 1
            with pytest.raises(RuntimeError):
                unchecked(image)


def test_wrong_input_is_named(model: ImageClassifier) -> None:
    images = example_images(model)
    for wrong in (images[0], images.repeat(1, 2, 1, 1)):
        with pytest.raises(ValueError, match=r"expected images of shape \(N, "):
            model(wrong)


def test_every_parameter_gets_a_gradient(builder: Build) -> None:
    model = builder()
    train_step(model, example_images(model, 2, smaller(model)))
    without = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not without


def test_state_dict_round_trip(model: ImageClassifier, builder: Build) -> None:
    other = builder().eval()
    images = example_images(model)
    with torch.no_grad():
        other.load_state_dict(model.state_dict())
        assert torch.equal(other(images), model(images))


def test_foreign_keys_get_a_hint(model: ImageClassifier) -> None:
    with pytest.raises(RuntimeError, match=r"cnnarch\.weights\.load"):
        copy.deepcopy(model).load_state_dict({"features.0.weight": torch.zeros(1)})


def test_copies_and_pickles_agree(model: ImageClassifier) -> None:
    images = example_images(model)
    with torch.no_grad():
        logits = model(images)
        for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert torch.equal(twin(images), logits)
            assert (twin.builder, twin.options) == (model.builder, model.options)
            assert twin.feature_info == model.feature_info


def test_no_buffer_is_left_out_of_the_state_dict(model: ImageClassifier) -> None:
    saved = model.state_dict().keys()
    assert {name for name, _ in (*model.named_parameters(), *model.named_buffers())} == saved


def test_builds_and_runs_on_the_meta_device(builder: Build) -> None:
    with torch.device("meta"):
        model = builder().eval()
    assert {t.device.type for t in model.state_dict().values()} == {"meta"}
    images = example_images(model, 2, smaller(model)).to("meta")
    assert model(images).shape == (2, model.num_classes)


def test_channels_last_gives_the_same_and_stays_channels_last(model: ImageClassifier) -> None:
    twin = copy.deepcopy(model).double()  # deep networks add up the rounding of single precision
    images = example_images(twin).double()
    with torch.no_grad():
        expected = twin(images)
        twin.to(memory_format=torch.channels_last)
        features = twin.forward_features(images.to(memory_format=torch.channels_last))
        assert_close(twin.forward_head(features), expected, 1e-9)
    if min(features.shape[1:]) > 1:  # else both formats are one
        assert features.is_contiguous(memory_format=torch.channels_last)


def test_bfloat16_autocast_is_finite_and_close(model: ImageClassifier) -> None:
    twin = copy.deepcopy(model)
    # BatchNorm over a handful of pixels magnifies rounding: give it the network's own size.
    side = get_card(str(model.builder)).input_size[-1]
    images = example_images(model, 4, side if model.fixed_input_size else min(side, 128))
    calibrate(twin, images)
    with torch.no_grad():
        exact = twin(images)
        with torch.autocast("cpu", torch.bfloat16):
            rough = twin(images).float()
    # bfloat16 keeps 8 bits, and deep networks add up their rounding: resnet50 is off by 0.22.
    assert ((rough - exact).norm() / exact.norm()) < 0.35
    with torch.autocast("cpu", torch.bfloat16):
        loss = train_step(twin, example_images(twin, 2, smaller(twin)))
    assert loss.isfinite()
    assert all(p.grad.isfinite().all() for p in twin.parameters() if p.grad is not None)


def test_every_module_is_called_and_takes_backward_hooks(builder: Build) -> None:
    model = builder()
    ran: set[str] = set()

    def note(name: str) -> Any:
        return lambda *_: ran.add(name)

    containers = (nn.ModuleList, nn.ModuleDict)
    names = {n for n, m in model.named_modules() if not isinstance(m, containers)}
    for name in names:
        model.get_submodule(name).register_full_backward_hook(note(name))
    train_step(model, example_images(model, 2, smaller(model)).requires_grad_())
    assert names - ran == set()


def test_compiles_to_one_graph(model: ImageClassifier) -> None:
    torch.compiler.reset()
    images = example_images(model)
    with torch.no_grad():
        compiled = torch.compile(model, fullgraph=True, backend="eager")
        assert_close(compiled(images), model(images))


def test_exports_with_a_dynamic_batch_also_to_onnx(model: ImageClassifier, tmp_path: Path) -> None:
    batch = {0: torch.export.Dim.DYNAMIC}
    exported = torch.export.export(model, (example_images(model, 2),), dynamic_shapes=(batch,))
    path = tmp_path / "model.onnx"
    torch.onnx.export(exported, f=path, dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(path)
    program = exported.module()
    for size in (1, 3):
        images = example_images(model, size)
        (logits,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
        with torch.no_grad():
            expected = model(images)
            assert_close(program(images), expected)
        assert_close(torch.from_numpy(np.asarray(logits)), expected, 1e-3)


def test_traces_symbolically(model: ImageClassifier) -> None:
    images = example_images(model)
    graph = torch.fx.symbolic_trace(model)
    with torch.no_grad():
        assert torch.equal(graph(images), model(images))
    with pytest.raises(ValueError, match="expected images"):
        graph(images[0])


def test_checkpointing_changes_no_gradient_and_no_statistic(model: ImageClassifier) -> None:
    plain, saving = copy.deepcopy(model), copy.deepcopy(model)
    saving.set_grad_checkpointing(True)
    images = example_images(model, 2, smaller(model))
    losses = []
    for twin in (plain, saving):
        torch.manual_seed(1)
        losses.append(train_step(twin, images))
    assert torch.equal(*losses)
    for (name, a), b in zip(plain.named_parameters(), saving.parameters(), strict=True):
        assert a.grad is not None, name
        assert b.grad is not None, name
        assert torch.equal(a.grad, b.grad), name
    for (name, a), b in zip(plain.named_buffers(), saving.buffers(), strict=True):
        assert torch.equal(a, b), name


def test_checkpointing_recomputes(model: ImageClassifier) -> None:
    twin = copy.deepcopy(model)
    twin.set_grad_checkpointing(True)
    calls = []
    last = twin.get_submodule(twin.cam_layer)
    conv = next(m for m in last.modules() if isinstance(m, nn.Conv2d))
    conv.register_forward_hook(lambda *_: calls.append(1))
    train_step(twin, example_images(twin, 2, smaller(twin)))
    assert len(calls) == 2


def test_features_are_the_last_stage(model: ImageClassifier) -> None:
    images = example_images(model)
    with torch.no_grad():
        assert torch.equal(model.forward_features(images), model.forward_stages(images)[-1])


def test_stages_come_in_the_order_asked(model: ImageClassifier) -> None:
    images = example_images(model)
    names = [row.name for row in model.feature_info]
    with torch.no_grad():
        every = model.forward_stages(images)
        assert len(every) == len(names) == len(set(names))
        last, first = model.forward_stages(images, [-1, names[0]])
    assert torch.equal(last, every[-1])
    assert torch.equal(first, every[0])
    for wrong in (len(names), -len(names) - 1, "nowhere"):
        with pytest.raises(ValueError, match=f"0 '{names[0]}'"):
            model.forward_stages(images, [wrong])


def test_feature_info_is_exact(model: ImageClassifier) -> None:
    """Stride s: s * k more pixels give k more; and the widths are those of the maps."""
    info = model.feature_info
    if model.fixed_input_size:
        side = model.min_input_size
        maps = model.forward_stages(example_images(model, 1))
        assert [m.shape[-1] for m in maps] == [side // row.stride for row in info]
    else:
        step = max(row.stride for row in info)
        side = max(model.min_input_size, 64)
        small, large = (
            model.forward_stages(torch.zeros(1, model.in_channels, s, s))
            for s in (side, side + step)
        )
        growth = [b.shape[-1] - a.shape[-1] for a, b in zip(small, large, strict=True)]
        assert growth == [step // row.stride for row in info]
        maps = small
    assert [m.shape[1] for m in maps] == [row.channels for row in info]


def test_the_cam_layer_has_a_map_with_gradient(model: ImageClassifier) -> None:
    maps: list[Tensor] = []
    twin = copy.deepcopy(model)
    layer = twin.get_submodule(twin.cam_layer)
    layer.register_forward_hook(lambda _, __, out: maps.append(out))
    twin(example_images(twin, 1)).max().backward()
    assert maps[0].dim() == 4


def test_a_new_classifier_leaves_the_rest_alone(model: ImageClassifier) -> None:
    twin = copy.deepcopy(model)
    twin.reset_classifier(5)
    images = example_images(model)
    with torch.no_grad():
        assert twin(images).shape == (2, 5)
        features = twin.forward_features(images)
        assert torch.equal(features, model.forward_features(images))
        pre_logits = model.forward_head(features, pre_logits=True)
        twin.reset_classifier(0)
        assert torch.equal(twin(images), pre_logits)
    assert twin.options["num_classes"] == twin.num_classes == 0


def test_the_same_seed_gives_the_same_weights_and_loss(builder: Build) -> None:
    losses = []
    torch.use_deterministic_algorithms(True)
    try:
        for _ in range(2):
            torch.manual_seed(3)
            model = builder()
            losses.append(train_step(model, example_images(model, 2, smaller(model))))
    finally:
        torch.use_deterministic_algorithms(False)
    assert torch.equal(*losses)


def test_activations_are_modules_used_once(model: ImageClassifier) -> None:
    seen: set[str] = set()
    count: dict[str, int] = {}
    twin = copy.deepcopy(model)
    for name, module in twin.named_modules():
        if not any(module.children()):
            seen.add(name)
            module.register_forward_hook(
                lambda *_, name=name: count.update({name: count.get(name, 0) + 1})
            )
    twin(example_images(twin, 1))
    assert {name for name in seen if count.get(name, 0) > 1} == set()


def test_options_are_typed_as_the_class_takes_them(model_name: str) -> None:
    """The TypedDict of a builder names exactly the keyword-only arguments of its network."""
    build = get_model_builder(model_name)
    hints = get_type_hints(build.__annotations__["options"].__args__[0])
    network = build.__annotations__["return"]
    parameters = option_parameters(network)
    assert list(hints)[: len(ModelOptions.__annotations__)] == list(ModelOptions.__annotations__)
    assert set(hints) == set(parameters)
    assert [*inspect.signature(build).parameters] == ["weights", *parameters]


def test_unknown_options_name_the_nearest(builder: Build) -> None:
    with pytest.raises(TypeError, match=r"no option 'num_clases'; did you mean 'num_classes'"):
        builder(num_clases=10)


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("num_classes", (-1, 2.5, "ten", True)),
        ("in_channels", (0, -3, 1.5, "rgb")),
        ("dropout", (-0.1, 1.0, "half")),
        ("drop_path", (-0.1, 1.0)),
        ("width", (0, -1.0, "wide")),
    ],
)
def test_options_out_of_range_are_named(builder: Build, option: str, values: tuple[Any]) -> None:
    if option not in inspect.signature(builder).parameters:
        return
    for value in values:
        with pytest.raises(ValueError, match=rf"{option} must be .*got "):
            builder(**{option: value})


def test_small_images_leave_a_map_of_4x4(builder: Build) -> None:
    if "small_images" not in inspect.signature(builder).parameters:
        return
    usual, small = builder(), builder(small_images=True).eval()
    images = torch.zeros(1, small.in_channels, 32, 32)
    assert small(images).shape == (1, small.num_classes)
    features = small.forward_features(images)
    assert min(features.shape[-2:]) >= 4
    shapes = {k: v.shape for k, v in small.state_dict().items()}
    changed = [k for k, v in usual.state_dict().items() if v.shape != shapes[k]]
    stem = [k for k in changed if not (k.startswith("stem.") and shapes[k][-1] == 3)]
    assert stem == []
    assert len(changed) <= 1


def test_the_classifier_can_be_frozen_in_part(model: ImageClassifier) -> None:
    """`train()` leaves what is recorded as frozen in eval mode."""
    twin = copy.deepcopy(model)
    twin.frozen = {"stem"}
    twin.train()
    assert twin.training
    assert not any(m.training for m in twin.stem.modules())
    assert twin.head.training


def test_plain_construction_follows_the_default_dtype(builder: Build) -> None:
    torch.set_default_dtype(torch.float64)
    try:
        model = builder(num_classes=2).eval()
        calibrate(model, example_images(model, 2, smaller(model)).double())
        assert model(example_images(model, 1, smaller(model)).double()).dtype == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
