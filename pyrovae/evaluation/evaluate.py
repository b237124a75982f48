"""All measures of a model and a guide."""

import zlib
from collections.abc import Callable, Mapping
from functools import partial
from time import perf_counter
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from ..capture import engine
from ..guides import Guide
from ..training.noise import seed_noise
from .annealed import annealed
from .bounds import bounds
from .calibration import calibration
from .draws import reconstructions
from .findings import Findings, estimate
from .gaps import gap_bars, gaps
from .hardness import hardness, occlusion_curve
from .predictive_checks import predictive_checks
from .representation import representation
from .settings import EvaluationSettings
from .subject import Subject
from .trajectories import trajectory
from .traversals import traversals

NUM_SHOWN = 12  # reconstructions kept

Result = TypeVar("Result")


class Sample(NamedTuple):
    """Datapoints to measure on."""

    x: Tensor  # (N, *x_shape)
    labels: Tensor | None = None  # (N,)


class _Evaluation:
    """Runs measures one by one and keeps what they find.

    The noise of a measure is a function of the seed and of its name, so leaving one out changes no other.
    """

    def __init__(self, settings: EvaluationSettings, device: torch.device, total: int, progress: bool) -> None:
        self.settings = settings
        self.device = device
        self.found = Findings(numbers={"splits": {}, "seconds": {}})
        self.bar = tqdm(total=total, desc="evaluating", disable=not progress, unit="measure")

    def __call__(self, name: str, measure: Callable[[], Result], split: str = "") -> Result:
        """What `measure` gives."""
        label = f"{name} {split}".strip()
        self.bar.set_postfix_str(label)
        seed_noise(self.device, self.settings.seed, "evaluation", zlib.crc32(label.encode()), 0)
        start = perf_counter()
        with engine(self.settings.engine):
            result = measure()
        seconds = self.found.numbers["seconds"]
        seconds[name] = round(seconds.get(name, 0.0) + perf_counter() - start, 2)
        self.bar.update()
        return result

    def measure(self, name: str, measure: Callable[[], Findings], split: str = "") -> Findings:
        """What `measure` finds; where it cannot measure this model or family, why not, and the others go on."""
        try:
            return self(name, measure, split)
        except (ArithmeticError, NotImplementedError, RuntimeError, ValueError) as error:
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            return Findings(warnings=[f"{name}: left out, for it failed ({type(error).__name__}: {reason})"])

    def keep(self, found: Findings, name: str, split: str = "", figures: bool = True) -> None:
        """Merges what a measure found: its numbers under its split, or at the top."""
        numbers = self.found.numbers
        (numbers["splits"].setdefault(split, {}) if split else numbers).update(found.numbers)
        self.found.values.update({f"{split or name}/{key}": value for key, value in found.values.items()})
        self.found.figures.update(found.figures if figures else {})
        self.found.warnings += [f"{split}: {text}" if split else text for text in found.warnings]


def evaluate(
    model: nn.Module,
    guide: Guide,
    samples: Mapping[str, Sample],
    *,
    main: str,
    probe: Sample | None = None,
    occluded: Mapping[float, Sample] = {},
    class_names: tuple[str, ...] = (),
    settings: EvaluationSettings | None = None,
    progress: bool = False,
) -> Findings:
    """Bounds, gaps and representation of each sample; the rest of one.

    Args:
        model: p(x, z).
        guide: q(z | x).
        samples: Datapoints by name, `test` say.
        main: The name of the sample for what is measured once: annealing, trajectories, hardness, calibration.
        probe: Labelled datapoints that probes learn from; none leaves probes out.
        occluded: The main sample with these shares of each image hidden.
        class_names: What labels mean.
        settings: How much to measure; by default as `scripts/evaluate.py` does.
        progress: Show a bar.

    Returns:
        Numbers of each sample under `splits`, those of the main one at the top, with `seconds` by measure.
    """
    settings = settings or EvaluationSettings()
    model.eval(), guide.eval()
    device = next(model.parameters()).device
    once = 4 + (settings.num_annealed > 0) + (settings.num_simulated > 0)
    total = 4 * len(samples) + (probe is not None) + 2 * len(occluded) + once
    run = _Evaluation(settings, device, total, progress)

    def subject(name: str, sample: Sample) -> Subject:
        def infer() -> Subject:
            return Subject.of(name, model, guide, sample.x.to(device), sample.labels, class_names)

        return run("inference", infer, name)

    learned = None if probe is None else subject("probe", probe)
    subjects = {name: subject(name, sample) for name, sample in samples.items()}
    bounded = {name: _measure_sample(run, it, learned, name == main) for name, it in subjects.items()}
    _measure_main(run, subjects[main], bounded[main])
    if occluded:
        hidden = {share: subject(f"occluded by {share:.0%}", sample) for share, sample in occluded.items()}
        _measure_occlusion(run, subjects[main], hidden)
    if parts := {name: part["gap"] for name, part in run.found.numbers["splits"].items() if "gap" in part}:
        run.found.figures["gaps"] = gap_bars(parts)
    run.bar.close()
    return run.found


def _measure_sample(run: _Evaluation, subject: Subject, learned: Subject | None, main: bool) -> Findings:
    """Bounds, gaps and representation; returns what bounds found."""
    name, settings = subject.name, run.settings
    bounded = run.measure("bounds", lambda: bounds(subject, **_draws(settings)), name)
    gap = Findings()
    if "iwae" in bounded.values:
        gap = run.measure("gaps", lambda: _gaps(subject, bounded, settings), name)
    found = run.measure("representation", lambda: representation(subject, learned), name)
    for part in (bounded, gap, found, Findings(values=_identity(subject))):
        run.keep(part, name, name, figures=main)
    return bounded


def _identity(subject: Subject) -> dict[str, Tensor]:
    """Which datapoints these are; of the first few, what they look like at λ₀ and λ_K."""
    shown = reconstructions(subject, NUM_SHOWN) if hasattr(subject.model, "decode") else {}
    labels = {} if subject.labels is None else {"labels": subject.labels}
    return {**shown, **labels, "index": torch.arange(len(subject.x))}


def _draws(settings: EvaluationSettings) -> dict[str, int]:
    return {"num_samples": settings.num_samples, "num_particles": settings.num_particles}


def _gaps(subject: Subject, bounded: Findings, settings: EvaluationSettings) -> Findings:
    return gaps(subject, bounded.values["iwae"], max_steps=settings.max_steps, **_draws(settings))


def _measure_main(run: _Evaluation, subject: Subject, bounded: Findings) -> None:
    settings, gap = run.settings, run.found.values.get(f"{subject.name}/gap_inference")
    measures: dict[str, Callable[[], Findings]] = {
        "trajectory": lambda: trajectory(subject),
        **({} if gap is None else {"hardness": lambda: hardness(subject, gap)}),
        "predictive checks": lambda: predictive_checks(subject),
        "traversals": lambda: traversals(subject),
    }
    if settings.num_annealed:
        num, steps = settings.num_annealed, settings.num_temperatures
        weighed = bounded if "iwae" in bounded.values else None
        measures["annealing"] = lambda: annealed(
            subject, num_data=num, num_simulated=num, num_steps=steps, bounds=weighed
        )
    if settings.num_simulated:
        measures["calibration"] = lambda: calibration(subject, num_simulated=settings.num_simulated)
    for name, measure in measures.items():
        run.keep(run.measure(name, measure), name)
    if {"annealing/ais", f"{subject.name}/log_evidence"} <= run.found.values.keys():
        _compare_annealed(run, subject.name)


def _compare_annealed(run: _Evaluation, name: str) -> None:
    """What annealing finds above log p̂, on the same datapoints."""
    bound = run.found.values["annealing/ais"]
    difference = bound - run.found.values[f"{name}/log_evidence"][: len(bound)].to(bound)
    run.found.numbers["ais"]["minus_log_evidence"] = estimate(difference[difference.isfinite()])


def _measure_occlusion(run: _Evaluation, subject: Subject, hidden: Mapping[float, Subject]) -> None:
    """The gap against the share of the image that is hidden."""
    if f"{subject.name}/gap_inference" not in run.found.values:
        return
    gap = {0.0: run.found.values[f"{subject.name}/gap_inference"]}
    for share, it in hidden.items():
        gap[share] = run("occlusion", partial(_inference_gap, it, run.settings), it.name)
    numbers = {"occlusion": {f"{share:g}": estimate(value) for share, value in gap.items()}}
    run.keep(Findings(numbers, figures={"occlusion": occlusion_curve(gap)}), "occlusion")


def _inference_gap(subject: Subject, settings: EvaluationSettings) -> Tensor:
    """log p̂ - L[λ_K] (N,)."""
    return _gaps(subject, bounds(subject, **_draws(settings)), settings).values["gap_inference"]
