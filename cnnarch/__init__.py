"""cnnarch: convolutional image classifiers, as their papers define them.

    >>> import cnnarch
    >>> model = cnnarch.resnet50(num_classes=10)

`import cnnarch` imports no third-party package except torch. Most submodules are imported on
first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from cnnarch._version import __version__ as __version__
from cnnarch.contract.auxiliary import AuxLogits
from cnnarch.contract.classifier import ImageClassifier
from cnnarch.facts.builders import BUILDERS
from cnnarch.facts.suggestions import OTHER_LIBRARIES
from cnnarch.models.alexnet import *
from cnnarch.models.bit import *
from cnnarch.models.cbam_resnet import *
from cnnarch.models.convmixer import *
from cnnarch.models.convnet import *
from cnnarch.models.convnext import *
from cnnarch.models.convnext_v2 import *
from cnnarch.models.cspnet import *
from cnnarch.models.darknet import *
from cnnarch.models.densenet import *
from cnnarch.models.densenet_cifar import *
from cnnarch.models.dla import *
from cnnarch.models.dpn import *
from cnnarch.models.eca_resnet import *
from cnnarch.models.efficientnet import *
from cnnarch.models.efficientnet_lite import *
from cnnarch.models.efficientnet_v2 import *
from cnnarch.models.fasternet import *
from cnnarch.models.ghostnet import *
from cnnarch.models.gmlp import *
from cnnarch.models.googlenet import *
from cnnarch.models.inception_bn import *
from cnnarch.models.inception_next import *
from cnnarch.models.inception_resnet import *
from cnnarch.models.inception_v3 import *
from cnnarch.models.inception_v4 import *
from cnnarch.models.lenet import *
from cnnarch.models.mlp_mixer import *
from cnnarch.models.mnasnet import *
from cnnarch.models.mobilenet_v1 import *
from cnnarch.models.mobilenet_v2 import *
from cnnarch.models.mobilenet_v3 import *
from cnnarch.models.mobilenet_v4 import *
from cnnarch.models.mobileone import *
from cnnarch.models.nin import *
from cnnarch.models.preresnet import *
from cnnarch.models.preresnet_cifar import *
from cnnarch.models.pyramidnet_cifar import *
from cnnarch.models.regnet import *
from cnnarch.models.repvgg import *
from cnnarch.models.res2net import *
from cnnarch.models.resmlp import *
from cnnarch.models.resnest import *
from cnnarch.models.resnet import *
from cnnarch.models.resnet_cifar import *
from cnnarch.models.resnet_d import *
from cnnarch.models.resnet_rs import *
from cnnarch.models.resnext import *
from cnnarch.models.resnext_cifar import *
from cnnarch.models.se_resnet import *
from cnnarch.models.senet import *
from cnnarch.models.shufflenet_v1 import *
from cnnarch.models.shufflenet_v2 import *
from cnnarch.models.sk_resnet import *
from cnnarch.models.squeezenet import *
from cnnarch.models.starnet import *
from cnnarch.models.vgg import *
from cnnarch.models.wide_resnet import *
from cnnarch.models.wide_resnet_cifar import *
from cnnarch.models.xception import *
from cnnarch.registry import *
from cnnarch.registry import __all__ as _registry_names

if TYPE_CHECKING:  # `__getattr__` imports these on first use
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
    from cnnarch.backbones import *
    from cnnarch.embedding import *
    from cnnarch.finetuning import *

_SUBMODULES = (
    *("analysis", "backbones", "blocks", "dilation", "embedding", "finetuning", "inference"),
    *("testing", "weights"),
)
_EXTRA_SUBMODULES = ("training", "viz")  # need cnnarch[train], so a star import omits them
_REEXPORTS = {
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

__all__ = ["AuxLogits", "ImageClassifier", *_registry_names, *_SUBMODULES, *_REEXPORTS, *BUILDERS]


def __getattr__(name: str) -> Any:
    if name in _REEXPORTS:
        return getattr(import_module(f"cnnarch.{_REEXPORTS[name]}"), name)
    if name in (*_SUBMODULES, *_EXTRA_SUBMODULES):
        return import_module(f"cnnarch.{name}")
    hint = f"; {OTHER_LIBRARIES[name]}" if name in OTHER_LIBRARIES else ""
    raise AttributeError(f"module 'cnnarch' has no attribute {name!r}{hint}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_EXTRA_SUBMODULES})
