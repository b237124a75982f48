"""Pyro's optimizer interface over Lightning's optimizer."""

from typing import Any

import pytorch_lightning as pl
from pyro.optim import PyroOptim


class LightningOptim(PyroOptim):
    """Lets `SVI.step` step the optimizer that Lightning configured, with its precision, hooks and checkpoints.

    Pyro hands over the parameters it saw; they are ignored, since `configure_optimizers` named them already.
    """

    def __init__(self, module: pl.LightningModule) -> None:
        self._module = (module,)  # in a tuple: no copy of the module may hang on this

    def __call__(self, params: Any, *args: Any, **kwargs: Any) -> None:
        optimizer: Any = self._module[0].optimizers()
        optimizer.step()
        optimizer.zero_grad()
