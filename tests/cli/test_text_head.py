"""`longtail text-head` with a small random model of open_clip: it writes what the text network says."""

import json

import open_clip
import pytest
import torch
import torch.nn.functional as F

from longtail.models.class_vectors import read_class_vectors
from longtail.models.text_tower import as_words, load_text_tower

SMALL = {
    "embed_dim": 12,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "head_width": 32, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


@pytest.fixture
def model(tmp_path):
    """Register a small CLIP, write its weights into a file, and return both."""
    (tmp_path / "small-clip.json").write_text(json.dumps(SMALL))
    open_clip.add_model_config(tmp_path / "small-clip.json")
    torch.manual_seed(0)
    network = open_clip.create_model("small-clip").eval()
    torch.save(network.state_dict(), tmp_path / "clip.pt")
    return network, tmp_path / "clip.pt"


def by_hand(network, texts):
    with torch.inference_mode():
        tokens = open_clip.get_tokenizer("ViT-B-32")(texts)
        return F.normalize(network.encode_text(tokens), dim=1)


def test_vectors_are_the_mean_of_the_templates(longtail, image_folder, model, tmp_path):
    network, file = model
    templates = ["a photo of a {}.", "many {}s"]
    options = [word for template in templates for word in ("--template", template)]
    status, out, err = longtail(
        "text-head", image_folder, "--model", "small-clip", "--weights", file, *options,
        "--out", "text.safetensors", "--device", "cpu",
    )  # fmt: skip
    assert status == 0, err
    assert "a photo of a ant." in out
    vectors = read_class_vectors(tmp_path / "text.safetensors")
    names = ["cow", "ant", "bee"]  # in any order
    parts = [by_hand(network, [t.replace("{}", n) for n in names]) for t in templates]
    expected = F.normalize((parts[0] + parts[1]) / 2, dim=1)
    torch.testing.assert_close(vectors.ordered(names), expected)
    torch.testing.assert_close(vectors.projection, network.visual.proj.detach().T)
    assert vectors.projection.shape == (12, 64)


def test_zero_shot_by_the_projection_ranks_as_clip(model):
    network, file = model
    tower = load_text_tower("small-clip", str(file), torch.device("cpu"))
    vectors = tower.vectors(["ant", "bee", "cow"], ["{}"])
    with torch.inference_mode():
        image = network.encode_image(torch.randn(5, 3, 32, 32))  # P f
        plain = torch.linalg.pinv(tower.projection()) @ image.T  # some f with this P f
        logits = (vectors @ tower.projection() @ plain).T
    torch.testing.assert_close(logits, image @ vectors.T, rtol=1e-3, atol=1e-4)


def test_names_are_words(longtail, image_folder, model, tmp_path):
    (image_folder / "ant").rename(image_folder / "001")
    line = (
        "text-head",
        image_folder,
        "--model",
        "small-clip",
        "--weights",
        model[1],
        "--device",
        "cpu",
    )
    status, _, err = longtail(*line)
    assert status == 2
    assert "1 of 3 classes have no words in their names (001)" in " ".join(err.split())
    (tmp_path / "names.yaml").write_text("'001': garden ant\n")
    status, out, err = longtail(*line, "--names", "names.yaml")
    assert status == 0, err
    assert "a photo of a garden ant." in out
    (tmp_path / "names.yaml").write_text("wolf: wolf\n")
    status, _, err = longtail(*line, "--names", "names.yaml")
    assert status == 2
    assert "names classes that there are not: wolf" in " ".join(err.split())
    assert as_words("aquarium_fish") == "aquarium fish"


def test_what_cannot_be_loaded_is_told(longtail, image_folder):
    line = ("text-head", image_folder, "--device", "cpu")
    status, _, err = longtail(*line, "--model", "small-clap")
    assert status == 2
    assert "could not be loaded" in err
    status, _, err = longtail(*line, "--template", "no place")
    assert status == 2
    assert "must hold {} once" in " ".join(err.split())
    status, _, err = longtail(*line, "--out", "text.csv")
    assert status == 2
    assert ".safetensors or .npz" in " ".join(err.split())
