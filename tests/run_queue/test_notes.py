"""What runs of the same images have to say about them is said once."""

from longtail.recipes import resolve
from longtail.run_queue.jobs import Job, train_queue

QUICK = ["backbone=resnet20", "epochs=1", "batch_size=8"]
SAID = "note: Files whose extension is not an image format were left out: 1 (1 .txt)"


def test_seeds_say_what_holds_for_all_of_them_once(longtail, image_folder):
    (image_folder / "ant" / "notes.txt").write_text("wet")
    line = (image_folder, *QUICK, "--seeds", 2, "--parallel", 1, "--device", "cpu")
    status, out, err = longtail("train", *line, "--out", "runs/x")
    assert status == 0, err
    assert (out + err).count(SAID) == 1
    assert err.count("model: resnet20") == 2  # this is no note


def test_a_queue_says_what_holds_for_all_of_its_runs_once(image_folder, tmp_path, capsys):
    (image_folder / "ant" / "notes.txt").write_text("wet")
    jobs = {
        tmp_path / f"run-{seed}": Job(
            "", resolve(str(image_folder), [*QUICK, f"seed={seed}"]), None
        )
        for seed in (0, 1)
    }
    assert len([*train_queue(jobs, 1, "cpu", None, note=lambda text: None)]) == 2
    err = capsys.readouterr().err
    assert err.count(SAID) == 1
    assert err.count("model: resnet20") == 2


def test_what_was_said_before_a_queue_is_not_said_again(image_folder, tmp_path, capsys):
    (image_folder / "ant" / "notes.txt").write_text("wet")
    jobs = {tmp_path / "run": Job("", resolve(str(image_folder), [*QUICK]), None)}
    assert [
        *train_queue(jobs, 1, "cpu", None, note=lambda text: None, said=[f"{SAID}: ant/notes.txt."])
    ]
    err = capsys.readouterr().err
    assert "model: resnet20" in err
    assert SAID not in err
