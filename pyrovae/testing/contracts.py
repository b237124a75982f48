"""What every guide, family, refiner, likelihood and model must do: call the check on one of your own."""

import copy
import io
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import pyro
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from torch import Tensor, fx, nn
from torch.distributions import Independent, MultivariateNormal, Normal, biject_to, constraints, kl_divergence
from torch.utils._python_dispatch import TorchDispatchMode

from ..capture import CaptureWarning, engine
from ..distributions import joined
from ..families import Family
from ..guides import Guide
from ..inference import ELBO, AnalyticELBO, Refiner, elbo_terms
from ..inference.elbo import evaluating, scored_sites
from ..models.likelihoods import Likelihood

DRAWS, ERRORS = 4000, 5.0  # the mean of so many draws may be off by so many standard errors


def check_guide(model: nn.Module, guide: Guide, x: Tensor) -> None:
    """Asserts that a guide is one, for `model`, stock Pyro and every engine.

    Sites and plates; λ's shape and type; inference mode; gradients of every parameter, with several draws too; seeds;
    the state dict; a datapoint alone and in a batch; eager and captured; nothing in Pyro's global store.

    Args:
        model: The model that it is for.
        guide: Trained or not.
        x: A few datapoints (B, *x_shape), two at least.

    Raises:
        AssertionError: What is broken, and where to look.

    >>> import pyrovae as pv
    >>> model, family = pv.models.mlp((4,), 2, widths=(8,)), pv.DiagonalNormal(2)
    >>> check_guide(model, pv.AmortizedGuide(family, pv.nets.MLP((4,), (4,), widths=(8,))), torch.rand(3, 4).round())
    """
    name, family = type(guide).__name__, guide.family
    wanted, found = _latents(model, x), _latents(guide, x)
    _require(
        found.keys() == wanted.keys(),
        f"{name} has latent sites {sorted(found)}, the model {sorted(wanted)}; `family.sample` draws the model's sites "
        "by name, and loops belong into `infer`, whose sites no trace sees",
    )
    for site, q in found.items():
        got = q["fn"].batch_shape, q["fn"].event_shape, _plates(q)
        right = x.shape[:1], wanted[site]["fn"].event_shape, {"data"}
        _require(got == right, f"{name}: batch shape, event shape and plates of site {site!r} are {got}, not {right}")
    _check_inferred(f"{name}.infer", family, x, lambda rows: guide.infer(x[rows]), lambda: guide.infer(x.clone()))
    q = family(guide.infer(x).params)
    drawn, same, other = (_seeded(lambda: guide(x), seed) for seed in (3, 3, 4))
    shape = q.batch_shape + q.event_shape
    _require(drawn.shape == shape, f"{name}(x) is {tuple(drawn.shape)}, not a draw of z, {tuple(shape)}")
    _require(torch.equal(drawn, same), f"{name}: draws of one seed differ; noise must come from torch's generators")
    _require(not torch.equal(drawn, other), f"{name}: all seeds give one draw; z must be drawn, not set to its mean")
    _check_gradients(name, model, guide, x)
    _check_state_dict(name, guide, x)
    _check_store(name)


def _check_gradients(name: str, model: nn.Module, guide: Guide, x: Tensor) -> None:
    held = sorted({type(m).__name__ for m in [model, *model.children()] if any(m is own for own in guide.modules())})
    _require(not held, f"{name} owns the model's {', '.join(held)}; keep the model in a tuple, self._model = (model,)")
    scored: list[Trace_ELBO] = [Trace_ELBO(), ELBO(), ELBO(num_particles=2)]
    for objective in scored if _density(guide.family) != "none" else [AnalyticELBO(), AnalyticELBO(num_particles=2)]:
        guide.zero_grad(), model.zero_grad()
        objective.differentiable_loss(model, guide, x).backward()
        under = f"under {type(objective).__name__}(num_particles={objective.num_particles})"
        for side, parts in (("model", model), (name, guide)):
            for parameter, value in parts.named_parameters():
                if value.requires_grad:
                    _require(
                        value.grad is not None and bool(value.grad.any()),
                        f"no gradient reaches {parameter} of {side} {under}; is it in use, and does `infer` detach λ "
                        "from it? Where a loop must, `teach` adds what the ELBO at the refined λ cannot tell",
                    )
                    _require(bool(value.grad.isfinite().all()), f"the gradient of {parameter} is not finite {under}")
    guide.zero_grad(), model.zero_grad()


def _check_state_dict(name: str, guide: Guide, x: Tensor) -> None:
    twin, file = copy.deepcopy(guide), io.BytesIO()
    torch.save(guide.state_dict(), file)
    for parameter in twin.parameters():
        nn.init.normal_(parameter)
    file.seek(0)
    twin.load_state_dict(torch.load(file, weights_only=True))
    same = torch.equal(_seeded(lambda: twin.infer(x).params), _seeded(lambda: guide.infer(x).params))
    _require(same, f"{name}: its state dict, loaded into a copy, gives another λ; register all that it learns")


def check_refiner(refiner: Refiner, model: nn.Module, family: Family, x: Tensor) -> None:
    """Asserts that a refiner is one, from λ₀ = `family.init_params()`.

    As `check_guide`; also: the model and family are left as they were; λ₀ and the path are handed back; with a safeguard
    no datapoint's scored ELBO falls; scored anew, the mean ELBO does not.

    Raises:
        AssertionError: What is broken, and where to look.

    >>> import pyrovae as pv
    >>> model = pv.models.mlp((4,), 2, widths=(8,))
    >>> check_refiner(pv.SVIRefiner(num_steps=3), model, pv.DiagonalNormal(2), torch.rand(3, 4).round())
    """
    name = type(refiner).__name__
    start = _seeded(family.init_params).to(x).expand(x.shape[0], -1).clone()
    before = [(n, p, p.detach().clone(), p.requires_grad) for m in (model, family) for n, p in m.named_parameters()]
    modes = [m.training for part in (model, family) for m in part.modules()]

    def refine(rows: slice = slice(None), record: bool = False) -> Any:
        return refiner(model, family, x[rows], start[rows], record=record)

    _check_inferred(name, family, x, refine, lambda: refiner(model, family, x.clone(), start.clone()))
    refined = _seeded(lambda: refine(record=True))
    _require(torch.equal(refined.init, start), f"{name}: `init` is not the λ₀ that it was given")
    if refined.path is not None:
        _require(
            refined.path.shape[1:] == start.shape, f"{name}: `path` is {tuple(refined.path.shape)}, not (K + 1, B, P)"
        )
        _require(torch.equal(refined.path[0], start), f"{name}: `path` does not start at λ₀")
    for parameter, now, value, wants in before:
        left = torch.equal(now, value) and now.grad is None and now.requires_grad == wants
        _require(left, f"{name} moves {parameter}, leaves it a gradient or freezes it; run in `inference.frozen(...)`")
    same = modes == [m.training for part in (model, family) for m in part.modules()]
    _require(same, f"{name} leaves layers in another mode; run in `inference.frozen(...)`")
    if refined.terms is not None and refined.terms_init is not None:
        lost = (refined.terms_init.elbo() - refined.terms.elbo()).max().item()
        _require(lost <= 0, f"{name}: the safeguard lets the scored ELBO fall by {lost:.3g} nats; see `keep_better`")
    if _density(family) != "none":
        scores = [
            _seeded(lambda row=row: elbo_terms(model, family, x, row, 200).elbo(), 7) for row in (start, refined.params)
        ]
        lost = (scores[0] - scores[1]).mean().item()
        _require(lost < 0.1, f"{name}: λ_K is {lost:.3g} nats a datapoint worse than λ₀; a sign, or the step size?")
    _check_store(name)


def _check_inferred(name: str, family: Family, x: Tensor, infer: Callable, anew: Callable) -> None:
    """What guides and refiners share; `infer` takes a slice of rows, `anew` makes its arguments anew."""
    rows = slice(None)
    inferred = _seeded(lambda: infer(rows))
    shape = x.shape[0], family.num_params
    for what, value in (("init", inferred.init), ("params", inferred.params)):
        _require(value.shape == shape, f"{name}: `{what}` is {tuple(value.shape)}, not (B, P) = {shape}")
        _require(value.dtype == x.dtype, f"{name}: `{what}` is {value.dtype} for data of {x.dtype}; add .to(x.dtype)")
        _require(bool(value.isfinite().all()), f"{name}: `{what}` is not finite")
    _require(
        torch.equal(inferred.params, _seeded(lambda: infer(rows)).params),
        f"{name}: λ of one seed differs; noise must come from torch's generators, and nothing be kept between calls",
    )
    with torch.inference_mode():  # as Lightning validates
        other = _seeded(anew).params
    _close(other, inferred.params, f"{name}: λ under torch.inference_mode(); leave it by inference_mode(False), and "
           "clone what was made in it, where gradients are taken")  # fmt: skip
    with torch.random.fork_rng(devices=[]), _EqualNoise():
        results = []
        for part in (slice(None), slice(1, 2)):
            torch.manual_seed(0)
            results.append(infer(part).params)
    _close(results[1][0], results[0][1], f"{name}: λ of a datapoint alone and in a batch; take sums over the batch, not "
           "means, clip row by row, and put batch normalisation in evaluation mode")  # fmt: skip
    with interpreted(), engine("compiled"), warnings.catch_warnings():
        warnings.simplefilter("ignore", CaptureWarning)  # what is not captured is eager
        captured = _seeded(lambda: infer(rows)).params
    _close(captured, inferred.params, f"{name}: λ eager and captured; a Capture sees no Python state but its modules'")


def check_family(family: Family) -> None:
    """Asserts that a family is one, at random λ: shapes, draws with gradients, and what it says of its density.

    By 4,000 draws, within 5 standard errors: their mean and variance; that log_prob is their density; the KL to a
    standard normal; the natural gradient, the inverse Fisher information times the gradient.

    Raises:
        AssertionError: What is broken, and where to look.

    >>> import pyrovae as pv
    >>> check_family(pv.FullNormal(2))
    """
    name, P = type(family).__name__, family.num_params  # noqa: N806
    first = _seeded(family.init_params)
    _require(first.shape == (P,), f"{name}.init_params() is {tuple(first.shape)}, not a row of num_params = {P}")
    _require(torch.equal(first, _seeded(family.init_params)), f"{name}.init_params() of one seed differs")
    params = _seeded(lambda: first + 0.3 * torch.randn(3, P)).requires_grad_()
    q = family(params)
    shapes = family(params.expand(2, 3, P)).batch_shape, q.batch_shape, (q.event_shape.numel(),)
    right = (2, 3), (3,), (family.z_dim,)
    _require(shapes == right, f"{name}: batch shapes for λ (2, 3, P) and (3, P), and z_dim, are {shapes}, not {right}")
    for site, node in _latents(family.sample, params).items():
        _require(
            _plates(node) == {"data"}, f"{name}.sample: site {site!r} lies in plates {_plates(node)}, not in 'data'"
        )
    _require(q.has_rsample, f"{name}: {type(q).__name__} has no rsample, so no gradient reaches λ through z")
    z = _seeded(lambda: q.rsample((DRAWS,)))  # (N, 3, *event_shape)
    (slope,) = torch.autograd.grad((z + 0.3 * z**2 + 0.1 * z**3).sum(), params, retain_graph=True)
    dead = (~slope.isfinite() | (slope == 0)).any(0).nonzero()[:, 0].tolist()
    _require(not dead, f"{name}: entries {dead} of λ get no finite gradient from draws of z")
    z = z.detach()
    for moment, values in (("mean", z), ("variance", (z - z.mean(0)) ** 2)):
        stated = _or_none(lambda moment=moment: getattr(q, moment))
        if stated is not None:
            _near(f"{name}: `{moment}` of {type(q).__name__}", stated.detach(), values)
    if _density(family) != "none":
        _check_density(name, family, params, z)
    if type(family).natural_gradient is not Family.natural_gradient:
        row = params.detach()[:1]
        rows = row.expand(DRAWS, P).clone().requires_grad_()
        (score,) = torch.autograd.grad(family(rows).log_prob(z[:, 0]).sum(), rows)  # (N, P)
        grad = _seeded(lambda: torch.randn(1, P))
        back = score * (score @ family.natural_gradient(row, grad)[0])[:, None]  # F F⁻¹ g, draw by draw
        _near(f"{name}.natural_gradient, times the Fisher information,", grad[0], back)


def _check_density(name: str, family: Family, params: Tensor, z: Tensor) -> None:
    q, kind = family(params), f"density is {_density(family)!r}, but"
    try:
        log_prob = q.log_prob(z)  # (N, 3)
        if _density(family) == "any":  # for the draws of another λ, twice
            other = family(params.roll(1, 0)).log_prob(z[:50]).sum()
            (slope,) = torch.autograd.grad(other, params, create_graph=True)
            twice = torch.autograd.grad(slope.square().sum(), params)[0]
            _require(bool(twice.isfinite().all()), f"{name}: {kind} log_prob has no finite second derivative by λ")
    except (NotImplementedError, RuntimeError) as error:
        raise AssertionError(f"{name}: {kind} log_prob fails: {error}; say density = 'own' or 'none'") from error
    _require(log_prob.shape == z.shape[:2], f"{name}: log_prob is {tuple(log_prob.shape)}, not {tuple(z.shape[:2])}")
    _require(bool(log_prob.isfinite().all()), f"{name}: log_prob of its own draws is not finite")
    log_prob, real = log_prob.detach(), _is_real(q)
    if real:  # E_q p / q = 1 for any density p; this one lies where draws do
        flat, centred = z.flatten(2), (z - z.mean(0)).flatten(2)
        covariance = 0.5 * torch.einsum("nbi,nbj->bij", centred, centred) / DRAWS
        log_p = MultivariateNormal(flat.mean(0), covariance).log_prob(flat)
    else:  # or another of the family
        log_p = family(params.detach() + 0.1).log_prob(z) if _density(family) == "any" else log_prob
    _near(f"{name}: log_prob is not the density of draws: E_q p / q", torch.ones(3), (log_p - log_prob).exp())
    prior: Any = Independent(Normal(torch.zeros_like(z[0]), 1.0), len(q.event_shape))
    kl = _or_none(lambda: kl_divergence(q, prior)) if real else None
    if kl is not None:
        _near(f"{name}: KL of {type(q).__name__} to a standard normal", kl.detach(), log_prob - prior.log_prob(z))


def check_likelihood(likelihood: Likelihood) -> None:
    """Asserts that a likelihood is one: shapes, support, gradients, mean, normalisation, Fisher information.

    The last three by sums over whole numbers to 4,000, or by quadrature, for h from -1.5 to 1.5.

    Raises:
        AssertionError: What is broken, and where to look.

    >>> import pyrovae as pv
    >>> check_likelihood(pv.models.likelihoods.Poisson(event_dim=1))
    """
    name, likelihood = type(likelihood).__name__, copy.deepcopy(likelihood).double()
    shape = (7, *[2] * likelihood.event_dim)
    h = torch.linspace(-1.5, 1.5, 7).double().reshape(7, *[1] * likelihood.event_dim).expand(shape).clone()
    q, p = likelihood(h), likelihood.elementwise(h)
    shapes, right = (q.batch_shape, q.event_shape, p.batch_shape, p.event_shape), (shape[:1], shape[1:], shape, ())
    _require(shapes == right, f"{name}: batch and event shape, of elementwise too, are {shapes}, not {right}")
    drawn = _seeded(lambda: p.sample((100,)))
    _require(bool(likelihood.supports(drawn).all()), f"{name}: draws lie outside `support`, {likelihood.support}")
    _require(not likelihood.supports(torch.tensor(math.nan)), f"{name}: NaN is within `support`, {likelihood.support}")
    far = torch.cat([h, 20 * h]).requires_grad_()
    (slope,) = torch.autograd.grad(
        likelihood.elementwise(far).log_prob(drawn[0].repeat(2, *[1] * h[0].dim())).sum(), far
    )
    _require(bool(slope.isfinite().all()), f"{name}: the gradient of log p(x | h) is not finite for h from -30 to 30")
    if p.support.is_discrete:
        values = torch.arange(-4000.0, 4001).double()
        weights = torch.ones_like(values)
    else:
        t = torch.linspace(-4, 4, 4001).double().requires_grad_()
        values = biject_to(p.support)(t.sinh())
        (weights,) = torch.autograd.grad(values.sum(), t)
        values, weights = values.detach(), weights * (t[1] - t[0]).item()
    inside = likelihood.supports(values)
    values, weights = (v[inside].reshape(-1, *[1] * h.dim()) for v in (values, weights))
    rows = h.expand(len(values), *shape).clone().requires_grad_()
    log_prob = likelihood.elementwise(rows).log_prob(values.expand_as(rows))
    (score,) = torch.autograd.grad(log_prob.sum(), rows)
    mass = weights * log_prob.detach().exp()
    for what, stated, exact in (
        ("the sum of p(x | h)", torch.ones_like(h), mass.sum(0)),
        ("`mean` of elementwise(h)", _or_none(lambda: p.mean), (mass * values).sum(0)),
        ("`information`, the mean square of ∂ log p / ∂h,", likelihood.information(h), (mass * score**2).sum(0)),
    ):
        if stated is not None:
            off = ((stated - exact).abs() / (0.01 + exact.abs())).detach().flatten()
            i = int(off.argmax())
            numbers = f"{stated.flatten()[i]:.4g}, and should be {exact.flatten()[i]:.4g}"
            _require(bool(off[i] < 0.01), f"{name}: {what} is {numbers} at h = {h.flatten()[i]:.2f}")


def check_model(model: nn.Module, x: Tensor) -> None:
    """Asserts that a model is one: plate "data", one observed site, reparameterisable latent ones, independent rows.

    And `sites`, `decode` and `sample`, where it has them.

    Raises:
        AssertionError: What is broken, and where to look.

    >>> import pyrovae as pv
    >>> check_model(pv.models.mlp((4,), 2, widths=(8,)), torch.rand(3, 4).round())
    """
    name, B = type(model).__name__, x.shape[0]  # noqa: N806
    with evaluating(model):
        trace = _seeded(lambda: poutine.trace(model).get_trace(x))
        trace.compute_log_prob()
        latent, sites = _latents(model, x), dict(scored_sites(trace))
        seen = {n: s for n, s in sites.items() if s["is_observed"]}
        _require(len(latent) > 0, f"{name} has no latent site; write pyro.sample('z', ...)")
        _require(len(seen) == 1, f"{name} observes {sorted(seen)}; write one pyro.sample('x', ..., obs=x)")
        (data,) = seen.values()
        for site, node in sites.items():
            right = 'write with pyro.plate("data", x.shape[0]), and to_event for what belongs to one datapoint'
            _require(_plates(node) == {"data"}, f"{name}: site {site!r} lies in plates {_plates(node)}; {right}")
            got = tuple(node["log_prob"].shape)
            _require(got == (B,), f"{name}: log p of site {site!r} has shape {got}, not {(B,)}; {right}")
            remedy = "sum a discrete one out, or relax it"
            _require(site in seen or node["fn"].has_rsample, f"{name}: latent site {site!r} has no rsample; {remedy}")
        _require({*getattr(model, "sites", latent)} == {*latent}, f"{name}.sites are not its latent sites {[*latent]}")
        values = {site: node["value"] for site, node in latent.items()}

        def scored(rows: slice, *draws: int) -> dict[str, Tensor]:
            given = {site: value[rows].expand(*draws, *value[rows].shape) for site, value in values.items()}
            again = poutine.trace(poutine.condition(model, given)).get_trace(x[rows])
            again.compute_log_prob()
            return {site: again.nodes[site]["log_prob"] for site in sites}

        alone = scored(slice(1, 2))
        with pyro.plate("draws", 2, dim=-2):
            twice = scored(slice(None), 2)
        for site, node in sites.items():
            _close(alone[site][0], node["log_prob"][1], f"{name}: log p of site {site!r} alone and in a batch")
            message = f"{name}: log p of site {site!r} with several draws of z (2, B, ...); let decoders take (..., D)"
            _require(twice[site].shape == (2, B), f"{message}: its shape is {tuple(twice[site].shape)}")
            _close(twice[site][1], node["log_prob"], message)
        if hasattr(model, "decode"):
            order = getattr(model, "sites", (*latent,))
            z = values[order[0]] if len(order) == 1 else joined(
                [values[site] for site in order], [len(latent[site]["fn"].event_shape) for site in order]
            )  # fmt: skip
            _close(
                model.decode(z).log_prob(x), data["log_prob"], f"{name}: log p(x | z) by decode(z) and by its program"
            )
        if hasattr(model, "sample"):
            shape = tuple(model.sample(2).shape)
            _require(shape == (2, *x.shape[1:]), f"{name}.sample(2) is {shape}, not {(2, *x.shape[1:])}")
    _check_store(name)


@contextmanager
def interpreted() -> Iterator[None]:
    """Inside, captured graphs run operation by operation: what tracing makes of a program, without seconds of Inductor.

    >>> import pyrovae as pv
    >>> double = pv.capture.Capture(lambda x: (2 * x,))
    >>> with interpreted(), pv.engine("compiled"):
    ...     double(torch.ones(2))[0]
    tensor([2., 2.])
    """

    def interpret(traced: fx.GraphModule) -> Callable:
        return lambda *flat: fx.Interpreter(traced).run(*flat, enable_io_processing=False)

    with mock.patch("pyrovae.capture.graph._compiled", interpret):
        yield


class _EqualNoise(TorchDispatchMode):
    """Draws the same noise for each entry, whatever the batch: a function of the generator's state at the call."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **(kwargs or {}))
        state = torch.get_rng_state()

        def draw(*args: Any) -> Any:
            torch.set_rng_state(state)
            return func(*args, **(kwargs or {}))

        try:
            if func._schema.is_mutable:  # normal_, uniform_ and the like
                return args[0].copy_(draw(args[0].new_empty(()), *args[1:]))
            if not isinstance(args[0], Tensor):  # randn, rand: a size among the arguments
                one = draw(*([] if isinstance(arg, list | tuple) else arg for arg in args))
                size = next((arg for arg in args if isinstance(arg, list | tuple)), one.shape)
                return one.expand(size).clone()
            rowwise = any(word in str(func) for word in ("multinomial", "dirichlet"))
            first = [arg.reshape(-1, *arg.shape[arg.dim() - rowwise :]) for arg in args if isinstance(arg, Tensor)]
            rest = args[len(first) :]
            drawn = torch.stack([draw(*row, *rest) for row in zip(*first, strict=True)])
            return drawn.reshape(*args[0].shape[: args[0].dim() - rowwise], *drawn.shape[1:])
        finally:
            torch.set_rng_state(state)
            torch.rand(())


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise AssertionError(message)


def _close(got: Tensor, right: Tensor, message: str) -> None:
    """Equal but for rounding, which an inner loop magnifies."""
    tolerance = 1e-7 if right.dtype == torch.float64 else 2e-3
    off = ((got - right).abs() / (1 + right.abs())).max().item() if got.shape == right.shape else math.inf
    _require(off <= tolerance, f"{message}: they differ, by {off:.2g} at most")


def _near(what: str, stated: Tensor, draws: Tensor) -> None:
    """Whether what is stated (...) is the mean of draws (N, ...)."""
    mean, error = draws.mean(0), draws.std(0) / len(draws) ** 0.5
    off = ((stated - mean).abs() / (error + 1e-4 * (1 + mean.abs()))).nan_to_num(math.inf).flatten()
    i = int(off.argmax())
    found = f"{stated.flatten()[i]:.4g}, but draws give {mean.flatten()[i]:.4g} ± {error.flatten()[i]:.2g}"
    _require(bool(off[i] < ERRORS), f"{what} is {found}")


def _seeded(function: Callable[[], Any], seed: int = 0) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return function()


def _latents(program: Callable, x: Tensor) -> dict[str, Any]:
    """The latent sites of a program, by name."""
    trace = _seeded(lambda: poutine.trace(program).get_trace(x))
    return {name: site for name, site in scored_sites(trace) if not site["is_observed"]}


def _plates(site: Any) -> set[str]:
    return {frame.name for frame in site["cond_indep_stack"]}


def _density(family: Family) -> str:
    return getattr(family, "density", "any" if getattr(family, "scores_any_draw", True) else "own")


def _is_real(q: Any) -> bool:
    support = q.support
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    return isinstance(support, type(constraints.real))


def _or_none(function: Callable[[], Any]) -> Any:
    try:
        return function()
    except NotImplementedError:
        return None


def _check_store(name: str) -> None:
    store = sorted(pyro.get_param_store())
    _require(not store, f"{name}: {store} are in Pyro's global store; make parameters nn.Parameter of a module")
