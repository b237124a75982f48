"""One trained decoder, every guide on it.

    python examples/swap_guides.py

Trains an amortized VAE, holds its decoder still, and lets each guide find posteriors for the same test digits: what is
left between their ELBOs is inference alone. Guides with parameters are trained on the frozen decoder first.
"""

import argparse
from time import perf_counter

import torch

import pyrovae as pv
from pyrovae.inference import common_noise_terms

Z_DIM, WIDTHS = 20, (200,)


def guides(model: pv.VAE, x_shape: tuple[int, ...]) -> dict[str, pv.Guide]:
    """Every scheme, by name."""

    def encoder(family: pv.Family) -> torch.nn.Module:
        return pv.nets.MLP(x_shape, (family.num_params,), widths=WIDTHS)

    diagonal, full, flow = pv.DiagonalNormal(Z_DIM), pv.FullNormal(Z_DIM), pv.Flow(Z_DIM)
    svi = pv.SVIRefiner(num_steps=20)
    return {
        "amortized": pv.AmortizedGuide(diagonal, encoder(diagonal)),
        "amortized, full covariance": pv.AmortizedGuide(full, encoder(full)),
        "amortized, flow": pv.AmortizedGuide(flow, encoder(flow)),
        "semi-amortized": pv.SemiAmortizedGuide(model, diagonal, encoder(diagonal), svi),
        "semi-amortized, full covariance": pv.SemiAmortizedGuide(model, full, encoder(full), svi),
        "semi-amortized, Adam within": pv.SemiAmortizedGuide(
            model, diagonal, encoder(diagonal), pv.SVIRefiner(num_steps=20, optimizer="adam")
        ),
        "SA-VAE, unrolled": pv.SemiAmortizedGuide(
            model,
            diagonal,
            encoder(diagonal),
            pv.SVIRefiner(num_steps=5, lr=0.01, optimizer="sgd", gradient="unrolled"),
        ),
        "learned iterative": pv.LearnedIterativeGuide(model, diagonal, encoder(diagonal)),
        "Gauss-Newton (VLAE)": pv.SemiAmortizedGuide(model, full, encoder(full), pv.GaussNewtonRefiner(num_steps=4)),
        "SVI, no encoder": pv.SVIGuide(model, diagonal, pv.SVIRefiner(num_steps=100, lr=0.05)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=20, help="of the amortized VAE, and of each guide")
    parser.add_argument("--num-data", type=int, default=500, help="test digits to score")
    args = parser.parse_args()
    torch.set_num_threads(1)

    data = pv.data.MNIST()
    torch.manual_seed(0)
    model = pv.models.mlp(data.x_shape, Z_DIM, widths=WIDTHS)
    first, *others = guides(model, data.x_shape).items()
    pv.fit(model, first[1], data, epochs=args.epochs)
    for parameter in model.parameters():
        parameter.requires_grad_(False)  # from here on, inference alone

    x = next(iter(data.batches("test", args.num_data)))
    print("\n| guide | ELBO at λ₀ | ELBO at λ_K | ± SE | ms an image |\n|---|---|---|---|---|")
    for name, guide in (first, *others):
        if guide is not first[1]:
            pv.fit(model, guide, data, epochs=args.epochs, progress=False)
        torch.manual_seed(0)
        start = perf_counter()
        with torch.no_grad():
            inferred = guide.infer(x)
        seconds = perf_counter() - start
        terms = common_noise_terms(model, guide.family, x, inferred.init, inferred.params, num_particles=20)
        before, after = (t.elbo() for t in terms)
        error = (after.std() / len(x) ** 0.5).item()
        row = f"{before.mean():.2f} | {after.mean():.2f} | {error:.2f} | {seconds / len(x) * 1e3:.2f}"
        print(f"| {name} | {row} |", flush=True)


if __name__ == "__main__":
    main()
