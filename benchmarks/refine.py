"""Milliseconds an inner step: pyrovae, eager and compiled, beside what one would write by hand.

    python benchmarks/refine.py --json benchmarks/results/refine.json

Refines λ of a batch by ten Adam steps under a Bernoulli decoder (MLP 32-512-512-784, or the conv model with 32 latent
dimensions), one draw a step, path gradients, no safeguard; a row's numbers are whole calls divided by ten, the best of
several rounds in which all contestants take turns, in seconds of the processor (on a GPU by the clock).

    pyro_naive     pyro.infer.SVI as one writes it, over the model of Pyro's VAE tutorial: pyro.module, global store,
                   pyro.param, Trace_ELBO, SVI.step (which moves the decoder too)
    pyro_frozen    the same without pyro.module, the decoder's weights frozen
    hand_eager     a loop in plain torch: autograd.grad with respect to λ alone, fused Adam
    hand_compiled  the same step as one function (torch.func.grad, Adam) under torch.compile
    eager          SVIRefiner under pyrovae.engine("eager")
    compiled       SVIRefiner under pyrovae.engine("compiled")
    bf16           the same under autocast to bfloat16, as train.use_amp does
    numpyro        numpyro.infer.SVI, its steps a lax.scan under jit; MLP on a CPU, where it is installed
    jax            the same by hand
    floor          the matrix products or convolutions of a step alone, forward and back to the input: the faster of
                   floor_mkl, as torch calls them (on a CPU MKL's products, oneDNN's convolutions), and floor_packed, on
                   weights that oneDNN packed beforehand. floor_bf16: as torch calls them in bfloat16

`ratio_to_floor` is compiled / floor, `ratio_to_peer` compiled / the fastest of those that are not ours.
"""

import copy
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from peers import jax_refiner, numpyro_refiner
from timing import best, parser, save
from torch import Tensor, nn
from torch.distributions import constraints
from torch.nn.functional import binary_cross_entropy_with_logits

import pyrovae as pv

Z_DIM, SHAPE, STEPS, LR = 32, (1, 28, 28), 10, 0.03
NETS: dict[str, Callable[[int], nn.Module]] = {
    "mlp": lambda width: pv.nets.MLP((Z_DIM,), SHAPE, widths=(width, width), activation="relu"),
    "conv": lambda _: pv.nets.ConvDecoder((Z_DIM,), SHAPE, activation="relu"),
}
PEERS = ["pyro_naive", "pyro_frozen", "hand_eager", "hand_compiled", "numpyro", "jax"]
COLUMNS = [*PEERS, "eager", "compiled", "bf16", "floor_mkl", "floor_packed", "floor"]


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

    @torch.compile(dynamic=False)
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


def packed_linear(h: Tensor, w: Tensor) -> Callable[[], Tensor]:
    """h @ w.T on weights that oneDNN packed."""
    packed = torch.ops.mkldnn._reorder_linear_weight(w, len(h))
    return lambda: torch.ops.mkldnn._linear_pointwise(h, packed, None, "none", [], "")


def packed_transposed(layer: nn.ConvTranspose2d, h: Tensor) -> Callable[[], Tensor]:
    """A transposed convolution on weights that oneDNN packed; its gradient gains nothing by it."""
    how = [list(part) for part in (layer.padding, layer.output_padding, layer.stride, layer.dilation)]
    weight, of_groups = layer.weight.detach(), (*how, layer.groups)
    packed = torch.ops.mkldnn._reorder_convolution_transpose_weight(weight, *of_groups, list(h.shape))
    return lambda: torch.ops.mkldnn._convolution_transpose_pointwise(h, packed, None, *of_groups, "none", [], "")


def products(decoder: nn.Module, z: Tensor, dtype: torch.dtype, packed: bool) -> Callable[[], None]:
    """The products of one decoder pass and of its gradient with respect to z, on tensors of the right shapes."""
    work: list[Callable[[], Any]] = []

    def note(layer: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        h, out, w = (part.detach().to(dtype) for part in (inputs[0], output, layer.weight))
        if isinstance(layer, nn.Linear):
            work.extend([packed_linear(h, w), packed_linear(out, w.t().contiguous())] if packed else [])
            work.extend([] if packed else [lambda: h @ w.t(), lambda: out @ w])
            return
        how = layer.stride, layer.padding, layer.dilation, True, layer.output_padding, layer.groups
        plain = lambda: torch.ops.aten.convolution(h, w, None, *how)  # noqa: E731
        work.append(packed_transposed(layer, h) if packed else plain)
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


def floors(decoder: nn.Module, z: Tensor) -> dict[str, Callable[[], None] | None]:
    """The products alone, in the ways there are."""
    packs = not z.is_cuda and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
    return {
        "floor_mkl": products(decoder, z, torch.float32, packed=False),
        "floor_packed": products(decoder, z, torch.float32, packed=True) if packs else None,
        "floor_bf16": products(decoder, z, torch.bfloat16, packed=False),
    }


def compare(net: str, batch: int, parts: tuple[Any, ...], seconds: float, device: torch.device) -> dict[str, Any]:
    """One row of the table."""
    model, family, refiner, by_compile = parts
    naive, still = copy.deepcopy(model.decoder), copy.deepcopy(model.decoder).requires_grad_(False)
    x = (torch.rand(batch, *SHAPE, device=device) < 0.3).float()
    start = 0.1 * torch.randn(batch, family.num_params, device=device)

    def refine(engine: Any, amp: bool = False) -> Tensor:
        # Without gradients, as a trained model infers.
        with torch.no_grad(), pv.engine(engine), torch.autocast(device.type, torch.bfloat16, enabled=amp):
            return refiner(model, family, x, start).params

    refined = []
    for engine in ("eager", "compiled"):
        torch.manual_seed(0)
        refined.append(refine(engine))
    peers_run = net == "mlp" and device.type == "cpu"
    at = model.decoder, x, start, STEPS, LR
    contestants: dict[str, Callable[[], Any] | None] = {
        "pyro_naive": lambda: in_pyro(naive, x, start, register=True),
        "pyro_frozen": lambda: in_pyro(still, x, start, register=False),
        "hand_eager": lambda: hand_eager(model.decoder, x, start),
        "hand_compiled": lambda: by_compile(x, start),
        "numpyro": numpyro_refiner(*at) if peers_run else None,
        "jax": jax_refiner(*at) if peers_run else None,
        "eager": lambda: refine("eager"),
        "compiled": lambda: refine("compiled"),
        "bf16": lambda: refine("compiled", amp=True),
        **floors(model.decoder, start[:, :Z_DIM]),
    }
    there = {name: run for name, run in contestants.items() if run is not None}
    for run in there.values():  # compiles
        run()
    times = {name: ms / STEPS for name, ms in best(there, seconds).items()}
    times["floor"] = min(times[name] for name in ("floor_mkl", "floor_packed") if name in times)
    row: dict[str, Any] = {
        "net": net,
        "batch": batch,
        **{f"{name}_ms": times.get(name) for name in (*contestants, "floor")},
    }
    row["max_abs_diff"] = (refined[0] - refined[1]).abs().max().item()
    row["speedup_over_naive"] = times["pyro_naive"] / times["compiled"]
    row["ratio_to_floor"] = times["compiled"] / times["floor"]
    row["ratio_to_peer"] = times["compiled"] / min(times[name] for name in PEERS if name in times)
    return row


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--quick", action="store_true", help="fewer rounds and batch sizes; under three minutes")
    options.add_argument("--batches", type=int, nargs="+", help="batch sizes; by default 1 32 128 512 2048")
    options.add_argument("--nets", nargs="+", default=list(NETS), choices=list(NETS))
    options.add_argument("--width", type=int, default=512, help="hidden units of both layers of the MLP")
    options.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = options.parse_args()
    device = torch.device(args.device)
    rows: list[dict[str, Any]] = []
    for net in args.nets:
        quick = {"mlp": [1, 32, 128, 512], "conv": [1, 128]}[net]
        torch.manual_seed(0)
        model = pv.VAE(pv.models.priors.StandardNormal(Z_DIM), NETS[net](args.width), pv.models.likelihoods.Bernoulli())
        model = model.to(device)
        refiner = pv.SVIRefiner(num_steps=STEPS, lr=LR, safeguard=False)
        parts = model, pv.DiagonalNormal(Z_DIM).to(device), refiner, hand_compiled(model.decoder)
        for batch in args.batches or (quick if args.quick else [1, 32, 128, 512, 2048]):
            rows.append(compare(net, batch, parts, (1 if args.quick else 6) * max(1.0, batch / 512), device))
            if len(rows) == 1:
                print("| net | batch |", " | ".join(COLUMNS), "| x naive | x floor | x peer | max diff |")
                print("|---" * (len(COLUMNS) + 6) + "|")
            row = rows[-1]
            times = [row[f"{name}_ms"] for name in COLUMNS]
            cells = ["-" if ms is None else f"{ms:.3g}" for ms in times]
            ratios = [f"{row[name]:.2f}" for name in ("speedup_over_naive", "ratio_to_floor", "ratio_to_peer")]
            print("|", " | ".join([net, str(batch), *cells, *ratios, f"{row['max_abs_diff']:.0e}"]), "|", flush=True)
    save(args.json, rows, device=args.device, width=args.width)


if __name__ == "__main__":
    main()
