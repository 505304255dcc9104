"""What the pages of methods say is good to know names options that exist."""

import re
from pathlib import Path

import pytest

from longtail.core.errors import ConfigError
from longtail.methods import METHODS
from longtail.recipes import recipe_names, resolve

PAGES = sorted((Path(__file__).parents[2] / "docs" / "good-to-know").glob("*.md"))
DIGITS = [name for name in recipe_names() if name.startswith("digits-lt/")]
RECIPES = {resolve(name).method_name: name for name in reversed(DIGITS)}  # the first of each method


def assignments(text):
    """Return every `key=value` in a code span, those of another run (`from=RUN`) excepted."""
    spans = " ".join(re.findall(r"`([a-z_.]+=[^`]+)`", text))
    found = re.findall(r"[a-z_.]+=(?:\{[^}]*\}|\[[^\]]*\]|\S+)", spans)
    return [part for part in found if not part.startswith("from=")]


def can_be_written(parts, methods=tuple(RECIPES)):
    """Whether one of some methods has these options, and takes their values together."""
    for name in methods:
        try:
            resolve(RECIPES[name], parts)
        except ConfigError:
            continue
        return True
    return False


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_options_that_a_page_names_exist(page):
    for paragraph in page.read_text(encoding="utf-8").split("\n- "):
        together = assignments(paragraph)
        for part in together:
            own = part.partition("=")[0] in METHODS[page.stem].Config.model_fields
            methods = (page.stem, *(() if own else RECIPES))
            # alone, or with the others that it needs
            assert can_be_written([part], methods) or can_be_written(together, methods), part


def test_an_option_that_is_no_more_is_noticed():
    page = "`mixture=stacking`, `loss=a head=b`, `from=RUN`, `mixing={name: x}`"
    assert assignments(page) == ["mixture=stacking", "loss=a", "head=b", "mixing={name: x}"]
    assert not can_be_written(["mixture=stacking"])
    assert not can_be_written(["first_schedule=cosine"])
    assert can_be_written(["mixture=average"], ("do",))
    assert not can_be_written(["mixture=average"], ("paco",))
