"""What an evaluation may be told."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt

from ..capture import Engine

Split = Literal["train", "val", "test"]


def _setting(default: Any, description: str, **more: Any) -> Any:
    return Field(default, description=description, **more)


class EvaluationSettings(BaseModel):
    """How much to measure, and on what. Larger numbers give smaller errors and take longer."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    checkpoint: Literal["best", "last"] = _setting("best", "best by validation ELBO, or last")
    splits: tuple[Split, ...] = _setting(("train", "val", "test"), "splits to measure", min_length=1)
    shifts: tuple[str, ...] = _setting(
        ("rotated", "noised", "occluded"), "data from elsewhere: these, or YAML files whose dataset's test split it is"
    )
    num_data: PositiveInt = _setting(500, "datapoints of each split")
    num_samples: PositiveInt = _setting(1000, "draws of the importance-weighted bound, k")
    num_particles: PositiveInt = _setting(100, "draws of the ELBO")
    num_annealed: NonNegativeInt = _setting(50, "datapoints for annealed importance sampling; 0 leaves it out")
    num_temperatures: PositiveInt = _setting(100, "temperatures of annealed importance sampling")
    num_simulated: NonNegativeInt = _setting(300, "datapoints drawn from the model, for calibration; 0 leaves it out")
    num_probe: PositiveInt = _setting(2000, "training datapoints that probes learn from")
    max_steps: PositiveInt = _setting(5000, "most refinement steps towards the best q")
    seed: NonNegativeInt = _setting(0, "of the noise")
    engine: Engine = _setting("auto", "eager, compiled, or auto for compiling where it pays")

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        return self.model_dump(mode="json")
