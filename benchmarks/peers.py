"""The same work in NumPyro and in JAX by hand: `None` where they are not installed; `pip install -e '.[peers]'`.

Both run whole loops under `jit`, with `lax.scan` over steps, on one thread.
"""

import os
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from torch import Tensor, nn

Layers = list[tuple[Any, Any]]  # weight (in, out) and bias (out,) of each

if "jax" not in os.environ.get("XLA_FLAGS", ""):  # read when JAX starts; process seconds would count its other threads
    os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"


def installed(*names: str) -> bool:
    """Whether all these packages are there."""
    return all(find_spec(name) is not None for name in names)


def layers_of(net: nn.Module) -> Layers:
    """Weights and biases of an MLP, as JAX takes them."""
    import jax.numpy as jnp

    linear = [m for m in net.modules() if isinstance(m, nn.Linear)]
    return [(jnp.array(m.weight.detach().T.numpy()), jnp.array(m.bias.detach().numpy())) for m in linear]


def apply(layers: Layers, h: Any) -> Any:
    """The MLP, with ReLU between layers."""
    import jax.numpy as jnp

    for weight, bias in layers[:-1]:
        h = jnp.maximum(h @ weight + bias, 0.0)
    return h @ layers[-1][0] + layers[-1][1]


def adam(grads: Any, state: Any, k: Any, lr: Any) -> tuple[Any, Any]:
    """Moves (-) and the next moments, of a tree of gradients, at step k = 1, 2, ..."""
    import jax
    import jax.numpy as jnp

    mean = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, state[0], grads)
    square = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, state[1], grads)
    up, down = lr / (1 - 0.9**k), 1 / (1 - 0.999**k)
    return jax.tree.map(lambda m, v: up * m / (jnp.sqrt(v * down) + 1e-8), mean, square), (mean, square)


def negative_elbo(layers: Layers, loc: Any, log_scale: Any, x: Any, key: Any) -> Any:
    """Summed over the batch, one draw, path gradients."""
    import jax
    import jax.numpy as jnp

    z = loc + jnp.exp(log_scale) * jax.random.normal(key, loc.shape)
    logits = apply(layers, z)
    recon = x * logits - jax.nn.softplus(logits)
    fixed_loc, fixed_log_scale = jax.lax.stop_gradient((loc, log_scale))
    log_q = -0.5 * ((z - fixed_loc) * jnp.exp(-fixed_log_scale)) ** 2 - fixed_log_scale
    return -(recon.sum() - 0.5 * (z**2).sum() - log_q.sum())


def refine(layers: Layers, loc: Any, log_scale: Any, x: Any, key: Any, num_steps: int, lr: float) -> Any:
    """λ after so many Adam steps."""
    import jax
    import jax.numpy as jnp

    slope = jax.grad(lambda params, key: negative_elbo(layers, params[0], params[1], x, key))

    def step(state: Any, key: Any) -> Any:
        params, moments, k = state
        moves, moments = adam(slope(params, key), moments, k, lr)
        return (jax.tree.map(jnp.subtract, params, moves), moments, k + 1), None

    start = loc, log_scale
    zeros = jax.tree.map(jnp.zeros_like, start)
    return jax.lax.scan(step, (start, (zeros, zeros), 1.0), jax.random.split(key, num_steps))[0][0]


def jax_refiner(decoder: nn.Module, x: Tensor, start: Tensor, num_steps: int, lr: float) -> Callable[[], Any] | None:
    """`refine` from λ = `start` (B, 2 D), under jit."""
    if not installed("jax"):
        return None
    import jax
    import jax.numpy as jnp

    run = jax.jit(refine, static_argnames=("num_steps", "lr"))
    at = layers_of(decoder), *(jnp.array(part.numpy()) for part in start.chunk(2, -1)), jnp.array(x.flatten(1).numpy())
    return lambda: jax.block_until_ready(run(*at, jax.random.key(0), num_steps=num_steps, lr=lr))


def numpyro_refiner(
    decoder: nn.Module, x: Tensor, start: Tensor, num_steps: int, lr: float
) -> Callable[[], Any] | None:
    """The same by numpyro.infer.SVI with a guide of a row of λ per datapoint; Trace_ELBO, as NumPyro has it."""
    if not installed("jax", "numpyro"):
        return None
    import jax
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist
    from numpyro.infer import SVI, Trace_ELBO

    loc0, log_scale0 = (jnp.array(part.numpy()) for part in start.chunk(2, -1))
    layers, pixels = layers_of(decoder), jnp.array(x.flatten(1).numpy())

    def model(x: Any, layers: Layers) -> None:
        with numpyro.plate("data", len(x)):
            z = numpyro.sample("z", dist.Normal(jnp.zeros_like(loc0), 1.0).to_event(1))
            numpyro.sample("x", dist.Bernoulli(logits=apply(layers, z)).to_event(1), obs=x)

    def guide(x: Any, layers: Layers) -> None:
        loc, log_scale = numpyro.param("loc", loc0), numpyro.param("log_scale", log_scale0)
        with numpyro.plate("data", len(x)):
            numpyro.sample("z", dist.Normal(loc, jnp.exp(log_scale)).to_event(1))

    svi = SVI(model, guide, numpyro.optim.Adam(lr), Trace_ELBO())
    svi.init(jax.random.key(0), pixels, layers)

    @jax.jit
    def run(params: Any, x: Any, layers: Layers, key: Any) -> Any:
        state = numpyro.infer.svi.SVIState(svi.optim.init(params), None, key)
        state, _ = jax.lax.scan(lambda state, _: svi.update(state, x, layers), state, length=num_steps)
        return svi.get_params(state)

    params = {"loc": loc0, "log_scale": log_scale0}
    return lambda: jax.block_until_ready(run(params, pixels, layers, jax.random.key(0)))
