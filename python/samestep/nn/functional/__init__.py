"""The operators as functions, with the names and arguments of torch.nn.functional.

Inside `forward` they take symbolic tensors; on NumPy arrays of shape (samples, ...) they compute at once. Axes count
the batch as axis 0. One file a family; a function is public when it stands in its file's `__all__`.
"""

from . import (
    activations,
    arithmetic,
    attention,
    convolutions,
    dropouts,
    embeddings,
    losses,
    normalizations,
    pooling,
    products,
    recurrent,
    reductions,
    shapes,
)
from .activations import *
from .arithmetic import *
from .attention import *
from .convolutions import *
from .dropouts import *
from .embeddings import *
from .losses import *
from .normalizations import *
from .pooling import *
from .products import *
from .recurrent import *
from .reductions import *
from .shapes import *
