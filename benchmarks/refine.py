"""Milliseconds an inner step: pyrovae, eager and compiled, beside what one would write by hand.

    python benchmarks/refine.py --json benchmarks/results/refine.json

Refines λ of a batch by ten Adam steps under a Bernoulli decoder (MLP 32-512-512-784, or the conv model with 32 latent
dimensions), one draw a step, path gradients, no safeguard; a row's numbers are whole calls divided by ten, the best of
several rounds in which all contestants take turns.

    pyro_naive     pyro.infer.SVI as one writes it, over the model of Pyro's VAE tutorial: pyro.module, global store,
                   pyro.param, Trace_ELBO, SVI.step (which moves the decoder too)
    pyro_frozen    the same without pyro.module, the decoder's weights frozen
    hand_eager     a loop in plain torch: autograd.grad with respect to λ alone, fused Adam
    hand_compiled  the same step as one function (torch.func.grad, Adam) under torch.compile
    eager          SVIRefiner under pyrovae.engine("eager")
    compiled       SVIRefiner under pyrovae.engine("compiled")
    bf16           the same under autocast to bfloat16, as train.use_amp does
    floor          the matrix products or convolutions of a step alone: forward, and back to the input
"""

import copy
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from timing import best, parser, save
from torch import Tensor, nn
from torch.distributions import constraints
from torch.nn.functional import binary_cross_entropy_with_logits, linear

import pyrovae as pv

Z_DIM, SHAPE, STEPS, LR = 32, (1, 28, 28), 10, 0.03
NETS: dict[str, Callable[[], nn.Module]] = {
    "mlp": lambda: pv.nets.MLP((Z_DIM,), SHAPE, widths=(512, 512)),
    "conv": lambda: pv.nets.ConvDecoder((Z_DIM,), SHAPE),
}


def in_pyro(decoder: nn.Module, x: Tensor, start: Tensor, register: bool) -> None:
    """Stochastic variational inference as Pyro's tutorials write it."""

    def model() -> None:
        if register:
            pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros_like(loc0), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(3), obs=x)

    def guide() -> None:
        loc = pyro.param("loc", loc0.clone())
        scale = pyro.param("scale", scale0.clone(), constraint=constraints.positive)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, scale).to_event(1))

    loc0, scale0 = start.chunk(2, -1)[0], start.chunk(2, -1)[1].exp()
    with pyro.settings.context(module_local_params=False):
        pyro.clear_param_store()
        svi = pyro.infer.SVI(model, guide, pyro.optim.PyroOptim(torch.optim.Adam, {"lr": LR}), pyro.infer.Trace_ELBO())
        for _ in range(STEPS):
            svi.step()
        pyro.clear_param_store()


def negative_elbo(decoder: Callable[[Tensor], Tensor], params: Tensor, x: Tensor) -> Tensor:
    """Summed over the batch, with path gradients, by hand."""
    loc, log_scale = params.chunk(2, -1)
    z = loc + log_scale.exp() * torch.randn_like(loc)
    recon = -binary_cross_entropy_with_logits(decoder(z), x, reduction="sum")
    fixed_loc, fixed_log_scale = loc.detach(), log_scale.detach()
    log_q = -0.5 * ((z - fixed_loc) / fixed_log_scale.exp()) ** 2 - fixed_log_scale
    return -(recon - 0.5 * (z**2).sum() - log_q.sum())


def hand_eager(decoder: nn.Module, x: Tensor, start: Tensor) -> None:
    """A careful loop in plain torch."""
    params = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([params], lr=LR, fused=True)
    for _ in range(STEPS):
        (params.grad,) = torch.autograd.grad(negative_elbo(decoder, params, x), params)
        optimizer.step()


def hand_compiled(decoder: nn.Module) -> Callable[[Tensor, Tensor], None]:
    """The step as one function under torch.compile."""

    @torch.compile
    def step(x: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        params, mean, square, k = state
        grad = torch.func.grad(lambda params: negative_elbo(decoder, params, x))(params)
        k = k + 1
        mean = 0.9 * mean + 0.1 * grad
        square = 0.999 * square + 0.001 * grad**2
        move = LR * (mean / (1 - 0.9**k)) / ((square / (1 - 0.999**k)).sqrt() + 1e-8)
        return params - move, mean, square, k

    def run(x: Tensor, start: Tensor) -> None:
        state: tuple[Tensor, ...] = start, torch.zeros_like(start), torch.zeros_like(start), x.new_zeros(())
        with torch.no_grad():
            for _ in range(STEPS):
                state = step(x, *state)

    return run


def products(decoder: nn.Module, z: Tensor) -> Callable[[], None]:
    """The products of one decoder pass and of its gradient with respect to z, on tensors of the right shapes."""
    work: list[Callable[[], Any]] = []

    def note(layer: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        h, out, w = inputs[0].detach(), output.detach(), layer.weight.detach()
        if isinstance(layer, nn.Linear):
            work.append(lambda: (linear(h, w), out @ w))
            return
        how = layer.stride, layer.padding, layer.dilation, True, layer.output_padding, layer.groups
        work.append(lambda: torch.ops.aten.convolution(h, w, None, *how))
        work.append(lambda: torch.ops.aten.convolution_backward(out, h, w, None, *how, (True, False, False)))

    hooks = [m.register_forward_hook(note) for m in decoder.modules() if isinstance(m, nn.Linear | nn.ConvTranspose2d)]
    with torch.no_grad():
        decoder(z)
    for hook in hooks:
        hook.remove()

    def run() -> None:
        with torch.no_grad():
            for _ in range(STEPS):
                for product in work:
                    product()

    return run


def compare(net: str, batch: int, parts: tuple[Any, ...], seconds: float, device: torch.device) -> dict[str, Any]:
    """One row of the table."""
    model, family, refiner, by_compile = parts
    naive, still = copy.deepcopy(model.decoder), copy.deepcopy(model.decoder).requires_grad_(False)
    x = (torch.rand(batch, *SHAPE, device=device) < 0.3).float()
    start = 0.1 * torch.randn(batch, family.num_params, device=device)

    def refine(engine: Any, amp: bool = False) -> Tensor:
        with pv.engine(engine), torch.autocast(device.type, torch.bfloat16, enabled=amp):
            return refiner(model, family, x, start).params

    refined = []
    for engine in ("eager", "compiled"):
        torch.manual_seed(0)
        refined.append(refine(engine))
    contestants: dict[str, Callable[[], Any]] = {
        "pyro_naive": lambda: in_pyro(naive, x, start, register=True),
        "pyro_frozen": lambda: in_pyro(still, x, start, register=False),
        "hand_compiled": lambda: by_compile(x, start),
        "eager": lambda: refine("eager"),
        "compiled": lambda: refine("compiled"),
        "bf16": lambda: refine("compiled", amp=True),
        "floor": products(model.decoder, start[:, :Z_DIM]),
        "hand_eager": lambda: hand_eager(model.decoder, x, start),
    }
    for run in contestants.values():  # compiles
        run()
    times = best(contestants, seconds)
    row: dict[str, Any] = {"net": net, "batch": batch, **{f"{name}_ms": ms / STEPS for name, ms in times.items()}}
    row["max_abs_diff"] = (refined[0] - refined[1]).abs().max().item()
    return row


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--quick", action="store_true", help="fewer rounds and batch sizes; under three minutes")
    options.add_argument("--batches", type=int, nargs="+", help="batch sizes; by default 1 32 128 512 2048")
    options.add_argument("--nets", nargs="+", default=list(NETS), choices=list(NETS))
    options.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = options.parse_args()
    device = torch.device(args.device)
    batches = args.batches or ([1, 128] if args.quick else [1, 32, 128, 512, 2048])
    rows: list[dict[str, Any]] = []
    columns = ["pyro_naive", "pyro_frozen", "hand_eager", "hand_compiled", "eager", "compiled", "bf16", "floor"]
    for net in args.nets:
        torch.manual_seed(0)
        model = pv.VAE(pv.models.priors.StandardNormal(Z_DIM), NETS[net](), pv.models.likelihoods.Bernoulli())
        model = model.to(device)
        refiner = pv.SVIRefiner(num_steps=STEPS, lr=LR, safeguard=False)
        parts = model, pv.DiagonalNormal(Z_DIM).to(device), refiner, hand_compiled(model.decoder)
        for batch in batches:
            rows.append(compare(net, batch, parts, (1 if args.quick else 6) * max(1.0, batch / 512), device))
            if len(rows) == 1:
                print("| net | batch |", " | ".join(columns), "| x naive | x floor | max diff |")
                print("|---" * (len(columns) + 5) + "|")
            row = rows[-1]
            row["speedup_over_naive"] = row["pyro_naive_ms"] / row["compiled_ms"]
            row["ratio_to_floor"] = row["compiled_ms"] / row["floor_ms"]
            cells = [f"{row[f'{name}_ms']:.2f}" for name in columns]
            ratios = f"{row['speedup_over_naive']:.1f} | {row['ratio_to_floor']:.2f} | {row['max_abs_diff']:.0e}"
            print(f"| {net} | {batch} | {' | '.join(cells)} | {ratios} |", flush=True)
    save(args.json, rows, device=args.device)


if __name__ == "__main__":
    main()
