"""An encoder, then a loop."""

from torch import Tensor, nn

from ..families import Family
from ..inference import Refiner
from ..validation import validated
from .refined import EncoderLoss, RefinedGuide


class SemiAmortizedGuide(RefinedGuide):
    r"""λ₀ = encoder(x), then K refinement steps a datapoint.

    Args:
        model: The model that λ is refined under.
        family: Turns λ into q.
        encoder: Network from (..., *x_shape) to (..., P).
        refiner: The loop, `SVIRefiner` say.
        encoder_loss: What teaches the encoder: `hybrid` or `kl`; see `RefinedGuide`.

    Raises:
        ValueError: A refiner that cannot refine this family under this model.

    References:
        Semi-Amortized Variational Autoencoders (Kim et al., 2018), arXiv:1802.02550
        On the difficulty of training with SVI (Krishnan et al., 2018), arXiv:1710.06085

    >>> import torch, pyrovae as pv
    >>> model, family = pv.models.mlp((4,), z_dim=2), pv.DiagonalNormal(2)
    >>> encoder = pv.nets.MLP((4,), (family.num_params,))
    >>> guide = pv.SemiAmortizedGuide(model, family, encoder, pv.SVIRefiner(num_steps=3))
    >>> guide.infer(torch.ones(8, 4), record=True).path.shape  # λ₀ ... λ_K
    torch.Size([4, 8, 4])
    """

    @validated
    def __init__(
        self,
        model: nn.Module,
        family: Family,
        encoder: nn.Module,
        refiner: Refiner,
        *,
        encoder_loss: EncoderLoss = "hybrid",
    ) -> None:
        super().__init__(model, family, refiner, encoder_loss)
        self.encoder = encoder

    def initial(self, x: Tensor) -> Tensor:
        return self.encoder(x).to(x.dtype)
