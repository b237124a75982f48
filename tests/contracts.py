"""What every guide must do, whatever the family; call `check_guide` on a new one."""

import copy
import io

import pyro
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from torch import Tensor, nn

import pyrovae as pv


def check_guide(model: nn.Module, guide: pv.Guide, x: Tensor) -> None:
    check_sites(model, guide, x)
    check_infer(guide, x)
    check_gradients(model, guide, x)
    check_seed_repeats(guide, x)
    check_state_dict(guide, x)
    assert not pyro.get_param_store(), "parameters belong to modules, not to the global store"


def check_sites(model: nn.Module, guide: pv.Guide, x: Tensor) -> None:
    wanted, latent = (latents(part, x) for part in (model, guide))
    assert latent.keys() == wanted.keys(), "a site is missing, or an inner loop leaked into the trace"
    for name, site in latent.items():
        assert site["fn"].event_shape == wanted[name]["fn"].event_shape
        assert site["fn"].batch_shape == (len(x),)
        assert {frame.name for frame in site["cond_indep_stack"]} == {"data"}
    assert sum(site["fn"].event_shape.numel() for site in latent.values()) == guide.family.z_dim
    assert guide(x).shape == guide.family(guide.infer(x).params).mean.shape == (len(x), guide.family.z_dim)


def latents(program: nn.Module, x: Tensor) -> dict:
    """The latent sites of a program, by name."""
    nodes = poutine.trace(program).get_trace(x).nodes
    return {n: s for n, s in nodes.items() if s["type"] == "sample" and not s["is_observed"] and n != "data"}


def check_infer(guide: pv.Guide, x: Tensor) -> None:
    inferred = guide.infer(x)
    assert inferred.init.shape == inferred.params.shape == (len(x), guide.family.num_params)
    assert inferred.params.dtype == x.dtype
    with torch.inference_mode():  # as Lightning validates
        torch.manual_seed(1)
        frozen = guide.infer(x.clone())
    torch.manual_seed(1)
    torch.testing.assert_close(frozen.params, guide.infer(x).params)


def check_gradients(model: nn.Module, guide: pv.Guide, x: Tensor) -> None:
    for elbo in (Trace_ELBO(), pv.ELBO(), pv.ELBO(num_particles=2)):  # stock Pyro must train it too
        guide.zero_grad(), model.zero_grad()
        elbo(model, guide)(x).backward()
        for name, parameter in [*model.named_parameters(), *guide.named_parameters()]:
            assert parameter.grad is not None, f"no gradient reaches {name}"
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.abs().sum() > 0, f"the gradient of {name} is zero"
    names = {name for name, _ in guide.named_parameters()}
    assert not any(p is q for p in guide.parameters() for q in model.parameters()), f"{names} hold the model's"


def check_seed_repeats(guide: pv.Guide, x: Tensor) -> None:
    drawn = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        drawn.append(guide(x))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def check_state_dict(guide: pv.Guide, x: Tensor) -> None:
    twin, file = copy.deepcopy(guide), io.BytesIO()
    torch.save(guide.state_dict(), file)
    for parameter in twin.parameters():
        nn.init.normal_(parameter)
    file.seek(0)
    twin.load_state_dict(torch.load(file, weights_only=True))
    torch.manual_seed(5)
    expected = guide.infer(x).init
    torch.manual_seed(5)
    assert torch.equal(twin.infer(x).init, expected)
