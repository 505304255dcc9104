"""What is written for an option arrives as the option's type reads it, in `key=value` and in files."""

import re
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from longtail.config import Options
from longtail.config.yaml_text import Plain, parse_yaml, values
from longtail.core import ConfigError
from longtail.methods import METHODS
from longtail.recipes import RunConfig, resolve
from longtail.recipes.fields import _kinds, fields

SURPRISES = [
    "#nr", "my set #1", "2021", "on", "no", "[0-9]", "animal: id", "~", "null ", "010", "1e3", "1:30",
    "2021-01-01", "{a}", "'quoted'", '"quoted"', "*all", "&x", "!tag", "| x", "- a", "a: #b", "=", "", " ",
    "\t", "\n", "ä", "\x1b",
]  # fmt: skip
TEXTS = {"recipe", "description", "from", "data.keep_together", "model.backbone"}
PATHS = {"data.path", "data.root", "data.cache", "model.weights"}
surrogate_free = st.text(st.characters(exclude_categories=["Cs"]))


def read(key, text):
    more = ["backbone=resnet32"] if key == "model.weights" else []
    config = resolve("photos.csv", [f"{key}={text}", *more])
    for part in key.split("."):
        config = getattr(config, "start" if part == "from" else part)
    return config


def test_the_properties_below_speak_of_every_option_that_takes_any_text_or_path():
    raws = [{"data": {"name": data}, "method": {"name": method}} for data in ("table", "folder", "cifar10",
            "imagenet-lt") for method in METHODS]  # fmt: skip
    found = {
        key
        for raw in raws
        for key, kind in fields(RunConfig, raw)
        if {str, Path} & set(_kinds(kind))
    }
    # names of policies, and the folder of published lists, are read by the same two rules
    assert found == TEXTS | PATHS | {"data.augmentation", "data.lists", "method.test_views",
                                     "model.adapter_weights"}  # fmt: skip


@pytest.mark.parametrize("key", sorted(TEXTS))
@settings(max_examples=30)
@given(text=surrogate_free)
@example(text="#nr")
def test_any_text_arrives_unchanged(key, text):
    nothing = text == "null" and key not in ("recipe", "description")
    assert read(key, text) == (None if nothing else text)


@pytest.mark.parametrize("key", sorted(TEXTS))
@pytest.mark.parametrize("text", SURPRISES)
def test_texts_that_yaml_takes_for_something_else_arrive_unchanged(key, text):
    assert read(key, text) == text


@pytest.mark.parametrize("key", sorted(PATHS))
@settings(max_examples=30)
@given(text=surrogate_free.filter(lambda text: not text.startswith("~") and text != "null"))
@example(text="/data/my set #1")
def test_any_path_arrives_unchanged(key, text):
    if "\0" in text:
        with pytest.raises(ConfigError, match="a path must not contain a zero byte"):
            read(key, text)
    else:
        assert read(key, text) == Path(text).absolute()


def test_nobodys_home_is_refused():
    with pytest.raises(ConfigError, match="home directory is unknown"):
        read("data.root", "~nobody-of-this-name/x")


@pytest.mark.parametrize(
    "arguments",
    [
        ("data", "verify", "cifar100", "--root", "~nobody-of-this-name/x"),
        ("data", "inspect", "~nobody-of-this-name/x"),
        ("train", "~nobody-of-this-name/x"),
        ("train", "digits-lt/crt", "epochs=1", "from=~nobody-of-this-name/x"),
        ("reproduce", "~nobody-of-this-name/x"),
    ],
)
def test_every_verb_tells_of_nobodys_home(arguments, longtail):
    status, _, errors = longtail(*arguments)
    assert status == 2
    assert "nobody-of-this-name" in errors


@pytest.mark.parametrize(
    "text", ["2021", "on", "010", "2021-01-01", "1:30", "0x10", "1e3", "yes", ".5", "=", "1_0"]
)
def test_texts_without_quotes_in_a_file_keep_their_letters(tmp_path, text):
    file = tmp_path / "mine.yaml"
    file.write_text(f"extends: images/balanced-softmax\ndata:\n  name: table\n  path: {text}\n"
                    f"  keep_together: {text}\ndescription: {text}\n")  # fmt: skip
    config = resolve(str(file))
    assert (config.data.keep_together, config.description) == (text, text)
    assert config.data.path == Path(text).absolute()


@pytest.mark.parametrize("nothing", ["null", "~", "", "Null"])
def test_nothing_in_a_file_empties_what_may_be_empty(tmp_path, nothing):
    file = tmp_path / "mine.yaml"
    file.write_text("extends: images/balanced-softmax\ndata:\n  name: table\n  path: x.csv\n"
                    f"  keep_together: {nothing}\n")  # fmt: skip
    assert resolve(str(file)).data.keep_together is None


@pytest.mark.parametrize(
    ("text", "value"), [("010", 10), ("1_000", 1000), ("+7", 7), ("40", 40), ("40.0", 40)]
)
def test_whole_numbers_are_read_as_people_read_them(text, value):
    assert resolve("digits-lt/cross-entropy", [f"epochs={text}"]).training.epochs == value


@pytest.mark.parametrize(
    "change",
    ["epochs=1:30", "epochs=true", "epochs=0x10", "epochs=2021-01-01", "learning_rate=1e309",
     "learning_rate=1e308", "weight_decay=1e300", "milestones=[1e31]", "seed=9223372036854775808",
     "batch_size=" + "9" * 30, "learning_rate=nan", "learning_rate=.inf", "milestones=[.inf]",
     "milestones=[.nan, 1]", "workers=2000", "milestones=[true]", "nesterov=2", "seed=1.5",
     "epochs=" + "9" * 5000, "method=5", "method=[1]", "method=true", "data=[1]", "data=5",
     "model=5", "training=[]", "method.loss=[1]", "method.loss=5", "method.name=[1]",
     "loss={name: [1]}", "method={name: {}}", "mixing=[x]", "loss={name: ldam, name: focal}",
     "milestones=" + "[" * 3000],
)  # fmt: skip
def test_what_is_no_value_of_an_option_is_refused_in_words(change):
    with pytest.raises(ConfigError) as caught:
        resolve("digits-lt/cross-entropy", [change])
    assert re.split("[.=]", change)[0] in str(caught.value)
    assert len(str(caught.value)) < 1500


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n"
    for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\nb: 2\na: 3\n", "line 3: the key 'a' occurs twice"),
        ("a: &x [*x]\n", "nested more than 50 levels"),
        (BOMB, "more than 50,000 values"),
        ("[" * 3000, "nested more than 50 levels"),
        ("[" * 60 + "]" * 60, "nested more than 50 levels"),
        ("a: !!python/object/apply:os.system [ls]\n", "the tag tag:yaml.org,2002:python/object"),
        ("a: !!binary aGk=\n", "the tag"),
        ("? [a]\n: 1\n", "line 1: a key must be a word"),
        ("a: [1\nb: 2\n", "line 2"),
        ("a: \0", "special characters"),
        ("<<: 3\n", "<< needs a mapping"),
        ("a: 1\n---\nb: 2\n", "expected a single document"),
    ],
)
def test_yaml_that_no_person_means_is_refused(text, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        parse_yaml(text)


def test_yaml_is_read_as_its_own_reader_does_apart_from_the_texts():
    text = "a: &a {x: 1, y: [on, 2.5, null, text, '3']}\nb: {<<: *a, x: 2}\n2: 1\n"
    assert values(parse_yaml(text)) == {
        "a": {"x": 1, "y": [True, 2.5, None, "text", "3"]},
        "b": {"x": 2, "y": [True, 2.5, None, "text", "3"]},
        "2": 1,
    }
    assert parse_yaml("a: 010") == {"a": Plain(8, "010")}
    assert parse_yaml("") is None


def test_no_option_is_infinite():
    assert all(kind.model_config["allow_inf_nan"] is False for kind in (Options, RunConfig))


def test_a_file_that_is_far_too_large_is_not_read(tmp_path):
    (tmp_path / "big.yaml").write_text("a: " + "x" * 2_000_000)
    with pytest.raises(
        ConfigError, match=r"big.yaml cannot be read as YAML \(it is larger than 2,000,000"
    ):
        resolve(str(tmp_path / "big.yaml"))


@pytest.mark.parametrize("verb", [("data", "inspect"), ("train",)])
def test_an_image_is_no_collection(verb, longtail, image_folder):
    image = next(image_folder.rglob("*.png"))
    status, _, errors = longtail(*verb, image)
    assert status == 2
    assert "is a single image: name the folder" in errors
