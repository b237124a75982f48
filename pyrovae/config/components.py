"""Components: what a name in YAML stands for, `svi` or `my_package.guides:MyGuide`."""

import difflib
import inspect
import re
from collections.abc import Collection, Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType, UnionType
from typing import Any, NamedTuple, Union, get_args, get_origin, get_type_hints

from torch import nn

from .. import data, families, guides, inference, models, nets, training
from ..data import DataError
from ..families import DiagonalNormal, Family, Joint
from ..models import VAE, HierarchicalVAE, likelihoods, priors
from ..training import CheckpointError
from ..validation import arguments_of


class ConfigError(Exception):
    """A configuration that cannot be used; the message has a line for each thing wrong."""


class Setting(NamedTuple):
    """An argument that YAML may set."""

    hint: Any
    default: Any  # inspect.Parameter.empty, where it must be given


# What may be taken by position: made by the builder, which knows shapes, or named by a block of its own.
WIRED = {"x_shape", "event_dim", "z_dim", "z_dims", "in_shape", "out_shape", "model", "prior", "decoder"}
WIRED |= {"likelihood", "layers", "family", "encoder", "refiner"}


def signature(make: Any) -> tuple[dict[str, bool], dict[str, Setting]]:
    """What a class or function takes by position, and whether it must; and its settings, by keyword alone.

    >>> from pyrovae.nets import MLP
    >>> positional, settings = signature(MLP)
    >>> positional, list(settings)
    ({'in_shape': True, 'out_shape': True}, ['widths', 'activation'])
    """
    target = make.__init__ if inspect.isclass(make) else make
    hints = get_type_hints(target, include_extras=True)
    parameters = list(inspect.signature(target).parameters.values())
    positional, settings = dict[str, bool](), dict[str, Setting]()
    for p in parameters[inspect.isclass(make) :]:  # without self
        if p.kind is p.KEYWORD_ONLY:
            settings[p.name] = Setting(hints.get(p.name, Any), p.default)
        elif p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD):
            positional[p.name] = p.default is p.empty
        elif p.kind is p.VAR_POSITIONAL and parameters[-1].kind is not p.VAR_KEYWORD:  # as nn.Module itself has
            positional[f"*{p.name}"] = True
    return positional, settings


def unfilled(make: Any, kind: str = "") -> list[str]:
    """What a class or function must be given by position, and nobody gives: one of its own kind, say."""
    return [name for name, needed in signature(make)[0].items() if needed and name not in WIRED - {kind}]


def _abstract(thing: Any) -> list[str]:
    """The methods that a class leaves open."""
    # Not inspect.isabstract, which only knows classes whose metaclass is ABCMeta; a PyroModule's is another.
    return [name for name in dir(thing) if getattr(getattr(thing, name, None), "__isabstractmethod__", False)]


def _fits(thing: Any, base: type) -> bool:
    """Whether it is a class of `base`, or a function that says it returns one."""
    if inspect.isfunction(thing):
        thing = get_type_hints(thing).get("return")
    return inspect.isclass(thing) and issubclass(thing, base)


def _members(
    package: ModuleType, role: str, base: type = nn.Module, functions: bool = False, without: tuple[str, ...] = ()
) -> dict[str, Any]:
    """The concrete classes of `base` that a package exports, by YAML name: `SVIRefiner` in role `Refiner` is `svi`."""
    found = {}
    for name, thing in sorted(vars(package).items()):
        own = getattr(thing, "__module__", "").startswith(package.__name__) and not name.endswith(without)
        made = own and inspect.isfunction(thing) is functions and _fits(thing, base) and not _abstract(thing)
        if made and not unfilled(thing, role.lower()):
            words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name.removesuffix(role))
            found[words.lower()] = thing
    return found


def joint(*, base: Family = DiagonalNormal) -> Joint:  # type: ignore[assignment]
    """A `base` for each latent site, on the site's support: for models of several, or of one of any shape."""
    raise ConfigError("made from the sites of a model, by build_model")


def unnamed(*, what: str) -> Any:
    """Stands for a part of a run made in Python that no name stands for."""
    remedy = "build model and guide as in training, and pyrovae.load(run_dir, model=..., guide=...)"
    raise CheckpointError(f"{what}; {remedy}")


def unnamed_data(*, what: str) -> Any:
    """Stands for data of a run made in Python that no name stands for."""
    made = f"the run was made in Python, on data that no name stands for ({what})"
    raise DataError(f"dataset: {made}; there give data as well, pyrovae.evaluate_run(run_dir, data) say")


# Of each kind: what a class of one's own must be, the name that stands where none is written, and all names.
_KINDS: dict[str, tuple[type, str, dict[str, Any]]] = {
    "dataset": (data.Dataset, "mnist", _members(data, "", data.Dataset, functions=True)),
    "augment": (data.Augmentation, "augmentation", {"augmentation": data.Augmentation}),
    "normalize": (data.Normalization, "standardize", dict(data.NORMALIZATIONS)),
    "model": (nn.Module, "vae_mlp", _members(models, "")),
    "encoder": (nn.Module, "mlp", _members(nets, "Encoder", without=("Decoder",))),
    "decoder": (nn.Module, "mlp", _members(nets, "Decoder", without=("Encoder",))),
    "prior": (nn.Module, "standard_normal", _members(priors, "")),
    "likelihood": (likelihoods.Likelihood, "bernoulli", _members(likelihoods, "", likelihoods.Likelihood)),
    "family": (Family, "diagonal_normal", {**_members(families, "", Family), "joint": joint}),
    "guide": (guides.Guide, "amortized", _members(guides, "Guide", guides.Guide)),
    "refiner": (inference.Refiner, "svi", _members(inference, "Refiner", inference.Refiner)),
    "objective": (inference.Objective, "elbo", _members(inference, "", inference.Objective)),
    "aggressive": (training.AggressiveTraining, "aggressive", {"aggressive": training.AggressiveTraining}),
    "warmup": (training.Schedule, "linear", _members(training, "Warmup", training.Schedule)),
}
BASES = {kind: base for kind, (base, _, _) in _KINDS.items()}
DEFAULTS = {kind: name for kind, (_, name, _) in _KINDS.items()}
COMPONENTS = {kind: names for kind, (_, _, names) in _KINDS.items()}
# Further names of a model: its class, and what they fill in where nothing is written.
_OF_LAYERS = {"z_dim": [50, 20], "encoder": "mlp", "decoder": "mlp", "layers": "mlp", "guide": "amortized"}
PRESETS: dict[str, tuple[type[nn.Module], dict[str, Any]]] = {
    "vae_mlp": (VAE, {"encoder": "mlp", "decoder": "mlp", "guide": "amortized"}),
    "vae_conv": (VAE, {"encoder": "conv", "decoder": "conv", "guide": "amortized"}),
    "ivae_iterative": (VAE, {"encoder": "mlp", "decoder": "mlp", "guide": "semi_amortized"}),
    "vae_hierarchical": (HierarchicalVAE, _OF_LAYERS),
}


def kind_of(hint: Any) -> str | None:
    """The kind of component that an argument takes, by its annotation; None of others, and of networks.

    >>> from pyrovae.inference import Objective
    >>> kind_of(Objective), kind_of(Family | None), kind_of(int)
    ('objective', 'family', None)
    """
    options = get_args(hint) if get_origin(hint) in (Union, UnionType) else [hint]
    classes = [option for option in options if option is not type(None)]
    for kind, base in BASES.items():
        if base is not nn.Module and all(inspect.isclass(made) and issubclass(made, base) for made in classes):
            return kind
    return None


def tag_of(kind: str) -> str:
    """The key of a block that names the class."""
    return "name" if kind == "dataset" else "type"


def nearest(name: str, valid: Collection[str]) -> str:
    """The end of an error line: what was perhaps meant, and what can be.

    >>> nearest("adma", ["adam", "sgd"])
    'did you mean adam? valid: adam, sgd'
    """
    close = difflib.get_close_matches(name, valid, n=1)
    return (f"did you mean {close[0]}? " if close else "") + f"valid: {', '.join(valid)}"


def resolve(kind: str, name: str, allow: Collection[str] | None = None) -> Any:
    """The class or function of this name: one of `COMPONENTS[kind]`, or `package.module:Class`, imported.

    `allow` names the packages beside pyrovae that may be imported; any, by default.

    Raises:
        ConfigError: An unknown name, one that cannot be imported, or a class of another kind.
        CheckpointError: A package that is not among those allowed.

    >>> resolve("guide", "pyrovae.guides:SVIGuide") is resolve("guide", "svi")
    True
    """
    if name == "unnamed":
        return unnamed_data if kind == "dataset" else unnamed
    if ":" in name:
        return _imported(kind, name, allow)
    presets = {preset: make for preset, (make, _) in PRESETS.items()} if kind == "model" else {}
    names = {**presets, **COMPONENTS[kind]}
    if name not in names:
        raise ConfigError(f"{name!r} is unknown; {nearest(name, names)}")
    return names[name]


def _imported(kind: str, name: str, allow: Collection[str] | None) -> Any:
    module, _, attribute = name.partition(":")
    if allow is not None and not any(f"{module}.".startswith(f"{package}.") for package in ("pyrovae", *allow)):
        package = module.partition(".")[0]
        remedy = f'if you trust it, add --allow {package}, or allow=["{package}"] in Python'
        raise CheckpointError(
            f"names {name}, and a run's folder imports nothing outside pyrovae without your word; {remedy}"
        )
    try:
        owner = import_module(module)
    except Exception as error:  # whatever a module of the user's raises
        where = f"; {Path.cwd()} and PYTHONPATH were searched" if isinstance(error, ModuleNotFoundError) else ""
        raise ConfigError(f"{name!r} cannot be imported ({type(error).__name__}: {error}){where}") from error
    base, thing = BASES[kind], getattr(owner, attribute, None)
    if thing is None:
        there = [word for word, other in vars(owner).items() if inspect.isclass(other) and _fits(other, base)]
        raise ConfigError(f"{name!r}: {module} has no {attribute}; {nearest(attribute, there)}")
    try:
        if not _fits(thing, base):
            need = f"write class {attribute}({base.__name__}), or a function -> {base.__name__}"
            raise ConfigError(f"{name!r} is no {base.__name__}; {need}")
        lacking = unfilled(thing, kind)
    except NameError as error:
        raise ConfigError(f"{name!r}: its annotations cannot be read ({error})") from error
    if left := _abstract(thing):
        raise ConfigError(f"{name!r} is abstract; it has yet to write {', '.join(left)}")
    if lacking:
        remedy = f"make it a keyword (after *), or one of {', '.join(sorted(WIRED))}"
        raise ConfigError(f"{name!r} takes {', '.join(lacking)} by position; {remedy}")
    return thing


def name_of(kind: str, thing: Any) -> str:
    """The name by which `resolve` finds a class or function.

    Raises:
        ValueError: One that cannot be imported: made in a script or within a function.

    >>> name_of("guide", guides.SVIGuide)
    'svi'
    """
    for name, make in COMPONENTS[kind].items():
        if make is thing:
            return name
    module, name = thing.__module__, thing.__qualname__
    if module == "__main__" or "." in name:
        raise ValueError(f"{name} is made in a script or a function; put it into a module")
    return f"{module}:{name}"


def block_of(kind: str, thing: Any) -> dict[str, Any]:
    """A component as a block of YAML: its name, and the arguments that it was made with.

    A validated constructor keeps its arguments; of other classes each is the attribute of its name, as in scikit-learn.

    Raises:
        ValueError: What cannot be written down, and why.

    >>> block_of("objective", inference.IWAE(num_particles=5))["num_particles"]
    5
    """
    if inspect.isclass(thing):  # where a factory is taken
        return {tag_of(kind): name_of(kind, thing)}
    make, given = type(thing), arguments_of(thing)
    if lacking := unfilled(make, kind):
        raise ValueError(f"{make.__name__} takes {', '.join(lacking)} by position, which nothing fills in")
    block: dict[str, Any] = {tag_of(kind): name_of(kind, make)}
    for key, setting in signature(make)[1].items():
        if given is None and not hasattr(thing, key):
            raise ValueError(f"{make.__name__} keeps no attribute {key}, so that nobody knows what it was made with")
        value = getattr(thing, key) if given is None else given.get(key, setting.default)
        inner = kind_of(setting.hint)
        block[key] = plain(value) if inner is None or value is None else block_of(inner, value)
    return block


def plain(value: Any) -> Any:
    """A value as YAML holds it; a ValueError of one that it does not hold.

    >>> plain((1, 2.0, Path("data")))
    [1, 2.0, 'data']
    """
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Path):
        return str(value)
    raise ValueError(f"YAML holds no {type(value).__name__}")
