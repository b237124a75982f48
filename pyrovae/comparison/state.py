"""What is there of a comparison, and whether the rest can be run."""

import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from ..config import Config, ConfigError, build_data, build_model, changes
from ..config.build import check_views
from ..data import Dataset
from ..files import check_writable
from ..runs.load import read_config, read_summary
from ..training import CheckpointError, is_of
from .plan import Cell

State = Literal["new", "interrupted", "trained", "done"]


def state(run_dir: Path, evaluation: Mapping[str, Any]) -> State:
    """Whether a run is yet to start, to go on, to be evaluated with these settings (as JSON has them), or done."""
    if not read_summary(run_dir):
        return "interrupted" if (run_dir / "checkpoints" / "last.ckpt").is_file() else "new"
    try:
        found = {**json.loads((run_dir / "evaluation.json").read_text(encoding="utf-8"))["settings"]}
    except (OSError, ValueError, KeyError, TypeError):  # not there, or cut off while it was written
        return "trained"
    return "done" if evaluation.items() <= found.items() else "trained"


def described(cells: Sequence[Cell], evaluation: Mapping[str, Any]) -> str:
    """A line for each cell: how far it is, and what it is."""
    states = [state(cell.run_dir, evaluation) for cell in cells]
    num, lines = Counter(states), list[str]()
    for found, cell in zip(states, cells, strict=True):
        config, guide = cell.config, cell.config.guide
        refiner = getattr(guide, "refiner", None)
        parts = {"guide": guide.type, "family": guide.family.type if hasattr(guide, "family") else None}
        parts |= {"refiner": refiner and refiner.type, "K =": getattr(refiner or guide, "num_steps", None)}
        told = [f"{name} {value}" for name, value in parts.items() if value is not None]
        what = ", ".join([config.dataset.name, *told, f"epochs {config.train.epochs}"])
        lines.append(f"  {found:<12} {cell.name}: {what}")
    to_train, to_evaluate = num["new"] + num["interrupted"], len(cells) - num["done"]
    return "\n".join(
        [f"{len(cells)} cells: {num['done']} done, {to_train} to train, {to_evaluate} to evaluate", *lines]
    )


def check_builds(cells: Iterable[Cell]) -> None:
    """Builds model and guide of each scheme once: pairs that cannot work are found before anything is trained."""
    read: dict[str, Dataset] = {}
    for config in {cell.scheme: cell.config for cell in cells}.values():
        likelihood = getattr(config.model, "likelihood", None)  # which a model of one's own may not have
        key = json.dumps([config.dataset.model_dump(mode="json"), likelihood and likelihood.type])
        data = read[key] = read[key] if key in read else build_data(config)
        check_views(config, data)
        build_model(config, data.x_shape)


def check_unchanged(cells: Iterable[Cell]) -> None:
    """Checks that runs which are there are those that are planned, of the same data wherever they lie by now."""
    sketches: dict[str, list[float]] = {}
    lines = []
    for cell in (cell for cell in cells if (cell.run_dir / "config.yaml").is_file()):
        before = read_config(cell.run_dir, allow=cell.config.own_modules)
        found = changes(before, cell.config)
        for key in ("path", "root") if not found else ():
            old, new = (getattr(config.dataset, key, None) for config in (before, cell.config))
            if old != new and not _is_of_its_data(cell, key, sketches):
                found.append((f"dataset.{key}", old, new))
        remedy = f"name another --out, or remove {cell.run_dir}"
        lines += [f"{key}: {cell.name} was run with {old}, and is {new} now; {remedy}" for key, old, new in found]
    if lines:
        raise ConfigError("\n".join(lines))


def _is_of_its_data(cell: Cell, key: str, sketches: dict[str, list[float]]) -> bool:
    """Whether what lies at the planned place is what the run was trained on; a path alone tells nothing."""
    sketch, what = read_summary(cell.run_dir).get("sketch"), cell.config.dataset.model_dump_json()
    if not sketch:  # stopped; a root is the same data set's, as a rule
        return key == "root"
    if what not in sketches:
        sketches[what] = build_data(cell.config).sketch()
    return is_of(sketch, sketches[what])


@contextmanager
def locked(file: Path, seconds: float = 0) -> Iterator[None]:
    """Holds a lock, on this file; waits for it so long; a `ConfigError` says that another process has it."""
    check_writable(file.parent, "name another place with --out")
    try:
        held = FileLock(file).acquire(seconds)
    except Timeout as error:
        remedy = "wait for it, or name another --out"
        raise ConfigError(f"{file.parent}: a comparison is at work there; {remedy}") from error
    with held:
        yield


def cells_of_runs(run_dirs: Sequence[Path], allow: Collection[str] = ()) -> list[Cell]:
    """A cell for each finished run; runs on the same data that differ in nothing learned but the seed are one scheme.

    Schemes are named as their runs are, with more of the path where two would share a name. `allow`: packages beside
    pyrovae that their components may come from.

    Raises:
        CheckpointError: A folder that holds no finished run, or components from packages not allowed.
        ConfigError: A run named twice, or two schemes whose names make one file's name.
    """
    firsts: dict[str, tuple[Path, Config]] = {}  # run of each scheme
    cells: dict[str, Cell] = {}
    if twice := [path for path, count in Counter(path.resolve() for path in run_dirs).items() if count > 1]:
        raise ConfigError(f"{twice[0]}: named twice; name each run once")
    for path in run_dirs:
        if not read_summary(path):
            remedy = "name a finished run, runs/ivae/version_0 say"
            raise CheckpointError(f"{path} holds no summary.json that can be read; {remedy}")
        config = read_config(path, allow=allow)
        own = [config.train.name, f"{config.train.name}/{path.name}", str(path)]
        known = [name for name, first in firsts.items() if _is_one_scheme(first, (path, config))]
        name = next(name for name in [*known, *own] if name in known or name not in firsts)
        firsts.setdefault(name, (path, config))
        if any((cell.scheme, cell.seed) == (name, config.train.seed) for cell in cells.values()):
            name = str(path)  # the same training twice
        cell = Cell(name, config.train.seed, config, path)
        if (other := cells.setdefault(cell.file_name, cell)) is not cell:
            raise ConfigError(f"{other.run_dir}, {path}: names too much alike; move one of the folders")
    return [*cells.values()]


def _is_one_scheme(one: tuple[Path, Config], other: tuple[Path, Config]) -> bool:
    sketches = [read_summary(path).get("sketch") for path, _ in (one, other)]
    places = [[getattr(config.dataset, key, None) for key in ("path", "root")] for _, config in (one, other)]
    same_data = is_of(*sketches) if all(sketches) else places[0] == places[1]
    return same_data and not changes(one[1], other[1], ignoring=["train.seed"])
