"""What every guide, refiner and model must do: call the check on one of your own."""

import copy
import io
import warnings
from collections.abc import Callable, Collection
from typing import Any

import torch
from pyro import plate, poutine
from pyro.infer import Trace_ELBO
from torch import Tensor, nn

from ..capture import CaptureWarning, engine
from ..distributions import joined
from ..families import Family
from ..guides import Guide
from ..inference import ELBO, AnalyticELBO, Inferred, Refiner, common_noise_terms
from ..inference.elbo import evaluating, scored_sites
from ..training.checks import NEEDS_GRADIENTS, check_shapes
from .compare import EqualNoise, check_store, close, interpreted, latents, plates, require, seeded


def check_guide(model: nn.Module, guide: Guide, x: Tensor) -> None:
    """Asserts that a guide is one, for `model`, stock Pyro and every engine.

    Sites and plates; λ's shape and type; inference mode; gradients of every parameter, with several draws too; seeds;
    the state dict; a datapoint alone and in a batch; eager and captured; nothing in Pyro's global store. The guide may
    be trained or not; x are a few datapoints (B, *x_shape), two at least. An `AssertionError` says what is broken.

    >>> import pyrovae as pv
    >>> model, family = pv.models.mlp((1, 2, 2), 2, widths=(8,)), pv.DiagonalNormal(2)
    >>> guide = pv.AmortizedGuide(family, pv.nets.MLP((1, 2, 2), (family.num_params,), widths=(8,)))
    >>> check_guide(model, guide, torch.rand(3, 1, 2, 2).round())
    """
    name, family = type(guide).__name__, guide.family
    try:
        check_shapes(model, guide, x)
    except ValueError as error:
        raise AssertionError(str(error)) from error
    returned = type(seeded(lambda: guide.infer(x)))
    require(issubclass(returned, Inferred), f"{name}.infer must return pv.Inferred, got {returned.__name__}")
    wanted, found = latents(model, x), latents(guide, x)
    require(
        found.keys() == wanted.keys(),
        f"{name} has latent sites {sorted(found)}, the model {sorted(wanted)}; `family.sample` draws the model's sites "
        "by name, and loops belong into `infer`, whose sites no trace sees",
    )
    for site, q in found.items():
        got = *map(tuple, (q["fn"].batch_shape, q["fn"].event_shape)), plates(q)
        right = *map(tuple, (x.shape[:1], wanted[site]["fn"].event_shape)), {"data"}
        require(got == right, f"{name}: batch shape, event shape and plates of site {site!r} are {got}, not {right}")
    _check_inferred(f"{name}.infer", (model, guide), family, x, lambda of: guide.infer(of(x)))
    q = family(guide.infer(x).params)
    drawn, same, other = (seeded(lambda: guide(x), seed) for seed in (3, 3, 4))
    shape = q.batch_shape + q.event_shape
    require(drawn.shape == shape, f"{name}(x) is {tuple(drawn.shape)}, not a draw of z, {tuple(shape)}")
    require(torch.equal(drawn, same), f"{name}: draws of one seed differ; noise must come from torch's generators")
    require(not torch.equal(drawn, other), f"{name}: all seeds give one draw; z must be drawn, not set to its mean")
    _check_gradients(name, model, guide, x)
    _check_state_dict(name, guide, x)
    check_store(name)


def _check_gradients(name: str, model: nn.Module, guide: Guide, x: Tensor) -> None:
    held = sorted({type(m).__name__ for m in [model, *model.children()] if any(m is own for own in guide.modules())})
    require(not held, f"{name} owns the model's {', '.join(held)}; keep the model in a tuple, self._model = (model,)")
    scored: list[Trace_ELBO] = [Trace_ELBO(), ELBO(), ELBO(num_particles=2)]
    for objective in scored if guide.family.density != "none" else [AnalyticELBO(), AnalyticELBO(num_particles=2)]:
        nn.ModuleList([guide, model]).zero_grad()
        loss = objective.differentiable_loss(model, guide, x)
        loss.backward() if loss.requires_grad else None
        under = f"under {type(objective).__name__}(num_particles={objective.num_particles})"
        for side, value in nn.ModuleDict({"model": model, "guide": guide}).named_parameters():
            grad: Any = value.grad if value.requires_grad else torch.ones(())
            require(
                grad is not None and bool(grad.any()),
                f"{name}: no gradient reaches {side} {under}; is it in use, and does `infer` detach λ from it? Where a "
                "loop must, `Inferred.teaching` adds what the ELBO at the refined λ cannot tell",
            )
            require(bool(grad.isfinite().all()), f"{name}: the gradient of {side} is not finite {under}")
    nn.ModuleList([guide, model]).zero_grad()


def _check_state_dict(name: str, guide: Guide, x: Tensor) -> None:
    twin, file = copy.deepcopy(guide), io.BytesIO()
    torch.save(guide.state_dict(), file)
    for parameter in twin.parameters():
        nn.init.normal_(parameter)
    file.seek(0)
    twin.load_state_dict(torch.load(file, weights_only=True))
    found, expected = (seeded(lambda each=each: each.infer(x).params) for each in (twin, guide))  # type: ignore[misc]
    same = torch.allclose(found, expected, rtol=1e-4, atol=1e-5)  # the last bits hang on where tensors lie
    require(same, f"{name}: its state dict, loaded into a copy, gives another λ; register all that it learns")


def check_refiner(refiner: Refiner, model: nn.Module, family: Family, x: Tensor) -> None:
    """Asserts that a refiner is one, from λ₀ = `family.init_params()`.

    As `check_guide`; also: model and family are left as they were; λ₀ and the path are handed back; λ moves; with a
    safeguard no datapoint's scored ELBO falls; scored anew, the mean ELBO does not.

    >>> import pyrovae as pv
    >>> model = pv.models.mlp((1, 2, 2), 2, widths=(8,))
    >>> check_refiner(pv.SVIRefiner(num_steps=3), model, pv.DiagonalNormal(2), torch.rand(3, 1, 2, 2).round())
    """
    name = type(refiner).__name__
    start = seeded(family.init_params).to(x).expand(x.shape[0], -1).clone()
    weights = [(n, p, p.detach().clone(), p.requires_grad) for m in (model, family) for n, p in m.named_parameters()]
    modes = [m.training for part in (model, family) for m in part.modules()]
    _check_inferred(name, (model, family), family, x, lambda of: refiner(model, family, of(x), of(start)))
    refined = seeded(lambda: refiner(model, family, x, start, record=True))
    require(torch.equal(refined.init, start), f"{name}: `init` is not the λ₀ that it was given")
    require(not torch.equal(refined.params, start), f"{name} moves no λ; is its step size too small?")
    path = start[None] if refined.path is None else refined.path
    right = path.shape[1:] == start.shape and torch.equal(path[0], start)
    require(right, f"{name}: `path` {tuple(path.shape)} is not (K + 1, B, P) from λ₀ on")
    for parameter, now, value, wants in weights:
        left = torch.equal(now, value) and now.grad is None and now.requires_grad == wants
        require(left, f"{name} moves {parameter}, leaves it a gradient or freezes it; run in `inference.frozen(...)`")
    same = modes == [m.training for part in (model, family) for m in part.modules()]
    require(same, f"{name} leaves layers in another mode; run in `inference.frozen(...)`")
    if refined.terms is not None and refined.terms_init is not None:
        lost = (refined.terms_init.elbo() - refined.terms.elbo()).max().item()
        require(lost <= 0, f"{name}: the safeguard lets the scored ELBO fall by {lost:.3g} nats")
    if family.density != "none":
        before, after = seeded(lambda: common_noise_terms(model, family, x, start, refined.params, num_particles=200))
        lost = (before.elbo() - after.elbo()).mean().item()
        require(lost < 0.1, f"{name}: λ_K is {lost:.3g} nats a datapoint worse than λ₀; a sign, or the step size?")
    check_store(name)


def _check_inferred(name: str, parts: tuple[nn.Module, Any], family: Family, x: Tensor, infer: Callable) -> None:
    """What guides and refiners share; `infer` takes a function that is to be applied to its arguments."""
    inferred = seeded(lambda: infer(Tensor.clone))
    shape = x.shape[0], family.num_params
    for what, value in (("init", inferred.init), ("params", inferred.params)):
        require(value.shape == shape, f"{name}: `{what}` is {tuple(value.shape)}, not (B, P) = {shape}")
        require(value.dtype == x.dtype, f"{name}: `{what}` is {value.dtype} for data of {x.dtype}; add .to(x.dtype)")
        require(bool(value.isfinite().all()), f"{name}: `{what}` is not finite")
    remedy = "noise must come from torch's generators, and nothing be kept between calls"
    again = seeded(lambda: infer(Tensor.clone)).params
    require(torch.equal(inferred.params, again), f"{name}: λ of one seed differs; {remedy}")
    try:
        with torch.inference_mode():  # as Lightning validates
            other = seeded(lambda: infer(Tensor.clone)).params
    except RuntimeError as error:
        raise AssertionError(f"{name} {NEEDS_GRADIENTS}: {error}") from error
    remedy = "leave it by inference_mode(False), and clone what was made in it, where gradients are taken"
    close(other, inferred.params, f"{name}: λ under torch.inference_mode(); {remedy}")
    with EqualNoise(), evaluating(parts[0]), evaluating(parts[1]):
        together = seeded(lambda: infer(Tensor.clone)).params
        alone = seeded(lambda: infer(lambda rows: rows[1:2])).params
    remedy = "take sums over the batch, not means, and clip row by row"
    close(alone[0], together[1], f"{name}: λ of a datapoint alone and in a batch; {remedy}")
    _check_engines(name, lambda: infer(Tensor.clone).params)


def _check_engines(name: str, infer: Callable[[], Tensor]) -> None:
    with interpreted(), engine("compiled"), warnings.catch_warnings():
        warnings.simplefilter("ignore", CaptureWarning)  # what is not captured is eager
        captured = seeded(infer)
    close(captured, seeded(infer), f"{name}: λ eager and captured; a Capture sees no Python state but its modules'")


def check_model(model: nn.Module, x: Tensor, *, relaxed: Collection[str] = ()) -> None:
    """Asserts that a model is one: plate "data", one observed site, reparameterisable latent ones, independent rows.

    And `sites`, `decode` and `sample`, where it has them. x are as in `check_guide`, and `relaxed` discrete latent
    sites, of which a family of `density` "none" draws something relaxed.

    >>> import pyrovae as pv
    >>> check_model(pv.models.mlp((1, 2, 2), 2, widths=(8,)), torch.rand(3, 1, 2, 2).round())
    """
    name, B = type(model).__name__, x.shape[0]  # noqa: N806
    with evaluating(model):
        trace = seeded(lambda: poutine.trace(model).get_trace(x))
        trace.compute_log_prob()
        latent, sites = latents(model, x), dict(scored_sites(trace))
        seen = {n: s for n, s in sites.items() if s["is_observed"]}
        require(len(latent) > 0, f"{name} has no latent site; write pyro.sample('z', ...)")
        require(len(seen) == 1, f"{name} observes {sorted(seen)}; write one pyro.sample('x', ..., obs=x)")
        (data,) = seen.values()
        for site, node in sites.items():
            right = 'write with pyro.plate("data", x.shape[0]), and to_event for what belongs to one datapoint'
            require(plates(node) == {"data"}, f"{name}: site {site!r} lies in plates {plates(node)}; {right}")
            got = tuple(node["log_prob"].shape)
            require(got == (B,), f"{name}: log p of site {site!r} has shape {got}, not {(B,)}; {right}")
            smooth = site in (*seen, *relaxed) or node["fn"].has_rsample
            require(smooth, f"{name}: latent site {site!r} has no rsample; sum a discrete one out, or relax it")
        require({*getattr(model, "sites", latent)} == {*latent}, f"{name}.sites are not its latent sites {[*latent]}")
        values = {site: node["value"] for site, node in latent.items()}

        def scored(x: Tensor, draws: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
            given = {site: draws(value) for site, value in values.items()}
            again = poutine.trace(poutine.condition(model, given)).get_trace(x)
            again.compute_log_prob()
            return {site: again.nodes[site]["log_prob"] for site in sites}

        alone = scored(x[1:2], lambda value: value[1:2])
        with plate("draws", 2, dim=-2):
            twice = scored(x, lambda value: torch.stack([value.flip(0), value]))
        for site, node in sites.items():
            close(alone[site][0], node["log_prob"][1], f"{name}: log p of site {site!r} alone and in a batch")
            message = f"{name}: log p of site {site!r} with several draws of z (2, B, ...); let decoders take (..., D)"
            require(twice[site].shape == (2, B), f"{message}: its shape is {tuple(twice[site].shape)}")
            close(twice[site][1], node["log_prob"], message)
        if hasattr(model, "decode"):
            order = getattr(model, "sites", (*latent,))
            dims = [len(latent[site]["fn"].event_shape) for site in order]
            z = values[order[0]] if len(order) == 1 else joined([values[site] for site in order], dims)
            decoded: Any = model.decode(z)  # type: ignore[operator]
            close(decoded.log_prob(x), data["log_prob"], f"{name}: log p(x | z) by decode(z) and by its program")
        if hasattr(model, "sample"):
            shape = tuple(seeded(lambda: model.sample(2)).shape)  # type: ignore[operator]
            require(shape == (2, *x.shape[1:]), f"{name}.sample(2) is {shape}, not {(2, *x.shape[1:])}")
    check_store(name)
