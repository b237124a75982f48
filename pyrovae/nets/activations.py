"""Names of the elementwise nonlinearities."""

from typing import Literal

from torch import nn

Activation = Literal["relu", "leaky_relu", "elu", "gelu", "silu", "tanh", "softplus"]

_CLASSES: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "softplus": nn.Softplus,
}


def activation_layer(name: Activation) -> nn.Module:
    """The layer called `name`.

    Raises:
        ValueError: No such activation.
    """
    if name not in _CLASSES:
        raise ValueError(f"activation must be one of {', '.join(_CLASSES)}, got {name!r}")
    return _CLASSES[name]()
