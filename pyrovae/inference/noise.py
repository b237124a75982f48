"""Where a device's random draws have got to."""

import torch
from torch import Tensor


def noise_state(device: torch.device) -> Tensor:
    """The state of torch's generator for `device`: set again, the same draws follow."""
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def set_noise_state(state: Tensor, device: torch.device) -> None:
    """Goes back to a state that `noise_state` gave."""
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    else:
        torch.set_rng_state(state)
