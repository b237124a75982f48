"""Matrix products with weights that stand still, by oneDNN on weights packed beforehand: which, when, and where."""

from collections.abc import Callable
from functools import cache
from time import perf_counter
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, fx

# Private names of torch 2.11 to 2.14. Where a release, or the processor's build, lacks one, products stay with `mm`.
PACK, LINEAR = "_reorder_linear_weight", "_linear_pointwise"  # of torch.ops.mkldnn
PACKED_FOR = 64  # rows; a layout good for 8 to 2,048

# Measured on an AMD EPYC with AVX-512; fixed, for a run that is resumed is to take the same products.
NS_SAVED = 0.0095  # of `mm`, for each of rows x in x out
NS_A_CALL = 8e3  # of oneDNN, however small the product
NS_TO_PACK, NS_TO_PACK_WEIGHT = 7e4, 2.0  # a weight's matrix, and each of its entries
MIN_WEIGHTS = 2**13  # entries of a matrix, below which a call costs more than the product

MARGIN = 1.25  # by which packed products have to win; wide, for two processes on one machine have to decide alike
PROBE = 128, 512, 512  # rows, in, out

_mm, _addmm, _t = torch.ops.aten.mm.default, torch.ops.aten.addmm.default, torch.ops.aten.t.default
_library = torch.library.Library("pyrovae", "FRAGMENT")
_library.define("packed_linear(Tensor x, Tensor handle, Tensor? bias, int num_out) -> Tensor")


class Product(NamedTuple):
    """One of a graph's matrix products, (rows, in) times (in, out)."""

    rows: Any  # a number, or an expression in the batch size
    num_in: int
    num_out: int


def pack(weight: Tensor) -> Tensor:
    """A handle on `weight` (out, in), packed: an empty tensor that carries it, for graphs take no packed tensors."""
    handle: Any = torch.empty(0)
    handle.packed = getattr(torch.ops.mkldnn, PACK)(weight.contiguous(), PACKED_FOR)
    return handle  # type: ignore[no-any-return]


@cache
def _linear() -> Any:
    return getattr(torch.ops.mkldnn, LINEAR).default


def _packed_linear(x: Tensor, handle: Any, bias: Tensor | None, num_out: int) -> Any:
    return _linear()(x, handle.packed, bias, "none", [], "")


_library.impl("packed_linear", _packed_linear, "CPU")


@torch.library.register_fake("pyrovae::packed_linear")  # type: ignore[untyped-decorator]
def _(x: Tensor, handle: Tensor, bias: Tensor | None, num_out: int) -> Tensor:
    return x.new_empty(x.shape[0], num_out)


def seconds(run: Callable[[], Any], rounds: int = 5, calls: int = 4) -> float:
    """Of a call, in the best of a few rounds."""
    best = float("inf")
    for _ in range(rounds):
        start = perf_counter()
        for _ in range(calls):
            run()
        best = min(best, (perf_counter() - start) / calls)
    return best


@cache
def packed_is_faster() -> bool:
    """Whether packed products beat torch's own on this machine, clearly; measured once a process, in 10 ms.

    >>> isinstance(packed_is_faster(), bool)
    True
    """
    if not torch.backends.mkldnn.is_available() or not all(hasattr(torch.ops.mkldnn, n) for n in (PACK, LINEAR)):
        return False
    rows, num_in, num_out = PROBE
    x, weight, threads = torch.ones(rows, num_in), torch.ones(num_out, num_in), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.no_grad():
            handle = pack(weight)
            own = seconds(lambda: torch.mm(x, weight.T))
            packed = seconds(lambda: _packed_linear(x, handle, None, num_out))
    except (RuntimeError, TypeError):  # built without it, or called otherwise
        return False
    finally:
        torch.set_num_threads(threads)
    return own > MARGIN * packed


def products_of(graph: fx.GraphModule, num_fixed: int) -> dict[fx.Node, Product]:
    """The products of single-precision rows on the CPU with a matrix that the first `num_fixed` inputs alone make."""
    fixed = set(list(graph.graph.find_nodes(op="placeholder"))[:num_fixed])
    found: dict[fx.Node, Product] = {}
    for node in graph.graph.nodes:
        if node.op != "call_function":
            continue
        if node.all_input_nodes and all(source in fixed for source in node.all_input_nodes):
            fixed.add(node)
        elif node.target in (_mm, _addmm) and not node.kwargs:  # neither alpha nor beta
            *bias_nodes, x_node, weight_node = cast(tuple[fx.Node, ...], node.args)
            x, weight = x_node.meta["val"], weight_node.meta["val"]
            simple = x.dtype == torch.float32 and x.device.type == "cpu" and all(type(n) is int for n in weight.shape)
            vector = all(bias.meta["val"].dim() == 1 for bias in bias_nodes)
            if weight_node in fixed and simple and vector and weight.numel() >= MIN_WEIGHTS:
                rows = x.shape[0]
                found[node] = Product(rows if type(rows) is int else rows.node.expr, *map(int, weight.shape))
    return found


def repay(products: list[Product], sizes: dict[Any, int], calls: int) -> bool:
    """Whether packing repays in so many calls, by a rule in sizes alone.

    >>> layers = [Product(128, 512, 784), Product(128, 784, 512)]
    >>> [repay(layers, {}, calls) for calls in (1, 10)]
    [False, True]
    """
    saved = cost = 0.0
    for rows, num_in, num_out in products:
        num_rows = rows if isinstance(rows, int) else int(rows.subs(sizes))
        saved += NS_SAVED * num_rows * num_in * num_out - NS_A_CALL
        cost += NS_TO_PACK + NS_TO_PACK_WEIGHT * num_in * num_out
    return calls * saved > cost


def with_packed(graph: fx.GraphModule, products: dict[fx.Node, Product], handle: Any) -> fx.GraphModule:
    """A copy of `graph` with those products packed; `handle` is the stand-in for a handle."""
    copy, twins = fx.Graph(), dict[fx.Node, fx.Node]()
    copy.output(copy.graph_copy(graph.graph, twins))
    packed: dict[fx.Node, fx.Node] = {}  # by weight
    for node, product in products.items():
        twin = twins[node]
        *bias, x, weight = cast(tuple[fx.Node, ...], twin.args)
        with copy.inserting_before(twin):
            if weight not in packed:
                turned = copy.call_function(_t, (weight,))  # (out, in)
                packed[weight] = copy.call_function(pack, (turned,))
                turned.meta["val"], packed[weight].meta["val"] = weight.meta["val"].t(), handle
            args = x, packed[weight], bias[0] if bias else None, product.num_out
            new = copy.call_function(torch.ops.pyrovae.packed_linear.default, args)
        new.meta.update(twin.meta)
        twin.replace_all_uses_with(new)
        copy.erase_node(twin)
    return fx.GraphModule(graph, copy)
