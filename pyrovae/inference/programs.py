"""Captured programs, kept for the models and families that they are called with."""

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from torch import Tensor

MAX_PROGRAMS = 8

Made = TypeVar("Made")


class Programs(Generic[Made]):
    """The last few things that `make` made, by the objects and settings they were made of.

    Copies and pickles start empty, and capture anew.
    """

    def __init__(self) -> None:
        self._made: dict[tuple, tuple[tuple, Made]] = {}

    def get(self, make: Callable[[], Made], objects: tuple[Any, ...], *settings: Any) -> Made:
        """What was made of these `objects`, by identity, and `settings`, by value; made now if it was not."""
        key = *map(id, objects), *settings
        if key not in self._made:
            if len(self._made) == MAX_PROGRAMS:
                del self._made[next(iter(self._made))]  # the oldest
            self._made[key] = objects, make()  # with the objects, whose ids would else be given to others
        return self._made[key][1]

    def __getstate__(self) -> dict[str, Any]:
        return {"_made": {}}


def scalar(value: float | Tensor, like: Tensor) -> Tensor:
    """A number as a program takes it, a tensor of shape (); made on the device, for a copy from the host would wait."""
    return value.to(like) if isinstance(value, Tensor) else like.new_full((), value)
