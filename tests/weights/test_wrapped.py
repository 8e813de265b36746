"""Loading into and saving from wrapped, compiled and sharded networks."""

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

import cnnarch
from cnnarch.weights import WeightsError, load

WRAPPERS: dict[str, Callable[[nn.Module], Any]] = {
    "compiled": lambda model: torch.compile(model, backend="eager"),
    "data_parallel": nn.DataParallel,
    "distributed": DistributedDataParallel,
    "compiled_distributed": lambda m: torch.compile(DistributedDataParallel(m), backend="eager"),
    "distributed_compiled": lambda m: DistributedDataParallel(torch.compile(m, backend="eager")),
    "averaged": AveragedModel,
    "averaged_compiled": lambda m: AveragedModel(torch.compile(m, backend="eager")),
}


@pytest.fixture(autouse=True)
def group() -> Iterator[None]:
    """Start a process group of one process."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def source() -> cnnarch.ImageClassifier:
    torch.manual_seed(3)
    return cnnarch.resnet20_cifar(num_classes=5).eval()


def has_weights_of(model: nn.Module, expected: nn.Module) -> bool:
    state = model.state_dict()
    return all(torch.equal(state[name], value) for name, value in expected.state_dict().items())


@pytest.mark.parametrize("kind", WRAPPERS)
def test_a_wrapped_network_is_loaded(kind: str) -> None:
    wrapper = WRAPPERS[kind](cnnarch.resnet20_cifar(num_classes=5))
    load(wrapper, source().state_dict())
    (inside,) = (m for m in wrapper.modules() if isinstance(m, cnnarch.ImageClassifier))
    assert has_weights_of(inside, source())


@pytest.mark.parametrize("kind", WRAPPERS)
def test_a_wrapped_network_is_saved(kind: str, tmp_path: Path) -> None:
    cnnarch.weights.save_pretrained(WRAPPERS[kind](source()), tmp_path)
    assert has_weights_of(cnnarch.from_pretrained(tmp_path), source())


@pytest.mark.parametrize("kind", WRAPPERS)
def test_the_state_dict_of_a_wrapped_network_loads(kind: str) -> None:
    state = WRAPPERS[kind](source()).state_dict()
    assert has_weights_of(cnnarch.resnet20_cifar(weights=state), source())


def test_any_other_wrapper_names_the_network_inside() -> None:
    class Task(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = cnnarch.resnet20_cifar(num_classes=5)

    with pytest.raises(WeightsError, match="load into its net"):
        load(Task(), source().state_dict())


def sharded(model: nn.Module, blocks: bool = False) -> Any:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (1,))
    for stage in model.stages if blocks else ():  # type: ignore[union-attr]
        fully_shard(stage, mesh=mesh)
    return fully_shard(model, mesh=mesh)


@pytest.mark.parametrize("blocks", [False, True])
def test_a_sharded_network_is_loaded(blocks: bool) -> None:
    model = sharded(cnnarch.resnet20_cifar(num_classes=5), blocks)
    load(model, source().state_dict())
    found = {name: value.full_tensor() for name, value in model.named_parameters()}
    assert all(torch.equal(found[name], p) for name, p in source().named_parameters())
    assert not any(p.requires_grad is False for p in model.parameters())


@pytest.mark.parametrize("blocks", [False, True])
def test_a_sharded_network_is_saved_and_rebuilt(blocks: bool, tmp_path: Path) -> None:
    model = sharded(source(), blocks)
    model.save_pretrained(tmp_path)
    state = model.state_dict()  # of sharded tensors
    again = cnnarch.resnet20_cifar(weights=state)
    assert has_weights_of(cnnarch.from_pretrained(tmp_path), source())
    assert has_weights_of(again, source())


def test_a_compiled_stage_is_named_when_saving(tmp_path: Path) -> None:
    model = source()
    model.stages[0] = torch.compile(model.stages[0], backend="eager")  # type: ignore[assignment]
    with pytest.raises(WeightsError, match=r"stages\.0 is OptimizedModule"):
        model.save_pretrained(tmp_path)
    assert not any(tmp_path.iterdir())


def test_a_network_in_the_older_fsdp_is_rejected() -> None:
    from torch.distributed.fsdp import FullyShardedDataParallel

    inner = cnnarch.resnet20_cifar(num_classes=5)
    with warnings.catch_warnings(action="ignore"):  # a single process cannot shard
        model = FullyShardedDataParallel(inner, device_id=torch.device("cpu"))
    for target in (model, nn.Sequential(model)):
        with pytest.raises(ValueError, match="FullyShardedDataParallel hides"):
            load(target, source().state_dict())
