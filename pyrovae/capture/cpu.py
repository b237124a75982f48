"""What makes graphs faster on a CPU: products by oneDNN, and a `log1p` that is not slow."""

from collections.abc import Callable, Iterable
from functools import cache
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, fx

# Private names of torch 2.11 to 2.14, of `torch.ops.mkldnn`. Where one is lacking, products stay torch's.
PACK, LINEAR = "_reorder_linear_weight", "_linear_pointwise"
LEAST_GAIN = 1.25  # of oneDNN over torch's own products: wide, so that two processes of a machine decide alike
LEAST_ROWS, LEAST_WORK = 8, 2**18  # of x, and multiplications: below, oneDNN's start and its look at weights cost more
LEAST_PACKED = 2**13  # entries of a matrix to pack
PACKED_FOR = 64  # rows; a layout good for 8 to 2,048
_aten = torch.ops.aten
_library = torch.library.Library("pyrovae", "FRAGMENT")
_library.define("product(Tensor x, Tensor weight, Tensor? bias) -> Tensor", tags=(torch.Tag.flexible_layout,))
_library.define("packed_product(Tensor x, Tensor handle, Tensor? bias, int num_out) -> Tensor")


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


@cache
def _linear() -> Any:
    return getattr(torch.ops.mkldnn, LINEAR).default


def pack(weight: Tensor) -> Tensor:
    """A handle on `weight` (O, I), packed: an empty tensor that carries it, for graphs take no packed tensors."""
    handle: Any = torch.empty(0)
    handle.packed = getattr(torch.ops.mkldnn, PACK)(weight.contiguous(), PACKED_FOR)
    return handle  # type: ignore[no-any-return]


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x (B, I) times weight (O, I), transposed, by oneDNN if that pays, and plus bias (O,)."""
    if x.shape[0] >= LEAST_ROWS and x.shape[0] * weight.numel() >= LEAST_WORK:
        # Of matrices with gaps in them oneDNN may take a thousand times as long.
        plain = x.stride(1) == 1 or x.t().is_contiguous()
        if plain and (weight.is_contiguous() or weight.t().is_contiguous()):
            return _linear()(x, weight, bias, "none", [], "")  # type: ignore[no-any-return]
    return torch.mm(x, weight.t()) if bias is None else torch.addmm(bias, x, weight.t())


def _packed_product(x: Tensor, handle: Any, bias: Tensor | None, num_out: int) -> Any:
    return _linear()(x, handle.packed, bias, "none", [], "")


_library.impl("product", _product, "CPU")
_library.impl("product", lambda x, weight, bias: x.new_empty(x.shape[0], weight.shape[0]), "Meta")
_library.impl("packed_product", _packed_product, "CPU")
_library.impl("packed_product", lambda x, handle, bias, num_out: x.new_empty(x.shape[0], num_out), "Meta")


def _factors(node: fx.Node) -> tuple[Any, Any, Any] | None:
    """Of a float32 product of matrices on a CPU, its bias, a vector or None, and its factors."""
    if node.target is _aten.mm.default:
        bias, (left, right) = None, node.args
    elif node.target is _aten.addmm.default and not node.kwargs:  # neither alpha nor beta
        bias, left, right = node.args
    else:
        return None
    value, vector = node.meta["val"], bias is None or bias.meta["val"].dim() == 1  # type: ignore[union-attr]
    return (bias, left, right) if vector and value.device.type == "cpu" and value.dtype == torch.float32 else None


def fixed_products(graph: fx.GraphModule, num_fixed: int) -> list[fx.Node]:
    """The products with a matrix that the first `num_fixed` inputs alone make: a weight, or its transpose."""
    fixed = set(list(graph.graph.find_nodes(op="placeholder"))[:num_fixed])
    found: list[fx.Node] = []
    for node in graph.graph.nodes:
        if node.op == "call_function" and node.all_input_nodes and all(n in fixed for n in node.all_input_nodes):
            fixed.add(node)
        elif (factors := _factors(node)) and factors[2] in fixed:
            sizes = factors[2].meta["val"].shape
            if all(type(size) is int for size in sizes) and sizes[0] * sizes[1] >= LEAST_PACKED:
                found.append(node)
    return found


def with_onednn(graph: fx.GraphModule, packed: Iterable[fx.Node] = ()) -> fx.GraphModule:
    """A copy of `graph` whose products oneDNN does, where it is clearly faster; those of `packed` on packed weights.

    torch's float32 products go through MKL, which on processors that are not Intel's may run at half the rate. oneDNN
    packs a weight at each call, which costs little from some rows on; packed beforehand, it saves up to a tenth.
    """
    copy, twins = fx.Graph(), dict[fx.Node, fx.Node]()
    copy.output(copy.graph_copy(graph.graph, twins))
    ops, chosen = torch.ops.pyrovae, {twins[node] for node in packed}
    turned: dict[fx.Node, fx.Node] = {}  # weights (O, I), by their transpose
    handles: dict[fx.Node, fx.Node] = {}
    for node in list(copy.nodes):
        factors = _factors(node) if node.op == "call_function" else None
        if factors is None or not onednn_is_faster():
            continue
        bias, left, right = factors
        with copy.inserting_before(node):
            if right not in turned:
                turned[right] = copy.call_function(_aten.t.default, (right,))
                turned[right].meta["val"] = right.meta["val"].t()
            if node not in chosen:
                new = copy.call_function(ops.product.default, (left, turned[right], bias))
            else:
                if right not in handles:
                    handles[right] = copy.call_function(pack, (turned[right],))
                    handles[right].meta["val"] = right.meta["val"].new_empty(0)
                args = left, handles[right], bias, int(right.meta["val"].shape[1])
                new = copy.call_function(ops.packed_product.default, args)
        new.meta.update(node.meta)
        node.replace_all_uses_with(new)
        copy.erase_node(node)
    return fx.GraphModule(graph, copy)


@cache
def onednn_is_faster() -> bool:
    """Whether oneDNN is clearly faster at a product, measured once a process, in few milliseconds.

    >>> isinstance(onednn_is_faster(), bool)
    True
    """
    if not (torch.backends.mkldnn.is_available() and all(hasattr(torch.ops.mkldnn, name) for name in (PACK, LINEAR))):
        return False
    x, weight, threads = torch.ones(128, 512), torch.ones(512, 512), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.no_grad():
            torchs, ours = seconds(lambda: torch.mm(x, weight.t())), seconds(lambda: _product(x, weight, None))
    except (RuntimeError, TypeError):  # built without it, or called otherwise
        return False
    finally:
        torch.set_num_threads(threads)
    return torchs > LEAST_GAIN * ours


def seconds(function: Callable[[], Any]) -> float:
    """The least of a few calls."""
    times = []
    for _ in range(20):
        start = perf_counter()
        function()
        times.append(perf_counter() - start)
    return min(times)
