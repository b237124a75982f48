"""The same work in JAX by hand, NumPyro and pythae: `None` where they are not installed; `pip install -e '.[peers]'`.

JAX and NumPyro run whole loops under `jit`, with `lax.scan` over steps, on one thread.
"""

import os
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from timing import clock
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


def refine(layers: Layers, loc: Any, log_scale: Any, x: Any, key: Any, num_steps: int, lr: float) -> tuple[Any, Any]:
    """λ after so many Adam steps, and the slope that the first one took."""
    import jax
    import jax.numpy as jnp

    slope = jax.grad(lambda params, key: negative_elbo(layers, params[0], params[1], x, key))

    def step(state: Any, key: Any) -> Any:
        params, moments, k = state
        grads = slope(params, key)
        moves, moments = adam(grads, moments, k, lr)
        return (jax.tree.map(jnp.subtract, params, moves), moments, k + 1), grads

    start = loc, log_scale
    zeros = jax.tree.map(jnp.zeros_like, start)
    (params, *_), slopes = jax.lax.scan(step, (start, (zeros, zeros), 1.0), jax.random.split(key, num_steps))
    return params, jax.tree.map(lambda grads: grads[0], slopes)


def jax_refiner(decoder: nn.Module, x: Tensor, start: Tensor, num_steps: int, lr: float) -> Callable[[], Any] | None:
    """λ by `refine` from λ = `start` (B, 2 D), under jit."""
    if not installed("jax"):
        return None
    import jax
    import jax.numpy as jnp

    run = jax.jit(lambda layers, loc, log_scale, x, key: refine(layers, loc, log_scale, x, key, num_steps, lr)[0])
    at = layers_of(decoder), *(jnp.array(part.numpy()) for part in start.chunk(2, -1)), jnp.array(x.flatten(1).numpy())
    return lambda: jax.block_until_ready(run(*at, jax.random.key(0)))


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


Networks = Callable[[], tuple[nn.Module, nn.Module]]  # encoder and decoder
Trainer = Callable[[Callable[[float], None]], tuple[nn.Module, nn.Module]]  # reports each epoch's seconds


def give_back(nets: tuple[nn.Module, nn.Module], trained: tuple[Layers, ...]) -> tuple[nn.Module, nn.Module]:
    """The networks, with weights from JAX."""
    for net, layers in zip(nets, trained, strict=True):
        linear = [m for m in net.modules() if isinstance(m, nn.Linear)]
        for layer, (weight, bias) in zip(linear, layers, strict=True):
            # By numpy: entry by entry it would take longer than an epoch's tenth.
            layer.weight.data = torch.tensor(np.asarray(weight.T))
            layer.bias.data = torch.tensor(np.asarray(bias))
    return nets


def scanned(step: Callable[..., Any], batch_size: int) -> Callable[..., Any]:
    """An epoch: `step(state, x)` over shuffled batches of dynamically binarised pixels (N, D), under jit.

    The last, smaller batch is left out.
    """
    import jax
    import jax.numpy as jnp

    @jax.jit
    def epoch(state: Any, grey: Any, key: Any) -> Any:
        def one(carry: Any, rows: Any) -> Any:
            state, key = carry
            key, own = jax.random.split(key)
            x = jax.random.bernoulli(own, grey[rows]).astype(jnp.float32)
            return (step(state, x), key), None

        order, key = jax.random.split(key)
        rows = jax.random.permutation(order, len(grey))[: len(grey) // batch_size * batch_size]
        return jax.lax.scan(one, (state, key), rows.reshape(-1, batch_size))[0]

    return epoch


def jax_trainer(
    networks: Networks, grey: Tensor, epochs: int, batch_size: int, lr: float, inner: tuple[int, float] | None
) -> Trainer | None:
    """By hand; `inner`: steps on λ and their size, for semi-amortized training."""
    if not installed("jax"):
        return None
    import jax
    import jax.numpy as jnp

    def loss_of(nets: Any, x: Any, key: Any) -> Any:
        params = apply(nets[0], x)
        loc, log_scale = jnp.split(params, 2, -1)
        if inner is None:
            z = loc + jnp.exp(log_scale) * jax.random.normal(key, loc.shape)
            logits = apply(nets[1], z)
            kl = 0.5 * (loc**2 + jnp.exp(2 * log_scale) - 1 - 2 * log_scale).sum()
            return (kl - (x * logits - jax.nn.softplus(logits)).sum()) / len(x)
        key, last = jax.random.split(key)
        start, fixed = jax.lax.stop_gradient(((loc, log_scale), nets[1]))
        found, slope = refine(fixed, start[0], start[1], x, key, num_steps=inner[0], lr=inner[1])
        found, slope = jax.lax.stop_gradient((found, slope))
        taught = (slope[0] * loc).sum() + (slope[1] * log_scale).sum()
        return (negative_elbo(nets[1], found[0], found[1], x, last) + taught) / len(x)

    def step(state: Any, x: Any) -> Any:
        nets, moments, k, key = state
        key, own = jax.random.split(key)
        moves, moments = adam(jax.grad(loss_of)(nets, x, own), moments, k, lr)
        return jax.tree.map(jnp.subtract, nets, moves), moments, k + 1, key

    def run(report: Callable[[float], None]) -> tuple[nn.Module, nn.Module]:
        nets, pixels = networks(), jnp.array(grey.flatten(1).numpy())
        weights = tuple(map(layers_of, nets))
        zeros, key = jax.tree.map(jnp.zeros_like, weights), jax.random.key(0)
        state, epoch = (weights, (zeros, zeros), 1.0, jax.random.key(1)), scanned(step, batch_size)
        for _ in range(epochs):
            start = clock()
            state, key = jax.block_until_ready(epoch(state, pixels, key))
            report(clock() - start)
        return give_back(nets, state[0])

    return run


def numpyro_trainer(networks: Networks, grey: Tensor, epochs: int, batch_size: int, lr: float) -> Trainer | None:
    """numpyro.infer.SVI with Trace_ELBO."""
    if not installed("jax", "numpyro"):
        return None
    import jax
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist
    from numpyro.infer import SVI, Trace_ELBO

    def run(report: Callable[[float], None]) -> tuple[nn.Module, nn.Module]:
        nets, pixels = networks(), jnp.array(grey.flatten(1).numpy())
        encoder, decoder = map(layers_of, nets)
        z_dim = decoder[0][0].shape[0]

        def model(x: Any) -> None:
            weights = numpyro.param("decoder", decoder)
            with numpyro.plate("data", len(x)):
                z = numpyro.sample("z", dist.Normal(jnp.zeros((len(x), z_dim)), 1.0).to_event(1))
                numpyro.sample("x", dist.Bernoulli(logits=apply(weights, z)).to_event(1), obs=x)

        def guide(x: Any) -> None:
            loc, log_scale = jnp.split(apply(numpyro.param("encoder", encoder), x), 2, -1)
            with numpyro.plate("data", len(x)):
                numpyro.sample("z", dist.Normal(loc, jnp.exp(log_scale)).to_event(1))

        # A mean over the batch, as the others have it: Adam's epsilon sees the same numbers.
        svi = SVI(
            numpyro.handlers.scale(model, 1 / batch_size),
            numpyro.handlers.scale(guide, 1 / batch_size),
            numpyro.optim.Adam(lr),
            Trace_ELBO(),
        )
        state, key = svi.init(jax.random.key(1), pixels[:batch_size]), jax.random.key(0)
        epoch = scanned(lambda state, x: svi.update(state, x)[0], batch_size)
        for _ in range(epochs):
            start = clock()
            state, key = jax.block_until_ready(epoch(state, pixels, key))
            report(clock() - start)
        found = svi.get_params(state)
        return give_back(nets, (found["encoder"], found["decoder"]))

    return run


def pythae_trainer(networks: Networks, grey: Tensor, epochs: int, batch_size: int, lr: float) -> Trainer | None:
    """pythae's VAE and BaseTrainer."""
    if not installed("pythae"):
        return None
    import logging
    from contextlib import redirect_stderr
    from io import StringIO
    from tempfile import TemporaryDirectory

    from pythae.data.datasets import BaseDataset, DatasetOutput
    from pythae.models import VAE, VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder
    from pythae.trainers import BaseTrainer, BaseTrainerConfig
    from pythae.trainers.training_callbacks import TrainingCallback

    class Drawn(BaseDataset):
        def __getitem__(self, index: int) -> Any:
            return DatasetOutput(data=torch.bernoulli(self.data[index]), labels=self.labels[index])

    class Encoder(BaseEncoder):
        def __init__(self, net: nn.Module) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Tensor) -> Any:
            loc, log_scale = self.net(x).chunk(2, -1)
            return ModelOutput(embedding=loc, log_covariance=2 * log_scale)

    class Decoder(BaseDecoder):
        def __init__(self, net: nn.Module) -> None:
            super().__init__()
            self.net = net

        def forward(self, z: Tensor) -> Any:
            return ModelOutput(reconstruction=self.net(z).sigmoid())

    class Seconds(TrainingCallback):
        def on_epoch_begin(self, training_config: Any, **_: Any) -> None:
            self.start = clock()

        def on_epoch_end(self, training_config: Any, **_: Any) -> None:
            self.report(clock() - self.start)

    def run(report: Callable[[float], None]) -> tuple[nn.Module, nn.Module]:
        nets, seconds = networks(), Seconds()
        seconds.report = report
        z_dim = next(m.in_features for m in nets[1].modules() if isinstance(m, nn.Linear))
        config = VAEConfig(input_dim=tuple(grey.shape[1:]), latent_dim=z_dim, reconstruction_loss="bce")
        logging.disable(logging.INFO)
        with TemporaryDirectory() as folder, redirect_stderr(StringIO()):  # its bar
            how = BaseTrainerConfig(
                output_dir=folder,
                num_epochs=epochs,
                learning_rate=lr,
                no_cuda=True,
                per_device_train_batch_size=batch_size,
            )
            model = VAE(config, Encoder(nets[0]), Decoder(nets[1]))
            BaseTrainer(model, Drawn(grey, torch.zeros(len(grey))), training_config=how, callbacks=[seconds]).train()
        logging.disable(logging.NOTSET)
        return nets

    return run
