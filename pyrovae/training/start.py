"""Where training starts: at the mean of the data."""

from typing import Any

import torch
from torch import nn

from ..models.likelihoods import Likelihood

_SHARE = 0.5  # of each entry's own mean in where it starts; the rest is the mean of all entries
_CONVOLUTIONS = nn.Conv2d, nn.ConvTranspose2d


def start_from_data(model: nn.Module, data: Any) -> None:
    r"""Sets the decoder's last bias by the mean of training data, in place, before training.

    .. math:: b_j = g\left(\tfrac12 \bar x_j + \tfrac12 \bar x\right)

    with g the likelihood's link, :math:`\bar x_j` the mean of entry j and :math:`\bar x` that of all entries: a
    pseudo-count as large as the data. At the entries' own means alone, pixels that are never lit start where sigmoids
    are flat, and short trainings are worse for it. The bias is set where `model` has a `decoder` that ends in a dense
    or convolutional layer with a bias and a `likelihood` whose `link` is known; of a convolution it is one a channel.
    All else stays as it is.

    Args:
        model: As `fit` takes it, not trained yet: what a bias has learned is lost.
        data: A `pyrovae.data.Dataset`, or anything whose `average()` is the training mean of x, (*x_shape); data
            without that change nothing.

    Reference:
        Importance Weighted Autoencoders (Burda et al., 2016), arXiv:1509.00519, whose code starts so

    >>> import pyrovae as pv
    >>> data = pv.data.Dataset("toy", "ones and zeros", *torch.eye(4).repeat(3, 1, 1))
    >>> start_from_data(model := pv.models.mlp((4,), 2), data)
    >>> model.decoder.layers[-1].bias.sigmoid()
    tensor([0.2500, 0.2500, 0.2500, 0.2500], grad_fn=<SigmoidBackward0>)
    """
    average, last = getattr(data, "average", None), _last(getattr(model, "decoder", None))
    likelihood = getattr(model, "likelihood", None)
    if average is None or last is None or not isinstance(likelihood, Likelihood):
        return
    mean = average()
    own = mean.flatten(-2).mean(-1) if isinstance(last, _CONVOLUTIONS) else mean  # of each channel, or entry
    h = likelihood.link(torch.lerp(mean.mean(), own, _SHARE))
    if h is not None and h.numel() == last.bias.numel():  # others give more than one number an entry
        with torch.no_grad():
            last.bias.copy_(h.flatten())


def _last(decoder: Any) -> Any:
    """The layer that ends a network, if it is affine and has a bias."""
    layers = list(decoder.modules()) if isinstance(decoder, nn.Module) else []
    last = layers[-1] if layers else None
    return last if isinstance(last, (nn.Linear, *_CONVOLUTIONS)) and last.bias is not None else None
