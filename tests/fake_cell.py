"""Writes what training and evaluation of a cell would, in no time."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml

STEPS = [0, 1, 2, 5, 10, 20, 50, 100]
LEVEL = {"amortized": -112.7, "semi_amortized": -110.2, "svi": -180.0, "learned_iterative": -115.0}
NUM_DATA = 40
SKETCH = [i / 31 for i in range(32)]


def evaluation(config: dict[str, Any], settings: dict[str, Any]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Plausible numbers and arrays of one run; images differ far more from each other than schemes do."""
    guide, seed = config["guide"], config["train"]["seed"]
    k = (guide.get("refiner") or {}).get("num_steps")
    images = np.random.default_rng(0)
    hardness = images.normal(0, 20, NUM_DATA)
    noise = np.random.default_rng([seed, len(str(guide))])
    gap, remaining = noise.gamma(8, 0.5, NUM_DATA), noise.gamma(2, 0.5, NUM_DATA) * (0.3 if k else 3)
    init = LEVEL[guide["type"]] + hardness + noise.normal(0, 0.5, NUM_DATA)
    gain = np.full(NUM_DATA, 0.0 if not k else 4.0 + 0.1 * k) + (60 if guide["type"] == "svi" else 0)
    elbo = init + gain
    order = noise.permutation(NUM_DATA)
    values = {"elbo_init": init, "elbo": elbo, "iwae": elbo + remaining + gap, "gap_inference": gap + remaining}
    values |= {"elbo_optimum": elbo + remaining, "log_evidence": elbo + remaining + gap}
    values |= {"gap_approximation": gap, "gap_remaining": remaining, "gap_recovered": gain}
    values |= {"gap_amortization": gain + remaining}

    def estimate(name: str) -> dict[str, float]:
        return {"mean": values[name].mean(), "se": values[name].std(ddof=1) / NUM_DATA**0.5}

    gaps = {
        name: estimate(f"gap_{name}")
        for name in ("approximation", "amortization", "recovered", "remaining", "inference")
    }
    levels = ("elbo_init", "elbo", "elbo_optimum", "log_evidence", "iwae")
    test: dict[str, Any] = {name: estimate(name) for name in levels}
    test |= {"num_data": NUM_DATA, "num_left_out": 0, "sketch": SKETCH, "gap": gaps}
    test |= {"dims_in_use": 18 + seed, "probe": {"knn": {"mean": 0.93, "se": 0.01}}}
    whole = elbo.mean() + remaining.mean()
    speed = 0.15 + (k or 0) / 40
    curve = [whole - (whole - init.mean() + 0.5) * np.exp(-speed * step) for step in STEPS]
    result = {
        "run": "fake",
        "scheme": {"guide": guide["type"], "family": guide["family"]["type"], "num_steps": k},
        "settings": settings,
        "dataset": "made-up digits",
        "seed": seed,
        "train_seconds": 30.0 + 10 * (k or 0) + seed,
        "main": "test",
        "failed": {},
        "num_parameters": 12345 + (k or 0),
        "splits": {"test": test},
        "trajectory": {
            "step": STEPS,
            "elbo": curve,
            "elbo_se": [0.4] * len(STEPS),
            "seconds_per_image": [2e-5 * (1 + 3 * step) for step in STEPS],
            "trained_num_steps": k,
        },
        "warnings": ["3 images weigh <too much>; take more samples"] if guide["type"] == "svi" else [],
    }
    arrays = {f"test/{name}": value[order] for name, value in values.items()}
    arrays["test/index"] = order
    ramp = np.linspace(0, 1, 28)
    inputs = np.stack([np.outer(ramp, np.roll(ramp, 2 * i)) for i in range(12)])[:, None]
    arrays["test/inputs"] = inputs.astype(np.float32)
    arrays["test/reconstructions"] = (0.8 * inputs + 0.02 * abs(noise.normal(size=inputs.shape))).astype(np.float32)
    return result, arrays


def write(run: Path, config: dict[str, Any], settings: dict[str, Any]) -> None:
    """A finished, evaluated run."""
    run.mkdir(parents=True, exist_ok=True)
    result, arrays = evaluation(config, settings)
    level = result["splits"]["test"]["elbo"]["mean"]
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    lr = (config["guide"].get("refiner") or {}).get("lr", "auto")
    lr = 0.03 if lr == "auto" else lr
    summary = {"seconds": result["train_seconds"], "val/elbo": level - 5 * np.log10(lr / 0.03) ** 2}
    (run / "summary.json").write_text(json.dumps(summary))
    lines = ["epoch,step,train/seconds,val/elbo,train/loss", "0,25,,,200.0"]
    spent = np.linspace(0.1, 1, 10) * result["train_seconds"]
    lines += [f"{i},{i},{t},{level - 90 * np.exp(-0.6 * i)}," for i, t in enumerate(spent)]
    (run / "metrics.csv").write_text("\n".join(lines) + "\n")
    np.savez(run / "evaluation.npz", **arrays)
    (run / "evaluation.json").write_text(json.dumps(result))
