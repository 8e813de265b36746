"""Building blocks, one idea per file. Each block can be used alone and depends only on torch."""

from cnnarch.blocks.checkpointing import *
from cnnarch.blocks.conv import *
from cnnarch.blocks.convnext import *
from cnnarch.blocks.dense import *
from cnnarch.blocks.fire import *
from cnnarch.blocks.gmlp import *
from cnnarch.blocks.head import *
from cnnarch.blocks.inception import *
from cnnarch.blocks.initialization import *
from cnnarch.blocks.layer_scale import *
from cnnarch.blocks.lenet import *
from cnnarch.blocks.mbconv import *
from cnnarch.blocks.mixer import *
from cnnarch.blocks.nin import *
from cnnarch.blocks.normalization import *
from cnnarch.blocks.pooling import *
from cnnarch.blocks.residual import *
from cnnarch.blocks.resmlp import *
from cnnarch.blocks.separable import *
from cnnarch.blocks.shortcut import *
from cnnarch.blocks.shuffle import *
from cnnarch.blocks.shuffle_v2 import *
from cnnarch.blocks.squeeze_excite import *
from cnnarch.blocks.stochastic_depth import *
from cnnarch.blocks.vgg import *
from cnnarch.blocks.xception import *
