"""Families of options: a name chooses the kind, and a class that is defined elsewhere is a kind, too."""

from typing import Literal

import pytest
from pydantic import BaseModel, Field, ValidationError

from longtail.config import Choice, Options


class Sound(Choice):
    name: str


class Bark(Sound):
    name: Literal["bark", "yelp"] = "bark"
    loudness: int = Field(3, ge=0)


class Zoo(Options):
    sound: Sound = Bark()
    others: tuple[Sound, ...] = ()


def test_a_name_chooses_the_kind_and_is_written_again():
    zoo = Zoo.model_validate({"sound": "yelp", "others": [{"name": "bark", "loudness": 7}]})
    assert zoo == Zoo(sound=Bark(name="yelp"), others=(Bark(loudness=7),))
    written = zoo.model_dump(mode="json")
    assert written == {
        "sound": {"name": "yelp", "loudness": 3},
        "others": [{"name": "bark", "loudness": 7}],
    }
    assert Zoo.model_validate_json(zoo.model_dump_json()) == zoo


def test_a_class_defined_later_is_a_kind_for_fields_that_exist():
    class Purr(Sound):
        name: Literal["purr"] = "purr"

    try:
        assert Zoo.model_validate({"sound": "purr"}).sound == Purr()
    finally:
        del Sound.kinds["purr"]


@pytest.mark.parametrize(
    ("given", "said", "place"),
    [
        ("brk", "there is no 'brk'; did you mean bark? (known: bark, yelp)", ("sound",)),
        ({"loudness": 1}, "is missing its name", ("sound",)),
        ([1], "must be a name or options with a name", ("sound",)),
        ({"name": "bark", "loudness": -1}, "greater than or equal to 0", ("sound", "loudness")),
        ({"name": "bark", "pitch": 1}, "Extra inputs", ("sound", "pitch")),
    ],
)
def test_what_is_wrong_is_said_with_its_place(given, said, place):
    with pytest.raises(ValidationError) as caught:
        Zoo.model_validate({"sound": given})
    (error,) = caught.value.errors()
    assert said in error["msg"]
    assert error["loc"] == place


def test_no_two_modules_share_a_name():
    with pytest.raises(TypeError, match=r"'yelp' already, in .*test_choice"):
        type("Other", (Sound,), {
            "__module__": "elsewhere",
            "__annotations__": {"name": Literal["yelp"]},
            "name": "yelp",
        })  # fmt: skip


def test_families_are_apart():
    class Colour(Choice):
        name: str

    assert Colour.kinds == {}
    assert set(Sound.kinds) == {"bark", "yelp"}
    assert BaseModel in Colour.__mro__
