"""An exported model sees the pixels that `predict` sees, prepared as its card and the tutorial say."""

import re
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from PIL import Image

import longtail
from longtail import api
from longtail.data.images.decode import read_view
from longtail.export import export_run
from longtail.export.preparation import prepare, program

DOCS = Path(__file__).parents[2] / "docs"

SIZES = [(64, 64), (300, 200), (20, 31)]


def photo(width, height, seed=0):
    """A smooth image with fine noise, as photographs are: decoding at a reduced scale changes it."""
    generator = np.random.default_rng(seed)
    coarse = Image.fromarray(generator.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), dtype=int)
    noisy = smooth + generator.integers(-40, 41, (height, width, 3))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize("fit", ["crop", "pad", "squash"])
@pytest.mark.parametrize("size", [32, 96])
def test_plain_pillow_sees_what_predict_sees(size, fit, tmp_path):
    made = {}
    exec(program(size, fit), made)
    turned = Image.Exif()
    turned[0x0112] = 6
    for width, height in SIZES:
        image = photo(width, height)
        alpha = Image.fromarray(np.tile(np.arange(width) % 256, (height, 1)).astype(np.uint8))
        for name, kept, more in (
            ("a.jpg", image, {"quality": 90}),
            ("turned.jpg", image, {"exif": turned}),
            ("grey.jpg", image.convert("L"), {}),
            ("cmyk.jpg", image.convert("CMYK"), {}),
            ("a.png", image, {}),
            ("palette.png", image.quantize(16), {}),
            ("clear.png", Image.merge("RGBA", (*image.split(), alpha)), {}),
            ("flat.png", Image.merge("RGBA", (*image.split(), Image.new("L", image.size, 90))), {}),
            ("a.webp", image, {}),
        ):
            kept.save(tmp_path / name, **more)
            expected = read_view(tmp_path / name, size, fit=fit).astype(int)
            found = prepare(tmp_path / name, size, fit)
            assert found.shape == (3, size, size)
            off = np.abs(np.rint(255 * found) - expected).max()
            assert off <= 1, (name, width, height, off)  # rounded once more or less often
            np.testing.assert_array_equal(made["prepare"](tmp_path / name), found)


def test_a_reduced_scale_matters_and_more_than_8_bits_are_refused(tmp_path):
    photo(64, 64).save(tmp_path / "a.jpg", quality=90)
    whole = Image.open(tmp_path / "a.jpg").resize((32, 32), Image.Resampling.BILINEAR)
    other = np.asarray(whole, dtype=int).transpose(2, 0, 1)
    assert np.abs(other - read_view(tmp_path / "a.jpg", 32).astype(int)).max() > 3
    Image.fromarray(np.full((40, 40), 60_000, np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(ValueError, match="more than 8 bits"):
        prepare(tmp_path / "deep.png", 32)


def documented_program():
    """Return the program of the tutorial that uses an exported model, up to its loop over files."""
    page = (DOCS / "own-data.md").read_text(encoding="utf-8")
    (source,) = (
        block
        for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL)
        if "onnxruntime" in block
    )
    return source.split("for path in sorted")[0]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The folder of a run on JPEG files larger than the model's input, exported as ONNX."""
    root = tmp_path_factory.mktemp("exported")
    for label, name in enumerate(("ant", "bee", "cow")):
        (root / "images" / name).mkdir(parents=True)
        for number in range(12):
            width, height = ((64, 64), (300, 200))[number % 2]
            photo(width, height, 100 * label + number).save(
                root / "images" / name / f"{number}.jpg"
            )
    line = ["loss=cross-entropy", "backbone=resnet20", "image_size=32", "epochs=2", "batch_size=8",
            "precision=fp32"]  # fmt: skip
    api.train(str(root / "images"), line, out=root / "runs" / "first", device="cpu")
    return root, export_run(root / "runs" / "first", "onnx")


def test_the_documented_program_finds_the_probabilities_of_predict(exported, monkeypatch):
    root, done = exported
    monkeypatch.chdir(root)
    made = {}
    exec(documented_program(), made)
    files = sorted((root / "images").rglob("*.jpg"))
    predicted = longtail.load(root / "runs" / "first", device="cpu").predict(files)
    for path, name, probability in zip(
        files, predicted["class_1"], predicted["probability_1"], strict=True
    ):
        found, sure = made["classify"](path)
        assert found == name
        assert sure == pytest.approx(probability, abs=1e-3)
    assert done.prepared.files == 8
    assert done.prepared.difference < 1e-3


def test_the_card_and_the_metadata_hold_the_whole_program(exported):
    _, done = exported
    session = onnxruntime.InferenceSession(str(done.path), providers=["CPUExecutionProvider"])
    facts = session.get_modelmeta().custom_metadata_map
    assert facts["preprocessing_python"] == program(32)
    assert facts["resize_side"] == "32"
    card = done.card.read_text(encoding="utf-8")
    assert program(32) in card
    for text in (card, facts["preprocessing"]):
        assert "image.draft('RGB', (32, 32))" in text
    assert "On 8 image files that the program below prepared" in card
