"""Hold a module still."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Inside, the parameters of `module` take no gradient and its layers are in evaluation mode.

    Gradients still flow through it. Both are put back on exit. Under autocast this matters twice:
    a weight cast to bfloat16 without gradient would be cached, and the next pass that wants the
    weight's gradient would find the cached copy and silently get none; frozen weights are not cached.
    """
    params = [p for p in module.parameters() if p.requires_grad]
    for p in params:
        p.requires_grad_(False)
    try:
        with evaluating(module):
            yield
    finally:
        for p in params:
            p.requires_grad_(True)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Inside, the layers of `module` are in evaluation mode; its parameters take gradients as ever."""
    training = [m for m in module.modules() if m.training]
    for m in training:
        m.__dict__["training"] = False  # not by nn.Module's __setattr__, which is slow, and this runs for every batch
    try:
        yield
    finally:
        for m in training:
            m.__dict__["training"] = True
