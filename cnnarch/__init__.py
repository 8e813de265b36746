"""cnnarch: convolutional image classifiers, as their papers define them.

    >>> import cnnarch
    >>> model = cnnarch.resnet50(num_classes=10)

Importing it loads torch alone. Submodules load when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from cnnarch._version import __version__ as __version__
from cnnarch.contract.auxiliary import AuxLogits
from cnnarch.contract.classifier import ImageClassifier
from cnnarch.facts.builders import BUILDERS
from cnnarch.models.alexnet import *
from cnnarch.models.convnet import *
from cnnarch.models.densenet import *
from cnnarch.models.densenet_cifar import *
from cnnarch.models.efficientnet import *
from cnnarch.models.efficientnet_lite import *
from cnnarch.models.googlenet import *
from cnnarch.models.inception_bn import *
from cnnarch.models.lenet import *
from cnnarch.models.mlp_mixer import *
from cnnarch.models.mobilenet_v1 import *
from cnnarch.models.nin import *
from cnnarch.models.resnet import *
from cnnarch.models.resnet_cifar import *
from cnnarch.models.resnext import *
from cnnarch.models.se_resnet import *
from cnnarch.models.senet import *
from cnnarch.models.vgg import *
from cnnarch.registry import (
    from_pretrained,
    get_card,
    get_model,
    get_model_builder,
    list_models,
)

if TYPE_CHECKING:
    from cnnarch import analysis as analysis
    from cnnarch import backbones as backbones
    from cnnarch import blocks as blocks
    from cnnarch import dilation as dilation
    from cnnarch import embedding as embedding
    from cnnarch import finetuning as finetuning
    from cnnarch import inference as inference
    from cnnarch import testing as testing
    from cnnarch import training as training
    from cnnarch import viz as viz
    from cnnarch import weights as weights
    from cnnarch.backbones import Backbone as Backbone
    from cnnarch.backbones import get_backbone as get_backbone
    from cnnarch.embedding import Embeddings as Embeddings
    from cnnarch.embedding import embed as embed
    from cnnarch.finetuning import convert_norm as convert_norm
    from cnnarch.finetuning import freeze as freeze
    from cnnarch.finetuning import init_weights as init_weights
    from cnnarch.finetuning import param_groups as param_groups
    from cnnarch.finetuning import set_inplace as set_inplace
    from cnnarch.finetuning import unfreeze as unfreeze

_MODULES = (
    "analysis",
    "backbones",
    "blocks",
    "dilation",
    "embedding",
    "finetuning",
    "inference",
    "testing",
    "weights",
)
_EXTRA_MODULES = ("training", "viz")  # need cnnarch[train], so a star import leaves them out
_LATER = {  # public name: its module
    "Backbone": "backbones",
    "Embeddings": "embedding",
    "convert_norm": "finetuning",
    "embed": "embedding",
    "freeze": "finetuning",
    "get_backbone": "backbones",
    "init_weights": "finetuning",
    "param_groups": "finetuning",
    "set_inplace": "finetuning",
    "unfreeze": "finetuning",
}

__all__ = [
    "AuxLogits",
    "ImageClassifier",
    "from_pretrained",
    "get_card",
    "get_model",
    "get_model_builder",
    "list_models",
    *_MODULES,
    *_LATER,
    *BUILDERS,
]


def __getattr__(name: str) -> Any:
    if name in (*_MODULES, *_EXTRA_MODULES):
        return import_module(f"cnnarch.{name}")
    if name in _LATER:
        return getattr(import_module(f"cnnarch.{_LATER[name]}"), name)
    raise AttributeError(f"module 'cnnarch' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_EXTRA_MODULES})
