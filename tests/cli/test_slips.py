"""Slips of a newcomer: each is answered with what to write instead, before anything takes long."""

import pytest

from tests.cli.test_verbs import SHORT


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["train", "digits-lt/cross-entropy", "--epochs", "3"], "here epochs=3."),
        (["train", "digits-lt/cross-entropy", "--lr=0.1"], "here learning_rate=0.1."),
        (["train", "digits-lt/cross-entropy", "--batch-size", "8"], "here batch_size=8."),
        (["adjust", "nowhere", "--by", "tua"], "--by must be one of tau"),
        (["adjust", "nowhere", "--by", "prior"], "--by prior needs --prior FILE"),
        (["adjust", "nowhere", "--by", "tau", "--prior", "uniform"], "--prior belongs to"),
        (["train", "digits-lt/cross-entropy", "--resume"], "--out RUN."),
    ],
)
def test_slips_are_answered(longtail, words, told):
    status, out, err = longtail(*words)
    assert status == 2
    assert told in out + err


def test_help_is_a_verb_too(longtail):
    assert "longtail demo" in longtail("help")[1]
    assert "Try" not in longtail("help", "train")[2]


def test_resume_names_the_newest_run(longtail, tmp_path):
    longtail("train", *SHORT, "--out", "runs/mine")
    err = longtail("train", "digits-lt/cross-entropy", "--resume")[2]
    assert "runs/mine" in err
    # nothing but lines on what is no terminal
    assert not longtail("report", "runs/mine")[2].startswith("\n")


def test_a_folder_is_found_by_the_beginning_of_its_name(longtail, tmp_path):
    (tmp_path / "My Photos (2024)").mkdir()
    assert "Did you mean My Photos (2024)/?" in longtail("train", "my photos")[2]
