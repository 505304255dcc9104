"""The sentences of the report say what follows from the numbers, and nothing else."""

from types import SimpleNamespace

import numpy as np
import pytest

from longtail.core import ClassCounts, ShotGroups
from longtail.evaluation.metrics import wilson_interval
from longtail.methods import METHODS
from longtail.report import text

NAMES = ("ant", "bee", "cow", "dog", "eel")
COUNTS = (300, 150, 40, 8, 3)


def view_of(right, tested, *, pairs=(), drawn=False, inspection=None, counts=COUNTS):
    """Return what the sentences ask of a view: `right` of `tested` test images of each class are right."""
    right, tested = np.array(right), np.array(tested)
    known = ClassCounts(list(counts), NAMES)
    accuracy = np.where(tested > 0, right / np.maximum(1, tested), np.nan)
    bounds = [
        wilson_interval(r, t) if t else (np.nan, np.nan) for r, t in zip(right, tested, strict=True)
    ]
    entry = {"value": 0.5, "interval": (0.25, 0.75)}
    return SimpleNamespace(
        counts=known, groups=ShotGroups.from_counts(known), tested=tested, split="test",
        class_accuracy=accuracy, class_intervals=np.array(bounds), inspection=inspection,
        pairs=np.array(pairs, dtype=np.int64).reshape(-1, 3),
        intervals=dict.fromkeys(("all", "many", "medium", "few"), entry),
        run=SimpleNamespace(identity=SimpleNamespace(drawn_split=drawn)),
    )  # fmt: skip


def findings(**more):
    nothing = {"in_two_splits": (), "near_duplicates": (), "conflicting": ()}
    return SimpleNamespace(**nothing | more)


def test_a_model_without_faults_leads_to_its_mistakes():
    perfect = view_of([50] * 5, [50] * 5)
    (action,) = text.next_actions(perfect)
    assert action.startswith("Look through the mistakes below")
    assert text.class_verdict(perfect) == (
        "5 of 5 classes are recognised (more than half of their images, with 95 % confidence). "
        "1 class has fewer than 5 training images."
    )


def test_images_are_asked_for_only_of_classes_that_have_few():
    # ant and bee are missed, too, but more images of a many-shot class are not what it lacks
    actions = text.next_actions(view_of([2, 2, 2, 2, 2], [50] * 5))
    (asked,) = [line for line in actions if line.startswith("Label more images")]
    assert asked.endswith("(number of training images in brackets): eel (3), dog (8) and cow (40).")


def test_test_images_are_asked_for_where_a_class_cannot_be_judged():
    right = [50, 50, 50, 2, 0]
    own = text.next_actions(view_of(right, [50, 50, 50, 4, 0]))[-1]
    assert own == (
        "Add test images of eel (0) and dog (4): 2 classes have fewer than 5 test images, which is too few "
        "to judge a class."
    )
    drawn = text.next_actions(view_of(right, [50, 50, 50, 4, 0], drawn=True))[-1]
    assert drawn.startswith(
        "Add images of eel (0) and dog (4) (a share of them becomes test): 2 classes"
    )


@pytest.mark.parametrize(
    ("images", "size", "told"),
    [(10, 50, True), (9, 50, False), (2, 5, False), (3, 4, False), (3, 15, True)],
)
def test_a_confusion_is_named_from_a_fifth_of_a_class_and_three_images_on(images, size, told):
    shown = view_of([size] * 5, [size] * 5, pairs=[(2, 3, images)])
    found = [
        line for line in text.next_actions(shown) if line.startswith("Look at cow taken for dog")
    ]
    assert bool(found) == told
    if told:
        assert f"({images} of {size} images)" in found[0]


def test_files_with_two_labels_are_named_three_at_most():
    several = tuple((f"ant/{n}.png", f"bee/{n}.png") for n in range(5))
    shown = view_of([50] * 5, [50] * 5, inspection=findings(conflicting=several))
    assert text.next_actions(shown)[0] == (
        "Decide which label is correct where files with identical pixels have different ones, and delete "
        "the other file: ant/0.png = bee/0.png; ant/1.png = bee/1.png; ant/2.png = bee/2.png, and 2 more."
    )
    shown.inspection = findings(conflicting=several[:1], in_two_splits=(("a", "b"),))
    first, second = text.next_actions(shown)[:2]
    assert first.startswith("Remove the images that are in two splits")
    assert second.endswith("delete the other file: ant/0.png = bee/0.png.")


def test_the_worst_class_can_be_judged_and_its_ties_are_counted():
    accuracy, interval, which = text.worst_class(view_of([50, 10, 10, 10, 0], [50, 50, 50, 50, 4]))
    low, high = wilson_interval(10, 50)
    assert accuracy == "20.0 %"
    assert interval == f"[{100 * low:.1f}, {100 * high:.1f}]"
    assert which.endswith(" and 2 more, 50 images")
    assert text.worst_class(view_of([0] * 5, [4] * 5)) == (
        "not measurable",
        "no class has 5 images",
        "",
    )


def test_groups_without_classes_have_no_line():
    lines = text.group_lines(view_of([5] * 5, [50, 40, 30, 20, 10], counts=(300, 150, 120, 8, 3)))
    assert [(line["name"], line["classes"], line["images"]) for line in lines] == [
        ("many", 3, 120), ("few", 2, 30),
    ]  # fmt: skip
    assert (lines[0]["accuracy"], lines[0]["interval"]) == ("50.0", "[25.0, 75.0]")


@pytest.mark.parametrize("name", ["reslt", "single-head", "decoupling"])
def test_how_it_was_made_names_method_loss_network_and_paper(name):
    loss = SimpleNamespace(name="balanced-softmax") if name == "single-head" else None
    features = "backbone" if name == "decoupling" else None
    shown = SimpleNamespace(
        run=SimpleNamespace(
            config=SimpleNamespace(method_name=name, model=SimpleNamespace(backbone="resnet20"))
        ),
        model=SimpleNamespace(method=SimpleNamespace(config=SimpleNamespace(loss=loss))),
        stages=[SimpleNamespace(features=features)],
    )
    said = text.how_made(shown)
    assert said[0].startswith(f"Method: {name} ({METHODS[name].summary})")
    assert said[0].endswith("backbone: resnet20, frozen." if features else "backbone: resnet20.")
    assert ("loss: balanced-softmax" in said[0]) == (loss is not None)
    cited = METHODS[name].citation
    assert said[1:] == ([] if cited.startswith("see") else [f"Cite: {cited}."])
