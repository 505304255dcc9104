"""The colours of the shot groups are told apart by everybody, on white and on a dark page."""

import itertools
import re

import matplotlib
import numpy as np
import pytest

from longtail.core.groups import GROUP_NAMES
from longtail.report import figures
from longtail.report.group_colours import COLOURS, ON_DARK
from longtail.report.page import environment

PAGES = {"light": (COLOURS, "#ffffff", "#1c1f24"), "dark": (ON_DARK, "#15181c", "#e6e9ec")}
# Machado, Oliveira and Fernandes 2009, severity 1, on linear RGB
VISIONS = {
    "normal": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
                   [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
                     [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
                   [0.004733, 0.691367, 0.303900]],
}  # fmt: skip
XYZ = np.array([[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750],
                [0.0193339, 0.1191920, 0.9503041]])  # fmt: skip


def linear(colour):
    value = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)]) / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def lab(rgb):
    share = XYZ @ np.clip(rgb, 0, 1) / np.array([0.95047, 1, 1.08883])
    x, y, z = np.where(share > 216 / 24389, np.cbrt(share), (24389 / 27 * share + 16) / 116)
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


def contrast(one, other):
    """WCAG 2."""
    light = sorted(float(XYZ[1] @ linear(colour)) + 0.05 for colour in (one, other))
    return light[1] / light[0]


def difference(one, other):
    """CIEDE2000, after Sharma, Wu and Dalal 2005."""
    (l1, a1, b1), (l2, a2, b2) = one, other
    mean = (np.hypot(a1, b1) + np.hypot(a2, b2)) / 2
    more = 1.5 - 0.5 * np.sqrt(mean**7 / (mean**7 + 25**7))
    c1, c2 = np.hypot(more * a1, b1), np.hypot(more * a2, b2)
    h1, h2 = np.degrees(np.arctan2([b1, b2], [more * a1, more * a2])) % 360
    turn = (h2 - h1 + 180) % 360 - 180 if c1 * c2 else 0
    hue = (h1 + turn / 2) % 360 if c1 * c2 else h1 + h2
    light, chroma = (l1 + l2) / 2, (c1 + c2) / 2
    cosines = (
        np.cos(np.radians(angle)) for angle in (hue - 30, 2 * hue, 3 * hue + 6, 4 * hue - 63)
    )
    t = 1 + np.dot([-0.17, 0.24, 0.32, -0.20], list(cosines))
    in_light = (l2 - l1) / (1 + 0.015 * (light - 50) ** 2 / np.sqrt(20 + (light - 50) ** 2))
    in_chroma = (c2 - c1) / (1 + 0.045 * chroma)
    in_hue = 2 * np.sqrt(c1 * c2) * np.sin(np.radians(turn / 2)) / (1 + 0.015 * chroma * t)
    rotated = -2 * np.sqrt(chroma**7 / (chroma**7 + 25**7)) * np.sin(
        np.radians(60 * np.exp(-(((hue - 275) / 25) ** 2)))
    )  # fmt: skip
    return np.sqrt(in_light**2 + in_chroma**2 + in_hue**2 + rotated * in_chroma * in_hue)


def test_the_measure_is_that_of_its_authors():
    assert difference((50, 2.6772, -79.7751), (50, 0, -82.7485)) == pytest.approx(2.0425, abs=5e-5)
    assert difference((2.0776, 0.0795, -1.1350), (0.9033, -0.0636, -0.5514)) == pytest.approx(
        0.9082, abs=5e-5
    )


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("vision", VISIONS)
def test_groups_and_ink_are_told_apart(page, vision):
    colours, _, ink = PAGES[page]
    seen = [lab(np.array(VISIONS[vision]) @ linear(each)) for each in (*colours.values(), ink)]
    assert min(difference(*pair) for pair in itertools.combinations(seen, 2)) > 22


@pytest.mark.parametrize("page", PAGES)
def test_groups_stand_out_from_the_page(page):
    colours, back, _ = PAGES[page]
    assert list(colours) == list(GROUP_NAMES)
    assert min(contrast(colour, back) for colour in colours.values()) >= 3


def test_the_page_and_its_figures_use_them():
    style = environment().get_template("page.css").render()
    light, dark = (line for line in style.splitlines() if ":root {" in line)
    for name in GROUP_NAMES:
        assert f"--{name}: {COLOURS[name]};" in light
        assert f"--{name}: {ON_DARK[name]};" in dark
    rows = [
        {"name": name, "group": name, "train_count": 9, "accuracy": 0.5} for name in GROUP_NAMES
    ]
    with matplotlib.rc_context(figures.STYLE):
        svg = figures.to_svg(figures.class_accuracy(rows)[0], "x")
    assert {f"var(--{name})" for name in GROUP_NAMES} == set(re.findall(r"var\(--\w+\)", svg))
