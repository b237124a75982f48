"""Ranges of arguments: written once, as annotations, and checked alike for Python and for YAML."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, update_wrapper
from typing import Annotated, Any, ParamSpec, TypeVar

import numpy as np
from pydantic import BeforeValidator, ConfigDict, Field, ValidationError, validate_call
from pydantic_core import PydanticCustomError

P = ParamSpec("P")
R = TypeVar("R")
LONGEST = 200  # characters of a value that a message shows


def _number(value: Any) -> Any:
    if isinstance(value, bool | np.bool_):  # which Python and pydantic take for 1 and 0
        raise PydanticCustomError("number", "must be a number")
    return value.item() if isinstance(value, np.generic) else value


_Number = BeforeValidator(_number)
PositiveInt = Annotated[int, _Number, Field(ge=1)]
NonNegativeInt = Annotated[int, _Number, Field(ge=0)]
Number = Annotated[float, _Number, Field(allow_inf_nan=False)]
PositiveFloat = Annotated[float, _Number, Field(gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, _Number, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, _Number, Field(gt=0, le=1)]
Fraction = Annotated[float, _Number, Field(ge=0, lt=1)]
Sizes = Sequence[PositiveInt]  # a shape, or the widths of layers


class ArgumentError(ValueError):
    """Arguments that cannot be used; the message has a line for each."""


class _Validated:
    """A function whose arguments are checked; the checks are built at the first call, not at import."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.signature = inspect.signature(function)

    @cached_property
    def checked(self) -> Callable[..., Any]:
        return validate_call(config=ConfigDict(arbitrary_types_allowed=True))(self.function)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.signature.bind(*args, **kwargs)  # Python's own error for a name that is no argument
        try:
            return self.checked(*args, **kwargs)
        except ValidationError as error:
            names = list(self.signature.parameters)
            raise ArgumentError("\n".join(_lines(error, names))) from None


def validated(function: Callable[P, R]) -> Callable[P, R]:
    """Checks the arguments of a function or constructor against its annotations, all at once.

    A constructor's arguments are kept with the object, for `arguments_of`: a run made in Python writes them down.

    Raises:
        ArgumentError: When called: a line for each argument that is out of range, with its value.

    >>> @validated
    ... def half(size: PositiveInt, share: Share = 0.5) -> float:
    ...     return size * share
    >>> half(4)
    2.0
    >>> half(0, share=2)
    Traceback (most recent call last):
        ...
    pyrovae.validation.ArgumentError: size must be >= 1, got 0
    share must be <= 1, got 2
    """
    checked = _Validated(function)

    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if function.__name__ == "__init__" and getattr(type(args[0]), "__init__", None) is call:
            given = dict(list(checked.signature.bind(*args, **kwargs).arguments.items())[1:])
            args[0].__dict__["_arguments"] = given  # type: ignore[attr-defined]
        return checked(*args, **kwargs)

    return update_wrapper(call, function)


def arguments_of(thing: object) -> Mapping[str, Any] | None:
    """The arguments that the constructor of `thing` was given, if it is `validated`; those left out are left out here.

    >>> from pyrovae.nets import MLP
    >>> arguments_of(MLP((4,), (2,), widths=(8,)))
    {'in_shape': (4,), 'out_shape': (2,), 'widths': (8,)}
    """
    return vars(thing).get("_arguments")


def problem(error: Mapping[str, Any]) -> str:
    """What is wrong by one of pydantic's errors, and the value: `must be >= 1, got 0`."""
    kind, context = error["type"], error.get("ctx", {})
    number = {"int_type", "int_parsing", "float_type", "float_parsing"}
    if kind in number or kind == "int_from_float":
        text = "must be a whole number" if kind.startswith("int") else "must be a number"
    elif kind in {"greater_than", "greater_than_equal", "less_than", "less_than_equal"}:
        sign = (">" if kind.startswith("greater") else "<") + ("=" if kind.endswith("equal") else "")
        text = f"must be {sign} {next(iter(context.values()))}"
    elif kind == "finite_number":
        text = "must be finite"
    elif kind == "literal_error":
        text = f"must be {context['expected'].replace(chr(39), '')}"
    elif kind == "is_instance_of":
        text = f"must be a {context['class'].rpartition('.')[2]}"
    else:
        text = error["msg"][0].lower() + error["msg"][1:]
    return f"{text}, got {shown(error['input'])}"


def shown(value: Any) -> str:
    """`repr` of a value for a message, cut to 200 characters; of an object of a class, the class."""
    plain = isinstance(value, str | int | float | bool | None | list | tuple | dict)
    text = repr(value) if plain else type(value).__name__
    return text if len(text) <= LONGEST else text[:LONGEST] + "…"


def _lines(error: ValidationError, names: list[str]) -> list[str]:
    by_place: dict[str, list[str]] = {}
    for item in error.errors():
        first, *rest = item["loc"]
        name = names[first] if isinstance(first, int) else str(first)
        inside = [str(part) for part in rest if isinstance(part, int)]  # an entry of a sequence
        place = name + "".join(f"[{part}]" for part in inside)
        by_place.setdefault(place, []).append(problem(item))
    # A union reports each of its options: one line.
    return [f"{place} {either(found)}" for place, found in by_place.items()]


def either(found: list[str]) -> str:
    """One text of several of `problem`, of the options that a value may be: `must be a number or auto, got 'x'`."""
    texts, got = zip(*(text.rsplit(", got ", 1) for text in dict.fromkeys(found)), strict=True)
    options = dict.fromkeys([texts[0], *(text.removeprefix("must be ") for text in texts[1:])])
    return f"{' or '.join(options)}, got {got[0]}"
