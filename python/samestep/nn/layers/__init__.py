"""Layers, with the names, arguments, weight layouts and default initial values of torch.nn. One file a family."""

from . import (
    activations,
    attention,
    convolutions,
    dropouts,
    embeddings,
    normalizations,
    pooling,
    products,
    recurrent,
    shapes,
)
from .activations import *
from .attention import *
from .convolutions import *
from .dropouts import *
from .embeddings import *
from .normalizations import *
from .pooling import *
from .products import *
from .recurrent import *
from .shapes import *
