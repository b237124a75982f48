"""What is done to a traced graph before it is compiled."""

import torch
from torch import Tensor, fx


def lift_constants(graph: fx.GraphModule, num_weights: int) -> list[Tensor]:
    """Makes inputs, after the first `num_weights`, of the tensors that a program holds apart from its weights.

    As constants their values would be compiled in, and changes to them unseen. Returns those tensors.
    """
    lifted: list[Tensor] = []
    first_arg = list(graph.graph.find_nodes(op="placeholder"))[num_weights]
    for node in list(graph.graph.find_nodes(op="get_attr")):
        value = getattr(graph, str(node.target))
        made_here = any(user.target is torch.ops.aten.lift_fresh_copy.default for user in node.users)  # torch.tensor(1)
        if isinstance(value, Tensor) and not made_here:
            _replace_by_input(graph, node, first_arg)
            lifted.append(value)
    graph.recompile()
    return lifted


def hoist(graph: fx.GraphModule, num_fixed: int) -> fx.GraphModule | None:
    """Takes out of `graph` what depends on its first `num_fixed` inputs alone; their casts to bfloat16, say.

    Returns a graph of that work, to be done once for many calls; its results are new inputs of `graph`, after the fixed
    ones. None if there is no such work.
    """
    placeholders = list(graph.graph.find_nodes(op="placeholder"))
    fixed = dict.fromkeys(placeholders[:num_fixed])
    for node in graph.graph.nodes:
        inputs = node.all_input_nodes
        if node.op == "call_function" and inputs and all(source in fixed for source in inputs):
            if node.is_impure():
                return None  # it writes to a weight, a layer's running mean perhaps: order matters
            fixed[node] = None
    work = [node for node in fixed if node.op == "call_function" and not _is_view(node)]
    frontier = [node for node in work if any(user not in work for user in node.users)]
    if not frontier:
        return None
    prologue, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    for node in fixed:  # in the order of the graph
        copies[node] = prologue.node_copy(node, copies.__getitem__)
    prologue.output([copies[node] for node in frontier])
    prologue.eliminate_dead_code()
    result = fx.GraphModule(graph, prologue)
    for node in frontier:
        _replace_by_input(graph, node, placeholders[num_fixed])
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return result


def _is_view(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target.is_view


def _replace_by_input(graph: fx.GraphModule, node: fx.Node, before: fx.Node) -> None:
    with graph.graph.inserting_before(before):
        new = graph.graph.placeholder(f"{node.name}_input")
    new.meta.update(node.meta)
    node.replace_all_uses_with(new)
    graph.graph.erase_node(node)
