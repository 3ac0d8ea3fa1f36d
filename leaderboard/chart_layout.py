"""Layout of the charts that a report draws by the dozen: the names of the methods along one axis.

matplotlib's own layouts draw every label several times over to find its room.  The names are the same in each
of these charts, so they are measured once.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from math import sqrt
from typing import Literal

from matplotlib.figure import Figure
from matplotlib.layout_engine import LayoutEngine

FONT_SIZE, DPI = 9, 150  # points of all labels; pixels per inch of a PNG
EDGE, GAP, LINE = 0.1, 0.1, 0.15  # inches: around a figure, between axis and label, and of a line of text


class NamesAlong(LayoutEngine):
    """Edges of a figure's only axes, where names stand along `axis` and numbers along the other one.

    Parameters
    ----------
    axis : "x" or "y"
        Names along x are turned by 45 degrees.
    names : iterable of str
        Labels of that axis, escaped for matplotlib.
    """

    _adjust_compatible = True
    _colorbar_gridspec = True

    def __init__(self, axis: Literal["x", "y"], names: Iterable[str]) -> None:
        super().__init__()
        self.axis = axis
        self.widths = [_inches(name) for name in names]

    def execute(self, fig: Figure) -> None:
        """Place the axes and their labels, whose places are not looked for anew at each drawing then."""
        (ax,) = fig.axes
        width, height = fig.get_size_inches()
        top = EDGE
        fig.subplots_adjust(right=1 - EDGE / width, top=1 - top / height)
        if self.axis == "y":
            left, bottom = max(self.widths), 2 * LINE + GAP
            away = {"x": LINE + 1.5 * GAP, "y": left}
        else:
            bottom = (max(self.widths) + LINE) / sqrt(2)
            fig.subplots_adjust(bottom=(EDGE + GAP + bottom) / height)
            numbers = ax.yaxis.get_tightbbox()
            assert numbers is not None
            left = (ax.bbox.x0 - numbers.x0) / fig.dpi
            away = {"x": bottom, "y": left - LINE}
            left = max(left, self.widths[0] / sqrt(2))
            top += max(0.0, numbers.y1 - ax.bbox.y1) / fig.dpi  # a power of ten stands there
        left, bottom = EDGE + GAP + left, EDGE + GAP + bottom
        fig.subplots_adjust(left=left / width, bottom=bottom / height, top=1 - top / height)
        ax.xaxis.set_label_coords(0.5, -away["x"] / (height - bottom - top))
        ax.yaxis.set_label_coords(-away["y"] / (width - left - EDGE), 0.5)


@lru_cache(maxsize=1000)
def _inches(text: str) -> float:
    """Width of a label in a PNG, where letters are rounded to pixels."""
    figure = Figure(dpi=DPI)
    label = figure.text(0, 0, text, fontsize=FONT_SIZE)
    return float(label.get_window_extent().width) / DPI
