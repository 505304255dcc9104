"""Axes that people read."""

from matplotlib.axis import Axis
from matplotlib.ticker import FuncFormatter, MaxNLocator


def plain_numbers(axis: Axis) -> None:
    """Label a logarithmic axis with plain numbers, and between the powers of ten where it has few.

    Call it when everything is drawn: how many are needed depends on the range.
    """
    low, high = axis.get_view_interval()
    between = set("123456789") if high < 4 * low else set("25") if high < 100 * low else set()

    def minor(value: float, _place: float | None) -> str:
        return f"{value:g}" if f"{value:.3e}"[0] in between else ""

    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(FuncFormatter(minor))


def whole_numbers(axis: Axis) -> None:
    """Label a linear axis at whole numbers only: of epochs, of classes."""
    axis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
