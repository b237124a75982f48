"""All measures of a model and a guide."""

import zlib
from collections.abc import Callable, Mapping
from functools import partial
from time import perf_counter
from typing import Any, NamedTuple

import pyro
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from ..capture import engine
from ..guides import Guide
from ..models import can_decode
from ..training.noise import seed_noise
from .calibration import calibration, predictive_checks
from .gaps import annealed, bounds, bounds_figure, gap_bars, gaps
from .hardness import hardness
from .representation import representation
from .settings import EvaluationSettings
from .subject import Measurement, Subject, attempt, reconstructions
from .table import shown_gaps
from .trajectories import trajectory
from .traversals import traversals

NUM_SHOWN = 12  # reconstructions kept


class Sample(NamedTuple):
    """Datapoints to measure on."""

    x: Tensor  # (N, *x_shape)
    labels: Tensor | None = None  # (N,)
    groups: Tensor | None = None  # (N,) of datapoints that are not independent


class _Evaluation:
    """Runs measures and keeps what they find. The noise of each is a function of the seed and its name alone."""

    def __init__(
        self, settings: EvaluationSettings, device: torch.device, main: str, total: int, progress: bool
    ) -> None:
        self.settings, self.device, self.main = settings, device, main
        self.found = Measurement(numbers={"splits": {}, "seconds": {}})
        self.bar = tqdm(desc="evaluating", total=total, disable=None if progress else True, unit="measure")

    def run(self, name: str, measure: Callable[[], Any], split: str = "") -> Any:
        """What `measure` gives; None if it fails."""
        self.bar.set_postfix_str(label := f"{name} {split}".strip())
        seed_noise(self.device, self.settings.seed, "evaluation", zlib.crc32(label.encode()), 0)
        start, result = perf_counter(), None
        noted = attempt(self.found.failed, f"{split}: {name}" if split else name)
        # Unchecked, what is not finite comes out as NaN, which means leave out; checked, it would take all data down.
        with noted, engine(self.settings.engine), pyro.validation_enabled(False):
            result = measure()
        seconds = self.found.numbers["seconds"]
        seconds[name] = round(seconds.get(name, 0.0) + perf_counter() - start, 2)
        self.bar.update()
        return result

    def keep(self, name: str, measure: Callable[[], Measurement], split: str = "") -> Measurement:
        """Merges what a measure finds, numbers under its split or at the top; returns it, empty if it fails."""
        found = self.run(name, measure, split) or Measurement()
        numbers, before = self.found.numbers, f"{split}: " if split else ""
        (numbers["splits"][split] if split else numbers).update(found.numbers)
        self.found.values |= {f"{split or name}/{key}": value for key, value in found.values.items()}
        self.found.figures |= found.figures if split in ("", self.main) else {}
        self.found.warnings += [before + text for text in found.warnings]
        self.found.failed |= {before + key: reason for key, reason in found.failed.items()}
        return found


def evaluate(
    model: nn.Module, guide: Guide, samples: Mapping[str, Sample],
    *, main: str, probe: Sample | None = None, occluded: Mapping[float, Sample] = {},
    class_names: tuple[str, ...] = (), settings: EvaluationSettings | None = None, progress: bool = False,
) -> Measurement:  # fmt: skip
    """Bounds, gaps and representation of each sample; the rest of one.

    Numbers of each sample are under `splits`, those of the main one at the top, with `seconds` by measure. A measure
    that fails leaves its numbers out, and `failed` says why; running out of memory is raised.

    Args:
        samples: Datapoints by name, `test` say; `main` names that for what is measured once.
        probe: Labelled datapoints that probes learn from; none leaves probes out.
        occluded: The main sample with these shares of each image hidden.
        progress: Show a bar, on a terminal.
    """
    settings, device = settings or EvaluationSettings(), next(model.parameters()).device
    model.eval(), guide.eval()
    once = 4 + (settings.num_annealed > 0) + (settings.num_simulated > 0)
    total = 4 * len(samples) + (probe is not None) + 2 * len(occluded) + once
    run = _Evaluation(settings, device, main, total, progress)
    found, splits = run.found, run.found.numbers["splits"]
    draws: dict[str, Any] = {"num_samples": settings.num_samples, "num_particles": settings.num_particles}
    steps = {**draws, "max_steps": settings.max_steps}

    def infer(name: str, sample: Sample) -> Subject | None:
        rest = sample.labels, class_names, sample.groups
        return run.run("inference", lambda: Subject.of(name, model, guide, sample.x.to(device), *rest), name)

    learned, subjects = None if probe is None else infer("probe", probe), {}
    for name, sample in samples.items():
        splits[name] = {"num_data": len(sample.x)}
        if (subject := infer(name, sample)) is None:
            continue
        subjects[name] = subject
        if not run.keep("gaps", partial(gaps, subject, **steps), name).values:
            run.keep("bounds", partial(bounds, subject, **draws), name)  # which need no λ*
        run.keep("representation", partial(representation, subject, learned), name)
        run.keep("datapoints", partial(_datapoints, subject), name)
    if main in subjects:
        _measure_main(run, subjects[main])
    parts = {name: shown_gaps(part) for name, part in splits.items() if "gap" in part}
    curve = {0.0: splits[main].get("gap", {}).get("inference")}
    for share, sample in occluded.items():
        hidden = infer(f"occluded by {share:.0%}", sample)
        if measured := hidden and run.run("gaps", partial(gaps, hidden, **steps), hidden.name):
            curve[share], parts[hidden.name] = measured.numbers["gap"].get("inference"), shown_gaps(measured.numbers)
    if len(curve) > 1:
        found.numbers["occlusion"] = {f"{share:g}": gap for share, gap in curve.items()}
    if parts:
        found.draw("gaps", gap_bars, parts)
    run.bar.close()
    return found


def _datapoints(subject: Subject) -> Measurement:
    """Which datapoints these are; of the first few, what they look like at λ₀ and λ_K."""
    values = reconstructions(subject, NUM_SHOWN) if can_decode(subject.model) else {}
    known = {"index": torch.arange(len(subject.x)), "labels": subject.labels, "groups": subject.groups}
    return Measurement(values=values | {name: value for name, value in known.items() if value is not None})


def _measure_main(run: _Evaluation, subject: Subject) -> None:
    found, settings, num = run.found, run.settings, run.settings.num_annealed
    gap, evidence = (found.values.get(f"{subject.name}/{name}") for name in ("gap_inference", "log_evidence"))
    path: dict[str, Any] = {"num_data": num, "num_simulated": num, "num_steps": settings.num_temperatures}
    measures = {
        "trajectory": partial(trajectory, subject),
        "hardness": None if gap is None else partial(hardness, subject, gap),
        "predictive checks": partial(predictive_checks, subject),
        "traversals": partial(traversals, subject),
        "annealing": partial(annealed, subject, **path, log_evidence=evidence) if num else None,
        "calibration": partial(calibration, subject, settings.num_simulated) if settings.num_simulated else None,
    }
    for name, measure in measures.items():
        if measure is not None:
            run.keep(name, measure)
    if evidence is not None and "ais" in found.numbers:
        found.draw("bounds", bounds_figure, found.numbers["splits"][subject.name] | found.numbers)
