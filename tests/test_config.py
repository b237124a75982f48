import inspect
import math

import pytest
import yaml

from pyrovae.config import (
    COMPONENTS,
    ConfigError,
    apply_override,
    build_model,
    check,
    fit_arguments,
    load_config,
)
from pyrovae.config.load import read_yaml


def problem(values: dict) -> str:
    with pytest.raises(ConfigError) as error:
        check(values)
    return str(error.value)


def test_defaults():
    config = check({})
    assert (config.model.type, config.guide.type, config.dataset.name) == ("vae_mlp", "amortized", "mnist")


@pytest.mark.parametrize(
    ("model", "network", "guide"),
    [
        ("vae_mlp", "mlp", "amortized"),
        ("vae_conv", "conv", "amortized"),
        ("ivae_iterative", "mlp", "semi_amortized"),
        ("vae_hierarchical", "mlp", "amortized"),
    ],
)
def test_model_types(model, network, guide):
    config = check({"model": {"type": model}})
    assert config.model.encoder.type == config.model.decoder.type == network
    assert config.guide.type == guide
    mixed = check({"model": {"type": model, "encoder": "conv", "decoder": {"widths": [3]}}, "guide": "svi"})
    assert (mixed.model.encoder.type, mixed.model.decoder.type, mixed.guide.type) == ("conv", network, "svi")


def test_all_errors_at_once_with_key_value_and_nearest_key():
    text = problem(
        {
            "dataset": {"binarise": "static"},
            "model": {"z_dmi": 3, "lr": "fast", "encoder": {"type": "cnov"}},
            "guide": {"type": "svi", "refiner": {"num_steps": 0, "optimizer": "adma"}},
            "trian": {},
        }
    )
    assert text.splitlines() == [
        "dataset.binarise: unknown key for mnist (value 'static'); did you mean binarize? valid: name, batch_size, num_workers, invert, augment, normalize, "
        "root, source, binarize, num_val, seed",
        "model.lr: must be a number, got 'fast'",
        "model.encoder.type: 'cnov' is unknown; did you mean conv? valid: conv, counts, mlp",
        "model.z_dmi: unknown key for vae_mlp (value 3); did you mean z_dim? valid: type, z_dim, lr, beta, prior, likelihood, "
        "encoder, decoder",
        "guide.refiner.num_steps: must be >= 1, got 0",
        "guide.refiner.optimizer: must be auto, adam, sgd or natural, got 'adma'; did you mean adam?",
        "trian: unknown key (value {}); did you mean train? valid: dataset, model, guide, train",
    ]


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"model": {"z_dim": 0}}, "model.z_dim: must be >= 1, got 0"),
        (
            {"model": {"z_dim": [3, 2]}},
            "model.z_dim: a list is for a model of layers, vae_hierarchical; here it is one number, got [3, 2]",
        ),
        (
            {"model": {"type": "vae_hierarchical", "z_dim": 3}},
            "model.z_dim: must be a list of two or more, bottom first: [50, 20], got 3",
        ),
        (
            {"model": {"type": "vae_hierarchical", "z_dim": [3, 0]}},
            "model.z_dim[1]: must be >= 1, got 0",
        ),
        ({"model": {"z_dim": "many"}}, "model.z_dim: must be a whole number, got 'many'"),
        (
            {"model": {"layers": "mlp"}},
            "model.layers: unknown key for vae_mlp (value 'mlp'); valid: ",
        ),
        ({"guide": {"type": "amortised"}}, "guide.type: 'amortised' is unknown; did you mean amortized? valid: "),
        ({"guide": {"refiner": {}}}, "guide.refiner: unknown key for amortized (value {}); valid: type, family"),
        ({"train": {"lr": 0.1}}, "train.lr: unknown key (value 0.1); did you mean model.lr? valid: epochs"),
        (
            {"train": {"early_stopping": {"patienc": 2}}},
            "train.early_stopping.patienc: unknown key (value 2); did you mean pat",
        ),
        ({"train": {"early_stopping": "maybe"}}, "train.early_stopping: input should be a valid boolean"),
        (
            {"train": {"beta_warmup": {"type": "linaer"}}},
            "train.beta_warmup.type: 'linaer' is unknown; did you mean linear?",
        ),
        ({"dataset": {"name": "mnits"}}, "dataset.name: 'mnits' is unknown; did you mean mnist? valid: "),
        ({"model": []}, "model: must be a name, or a block of keys, got []"),
        ({"train": [1]}, "train: must be a block of keys, got [1]"),
        ({"train": {"epochs": True}}, "train.epochs: must be a number, got True"),
        ({"model": {"lr": math.inf}}, "model.lr: must be finite, got inf"),
        (
            {"guide": {"num_steps": 3, "type": "semi_amortized"}},
            "guide.num_steps: unknown key for semi_amortized (value 3); did you mean guide.refiner.num_steps?",
        ),
    ],
)
def test_errors(values, line):
    text = problem(values)
    assert text.startswith(line)
    assert "\n" not in text


def test_abstract_classes_are_no_choice():
    assert set(COMPONENTS["guide"]) == {"amortized", "learned_iterative", "semi_amortized", "svi"}
    assert {"diagonal_normal", "flow", "ladder"} < set(COMPONENTS["family"])
    assert not {"family", "constrained"} & set(COMPONENTS["family"])
    assert {"svi", "gauss_newton"} <= set(COMPONENTS["refiner"])
    assert not {"refiner", "compiled"} & set(COMPONENTS["refiner"])
    assert set(COMPONENTS["model"]) == {"vae", "hierarchical_vae"}
    assert not {"any", "tensor", "made_chain"} & {*COMPONENTS["prior"], *COMPONENTS["likelihood"]}
    assert {"arrays", "mnist", "sun397"} <= set(COMPONENTS["dataset"])
    assert not {"dataset", "rows", "batches", "outside"} & set(COMPONENTS["dataset"])


def test_a_signature_is_a_schema():
    config = check({"model": {"type": "ivae_iterative"}})
    signature = inspect.signature(COMPONENTS["refiner"]["svi"].__init__)
    expected = {p.name: p.default for p in signature.parameters.values() if p.kind is p.KEYWORD_ONLY}
    given = config.guide.refiner.model_dump()
    assert given.pop("type") == "svi"
    assert given.pop("objective") == {"type": "elbo", "num_particles": 1, "path_gradient": True}  # a block within
    del expected["objective"]
    assert given == expected


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("model: {type: ivae_iterative, lr: 1e-3}\nguide: svi\ntrain:\n")
    return path


def test_load(file):
    config = load_config(
        file, ["model.z_dim=16", "guide.refiner.lr=1e-2", "train.save_dir=x y", "dataset.source=embedded"]
    )
    assert (config.model.z_dim, config.model.lr, config.guide.refiner.lr) == (16, 1e-3, 1e-2)
    assert (config.guide.type, config.train.save_dir, config.train.name) == ("svi", "x y", "mine")


def test_resolved_config_repeats_itself(file):
    config = load_config(file)
    resolved = config.model_dump(mode="json")
    assert check(yaml.safe_load(yaml.safe_dump(resolved))).model_dump(mode="json") == resolved


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: {lr: 1}\nmodel: {lr: 2}\n", "model: given twice, again in line 2; remove one"),
        ("model: {lr: 1, lr: 2}\n", "lr: given twice, again in line 1"),
        ("model: [\n", "not YAML"),
        ("- 1\n", "holds list, not sections"),
        ("model: !!python/object:os.system {}\n", "not YAML"),
    ],
)
def test_bad_files(tmp_path, text, message):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_config(path)


def test_bad_overrides_and_missing_files(file, tmp_path):
    with pytest.raises(ConfigError, match="nope: an override is written section.key=value"):
        load_config(file, ["nope"])
    with pytest.raises(ConfigError, match=r"none.yaml: No such file or directory; name a YAML file"):
        load_config(tmp_path / "none.yaml")


def test_a_mapping_on_the_command_line_wants_spaces():
    with pytest.raises(ConfigError, match=r"dataset.normalize: '\{type:zca\}' lacks a space after a colon"):
        apply_override({}, "dataset.normalize={type:zca}")
    values: dict = {}
    apply_override(values, "dataset.normalize={type: zca}")
    assert values == {"dataset": {"normalize": {"type": "zca"}}}


def test_keys_of_yaml(tmp_path):
    path = tmp_path / "keys.yaml"
    path.write_text(
        "net: &net {widths: [3, 3], activation: elu}\nmodel: {encoder: {<<: *net, widths: [4]}, decoder: *net}\n"
    )
    values = read_yaml(path)
    assert values["model"] == {"encoder": {"widths": [4], "activation": "elu"}, "decoder": values["net"]}
    path.write_text("model: {[a, b]: 1}\n")
    with pytest.raises(ConfigError, match="^line 1: a key must be a word, not a sequence$"):
        load_config(path)
    path.write_text("1: 2\ntrain: [1]\n")
    with pytest.raises(ConfigError) as error:
        load_config(path)
    assert str(error.value).splitlines() == [
        "train: must be a block of keys, got [1]",
        "1: unknown key (value 2); valid: dataset, model, guide, train",
    ]
    with pytest.raises(ConfigError, match=r"^train.epochs: train is \[1\], which has no keys$"):
        load_config(path, ["train.epochs=2"])


@pytest.mark.parametrize(
    ("values", "note"),
    [
        ({}, "model.type: vae_mlp fills in encoder mlp, decoder mlp, guide amortized"),
        ({"model": {"type": "vae_conv"}, "guide": "svi"}, "model.type: vae_conv fills in encoder conv, decoder conv; leaves as written guide svi, not amortized"),
        ({"model": {"type": "vae"}, "guide": "svi"}, ""),
    ],
)  # fmt: skip
def test_a_preset_says_what_it_fills_in(values, note):
    assert check(values).note == note


def test_a_preset_over_a_resolved_configuration_changes_nothing_and_says_so():
    resolved = check({}).model_dump(mode="json")
    apply_override(resolved, "model.type=vae_conv")
    config = check(resolved)
    assert config.model.encoder.type == "mlp"
    assert config.note == "model.type: vae_conv leaves as written encoder mlp, not conv, decoder mlp, not conv"


def test_blocks_within_blocks_and_schedules():
    config = check(
        {
            "model": {"type": "hierarchical_vae", "z_dim": [4, 2]},
            "guide": {"type": "semi_amortized", "family": {"type": "joint", "base": "full_normal"}, "refiner": {"objective": {"num_particles": 6}}},
            "train": {"schedules": {"objective.beta": {"start": 1, "end": 0.5}}},
        }
    )  # fmt: skip
    assert config.guide.family.base.type == "full_normal"
    assert (config.guide.refiner.objective.type, config.guide.refiner.objective.num_particles) == ("elbo", 6)
    arguments = fit_arguments(config)
    assert arguments["schedules"]["objective.beta"](99) == 0.5
    _, guide = build_model(config, (1, 4, 4))
    assert (guide.family.sites, guide.refiner.objective.num_particles) == (("z1", "z2"), 6)
    assert problem({"train": {"schedules": {"family.temperature": {"epochs": 0}}}}) == (
        "train.schedules.family.temperature.epochs: must be > 0, got 0"
    )
