"""Vectors of classes in a file: found by name, whatever their order; wrong ones are refused in words."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from longtail.core import ConfigError, DataError
from longtail.models.class_vectors import read_class_vectors, write_class_vectors

ANT, BEE, COW = (torch.tensor(v) for v in ([1.0, 2.0, 0.0], [0.0, 1.0, 5.0], [3.0, 0.0, 1.0]))


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_rows_come_by_name_in_any_order(tmp_path, suffix):
    file = tmp_path / f"text{suffix}"
    write_class_vectors(file, ["cow", "bee", "ant", "dog/wolf"], torch.stack([COW, BEE, ANT, ANT]))
    vectors = read_class_vectors(file)
    assert torch.equal(vectors.ordered(["ant", "bee", "cow"]), torch.stack([ANT, BEE, COW]))
    assert torch.equal(vectors.for_features(["bee", "ant"], 3), torch.stack([BEE, ANT]))
    assert vectors.unused(["ant", "bee", "cow"]) == ["dog/wolf"]


def test_files_of_others_are_read(tmp_path):
    np.savez(tmp_path / "a.npz", ant=ANT.numpy().astype(np.float16), bee=BEE.numpy())
    save_file({"bee": BEE, "ant": ANT.bfloat16()}, tmp_path / "a.safetensors")
    for name in ("a.npz", "a.safetensors"):
        assert torch.equal(
            read_class_vectors(tmp_path / name).ordered(["ant", "bee"]), torch.stack([ANT, BEE])
        )


def test_the_projection_ranks_as_in_the_joint_space(tmp_path):
    file, projection = (
        tmp_path / "text.safetensors",
        torch.tensor([[1.0, 0, 2, 0], [0, 3, 0, 1], [1, 1, 0, 0]]),
    )
    write_class_vectors(file, ["ant", "bee"], torch.stack([ANT, BEE]), projection)
    rows = read_class_vectors(file).for_features(["ant", "bee"], 4)
    features = torch.tensor([0.5, -1.0, 2.0, 1.0])
    joint = projection @ features  # 4.5, -2, -.5
    assert joint.tolist() == [4.5, -2.0, -0.5]
    assert (rows @ features).tolist() == [4.5 - 4.0, -2.0 - 2.5]
    with pytest.raises(
        ConfigError, match=r"vectors of 3 numbers, or 4 through its projection, .* have 5"
    ):
        read_class_vectors(file).for_features(["ant", "bee"], 5)


def test_missing_names_are_told_with_the_nearest(tmp_path):
    write_class_vectors(tmp_path / "t.npz", ["aquarium fish", "bee"], torch.stack([ANT, BEE]))
    vectors = read_class_vectors(tmp_path / "t.npz")
    with pytest.raises(
        ConfigError, match=r"for 1 of 2 classes: aquarium_fish\. It has 'aquarium fish'"
    ):
        vectors.ordered(["aquarium_fish", "bee"])
    # names are compared as those of classes are: composed letters, no space around
    assert torch.equal(vectors.ordered([" bee "]), BEE[None])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"ant": ANT[None]}, r"shape \[1, 3\]. The file must hold one vector for each class"),
        ({"ant": torch.zeros(3)}, "zero or not finite"),
        ({"ant": ANT / 0}, "zero or not finite"),
        ({"ant": ANT, "bee": ANT[:2].clone()}, "different lengths: 2, 3"),
        ({"ant": ANT, "ant ": BEE}, "are one class"),
        ({"__projection__": torch.ones(3, 2)}, "holds no vector"),
        ({"ant": ANT, "__projection__": torch.ones(2, 2)}, r"projection has shape \[2, 2\]"),
    ],
)
def test_what_is_no_vector_is_refused(tmp_path, content, said):
    save_file(content, tmp_path / "t.safetensors")
    with pytest.raises(DataError, match=said):
        read_class_vectors(tmp_path / "t.safetensors")


def test_what_is_no_file_of_vectors_is_refused(tmp_path):
    (tmp_path / "t.npz").write_bytes(b"no numbers")
    np.savez(tmp_path / "o.npz", ant=np.array([object()]))
    for name in ("t.npz", "o.npz", "missing.npz"):
        with pytest.raises(DataError, match="cannot be read as vectors of classes"):
            read_class_vectors(tmp_path / name)
    with pytest.raises(ConfigError, match=r"from \.safetensors or \.npz"):
        read_class_vectors(tmp_path / "t.csv")
