"""Scales that stay finite."""

from torch import Tensor

MIN_SCALE = 1e-5  # added to every scale: float32 keeps log-densities and their gradients finite
MAX_LOG_SCALE = 10.0


def positive_scale(log_scale: Tensor) -> Tensor:
    """exp, capped above and floored below."""
    return log_scale.clamp(max=MAX_LOG_SCALE).exp() + MIN_SCALE


def scale_slope(log_scale: Tensor) -> Tensor:
    """d `positive_scale` / d `log_scale`; not below the floor, for natural gradients divide by it."""
    return log_scale.clamp(max=MAX_LOG_SCALE).exp().clamp_min(MIN_SCALE)
