"""Layers, containers and losses, with the names and arguments of torch.nn."""

from . import functional, init, layers, loss
from ._stored import Buffer, Parameter
from .container import ModuleDict, ModuleList, Sequential
from .layers import *
from .loss import *
from .module import Module
