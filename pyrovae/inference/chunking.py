"""How much work fits into one pass."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..capture import isolated
from .noise import noise_state, set_noise_state

# Entries of all results of a pass, views among them: several times what is held at once. A thread of a CPU is fastest
# where overhead is hidden and caches still serve.
CPU_FLOATS = 2**23
CUDA_FLOATS = 2**29


class _Count(TorchDispatchMode):
    """Counts the entries of all results inside."""

    def __init__(self) -> None:
        super().__init__()
        self.entries = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.entries += sum(leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, Tensor))
        return result


def points_at_once(program: Callable[[int], Any], device: torch.device) -> int:
    """How many points, a draw of z for a datapoint each, to score in one pass, at least 1.

    Small enough for the caches of a CPU, large enough to keep a GPU busy. What a point costs is counted in two runs;
    the generator goes back to where it was, and no Pyro handler sees them.

    Args:
        program: Scores so many points; run with 2 and with 4.
        device: Where it runs.
    """
    state, entries = noise_state(device), []
    for size in (2, 4):
        with _Count() as count, torch.no_grad(), isolated():
            program(size)
        entries.append(count.entries)
    set_noise_state(state, device)
    budget = CUDA_FLOATS if device.type == "cuda" else CPU_FLOATS * torch.get_num_threads()
    return max(1, 2 * budget // max(1, entries[1] - entries[0]))
