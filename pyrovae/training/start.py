"""Where training starts: at the mean of the data."""

from typing import Any

import torch
from torch import nn

from ..guides import Guide
from ..models.likelihoods import Likelihood
from ..nets.mlp import Centered

_SHARE = 0.5  # of each entry's own mean in where it starts; the rest is the mean of all entries
_CONVOLUTIONS = nn.Conv2d, nn.ConvTranspose2d


def start_from_data(model: nn.Module, guide: Guide, data: Any) -> None:
    r"""Sets the decoder's last bias and the encoder's `center` by the mean of training data, in place, before training.

    .. math:: b_j = g\left(\tfrac12 \bar x_j + \tfrac12 \bar x\right), \qquad \lambda = f(x - \bar x_\cdot)

    with g the likelihood's link, :math:`\bar x_j` the mean of entry j and :math:`\bar x` that of all entries: a
    pseudo-count as large as the data. At the entries' own means alone, pixels that are never lit start where sigmoids
    are flat, and short trainings are worse for it. The bias is set where `model` has a `decoder` that ends in a dense
    or convolutional layer with a bias and a `likelihood` whose `link` is known; of a convolution it is one a channel.
    `center` is set where the guide's `encoder` is an `MLP` or a `ConvEncoder`. All else stays as it is.

    Args:
        model, guide: As `fit` takes them, not trained yet: what a bias has learned is lost.
        data: A `pyrovae.data.Dataset`, or anything whose `average(of)` is the training mean of `of(x)`, (*x_shape);
            data without that change nothing.

    Reference:
        Importance Weighted Autoencoders (Burda et al., 2016), arXiv:1509.00519, whose code starts so

    >>> import pyrovae as pv
    >>> data = pv.data.Dataset("toy", "ones and zeros", *torch.eye(4).repeat(3, 1, 1))
    >>> model, guide = pv.models.mlp((4,), 2), pv.AmortizedGuide(pv.DiagonalNormal(2), pv.nets.MLP((4,), (4,)))
    >>> start_from_data(model, guide, data)
    >>> model.decoder.layers[-1].bias.sigmoid(), guide.encoder.center
    (Parameter containing: ..., tensor([0.2500, 0.2500, 0.2500, 0.2500]))
    """
    average = getattr(data, "average", None)
    if average is None:
        return
    mean, encoder = average(), getattr(guide, "encoder", None)
    last, likelihood = _last(getattr(model, "decoder", None)), getattr(model, "likelihood", None)
    if last is not None and isinstance(likelihood, Likelihood):
        own = mean.flatten(-2).mean(-1) if isinstance(last, _CONVOLUTIONS) else mean  # of each channel, or entry
        h = likelihood.link(torch.lerp(mean.mean(), own, _SHARE))
        if h is not None and h.numel() == last.bias.numel():  # others give more than one number an entry
            with torch.no_grad():
                last.bias.copy_(h.flatten())
    if isinstance(encoder, Centered):
        like = next(encoder.parameters())
        encoder.center = average(encoder.seen).to(like)


def _last(decoder: Any) -> Any:
    """The layer that ends a network, if it is affine and has a bias."""
    layers = list(decoder.modules()) if isinstance(decoder, nn.Module) else []
    last = layers[-1] if layers else None
    return last if isinstance(last, (nn.Linear, *_CONVOLUTIONS)) and last.bias is not None else None
