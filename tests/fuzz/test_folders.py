"""Folders of images with strange names, links, pipes and damaged files: a sane count, or one sentence."""

import os
import re

import numpy as np
from PIL import Image

from tests.fuzz.harness import longtail, run_fuzz
from tests.fuzz.inspected import wrong_count
from tests.fuzz.mutate import mutate_bytes, nasty_text

ENDINGS = (".png", ".png", ".PNG", ".jpg", ".txt", ".heic", "", ".csv", ".png ")
PLAIN = ("fox", "owl", "lynx", "train", "val", "test", "seg_train", "@eaDir", ".hidden", "2020")


def test_folders(inputs, tmp_path):
    contents = []
    for seed in range(40):
        pixels = np.random.default_rng(seed).integers(0, 255, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "image.png")
        contents.append((tmp_path / "image.png").read_bytes())

    def name(rng):
        text = rng.choice(PLAIN) if rng.random() < 0.7 else nasty_text(rng)
        text = re.sub(r"[\x00/]", "_", text[:60]).encode(
            "utf-8", "surrogatepass" if rng.random() < 0.5 else "replace"
        )
        return os.fsdecode(text) if text not in (b"", b".", b"..") else "x"

    def file(rng, path):
        kind = rng.random()
        if kind < 0.8:
            content = rng.choice(contents)
            path.write_bytes(mutate_bytes(rng, content) if rng.random() < 0.05 else content)
        elif kind < 0.85:
            os.mkfifo(path)
        elif kind < 0.95:
            path.symlink_to(
                rng.choice([".", "..", "../..", "/dev/zero", "nowhere", path.name, "0.png"])
            )
        else:
            path.touch()

    def make(rng, folder):
        root = folder / "set"
        root.mkdir()
        folders = [root]
        for _ in range(rng.randint(1, 10)):
            inside = rng.choice(folders) / name(rng)
            if len(inside.parts) - len(root.parts) <= 3 and not os.path.lexists(inside):
                inside.mkdir()
                folders.append(inside)
        for number in range(rng.randint(0, 40)):
            stem = f"{number}" if rng.random() < 0.8 else f"{number}{name(rng)}"
            file(rng, rng.choice(folders) / f"{stem}{rng.choice(ENDINGS)}")
        return sum(len(files) for _, _, files in os.walk(root))

    def act(given, folder):
        return longtail("data", "inspect", "set", "--on-similar-names", "merge")

    def check(given, ended, folder):
        return wrong_count(ended.out, given)

    report = run_fuzz("folders", make, act, tmp_path, check=check, inputs=inputs)
    report.require()
    assert min(report.accepted, report.refused) > report.done // 20
