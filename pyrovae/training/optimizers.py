"""Optimizers of the outer loop: which there are, which parameter each steps, and their learning rate over training."""

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

OptimizerName = Literal["muon", "adam", "adamw"]
LRSchedule = Literal["constant", "cosine"]

LEARNING_RATES: dict[str, float] = {"muon": 1e-2, "adam": 1e-3, "adamw": 1e-3}  # where none is given
WEIGHT_DECAYS: dict[str, float] = {"muon": 0.03, "adam": 0.0, "adamw": 0.01}  # likewise
_MATRICES = "Linear", "Conv1d", "Conv2d", "Conv3d", "ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d"


class Muon(Optimizer):
    r"""Muon for the weights of layers, Adam for all else.

    Muon moves a matrix W (m, n) along the orthogonal factor of its momentum, so that all directions of a layer move at
    one speed, also those whose gradients are small: with :math:`B \leftarrow \mu B + \nabla_W L` and the singular value
    decomposition :math:`\nabla_W L + \mu B = U S V^\top`,

    .. math:: W \leftarrow (1 - \eta \gamma) W - 0.2 \, \eta \sqrt{\max(m, n)} \; U V^\top

    That is `torch.optim.Muon`, which finds :math:`U V^\top` by five Newton-Schulz iterations; the factor before it
    gives steps the size of Adam's, so that one η serves both. All steps are of one size, so that without decay (γ = 0)
    weights grow for as long as η is large, and long trainings become unstable. Who steps what:

    | parameter | by |
    |---|---|
    | weights of `nn.Linear`, output heads included | Muon |
    | kernels of convolutions, as matrices (their first dimension, all others) | Muon |
    | all else: biases, scales, norms, embeddings, recurrent weights, tables of λ, a class's own tensors | Adam |

    Args:
        module: Whose parameters are stepped, those that want gradient.
        lr: Learning rate η.
        momentum: μ.
        weight_decay: γ, of what Muon steps alone.
        fused: As in `torch.optim.Adam`.

    References:
        Muon: An optimizer for hidden layers in neural networks (Jordan et al., 2024), kellerjordan.github.io/posts/muon
        Muon is Scalable for LLM Training (Liu et al., 2025), arXiv:2502.16982

    >>> layer = nn.Linear(3, 2)
    >>> optimizer = Muon(layer, lr=0.1)
    >>> [[tuple(p.shape) for p in group["params"]] for group in optimizer.param_groups]
    [[(2, 3)], [(2,)]]
    >>> layer(torch.ones(1, 3)).sum().backward()
    >>> optimizer.step()
    """

    def __init__(
        self,
        module: nn.Module,
        lr: float,
        *,
        momentum: float = 0.95,
        weight_decay: float = WEIGHT_DECAYS["muon"],
        fused: bool | None = None,
    ) -> None:
        self._matrices, rest = parted(module)
        # Muon wants matrices: a kernel is shown to it as one, which lies where the kernel lies.
        self._flat = [nn.Parameter(p.detach().flatten(1)) for p in self._matrices]
        self._steps: list[Optimizer] = []
        if self._flat:
            options: dict[str, Any] = {"weight_decay": weight_decay, "adjust_lr_fn": "match_rms_adamw"}
            self._steps.append(torch.optim.Muon(self._flat, lr=lr, momentum=momentum, **options))
        if rest:
            self._steps.append(torch.optim.Adam(rest, lr=lr, fused=fused))
        super().__init__([{"params": params} for params in (self._matrices, rest) if params], {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """One step of both. A parameter without gradient stays, and so does what is kept for it."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for p, flat in zip(self._matrices, self._flat, strict=True):
            flat.data = p.data.view_as(flat)  # again, for its tensor may be another
            flat.grad = None if p.grad is None else p.grad.reshape(flat.shape)
        for group, optimizer in zip(self.param_groups, self._steps, strict=True):
            optimizer.param_groups[0]["lr"] = group["lr"]
            optimizer.step()
        for flat in self._flat:
            flat.grad = None
        return loss

    def state_dict(self) -> dict[str, Any]:
        """Of each of the two."""
        return {"steps": [optimizer.state_dict() for optimizer in self._steps]}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """What `state_dict` gave; the learning rate too."""
        for group, optimizer, state in zip(self.param_groups, self._steps, state_dict["steps"], strict=True):
            optimizer.load_state_dict(state)
            group["lr"] = optimizer.param_groups[0]["lr"]


def parted(module: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """The parameters that `Muon` and Adam step, by the rule that `Muon` states.

    >>> matrices, rest = parted(nn.Sequential(nn.Conv2d(3, 8, 5), nn.BatchNorm2d(8), nn.GRU(4, 4)))
    >>> [tuple(p.shape) for p in matrices], len(rest)
    ([(8, 3, 5, 5)], 7)
    """
    layers = tuple(getattr(nn, name) for name in _MATRICES)
    found = {layer.weight: None for layer in module.modules() if isinstance(layer, layers)}
    params = [p for p in module.parameters() if p.requires_grad]
    matrices = [p for p in params if p in found and p.is_contiguous()]
    known = set(matrices)
    return cast(list[Tensor], matrices), [p for p in params if p not in known]


def make_optimizer(
    module: nn.Module,
    name: OptimizerName,
    lr: float,
    *,
    weight_decay: float | None = None,
    fused: bool | None = None,
) -> Optimizer:
    """`name` for the parameters of `module`; `weight_decay` is that of Muon and AdamW, by default its own.

    >>> type(make_optimizer(nn.Linear(3, 2), "muon", 1e-2)).__name__
    'Muon'
    """
    decay = WEIGHT_DECAYS[name] if weight_decay is None else weight_decay
    if name == "muon":
        return Muon(module, lr, weight_decay=decay, fused=fused)
    params = [p for p in module.parameters() if p.requires_grad]
    if name == "adamw":
        return torch.optim.AdamW(params, lr=lr, weight_decay=decay, fused=fused)
    return torch.optim.Adam(params, lr=lr, fused=fused)


def lr_factor(schedule: LRSchedule, warmup: float, step: int, num_steps: int) -> float:
    r"""The factor on the learning rate at step k = 0, ..., N - 1.

    It rises over the first share `warmup` of training; `cosine` is that times
    :math:`\tfrac12 (1 + \cos \pi k / N)`, which comes to rest at the end. With a `warmup` of 0.3 it is one cycle.

    >>> [round(lr_factor("cosine", 0.1, step, 100), 3) for step in (0, 9, 50, 99)]
    [0.1, 0.98, 0.5, 0.0]
    """
    done = min(1.0, step / num_steps)
    rise = min(1.0, (step + 1) / (warmup * num_steps)) if warmup else 1.0
    return rise * (0.5 * (1 + math.cos(math.pi * done)) if schedule == "cosine" else 1.0)
