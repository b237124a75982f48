"""What an evaluation may be told."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt

from ..capture import Engine

Split = Literal["train", "val", "test"]


class EvaluationSettings(BaseModel):
    """How much to measure, and on what. Larger numbers give smaller errors and take longer."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    checkpoint: Literal["best", "last"] = Field(default="best", description="best by validation ELBO, or last")
    splits: tuple[Split, ...] = Field(default=("train", "val", "test"), description="splits to measure", min_length=1)
    shifts: tuple[str, ...] = Field(
        default=("rotated", "noised", "occluded"),
        description="data from elsewhere: these, or YAML files whose test split it is",
    )
    num_data: PositiveInt = Field(default=500, description="datapoints of each split")
    num_samples: PositiveInt = Field(default=1000, description="draws of the importance-weighted bound, k")
    num_particles: PositiveInt = Field(default=100, description="draws of the ELBO")
    num_annealed: NonNegativeInt = Field(default=50, description="datapoints for annealing (AIS); 0 leaves it out")
    num_temperatures: PositiveInt = Field(default=100, description="temperatures of annealing (AIS)")
    num_simulated: NonNegativeInt = Field(default=300, description="simulations for calibration; 0 leaves it out")
    num_probe: PositiveInt = Field(default=2000, description="training datapoints that probes learn from")
    max_steps: PositiveInt = Field(default=5000, description="most refinement steps towards the best q")
    seed: NonNegativeInt = Field(default=0, description="of the noise")
    engine: Engine = Field(default="auto", description="eager, compiled, or auto for compiling where it pays")

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        return self.model_dump(mode="json")
