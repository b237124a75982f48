"""An encoder for counts."""

from collections.abc import Sequence

from pydantic import PositiveInt
from torch import Tensor, nn
from torch.distributions import constraints

from .activations import Activation
from .mlp import MLP


class CountsEncoder(nn.Module):
    r"""An MLP of log(1 + x), for counts (..., *in_shape): of inputs of hundreds the first loss would be infinite.

    Args:
        in_shape: Event shape of the input; flattened.
        out_shape: Event shape of the output.
        widths: Hidden units of each layer.
        activation: Nonlinearity between the layers.

    Attributes:
        support: Of the inputs; data outside it are refused where YAML names this encoder.

    Reference:
        Deep generative modeling for single-cell transcriptomics (Lopez et al., 2018), doi:10.1038/s41592-018-0229-2
    """

    support = constraints.nonnegative

    def __init__(
        self,
        in_shape: Sequence[int],
        out_shape: Sequence[int],
        *,
        widths: Sequence[PositiveInt] = (512, 512),
        activation: Activation = "relu",
    ) -> None:
        super().__init__()
        self.mlp = MLP(in_shape, out_shape, widths=widths, activation=activation)

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp(x.log1p())
