"""Layers, containers and losses, with the names and arguments of torch.nn."""

from . import ctc, functional, init, layers, loss
from ._stored import Buffer, Parameter
from .container import ModuleDict, ModuleList, Sequential
from .ctc import *
from .layers import *
from .loss import *
from .module import Module
