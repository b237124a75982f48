"""What the checks compare, and how: equal but for rounding, the mean of draws, the same noise, eager and captured."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import pyro
import torch
from pyro import poutine
from torch import Tensor, fx
from torch.utils._python_dispatch import TorchDispatchMode

from ..inference.elbo import scored_sites

DRAWS, ERRORS = 4000, 5.0  # the mean of so many draws may be off by so many standard errors


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


class EqualNoise(TorchDispatchMode):
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
            drawn = torch.stack([draw(*row, *args[len(first) :]) for row in zip(*first, strict=True)])
            return drawn.reshape(*args[0].shape[: args[0].dim() - rowwise], *drawn.shape[1:])
        finally:
            torch.set_rng_state(state)
            torch.rand(())


def require(holds: bool, message: str) -> None:
    if not holds:
        raise AssertionError(message)


def close(got: Tensor, right: Tensor, message: str) -> None:
    """Equal but for rounding, which an inner loop magnifies."""
    tolerance = 1e-7 if right.dtype == torch.float64 else 2e-3
    off = ((got - right).abs() / (1 + right.abs())).max().item() if got.shape == right.shape else math.inf
    require(off <= tolerance, f"{message}: they differ, by {off:.2g} at most")


def near(what: str, stated: Tensor, draws: Tensor) -> None:
    """Whether what is stated (...) is the mean of draws (N, ...)."""
    mean, error = draws.mean(0), draws.std(0) / len(draws) ** 0.5
    off = ((stated - mean).abs() / (error + 1e-4 * (1 + mean.abs()))).nan_to_num(math.inf).flatten()
    i = int(off.argmax())
    found = f"{stated.flatten()[i]:.4g}, but draws give {mean.flatten()[i]:.4g} ± {error.flatten()[i]:.2g}"
    require(bool(off[i] < ERRORS), f"{what} is {found}")


def seeded(function: Callable[[], Any], seed: int = 0) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return function()


def latents(program: Callable, x: Tensor) -> dict[str, Any]:
    """The latent sites of a program, by name."""
    trace = seeded(lambda: poutine.trace(program).get_trace(x))
    return {name: site for name, site in scored_sites(trace) if not site["is_observed"]}


def plates(site: Any) -> set[str]:
    return {frame.name for frame in site["cond_indep_stack"]}


def or_none(function: Callable[[], Any]) -> Any:
    try:
        return function()
    except NotImplementedError:
        return None


def check_store(name: str) -> None:
    store = sorted(pyro.get_param_store())
    require(not store, f"{name}: {store} are in Pyro's global store; make parameters nn.Parameter of a module")
