"""What makes graphs faster on a CPU: products by oneDNN, and a `log1p` that is not slow."""

from collections.abc import Callable
from functools import cache
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, fx

LEAST_GAIN = 1.25  # of oneDNN over torch's own products: wide, so that two processes of a machine decide alike
LEAST_ROWS, LEAST_WORK = 8, 2**18  # of x, and multiplications: below, oneDNN's start and its look at the weights cost more
_aten = torch.ops.aten
_library = torch.library.Library("pyrovae", "FRAGMENT")
_library.define("product(Tensor x, Tensor weight, Tensor? bias) -> Tensor", tags=(torch.Tag.flexible_layout,))


def log1p(u: Tensor) -> Tensor:
    """log(1 + u) to a few units in the last place, by a logarithm and a division.

    torch's vectorised `log1p` takes ten times as long as both. With w = 1 + u, rounded, :math:`u \\log(w) / (w - 1)` is
    as good, since rounding is the same above and below.

    Reference:
        What Every Computer Scientist Should Know About Floating-Point Arithmetic (Goldberg, 1991), theorem 4,
        doi:10.1145/103162.103163

    >>> log1p(torch.tensor([0.0, 1e-10, 1.0, torch.inf]))
    tensor([0.0000e+00, 1.0000e-10, 6.9315e-01,        inf])
    """
    if u.device.type != "cpu" or not u.is_floating_point():
        return NotImplemented
    w = 1 + u
    return torch.where((w == 1) | w.isinf(), u, w.log() * (u / (w - 1)))


def decompositions(torchs: Callable[..., dict[Any, Any]]) -> dict[Any, Callable[..., Any]]:
    """For `make_fx`, what to write instead of `log1p`, and by `torchs`, torch's own, of what has one within."""
    within = [_aten.binary_cross_entropy_with_logits, _aten.log_sigmoid_forward, _aten.softplus]
    return {**torchs(within), _aten.log1p.default: log1p}


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x (B, I) times weight (O, I), transposed, by oneDNN if that pays, and plus bias (O,)."""
    plain = 1 in x.stride() and 1 in weight.stride()
    if plain and x.shape[0] >= LEAST_ROWS and x.shape[0] * weight.numel() >= LEAST_WORK:
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return torch.mm(x, weight.t()) if bias is None else torch.addmm(bias, x, weight.t())


_library.impl("product", _product, "CPU")
_library.impl("product", lambda x, weight, bias: x.new_empty(x.shape[0], weight.shape[0]), "Meta")


def use_onednn(graph: fx.GraphModule) -> None:
    """Lets oneDNN do the float32 products of matrices on a CPU, where it is clearly faster on this machine.

    torch's go through MKL, which on processors that are not Intel's may run at half the rate. Weights stay as they are:
    to pack them gains little more, and those of a training step move.
    """
    for node in list(graph.graph.nodes):
        if node.target is _aten.mm.default:
            bias, (left, right) = None, node.args
        elif node.target is _aten.addmm.default and not node.kwargs and node.args[0].meta["val"].dim() == 1:
            bias, left, right = node.args
        else:
            continue
        value = node.meta["val"]
        if value.device.type != "cpu" or value.dtype != torch.float32 or not onednn_is_faster():
            continue
        with graph.graph.inserting_before(node):
            turned = graph.graph.call_function(_aten.t.default, (right,))
            new = graph.graph.call_function(torch.ops.pyrovae.product.default, (left, turned, bias))
        turned.meta["val"] = right.meta["val"].t()
        new.meta.update(node.meta)
        node.replace_all_uses_with(new)
        graph.graph.erase_node(node)
    graph.recompile()


@cache
def onednn_is_faster() -> bool:
    """Whether oneDNN is clearly faster at a product, measured once a process."""
    if not (torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")):
        return False
    x, weight = torch.ones(128, 512), torch.ones(512, 512)
    with torch.no_grad():
        ours, torchs = _seconds(lambda: _product(x, weight, None)), _seconds(lambda: torch.mm(x, weight.t()))
    return torchs > LEAST_GAIN * ours


def _seconds(function: Callable[[], Any]) -> float:
    """The least of a few calls."""
    times = []
    for _ in range(10):
        start = perf_counter()
        function()
        times.append(perf_counter() - start)
    return min(times)
