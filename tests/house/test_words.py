"""One word for one thing: what `docs/glossary.md` calls otherwise does not come back.

When a name is changed everywhere, write the old word into the last column of the glossary.
"""

import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in (ROOT / "docs" / "glossary.md").read_text().splitlines()
    if line.startswith("| ") and not line.startswith("| word ")
]
INSTEAD_OF = {old: word for word, _, olds in ROWS for old in olds.split(", ") if old}
READ = {".py", ".md", ".j2", ".yaml", ".toml"}
# where an old word means something else, or what was written with it must stay as it is
ALLOWED = {
    # a random stream, which other words would draw anew; columns of people's tables
    "picture": ['"picture in class"', '"img path", "picture"'],
    # numbered ones of PaCo's paper
    "remark": ["remark 2)", "Remark 2,", "remark_1", "the_remarks"],
}


@cache
def files():
    tops = [ROOT / name for name in ("src", "docs", "tests", "benchmarks")]
    inside = [file for top in tops for file in sorted(top.rglob("*")) if file.suffix in READ]
    # pages that the docs are built with may be old: they are made from what is read here
    docs = ROOT / "docs"
    made = [docs / "options.md", docs / "commands.md"]
    made += [*(docs / "methods").glob("*"), *(docs / "api").glob("*")]
    skipped = {ROOT / "docs" / "glossary.md", Path(__file__), *made}
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(f for f in inside if f not in skipped)]


def words_of(text):
    """Return a text with the parts of names apart: `PicturesOf_two` is `pictures of two`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text).replace("_", " ").lower()


@cache
def read(file):
    """Return the text of a file, and all that a word can be found in."""
    text = file.read_text()
    return text, f"{words_of(text)} {text.lower()}"


def uses(old, text):
    for allowed in ALLOWED.get(old, []):
        text = text.replace(allowed, "")
    if "-" in old:  # `at_once` in a name, `at once` in a sentence are not the option `--at-once`
        return re.findall(rf"\b{old}\b", text.lower())
    return re.findall(rf"\b{old}s?\b", words_of(text))


def test_the_glossary_is_short_and_its_words_are_in_use():
    words = [word for word, _, _ in ROWS]
    assert 20 < len(words) == len(set(words)) <= 40
    text = words_of("\n".join(read(file)[0] for file in files()))
    assert [word for word in words if word.replace("-", " ") not in text.replace("-", " ")] == []
    assert not set(INSTEAD_OF) & set(words)


@pytest.mark.parametrize("old", INSTEAD_OF)
def test_a_word_outside_the_glossary_does_not_come_back(old):
    named = [f"the name {file.relative_to(ROOT)}" for file in files() if uses(old, file.stem)]
    lines = [
        f"{file.relative_to(ROOT)}:{number}"
        for file in files()
        if old in read(file)[1]  # seldom: the lines are looked at only then
        for number, line in enumerate(read(file)[0].splitlines(), 1)
        if uses(old, line)
    ]
    assert named + lines == [], f"say {INSTEAD_OF[old]}, not {old}"


def test_every_form_of_a_word_is_seen():
    for text in ("a picture", "Pictures", "OldPicture", "PICTURE_SIZE", "read_pictures(x)"):
        assert uses("picture", text), text
    assert not uses("picture", 'numpy_generator(seed, "picture in class")')
    assert not uses("picture", "depicture")
    assert uses("checkpoint card", "class CheckpointCard:")
    assert not uses("checkpoint card", "a model card is written beside the checkpoint")
    assert uses("at-once", "longtail train --at-once 2")
    assert not uses("at-once", "ROWS_AT_ONCE = 8  # read at once")
