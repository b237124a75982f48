"""Time and memory of a training step through K inner steps, by how far gradients go and how.

    python benchmarks/unroll.py --json benchmarks/results/unroll.json

One step: λ₀ from the encoder, K inner SGD steps, the loss and its backward pass, under MLP 784-200-200-50 with batch
128, one draw, path gradients, on one thread. The optimizer's own step is left out.

    detached       SVIRefiner, eager: no gradient through the loop, the encoder taught by `hybrid`. The baseline
    first_order    SVIRefiner(gradient="first_order"), eager
    truncated(5)   the same, through the last five steps
    plain          the same, through all K, as one graph
    checkpoint     the same, each step run again by the backward pass
    compiled       the same under pyrovae.engine("compiled"), which also runs each step again
    detached_compiled  SVIRefiner under pyrovae.engine("compiled")

Milliseconds are the best of rounds in which all contestants of a K take turns. MiB are what is held when the forward
pass is over, for the backward pass: tensors of graphs that are still there (by `saved_tensors_hooks`) and the states
that a replay keeps, every storage once; weights, their gradients and data left out. Scratch memory within a step is not
in it.
"""

from typing import Any
from unittest.mock import patch
from weakref import WeakSet

import pyro
import torch
from timing import best, parser, save
from torch import Tensor

import pyrovae as pv
from pyrovae.capture import isolated
from pyrovae.inference.steps import moving
from pyrovae.inference.unrolled import Replay
from pyrovae.training.loss import BatchLoss

SHAPE, Z_DIM, WIDTHS, BATCH = (1, 28, 28), 50, (200, 200), 128
CONTESTANTS: dict[str, tuple[str, dict[str, Any]]] = {  # engine, arguments of SVIRefiner
    "detached": ("eager", {"gradient": "stopped"}),
    "first_order": ("eager", {"gradient": "first_order"}),
    "truncated(5)": ("eager", {"gradient": "truncated(5)"}),
    "plain": ("eager", {}),
    "checkpoint": ("eager", {"checkpoint": True}),
    "compiled": ("compiled", {}),
    "detached_compiled": ("compiled", {"gradient": "stopped"}),
}


class TrainingStep:
    """A step as `LitVAE` takes it, up to the gradients."""

    def __init__(self, num_steps: int, engine: Any, options: dict[str, Any]) -> None:
        torch.manual_seed(0)
        model, family = pv.models.mlp(SHAPE, Z_DIM, widths=WIDTHS), pv.DiagonalNormal(Z_DIM)
        encoder = pv.nets.MLP(SHAPE, (family.num_params,), widths=WIDTHS)
        how = {"optimizer": "sgd", "lr": 0.01, "gradient": "unrolled", "safeguard": False, **options}
        refiner = pv.SVIRefiner(num_steps=num_steps, **how)
        guide = pv.SemiAmortizedGuide(model, family, encoder, refiner)
        self.loss = BatchLoss(pv.ELBO()(model, guide))
        self.x = (torch.rand(BATCH, *SHAPE) < 0.3).float()
        self.engine = engine

    def forward(self) -> Tensor:
        with pv.engine(self.engine), isolated(), pyro.validation_enabled(False):
            return self.loss(self.x, 1.0)[0]

    def __call__(self) -> None:
        self.forward().backward()
        self.loss.elbo.zero_grad()

    def held(self) -> float:
        """MiB between forward and backward pass."""
        saved, replays = WeakSet[_Saved](), list[Replay]()

        def keep(replay: Replay, state: Any) -> None:
            replays.append(replay)
            original(replay, state)

        original = Replay.keep
        with (
            patch.object(Replay, "keep", keep),
            torch.autograd.graph.saved_tensors_hooks(lambda tensor: _Saved(tensor, saved), lambda held: held.tensor),
        ):
            loss = self.forward()
        tensors = [held.tensor for held in saved]  # of graphs that are still there
        for replay in replays:
            tensors += [tensor for state, noise in replay.steps for tensor in (*moving(state), state.gradient, noise)]
        storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
        for tensor in (self.x, *self.loss.elbo.parameters()):
            storages.pop(tensor.untyped_storage().data_ptr(), None)
        loss.backward()
        self.loss.elbo.zero_grad()
        return sum(storages.values()) / 2**20


class _Saved:
    """A tensor that a graph holds, for as long as it does."""

    def __init__(self, tensor: Tensor, saved: "WeakSet[_Saved]") -> None:
        self.tensor = tensor
        saved.add(self)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--steps", type=int, nargs="+", default=[1, 5, 10, 20, 40], help="values of K")
    options.add_argument("--seconds", type=float, default=8.0, help="for each K")
    args = options.parse_args()
    print("| K |", " | ".join(f"{name}, ms | MiB" for name in CONTESTANTS), "|")
    print("|---" * (1 + 2 * len(CONTESTANTS)) + "|")
    rows: list[dict[str, Any]] = []
    for num_steps in args.steps:
        steps = {name: TrainingStep(num_steps, *how) for name, how in CONTESTANTS.items()}
        for step in steps.values():  # compiles
            step()
        times = best(steps, args.seconds, least=3)
        memory = {name: step.held() for name, step in steps.items()}
        rows += [{"K": num_steps, "mode": name, "ms": times[name], "mib": memory[name]} for name in steps]
        print(f"| {num_steps} |", " | ".join(f"{times[n]:.1f} | {memory[n]:.2f}" for n in steps), "|", flush=True)
    save(args.json, rows, baseline="detached")


if __name__ == "__main__":
    main()
