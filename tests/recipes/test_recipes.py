"""Recipes and configuration: every shipped one is valid, every mistake is said at once."""

import pytest
import yaml

from longtail.core import ConfigError
from longtail.engine.schedule import learning_rate
from longtail.recipes import RunConfig, read_recipe, recipe_names, resolve, valid_keys
from longtail.recipes.options import validate_stored

RECIPES = [name for name in recipe_names() if not name.startswith("images/")]
METHODS = {
    "cross-entropy", "focal", "class-balanced-cross-entropy", "class-balanced-focal", "ldam",
    "ldam-drw", "cross-entropy-drw", "cross-entropy-drs", "balanced-softmax", "logit-adjusted",
    "mixup", "cutmix",
}  # fmt: skip


@pytest.mark.parametrize("benchmark", ["cifar100-lt", "cifar10-lt", "digits-lt"])
def test_every_benchmark_has_every_method(benchmark):
    shipped = {name.partition("/")[2] for name in RECIPES if name.startswith(f"{benchmark}/")}
    assert shipped >= METHODS


@pytest.mark.parametrize("name", RECIPES)
def test_shipped_recipes_are_valid_and_say_what_they_do(name):
    config = resolve(name)
    assert config.recipe == name
    assert len(config.description) > 20
    # a resolved configuration is a recipe again
    text = yaml.safe_dump(config.model_dump(mode="json"))
    assert RunConfig.model_validate(yaml.safe_load(text)) == config


def test_hyper_parameters_of_the_specification():
    plain = resolve("cifar100-lt/cross-entropy").training
    assert (plain.epochs, plain.batch_size, plain.learning_rate) == (200, 128, 0.1)
    assert (plain.weight_decay, plain.nesterov, plain.milestones) == (5e-4, True, (0.8, 0.9))
    drw = resolve("cifar100-lt/ldam-drw")
    assert (drw.training.weight_decay, drw.training.nesterov) == (2e-4, False)
    assert (drw.training.decay_factor, drw.training.warmup_start) == (0.01, 0)
    assert drw.method.loss.max_margin == 0.5
    assert (drw.method.head.name, drw.method.head.scale) == ("cosine", 30)
    assert (drw.method.class_weights.beta, drw.method.class_weights.start) == (0.9999, 0.8)
    drs = resolve("cifar100-lt/cross-entropy-drs").method.sampling
    assert (drs.name, drs.start, drs.build(200).switch_epoch) == ("effective-number", 0.8, 160)
    focal = resolve("cifar100-lt/class-balanced-focal").method
    assert (focal.loss.name, focal.loss.gamma, focal.reduction) == ("sigmoid-focal", 1.0, "mean")
    assert resolve("cifar100-lt/cutmix").method.mixing.probability == 0.5
    ten = resolve("cifar10-lt/cross-entropy")
    assert (ten.data.name, ten.data.groups, ten.training) == ("cifar10", "index", plain)


@pytest.mark.parametrize(
    ("name", "full", "short"),
    # ProCo's code: 5 epochs of 200, 10 of 400, else 5 * epochs // 200
    [("proco", 5, 5 * 40 // 200), ("proco-long", 10, 5 * 40 // 200)],
)
def test_a_short_run_warms_up_for_the_same_share_of_it(name, full, short):
    for overrides, published in (([], full), (["epochs=40"], short)):
        training = resolve(f"cifar100-lt/{name}", overrides).training
        epochs = training.epochs
        rates = [learning_rate(training, epoch, epochs) for epoch in range(min(50, epochs))]
        assert rates.index(max(rates)) + 1 == published


def test_short_keys_find_their_place():
    config = resolve(
        "digits-lt/cross-entropy",
        [
            "loss=ldam",
            "head=cosine",
            "loss.max_margin=0.3",
            "imbalance_ratio=10",
            "milestones=[0.5, 0.75]",
            "learning_rate=5e-3",
            "backbone=resnet32",
        ],
    )
    assert config.method.loss.max_margin == 0.3
    assert config.data.long_tail.imbalance_ratio == 10
    assert config.training.milestones == (0.5, 0.75)
    assert config.training.learning_rate == 0.005
    assert config.model.backbone == "resnet32"


def test_order_of_overrides_does_not_matter():
    one = resolve("digits-lt/cross-entropy", ["loss.tau=2", "loss=logit-adjusted"])
    other = resolve("digits-lt/cross-entropy", ["loss=logit-adjusted", "loss.tau=2"])
    assert one.method.loss == other.method.loss
    assert one.method.loss.tau == 2


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["lr=0.1"], ["lr is not a key; did you mean training.learning_rate?"]),
        (["rate=0.1"], ["rate is not a key; did you mean training.learning_rate?"]),
        (["batch=4"], ["batch is not a key; did you mean training.batch_size?"]),
        (["training.wd=0"], ["training.wd is not a key; did you mean training.weight_decay?"]),
        (["num_workers=2"], ["num_workers is not a key; did you mean training.workers?"]),
        (["device=cuda"], ["device is not a key: say --device cuda"]),
        (["learningrate=1"], ["is not a key; did you mean training.learning_rate?"]),
        (["leraning_rate=1"], ["is not a key; did you mean training.learning_rate?"]),
        (["wieght_decay=1"], ["is not a key; did you mean training.weight_decay?"]),
        (["batchsiez=1"], ["is not a key; did you mean training.batch_size?"]),
        (["training.learning-rate=1"], ["did you mean training.learning_rate?"]),
        (["learning_rate=fast"], ["training.learning_rate must be a number, but is 'fast'"]),
        (["channels_last=maybe"], ["training.channels_last must be true or false"]),
        (["epoch=4"], ["epoch is not a key; did you mean training.epochs?"]),
        (["training.epcohs=4"], ["training.epcohs is not a key; did you mean training.epochs?"]),
        (["epochs"], ["'epochs' is not an override; write key=value"]),
        (["epochs=many"], ["training.epochs must be a whole number, but is 'many'"]),
        (
            ["epochs=0", "learning_rate=-1"],
            ["2 mistakes", "training.epochs", "training.learning_rate"],
        ),
        (["method=recall"], ["method: there is no method 'recall'"]),
        (["loss=balanced-sofmax"], ["method.loss", "balanced-softmax"]),
        (["loss=ldam"], ["loss ldam needs head cosine"]),
        (["loss.tau=1"], ["loss.tau is not a key"]),
        (["name=x"], ["name is ambiguous"]),
        (["augmentation=crop-filp"], ["data.augmentation: must be one of", "crop-flip"]),
        (
            ["imbalance_ratio=0.01"],
            ["data.long_tail.imbalance_ratio must be at least 1, but is 0.01"],
        ),
        (["early_stopping=3"], ["early_stopping needs select=best-validation"]),
        (
            ["foo=1", "bar=2"],
            ["2 mistakes in the options of digits-lt/cross-entropy:", "foo", "bar"],
        ),
        (["epoch=4", "learning_rate=-1"], ["2 mistakes", "epoch is not a key", "greater than 0"]),
    ],
)
def test_mistakes_in_overrides(overrides, words):
    with pytest.raises(ConfigError) as caught:
        resolve("digits-lt/cross-entropy", overrides)
    for word in words:
        assert word in str(caught.value)


def write(path, **content):
    path.write_text(yaml.safe_dump(content))
    return str(path)


def test_all_mistakes_of_a_file_are_shown_at_once(tmp_path):
    file = write(
        tmp_path / "mine.yaml",
        extends="digits-lt/cross-entropy",
        trainings={"epochs": 3},
        training={"epochs": -1, "batchsize": 3},
        data={"name": "digits", "long_tail": {"ratio": 5}},
        method={"name": "single-head", "loss": {"name": "focal", "gama": 2}},
    )
    with pytest.raises(ConfigError) as caught:
        resolve(file)
    message = str(caught.value)
    assert "5 mistakes" in message
    for words in (
        "trainings is not a key; did you mean training?",
        "training.epochs must be at least 1, but is -1",
        "training.batchsize is not a key; did you mean training.batch_size?",
        "data.long_tail.ratio is not a key; did you mean data.long_tail.imbalance_ratio?",
        "method.loss.gama is not a key; did you mean method.loss.gamma?",
    ):
        assert words in message, message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- a\n- b\n", "must be a mapping"),
        ("a: [1\n", "cannot be read as YAML"),
        ("{}", "data is missing"),
        ("data: {root: x}", "data is missing its name"),
        ("extends: digits-lt/nothing", "no recipe"),
    ],
)
def test_wrong_files(tmp_path, text, words):
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=words):
        resolve(str(file))


def test_unknown_sources_show_near_names(tmp_path):
    with pytest.raises(ConfigError, match=r"Did you mean .*cifar100-lt/balanced-softmax"):
        resolve("cifar100-lt/balanced-sofmax")
    with pytest.raises(ConfigError, match="no recipe file"):
        resolve(str(tmp_path / "absent.yaml"))


def test_a_recipe_cannot_extend_itself(tmp_path):
    file = tmp_path / "mine.yaml"
    write(file, extends=str(file))
    with pytest.raises(ConfigError, match="extends itself"):
        resolve(str(file))


def test_a_changed_name_replaces_the_whole_part(tmp_path):
    file = write(
        tmp_path / "mine.yaml",
        extends="cifar100-lt/ldam-drw",
        method={"head": {"name": "linear"}, "loss": {"name": "focal"}, "class_weights": None},
    )
    method = resolve(file).method
    assert (method.loss.name, method.head.scale, method.class_weights) == ("focal", 30.0, None)


def test_folders_and_tables_become_data(image_folder):
    config = resolve(str(image_folder), ["loss=logit-adjusted", "pretrained=true"])
    assert (config.data.name, config.data.path) == ("folder", image_folder)
    assert config.recipe == "images"
    table = image_folder / "t.csv"
    table.write_text("path,label\n")
    assert resolve(str(table)).data.name == "table"


def test_keys_cover_the_resolved_configuration():
    config = resolve("cifar100-lt/ldam-drw").model_dump(mode="json")

    def dotted(part, prefix=""):
        for key, value in part.items():
            yield f"{prefix}{key}"
            if isinstance(value, dict):
                yield from dotted(value, f"{prefix}{key}.")

    assert set(dotted(config)) <= set(valid_keys(config))
    assert "description" in read_recipe("cifar100-lt/cross-entropy")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("loss=ldma", "method.loss: there is no 'ldma'; did you mean ldam"),
        (
            "method={name: experts, losses: [ldma]}",
            "method.losses: there is no 'ldma'; did you mean",
        ),
        ("method={name: experts, losses: []}", "needs at least one loss, one per expert"),
        (
            "method={name: experts, losses: [ldam, {name: focal, gama: 2}]}",
            "method.losses, number 2: gama is not a key",
        ),
    ],
)
def test_a_wrong_loss_is_explained_in_words(override, said):
    with pytest.raises(ConfigError) as caught:
        resolve("digits-lt/balanced-softmax", [override])
    assert said in str(caught.value)


def test_a_run_of_before_may_name_an_option_that_is_gone():
    stored = resolve("cifar100-lt/cross-entropy").model_dump(mode="json")
    stored["method"]["plain_loss"] = 0.0  # did nothing
    assert validate_stored(stored, "config") == resolve("cifar100-lt/cross-entropy")
    stored["method"]["plain_loss"] = 0.5
    with pytest.raises(ConfigError, match="plain_loss"):
        validate_stored(stored, "config")
