"""A loop alone."""

from torch import Tensor, nn

from ..families import Family
from ..inference import Refiner
from ..validation import validated
from .refined import EncoderLoss, RefinedGuide


class SVIGuide(RefinedGuide):
    r"""No encoder: λ₀ is one learned row for all datapoints, refined by many steps.

    Args:
        model: The model that λ is refined under.
        family: Turns λ into q; gives λ₀ its first value.
        refiner: The loop.
        encoder_loss: What teaches λ₀: `hybrid` or `kl`; see `RefinedGuide`.

    Raises:
        ValueError: A refiner that cannot refine this family under this model.

    Reference:
        Stochastic Variational Inference (Hoffman et al., 2013), arXiv:1206.7051

    >>> import torch, pyrovae as pv
    >>> model, family = pv.models.mlp((4,), z_dim=2), pv.DiagonalNormal(2)
    >>> guide = pv.SVIGuide(model, family, pv.SVIRefiner(num_steps=20))
    >>> guide.infer(torch.ones(8, 4)).params.shape
    torch.Size([8, 4])
    """

    @validated
    def __init__(
        self, model: nn.Module, family: Family, refiner: Refiner, *, encoder_loss: EncoderLoss = "hybrid"
    ) -> None:
        super().__init__(model, family, refiner, encoder_loss)
        self.init_params = nn.Parameter(family.init_params())

    def initial(self, x: Tensor) -> Tensor:
        return self.init_params.expand(x.shape[0], -1)
