"""What natural images pass through before they are cut up: a scale of intensity, and filters of the whole."""

from typing import Literal

import numpy as np

from .errors import DataError

Intensity = Literal["grey", "linear", "log"]
Filter = Literal["none", "olshausen_field", "local_contrast"]


def intensities(kind: Intensity) -> np.ndarray:
    r"""What each of the 256 grey values of a file stands for, float32 (256,), from 0 to 1.

    `grey` is :math:`g`, the value itself over 255. `linear` is light, :math:`l = ((g + 0.055) / 1.055)^{2.4}`, or
    :math:`g / 12.92` up to 0.04045: files code light by the sRGB curve. `log` is :math:`\log(1 + 255\, l) / \log 256`,
    in which contrast does not depend on how bright a scene is lit; the 1 keeps the steps of dark pixels small.

    Reference:
        Independent component filters of natural images compared with simple cells in primary visual cortex (van Hateren
        & van der Schaaf, 1998), which takes the logarithm of light, doi:10.1098/rspb.1998.0303
    """
    grey = np.linspace(0, 1, 256)
    if kind == "grey":
        return grey.astype(np.float32)
    light = np.where(grey <= 0.04045, grey / 12.92, ((grey + 0.055) / 1.055) ** 2.4)
    if kind == "log":
        light = np.log1p(255 * light) / np.log(256)
    return light.astype(np.float32)


def olshausen_field(image: np.ndarray, cutoff: float = 0.39) -> np.ndarray:
    r"""Flattens the spectrum of natural images and cuts off high frequencies, which are mostly noise.

    .. math:: R(f) = f \exp(-(f / f_0)^4)

    of the radial frequency f in cycles a pixel; the Nyquist frequency is 0.5. The mean goes, R(0) = 0. The image is
    continued by its reflections, so that nothing wraps around: cosines are what the filter scales.

    From (H, W) to float64 (H, W); `cutoff` is f₀, whatever the image's size: 200 cycles in 512 pixels are 0.39.

    Reference:
        Sparse coding with an overcomplete basis set: a strategy employed by V1? (Olshausen & Field, 1997),
        doi:10.1016/S0042-6989(97)00169-7
    """
    from scipy.fft import dctn, idctn  # noqa: PLC0415 - slow to import

    if not cutoff > 0:
        raise DataError(f"cutoff must be > 0 cycles a pixel, got {cutoff}")
    # The k-th cosine of n pixels has k / 2 cycles in them.
    down, across = (np.arange(size) / (2 * size) for size in image.shape)
    frequency = np.hypot(down[:, None], across)
    gain = frequency * np.exp(-((frequency / cutoff) ** 4))
    return idctn(gain * dctn(np.asarray(image, np.float64)))


def local_contrast(image: np.ndarray, surround: float = 4.0) -> np.ndarray:
    r"""Each pixel against those around it, in units of how much these vary.

    .. math:: y = \frac{v}{\max(\sigma, \bar\sigma)}, \qquad v = x - g * x, \quad \sigma^2 = g * v^2

    From (H, W) to float64 (H, W). g is a Gaussian window, its standard deviation `surround` pixels, and
    :math:`\bar\sigma` the image's mean of σ, which keeps flat regions flat. The image is continued by its reflections.

    Reference:
        What is the best multi-stage architecture for object recognition? (Jarrett et al., 2009),
        doi:10.1109/ICCV.2009.5459469
    """
    from scipy.ndimage import gaussian_filter  # noqa: PLC0415 - slow to import

    if not surround > 0:
        raise DataError(f"surround must be > 0 pixels, got {surround}")
    x = np.asarray(image, np.float64)
    centred = x - gaussian_filter(x, surround, mode="reflect")
    spread = np.sqrt(gaussian_filter(centred**2, surround, mode="reflect"))
    floor = max(float(spread.mean()), 1e-8)  # of an image without any contrast rounding errors alone would be left
    return centred / np.maximum(spread, floor)
