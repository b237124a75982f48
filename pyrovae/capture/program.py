"""A function together with the modules it runs."""

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

Tensors = tuple[Tensor, ...]
Function = Callable[..., Tensors]

_PLAIN = (bool, int, float, complex, str, bytes, type(None))
_OF_EVERY_MODULE = frozenset(vars(nn.Module())) - {"training"}


class Program:
    """`function`, and the parameters and buffers of `modules`, all that it runs."""

    def __init__(self, function: Function, modules: Sequence[nn.Module]) -> None:
        self.function = function
        self.modules = modules

    def read(self) -> tuple[list[Tensor], tuple[Hashable, ...]]:
        """Parameters and buffers, shared ones once, and a key of what else a graph of the program holds fast.

        That is the modules' attributes: values of numbers, strings and of lists and dictionaries of them, and which
        object every other one is.
        """
        weights: dict[int, Tensor] = {}
        key: list[Any] = []
        for module in self._walk():
            attributes = module.__dict__
            for tensors in (attributes["_parameters"], attributes["_buffers"]):
                weights.update((id(tensor), tensor) for tensor in tensors.values() if tensor is not None)
            key.append(type(module))
            for name, value in attributes.items():
                if name in _OF_EVERY_MODULE:
                    continue
                key.append((name, _held(value)))
        found = list(weights.values())
        return found, (*key, *(weight.requires_grad for weight in found))

    @contextmanager
    def swapped(self, weights: Sequence[Tensor]) -> Iterator[None]:
        """Inside, `weights` stand in the places of those that `read` gives, in its order.

        By hand: `torch.func.functional_call` does not put back what it swapped in a module that has two names.
        """
        places = [
            (tensors, name, tensor)
            for module in self._walk()
            for tensors in (module._parameters, module._buffers)
            for name, tensor in tensors.items()
            if tensor is not None
        ]
        new = dict(zip((id(weight) for weight in self.read()[0]), weights, strict=True))
        try:
            for tensors, name, tensor in places:
                tensors[name] = new[id(tensor)]  # type: ignore[assignment]
            yield
        finally:
            for tensors, name, tensor in places:
                tensors[name] = tensor  # type: ignore[assignment]

    def _walk(self) -> Iterator[Any]:
        """Every module once. Not by `nn.Module.modules`: this runs at every batch."""
        todo: list[Any] = list(self.modules)
        seen = set()
        while todo:
            module = todo.pop()
            if module is not None and module not in seen:
                seen.add(module)
                todo += module.__dict__["_modules"].values()
                yield module


def _held(value: Any) -> Hashable:
    """A value that is equal as long as `value` is."""
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, list | tuple):
        return tuple(_held(item) for item in value)
    if isinstance(value, dict):
        return tuple((id(key), _held(item)) for key, item in value.items())
    return id(value)
