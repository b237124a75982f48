"""What graphs do their own way on a CPU."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyrovae.capture import cpu
from pyrovae.capture.graph import Graph

PRODUCT = torch.ops.pyrovae.product.default


def test_log1p_is_good_to_a_few_units_in_the_last_place():
    u = torch.cat([torch.logspace(-12, 12, 20001), -torch.logspace(-12, -1e-4, 20001)])
    exact = u.double().log1p()
    assert ((cpu.log1p(u) - exact) / exact).abs().max() < 3e-7
    odd = torch.tensor([0.0, -1.0, -2.0, torch.inf, torch.nan])
    assert torch.equal(cpu.log1p(odd).nan_to_num(7.0), odd.log1p().nan_to_num(7.0))


@pytest.mark.parametrize("batch", [1, 7, 128])
@pytest.mark.parametrize("bias", [False, True])
def test_a_product_is_the_product_whatever_the_strides(batch, bias):
    torch.manual_seed(0)
    b = torch.randn(96) if bias else None
    for x in (torch.randn(batch, 64), torch.randn(64, batch).t(), torch.randn(batch, 1).expand(batch, 64)):
        for weight in (torch.randn(96, 64), torch.randn(64, 96).t(), torch.randn(96, 128)[:, ::2]):
            exact = F.linear(x.double(), weight.double(), None if b is None else b.double())
            torch.testing.assert_close(PRODUCT(x, weight, b).double(), exact, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("faster", [False, True])
def test_all_products_of_a_float32_step_go_where_they_are_faster(monkeypatch, faster):
    monkeypatch.setattr(cpu, "onednn_is_faster", lambda: faster)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(20, 300), nn.Softplus(), nn.Linear(300, 20))
    weights = list(net.parameters())

    def step(x: Tensor) -> list[Tensor]:
        loss = F.binary_cross_entropy_with_logits(net(x), (x > 0).to(x))
        return [loss, *torch.autograd.grad(loss, list(net.parameters()))]

    x = torch.randn(50, 20)
    traced = Graph(step, (net,), weights, (x,))._traced
    cpu.use_onednn(traced)
    targets = [node.target for node in traced.graph.nodes]
    assert targets.count(PRODUCT) == (5 if faster else 0)  # two forward, an input's gradient, two of weights
    assert not {torch.ops.aten.mm.default, torch.ops.aten.addmm.default} & set(targets) or not faster
    assert torch.ops.aten.log1p.default not in targets
    for found, expected in zip(traced([w.detach() for w in weights], [x]), step(x), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


def test_products_of_other_types_stay(monkeypatch):
    monkeypatch.setattr(cpu, "onednn_is_faster", lambda: True)
    layer = nn.Linear(3, 2, dtype=torch.float64)
    traced = Graph(lambda x: [layer(x)], (layer,), list(layer.parameters()), (torch.ones(4, 3).double(),))._traced
    cpu.use_onednn(traced)
    assert PRODUCT not in [node.target for node in traced.graph.nodes]
