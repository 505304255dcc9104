"""Methods by name, and the data, network and training that they share."""

import pytest

from longtail.core.errors import ConfigError
from longtail.recipes.compared import bases, named_methods, on_base, shares_first_stage
from longtail.recipes.own_images import FINE_TUNING, FROM_NOTHING, FROZEN


def test_names_are_read_as_the_field_writes_them(tmp_path):
    (tmp_path / "mine.yaml").write_text("method: {name: single-head, loss: focal}\n")
    found = named_methods(f"Balanced_Softmax, tau,DO,places-lt/reslt,ncl,{tmp_path}/mine.yaml")
    assert [method.name for method in found] == [
        "balanced-softmax", "tau-normalisation", "do", "reslt", "ncl", "mine",
    ]  # fmt: skip
    assert found[0].method == {"name": "single-head", "loss": "balanced-softmax"}
    assert found[1].method == {"name": "decoupling", "classifier": "tau"}
    assert found[5].method["loss"] == "focal"


def test_only_what_belongs_to_a_method_comes_from_the_training_of_its_recipe():
    sam, wb, plain = named_methods("sam,wb,ce")
    assert sam.training == {"optimizer": "sam", "rho": 0.05}
    assert wb.training == {"weight_decay": 5e-3}  # the method is its weight decay
    assert plain.training == {}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("balanced-sofmax,crt", "Did you mean balanced-softmax"),
        ("crt", "at least two methods"),
        (",", "at least two methods"),
        ("ce,cross-entropy", "names cross-entropy twice"),
        ("balanced-softmax,balanced-softmax-do-schedule", "differ only in their schedules"),
    ],
)
def test_wrong_names_are_told(text, said):
    with pytest.raises(ConfigError, match=said):
        named_methods(text)


def test_frozen_features_only_where_no_method_trains_the_network(tmp_path):
    heads, others = named_methods("ce,ldam-drw"), named_methods("ce,crt")
    assert bases(str(tmp_path), heads, [], None) == [FROZEN, FINE_TUNING, FROM_NOTHING]
    assert bases(str(tmp_path), others, [], None) == [FINE_TUNING, FROM_NOTHING]
    # mixing shows each image in many ways
    assert FROZEN not in bases(str(tmp_path), named_methods("ce,mixup"), [], None)
    assert bases(str(tmp_path), heads, ["backbone=resnet32"], None) == [FROM_NOTHING]
    assert bases(str(tmp_path), heads, [], "fine-tuning") == [FINE_TUNING]
    assert bases("digits-lt/cross-entropy", others, [], None) == ["digits-lt/cross-entropy"]
    with pytest.raises(ConfigError, match="crt must train the whole network"):
        bases(str(tmp_path), others, [], "frozen-features")
    with pytest.raises(ConfigError, match="--base must be one of frozen-features"):
        bases(str(tmp_path), others, [], "frozen")


def test_all_methods_share_everything_but_the_method(tmp_path):
    one, other = (
        on_base(str(tmp_path), FINE_TUNING, method, ["epochs=7"])
        for method in named_methods("ce,crt")
    )
    assert (one.data, one.model, one.training) == (other.data, other.model, other.training)
    assert one.training.epochs == 7
    assert one.training.images_seen is None
    assert (one.method_name, other.method_name) == ("single-head", "decoupling")
    with pytest.raises(ConfigError, match="write them into a recipe file"):
        on_base(str(tmp_path), FINE_TUNING, named_methods("ce,crt")[0], ["loss=ldam"])


def test_classifiers_on_one_representation_share_its_training(tmp_path):
    crt, lws, plain = (
        on_base(str(tmp_path), FINE_TUNING, m, []) for m in named_methods("crt,lws,ce")
    )
    assert shares_first_stage(lws, crt)
    assert not shares_first_stage(crt, plain)
