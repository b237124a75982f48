"""How good a posterior is: of a run, with the results left in its folder, or of a model and a guide at hand."""

import json
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from pydantic import ValidationError
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from ..config import Config, ConfigError, build_data, load_config
from ..config.components import name_of, nearest
from ..data import Dataset
from ..data.dataset import SPLITS
from ..data.normalization import as_in
from ..data.shifts import SHIFTS, can_shift, shifted
from ..evaluation.evaluate import Sample
from ..evaluation.evaluate import evaluate as measured
from ..evaluation.settings import EvaluationSettings
from ..evaluation.subject import Measurement, attempt
from ..files import check_writable, replacing
from ..guides import Guide
from ..training.checks import check_shapes
from ..validation import problem
from .folder import device_of, threads_of, versions
from .load import load, open_run

_SUFFIX = ".evaluation"  # of the events file
OCCLUDED = (0.1, 0.3, 0.5)  # shares of the image, for the curve of gaps against occlusion


def evaluate_run(
    run_dir: str | Path, data: Dataset | None = None,
    *, overrides: Sequence[str] = (), allow: Collection[str] = (), progress: bool = False, **settings: Any,
) -> dict[str, Any]:  # fmt: skip
    """Measures a run on its own data: bounds, gaps, trajectories, representation, calibration.

    Writes `evaluation.json`, `evaluation.npz`, `figures/` and curves for TensorBoard into the run's folder, and returns
    what `evaluation.json` holds. `settings` are `EvaluationSettings`'.

    Args:
        data: Of a run made in Python on data that no file names.
        overrides: Of the data set, `dataset.root=DIR` say.
        allow: Packages beside pyrovae that the run's components may come from, as `pyrovae.load` has it.

    Raises:
        CheckpointError: No run there, a damaged checkpoint, or components from packages not allowed.
        ConfigError: Settings or overrides that cannot be followed.
        DataError, OSError: Data that cannot be read, or a folder that cannot be written.

    >>> evaluate_run("runs/none")
    Traceback (most recent call last):
    pyrovae.training.checkpoint.CheckpointError: runs/none holds no config.yaml; name a folder that ...
    """
    run_dir, chosen = Path(run_dir), check_settings(settings)
    if data is None:
        trained, data = open_run(run_dir, chosen.checkpoint, overrides, allow)
    else:
        trained = load(run_dir, chosen.checkpoint, allow=allow)
        trained.check(data)
    check_writable(run_dir / "figures", "make it writable, or copy the run")
    path = run_dir / "summary.json"
    summary = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}  # not there, if cut off
    origin = {"run": str(run_dir), "train_seconds": summary.get("seconds")}
    result, found = _evaluate(trained.model, trained.guide, data, trained.config, origin, chosen, progress)
    write(run_dir, result, found)
    return result


def evaluate(
    model: nn.Module, guide: Guide, data: Dataset,
    *, config: Config | None = None, progress: bool = False, **settings: Any,
) -> dict[str, Any]:  # fmt: skip
    """Measures a model and a guide on a data set, without a folder; returns what `evaluation.json` of a run holds.

    Model and guide, trained or not, are moved to the GPU, if there is one and `config`, of the training, does not say
    otherwise. `settings` are `EvaluationSettings`'; a ConfigError, if they cannot be followed, and a ValueError for
    data of another shape than the model's.

    >>> import pyrovae as pv
    >>> data = pv.data.Dataset("zeros", "made", *torch.zeros(3, 20, 6))
    >>> model, guide = pv.config.build_model(pv.config.check({"model": {"z_dim": 3}}), (6,))
    >>> few = {"num_samples": 5, "num_annealed": 0, "num_simulated": 0, "max_steps": 5, "num_data": 4}
    >>> found = pv.evaluate(model, guide, data, splits=["test"], shifts=[], **few)
    >>> found["splits"]["test"]["elbo"]["mean"] < 0
    True
    """
    check_shapes(model, guide, data.take("test", 2)[0].to(next(model.parameters()).device))
    chosen, origin = check_settings(settings), {"run": None, "train_seconds": None}
    return _evaluate(model, guide, data, config, origin, chosen, progress)[0]


def _evaluate(
    model: nn.Module, guide: Guide, data: Dataset, config: Config | None, origin: dict[str, Any],
    chosen: EvaluationSettings, progress: bool,
) -> tuple[dict[str, Any], Measurement]:  # fmt: skip
    """What `evaluation.json` holds, and all that was found."""
    num, (shifts, left_out) = chosen.num_data, _applicable(data, chosen.shifts)
    samples: dict[str, Sample] = {split: _sample(data, split, num) for split in chosen.splits}
    main = "test" if "test" in samples else chosen.splits[-1]
    samples |= {Path(shift).stem: _shift(data, shift, num) for shift in shifts}
    occluded = {s: _shift(data, "occluded", num, fraction=s) for s in OCCLUDED if "occluded" in shifts}
    more: dict[str, Any] = {"probe": _probe(data, chosen), "class_names": data.class_names, "progress": progress}
    model, guide = model.to(device_of(config)), guide.to(device_of(config))
    with threads_of(config):
        found = measured(model, guide, samples, main=main, occluded=occluded, settings=chosen, **more)
    for name, sample in samples.items():
        found.numbers["splits"][name]["sketch"] = _sketch(data, name, sample.x)
    result = plain({
        **origin,
        "scheme": scheme_of(guide, config),
        "dataset": data.source,
        **{name: config and getattr(config.train, name) for name in ("seed", "epochs")},
        "num_parameters": sum(p.numel() for part in (model, guide) for p in part.parameters()),
        **{"versions": versions(), "main": main, "settings": chosen.plain()},
        **found.numbers,
    })  # fmt: skip
    told = {"warnings": [*left_out, *found.warnings], "failed": found.failed, "figures": sorted(found.figures)}
    return result | told, found


def scheme_of(guide: Guide, config: Config | None) -> dict[str, Any]:
    """What finds λ, by the names that YAML has for it."""

    def called(kind: str, thing: Any) -> str:
        try:
            return name_of(kind, type(thing))
        except ValueError:
            return type(thing).__name__

    section, refiner = config and config.guide, getattr(guide, "refiner", None)
    family = getattr(section, "family", None)
    return {
        "guide": section.type if section else called("guide", guide),
        "family": family.type if family else called("family", guide.family),
        "refiner": None if refiner is None else called("refiner", refiner),
        "num_steps": getattr(guide if refiner is None else refiner, "num_steps", None),
        "objective": config and config.train.objective.type,
    }


def check_settings(values: dict[str, Any]) -> EvaluationSettings:
    """Settings from plain values; a `ConfigError` has a line for each thing wrong."""
    try:
        settings = EvaluationSettings.model_validate(values)
    except ValidationError as error:
        lines = dict.fromkeys(_explain(e) for e in error.errors() if e["type"] != "too_short" or not e["input"])
        raise ConfigError("\n".join(lines)) from error
    for shift in settings.shifts:
        if shift not in SHIFTS and not shift.endswith((".yaml", ".yml")):
            known = f"{', '.join(SHIFTS)}, or a YAML file that names a data set"
            raise ConfigError(f"shifts: {shift!r} is unknown; valid: {known}")
    return settings


def _explain(error: Any) -> str:
    name = str(error["loc"][0])
    if error["type"] == "extra_forbidden":
        return f"{name}: unknown; {nearest(name, [*EvaluationSettings.model_fields])}"
    if error["type"] == "tuple_type":
        return f"{name}: must be a list, [{error['input']}] say, got {error['input']!r}"
    return f"{name}: {problem(error)}"


def _applicable(data: Dataset, shifts: Sequence[str]) -> tuple[tuple[str, ...], list[str]]:
    """Shifts that there are of such data, and a warning of the others."""
    left_out = [] if can_shift(data) else [shift for shift in shifts if shift in SHIFTS]
    warning = f"{', '.join(left_out)}: left out, for they are shifts of 8-bit images, and {data.name} has none"
    return tuple(shift for shift in shifts if shift not in left_out), [warning] if left_out else []


def _sample(data: Dataset, split: Any, num: int) -> Sample:
    """The first datapoints of a split, and which photograph each is from, where that is known."""
    groups = getattr(data, "groups", {}).get(split)
    return Sample(*data.take(split, num), None if groups is None else torch.as_tensor(groups)[:num])


def _sketch(data: Dataset, name: str, x: torch.Tensor) -> list[float]:
    """A few numbers that other datapoints do not share: means of the first, and the split's part of `data.sketch()`."""
    whole, place = (data.sketch(), SPLITS.index(name)) if name in SPLITS else ([], 0)
    own = whole[len(whole) * place // 3 : len(whole) * (place + 1) // 3]
    return [*x[:16].double().flatten(1).nanmean(1).nan_to_num().tolist(), *own]


def _shift(data: Dataset, shift: str, num: int, **how: Any) -> Sample:
    """Test data from elsewhere: shifted, or those of another set."""
    if shift in SHIFTS:
        return _sample(shifted(data, shift, num, **how), "test", num)
    other = build_data(load_config(shift))
    if other.x_shape != data.x_shape:
        raise ConfigError(f"shifts: {shift} has datapoints {other.x_shape}, and the run's are {data.x_shape}")
    return _sample(as_in(data, other), "test", num)


def _probe(data: Dataset, settings: EvaluationSettings) -> Sample | None:
    """Training data for probes: the last of the split, where those that are measured are the first."""
    labels = data.labels.get("train")
    num = min(settings.num_probe, len(data.train) - settings.num_data)
    return None if labels is None or num < 1 else Sample(*data.take("train", start=len(data.train) - num))


def plain(value: Any) -> Any:
    """As JSON has it: tensors become lists, numbers that are none become null."""
    return json.loads(json.dumps(value, default=lambda tensor: tensor.tolist()), parse_constant=lambda _: None)


def write(run_dir: Path, result: dict[str, Any], found: Measurement) -> None:
    """The files of an evaluation in place of an earlier one's, `evaluation.json` last: where it is, all is.

    A figure that cannot be drawn is noted in the result's `failed`; an OSError, if files cannot be written.
    """
    with attempt({}, "the earlier evaluation"):  # there may be none, or a damaged one
        for name in json.loads((run_dir / "evaluation.json").read_text(encoding="utf-8"))["figures"]:
            (run_dir / "figures" / f"{name}.png").unlink(missing_ok=True)
    for name, figure in found.figures.items():
        path = run_dir / "figures" / f"{name}.png"
        with attempt(result["failed"], f"figure {name}"), replacing(path) as part:
            figure.savefig(part, dpi=150, format="png")
    result["figures"] = [name for name in result["figures"] if f"figure {name}" not in result["failed"]]
    arrays: dict[str, Any] = {name: value.detach().cpu().numpy() for name, value in found.values.items()}
    with replacing(run_dir / "evaluation.npz") as path, path.open("wb") as file:
        np.savez_compressed(file, **arrays)
    for old in run_dir.glob(f"events.out.tfevents.*{_SUFFIX}"):
        old.unlink()
    with SummaryWriter(run_dir, filename_suffix=_SUFFIX) as writer:
        for split, numbers in result["splits"].items():
            for name, value in _scalars(numbers):
                writer.add_scalar(f"evaluation_{split}/{name}", value)
        for name in result["figures"]:  # as drawn already
            with Image.open(run_dir / "figures" / f"{name}.png") as image:
                writer.add_image(f"evaluation/{name}", np.asarray(image.convert("RGB")), dataformats="HWC")
    with replacing(run_dir / "evaluation.json") as path:
        path.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _scalars(numbers: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    for name, value in numbers.items():
        number = value.get("mean", value) if isinstance(value, dict) else value
        if isinstance(number, dict):
            yield from _scalars(number, f"{prefix}{name}.")
        elif isinstance(number, int | float) and not isinstance(number, bool):
            yield prefix + name, number
