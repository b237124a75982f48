"""A function together with the modules it runs."""

from collections.abc import Callable, Hashable, Iterable
from typing import Any

from torch import Tensor, nn

Tensors = tuple[Tensor, ...]
Function = Callable[..., Tensors]

_PLAIN = (bool, int, float, str, type(None))
_OF_EVERY_MODULE = frozenset(vars(nn.Module())) - {"training"}


class Program(nn.Module):
    """`function` as the forward of a module that holds all it runs, so that weights can be swapped for inputs."""

    def __init__(self, function: Function, modules: Iterable[nn.Module]) -> None:
        super().__init__()
        self._function = function
        self._parts = nn.ModuleList(modules)

    def forward(self, *args: Tensor) -> Tensors:
        return self._function(*args)

    def named_weights(self) -> dict[str, Tensor]:
        """Parameters and buffers by name, shared ones once."""
        return {**dict(self.named_parameters()), **dict(self.named_buffers())}

    def read(self) -> tuple[list[Tensor], tuple[Hashable, ...]]:
        """The tensors of `named_weights`, in its order, and a key of what else a graph of the program holds fast.

        That is: modes, numbers, strings and which tensors are attributes. Read at every batch, hence not by the walks
        of `nn.Module`, which take a millisecond.
        """
        params: dict[int, Tensor] = {}
        buffers: dict[int, Tensor] = {}
        key: list[Any] = []
        todo: list[Any] = [self._parts]
        seen = set()
        while todo:
            module = todo.pop()
            if module is None or module in seen:
                continue
            seen.add(module)
            attributes = module.__dict__
            params.update((id(p), p) for p in attributes["_parameters"].values() if p is not None)
            buffers.update((id(b), b) for b in attributes["_buffers"].values() if b is not None)
            todo += reversed(attributes["_modules"].values())  # depth first, as nn.Module names them
            key.append(type(module))
            for name, value in attributes.items():
                if name in _OF_EVERY_MODULE:
                    continue
                if isinstance(value, _PLAIN):
                    key.append((name, value))
                elif isinstance(value, Tensor):
                    key.append((name, id(value)))
        weights = [*params.values(), *buffers.values()]
        return weights, (*key, *(weight.requires_grad for weight in weights))
