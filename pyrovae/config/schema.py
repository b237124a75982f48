"""The sections of the YAML file, and the one schema that fits the components that a file names.

A component block names a class and its settings: `refiner: {type: svi, num_steps: 20}`. What may stand in it is the
class's own signature: arguments by keyword alone are settings, those by position are wired up in `build.py`. A setting
whose annotation is a base class of components, `objective: Objective = ELBO()`, is a block within the block.
"""

import inspect
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, create_model
from pydantic_core import PydanticCustomError

from ..capture import Engine
from ..training.optimizers import LEARNING_RATES, LRSchedule, OptimizerName
from ..validation import Fraction, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from .components import DEFAULTS, PRESETS, ConfigError, block_of, kind_of, resolve, signature, tag_of

COMMON: dict[str, dict[str, Any]] = {  # keys of every block of a kind, with their defaults
    "dataset": {
        "batch_size": (PositiveInt, 128),
        "num_workers": (NonNegativeInt, 0),
        "invert": (bool, False),
        "augment": (Any, None),
        "normalize": (Any, None),
    },
    "model": {"lr": (PositiveFloat, LEARNING_RATES["muon"]), "beta": (NonNegativeFloat, 1.0)},
}
PARTS = {  # blocks within a section, by key, and their kinds; of a model and a guide those that it takes by position
    "dataset": {"augment": "augment", "normalize": "normalize"},
    "model": {**{name: name for name in ("prior", "likelihood", "encoder", "decoder")}, "layers": "decoder"},
    "guide": {"family": "family", "refiner": "refiner"},
    "train": {"beta_warmup": "warmup", "aggressive": "aggressive", "objective": "objective"},
}
_MAY_LACK = ("augment", "normalize", "beta_warmup", "aggressive")


class Strict(BaseModel):
    """A section without room for unknown keys."""

    model_config = ConfigDict(
        extra="forbid", validate_default=True, arbitrary_types_allowed=True, protected_namespaces=()
    )


class Block(Strict):
    """What names a class or function, with its settings."""

    __kind__: ClassVar[str]
    __target__: ClassVar[Any]


class EarlyStoppingConfig(Strict):
    """`train.early_stopping:` as a block."""

    monitor: str = "val/elbo"
    patience: PositiveInt = 10
    min_delta: NonNegativeFloat = 0.0
    start_epoch: NonNegativeInt = 0


class TrainConfig(Strict):
    """`train:`; what is `Any` here is a block, or none."""

    epochs: PositiveInt = 20
    save_dir: str = "runs"
    name: str = "run"
    seed: NonNegativeInt = 0
    start_from_data: bool = True
    use_amp: bool = False
    early_stopping: Any = False
    optimizer: OptimizerName = "muon"
    weight_decay: NonNegativeFloat | None = None
    lr_schedule: LRSchedule = "cosine"
    lr_warmup: Fraction = 0.0
    ema_decay: Fraction | None = None
    gradient_clip: PositiveFloat | None = None
    beta_warmup: Any = None
    schedules: Any = {}
    aggressive: Any = None
    objective: Any = "elbo"
    eval_particles: PositiveInt = 1
    checkpoint_every: PositiveInt | None = None
    log_every: PositiveInt = 25
    refine_from: NonNegativeInt = 0
    warm_start: bool = False
    engine: Engine = "auto"
    num_threads: PositiveInt | None = None
    accelerator: Literal["auto", "cpu", "gpu", "mps"] = "auto"
    devices: PositiveInt | Literal["auto"] = 1
    num_nodes: PositiveInt = 1
    strategy: str = "auto"


class Config(Strict):
    """The whole file; `check` makes a subclass whose sections have the settings of the components that are named.

    >>> from pyrovae.config import check
    >>> check({"guide": "svi"}).guide.refiner.num_steps
    10
    """

    note: ClassVar[str] = ""  # what `model.type` filled in, and what it would have but for what is written
    dataset: Any
    model: Any
    guide: Any
    train: Any

    @property
    def own_modules(self) -> list[str]:
        """The modules outside the library that components come from."""
        names = [getattr(block, tag_of(block.__kind__)) for block in blocks_of(self)]
        modules = dict.fromkeys(name.partition(":")[0] for name in names if ":" in name)
        return [module for module in modules if module.partition(".")[0] != "pyrovae"]


def blocks_of(section: Any) -> Iterator[Block]:
    """Every component block of a section, itself included."""
    if isinstance(section, Block):
        yield section
    for name in type(section).model_fields if isinstance(section, BaseModel) else ():
        yield from blocks_of(getattr(section, name))


def fitted(values: Mapping[str, Any], allow: Collection[str] | None = None) -> tuple[type[Config], dict[str, Any]]:
    """The schema of raw values, and these with every block written out.

    First the classes that they name are found, as `resolve` does, then their signatures say what may stand there.
    """
    values, note = _preset({key: value for key, value in values.items() if value is not None})
    reader, model, train = _Reader(allow), values["model"], values.get("train")
    if isinstance(model, Mapping) and isinstance(train, Mapping):  # the optimizer's own learning rate, if none is given
        usual = LEARNING_RATES.get(str(train.get("optimizer", "muon")))
        values["model"] = {**({} if usual is None else {"lr": usual}), **model}
    sections = {kind: reader.block(kind, values.get(kind)) for kind in ("dataset", "model", "guide")}
    schema, written = _model("Config", Config, {**sections, "train": reader.train(values.get("train", {}))})
    schema.note = note
    return schema, {**values, **written}


def _model(name: str, base: Any, blocks: Mapping[str, tuple[Any, Any]]) -> tuple[Any, dict[str, Any]]:
    """A schema with a field for each block, which must be there, and the values that go with it."""
    fields: dict[str, Any] = {key: (hint, ...) for key, (hint, _) in blocks.items()}
    return create_model(name, __base__=base, **fields), {key: value for key, (_, value) in blocks.items()}


def _preset(values: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """`values` with what `model.type` fills in where nothing is written, and what it filled in or found otherwise."""
    model, guide = (_as_block(kind, values.get(kind)) for kind in ("model", "guide"))
    if not isinstance(model, Mapping) or not isinstance(guide, Mapping):
        return {**values, "model": model, "guide": guide}, ""
    values = {**values, "model": (model := {**model}), "guide": guide}
    name, made, kept = model.get("type", DEFAULTS["model"]), [], []
    for key, default in (PRESETS[name][1] if isinstance(name, str) and name in PRESETS else {}).items():
        section = values if key == "guide" else model
        written = _as_block(key, section.get(key))
        given = written.get("type") if isinstance(written, Mapping) else written
        if given is None:
            made.append(f"{key} {default}")
            section[key] = {"type": default, **written} if isinstance(default, str) else default
        elif given != default and isinstance(given, str):
            kept.append(f"{key} {given}, not {default}")
    parts = [f"fills in {', '.join(made)}"] * bool(made) + [f"leaves as written {', '.join(kept)}"] * bool(kept)
    return values, f"model.type: {name} {'; '.join(parts)}" if parts else ""


def _as_block(kind: str, value: Any) -> Any:
    return {tag_of(kind): value} if isinstance(value, str) else {} if value is None else value


def _refuse(kind: str, text: str, wrong: Callable[[Any], bool] = lambda value: True) -> BeforeValidator:
    """What says `text` of a value that is wrong."""

    def checked(value: Any) -> Any:
        if wrong(value):
            raise PydanticCustomError(kind, "{text}", {"text": text})  # type: ignore[arg-type]
        return value

    return BeforeValidator(checked)


def _refused(text: str) -> Any:
    """The annotation of what cannot be right, whatever it is."""
    return Annotated[Any, _refuse("component", text)]


_ONE = "a list is for a model of layers, vae_hierarchical; here it is one number"
_ONE_LAYER = Annotated[PositiveInt, _refuse("z_dim", _ONE, lambda value: isinstance(value, list))]
_MANY = "must be a list of two or more, bottom first: [50, 20]"
_LAYERS = Annotated[
    list[PositiveInt], _refuse("z_dim", _MANY, lambda value: not isinstance(value, list) or len(value) < 2)
]


class _Reader:
    """Makes the annotations of blocks, and the values that go with them."""

    def __init__(self, allow: Collection[str] | None) -> None:
        self.allow = allow

    def block(self, kind: str, value: Any, default: Any = None) -> tuple[Any, Any]:
        """Of one block; a bare name stands for one, and one without a name is of the default's class."""
        tag, value, start = tag_of(kind), _as_block(kind, value), _as_block(kind, default or DEFAULTS[kind])
        if not isinstance(value, Mapping):
            return _refused(": must be a name, or a block of keys"), value
        value = {**(start if value.get(tag, start[tag]) == start[tag] else {}), **value}
        name = value[tag]
        if not isinstance(name, str):
            return _refused(f".{tag}: must be a name"), value
        try:
            target = resolve(kind, name, self.allow)
        except ConfigError as error:
            return _refused(f".{tag}: {error}"), value
        positional, settings = signature(target)
        fields: dict[str, Any] = {tag: (str, name), **self.common(kind, value, positional)}
        for key, (hint, initial) in settings.items():
            required, inner = initial is inspect.Parameter.empty, kind_of(hint)
            fields[key] = (hint, ... if required else initial)
            if inner is not None and (key in value or not required):
                try:
                    known = None if required or initial is None else block_of(inner, initial)
                except ValueError:  # a default that cannot be written down stays as it is
                    if key not in value:
                        continue
                    known = {tag_of(inner): f"{type(initial).__module__}:{type(initial).__qualname__}"}
                fields[key] = self.within(value, key, inner, known, may_lack=type(None) in get_args(hint))
        schema = create_model(f"{kind} {name}", __base__=Block, **fields)
        schema.__kind__, schema.__target__ = kind, staticmethod(target)  # or a function would become a method
        return schema, value

    def within(self, value: dict[str, Any], key: str, kind: str, default: Any = None, *, may_lack: bool) -> Any:
        """The field of a block within another, or None in its place; `value[key]` is written out."""
        if may_lack and (value[key] in (None, False, "none") if key in value else default is None):
            value[key] = None
            return type(None), None
        hint, value[key] = self.block(kind, value.get(key), default)
        return hint, ...

    def common(self, kind: str, value: dict[str, Any], positional: Collection[str] = ()) -> dict[str, Any]:
        """Fields that a signature has not as settings: those of parts, and those that all of a kind have."""
        fields, taken = dict[str, Any](), {*positional}
        if kind == "model":
            layered = bool({"z_dims", "layers"} & taken)
            if layered or {"z_dim", "prior", "decoder"} & taken:
                fields["z_dim"] = (_LAYERS, [50, 20]) if layered else (_ONE_LAYER, 50)
            taken.add("encoder")  # the guide's, but a network as the decoder is
        fields |= COMMON.get(kind, {})
        for key, part in PARTS.get(kind, {}).items():
            if key in taken or kind in ("dataset", "train"):
                fields[key] = self.within(value, key, part, may_lack=key in _MAY_LACK)
        if kind == "dataset" and value["augment"] is True:
            fields["augment"] = _refused(": say what: {flip: true, shift: 2}"), None
        return fields

    def train(self, value: Any) -> tuple[Any, Any]:
        """Of `train:`."""
        if not isinstance(value, Mapping):
            return _refused(": must be a block of keys"), value
        value = {**value, **({"aggressive": {}} if value.get("aggressive") is True else {})}
        stops = isinstance(value.get("early_stopping"), Mapping)
        fields = {"early_stopping": (EarlyStoppingConfig if stops else bool, False), **self.common("train", value)}
        if isinstance(places := value.get("schedules") or {}, Mapping):  # place -> schedule
            made = {place: self.block("warmup", schedule) for place, schedule in places.items()}
            schema, value["schedules"] = _model("Schedules", Strict, made)
            fields["schedules"] = schema, ...
        else:
            fields["schedules"] = _refused(": must be a block, place: schedule"), None
        return create_model("Train", __base__=TrainConfig, **fields), value
