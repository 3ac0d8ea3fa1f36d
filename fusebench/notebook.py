"""Pictures for notebooks and scripts: `show`, sources and fused images side by side as a matplotlib figure.

It lies above the core, beside `api`, whose `fuse` it calls.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse
from numpy.typing import NDArray

from .arrays import grey
from .case import Case, Pair, Volume
from .errors import InputError

Array = NDArray[np.float32]
PLANES = ("axial", "coronal", "sagittal")
# Inches: width of a panel; height of the names above, of a line below and of a letter in it.
_PANEL, _HEAD, _FOOT, _LETTER = 1.7, 0.28, 0.15, 0.058
# A difference is drawn from minus to plus this, zero white.
_REACH = 0.5
_OUTLINE = "#ffd23f"


class Picture(Figure):
    """A matplotlib figure that shows itself in a notebook, once, whatever backend is in use."""

    def _repr_png_(self) -> bytes:
        out = io.BytesIO()
        self.savefig(out, format="png", dpi=110)
        return out.getvalue()


@dataclass(frozen=True)
class _Column:
    """One image of the figure: its name, its voxels, and how they are drawn."""

    name: str
    image: Array
    difference: bool = False
    chroma: NDArray[np.uint8] | None = None


@dataclass(frozen=True)
class _Mark:
    """A finding: voxel (d, h, w) of its centre, radius in mm, and if it is a functional one."""

    at: tuple[int, int, int]
    radius: float
    functional: bool


def show(
    case: Case | Pair,
    *fused: Any,
    difference: bool | str = False,
    colour: bool | str = False,
    findings: bool = False,
    at: Sequence[int] | None = None,
    planes: str | Sequence[str] = PLANES,
    radiological: bool = False,
) -> Figure:
    """Sources and fused images of a case side by side, one row per plane.

    Parameters
    ----------
    case : Case or Pair
    *fused : str, Method, array, or mapping of name to array
        Methods, which are fused on the spot (``"dwt"``, ``"blend@0.35"``, `create_method`), or fused images
        (D, H, W) in [0, 1].
    difference : bool or {"a", "b"}
        Beside each fused image, how it differs from the structural image (``"a"``), the functional one, or
        both: red where the fused image is brighter, white where equal, full colour from 0.5.
    colour : bool or str
        Colour the functional and the fused images by uptake, or as a coloured picture is; a name chooses the
        colour map (``"coldwarm"``, ``"heat"``).
    findings : bool
        Show the sources as protocol ``readers`` sets them up, with findings in them, circled: blue the
        structural, orange the functional ones.  Methods by name fuse these.  A lesion of a simulated case is
        outlined.
    at : sequence of int, optional
        Voxel (d, h, w) through which the planes go; default: the centre, or the first finding.
    planes : str or sequence of str
        ``"axial"``, ``"coronal"``, ``"sagittal"``.  A picture has one.
    radiological : bool
        The patient's right on the left, as radiologists look at images; default: left on the left.

    Returns
    -------
    matplotlib.figure.Figure
        ``savefig`` writes it; a notebook shows it.

    Raises
    ------
    InputError
        An image of another shape, an unknown plane or method, a voxel outside the case.

    Examples
    --------
    >>> import fusebench
    >>> case = fusebench.create_dataset("phantom").cases("test")[0]
    >>> fusebench.show(case, "laplacian", "dwt", difference="a").savefig("fused.png")  # doctest: +SKIP
    """
    if not isinstance(case, (Case, Pair)):
        raise InputError("show needs a case, as load_case(mri, pet) or a dataset gives it, then fused images")
    pair = case.pair if isinstance(case, Case) else case
    a, b, marks = _with_findings(case) if findings else (pair.a.data, pair.b.data, ())
    images = list(_named(fused, a, b))
    if colour and isinstance(case, Case) and not case.functional:
        raise InputError(f"{case.id}: {' and '.join(case.roles)} show no function that could be coloured")
    chroma = _chroma(pair.b, colour)
    roles = case.roles if isinstance(case, Case) else ("structural", "functional")
    columns = [_Column(roles[0], a), _Column(roles[1], b, chroma=chroma)]
    for name, image in images:
        columns.append(_Column(name, image, chroma=chroma))
        for source, other in _differences(difference, columns[:2]):
            columns.append(_Column(f"− {source}", image - other, difference=True))
    centre = marks[0].at if marks else tuple(n // 2 for n in pair.a.shape)
    place = _checked_place(centre if at is None else at, pair.a.shape)
    lesion = (case.truth or {}).get("lesion") if findings and isinstance(case, Case) else None
    lesion = lesion if lesion is not None and lesion.any() else None
    return _draw(columns, _planes(planes, pair.a), place, pair.a, marks, lesion, radiological)


# -- what is shown -------------------------------------------------------------------------------


def _named(fused: Sequence[Any], a: Array, b: Array) -> Iterator[tuple[str, Array]]:
    """Name and voxels of every fused image; methods fuse here."""
    from .api import fuse
    from .method import Method

    count = 0
    for given in fused:
        if isinstance(given, Mapping):
            items = list(given.items())
        elif isinstance(given, (str, Method)):
            items = [(given if isinstance(given, str) else given.info.name, fuse(a, b, given))]
        else:
            count += 1
            items = [("fused" if count == 1 else f"fused {count}", given)]
        for name, image in items:
            voxels = grey(image.data if isinstance(image, Volume) else image, f"the fused image {name!r}")
            if voxels.shape not in (a.shape, a.shape[1:] if len(a) == 1 else a.shape):
                raise InputError(
                    f"the fused image {name!r} has shape {voxels.shape} but the case has {a.shape}"
                )
            yield str(name), voxels.reshape(a.shape)


def _differences(asked: bool | str, sources: Sequence[_Column]) -> list[tuple[str, Array]]:
    if asked not in (True, False, "a", "b"):
        raise InputError(f"difference={asked!r}; give True, 'a' (structural) or 'b' (functional)")
    chosen = sources if asked is True else [s for s, key in zip(sources, "ab", strict=True) if key == asked]
    return [(s.name, s.image) for s in chosen]


def _with_findings(case: Case | Pair) -> tuple[Array, Array, tuple[_Mark, ...]]:
    """Sources as protocol ``readers`` sets them up, and its findings."""
    from .metric import MetricId
    from .scoring.protocol import READINGS
    from .scoring.select import metric_registry

    set_up = metric_registry().load(MetricId.parse(READINGS[0]).name).trial
    if set_up is None or not isinstance(case, Case):
        raise InputError("findings are put into a case: give one, not its images")
    trial = set_up(case)
    marks = tuple(
        _Mark((int(r["d"]), int(r["h"]), int(r["w"])), 2 * float(r["sigma"]), r["kind"] == "b")
        for r in trial.table()
    )
    return (
        trial.a_with.reshape(case.a.shape),
        trial.b_with.reshape(case.a.shape),
        tuple(sorted(marks, key=lambda m: not m.functional)),
    )


def _planes(asked: str | Sequence[str], like: Volume) -> list[str]:
    wanted = [asked] if isinstance(asked, str) else list(asked)
    unknown = [p for p in wanted if p not in PLANES]
    if unknown or not wanted:
        raise InputError(f"planes={asked!r}; there are {', '.join(PLANES)}")
    return ["axial"] if like.shape[0] == 1 else wanted


def _checked_place(at: Sequence[int], shape: tuple[int, ...]) -> tuple[int, int, int]:
    place = tuple(int(i) for i in at)
    if len(place) != 3 or not all(0 <= i < n for i, n in zip(place, shape, strict=True)):
        raise InputError(f"at={tuple(at)} is no voxel (d, h, w) of a case of shape {tuple(shape)}")
    d, h, w = place
    return d, h, w


# -- drawing -------------------------------------------------------------------------------------


def _draw(
    columns: Sequence[_Column],
    planes: Sequence[str],
    at: tuple[int, int, int],
    like: Volume,
    marks: Sequence[_Mark],
    lesion: Any,
    radiological: bool,
) -> Figure:
    cuts = [_Cut(plane, at, like, radiological) for plane in planes]
    heights = [_PANEL * cut.aspect for cut in cuts]
    width = _PANEL * len(columns)
    said = textwrap.wrap(_caption(cuts, columns, marks, lesion), round(width / _LETTER)) or [""]
    foot = _FOOT * (len(said) + 0.5)
    size = (width, sum(heights) + _HEAD + foot)
    figure = Picture(figsize=size, facecolor="white")
    grid = figure.add_gridspec(
        len(cuts), len(columns), height_ratios=heights, left=0, right=1, wspace=0.03, hspace=0.03,
        top=1 - _HEAD / size[1], bottom=foot / size[1],
    )  # fmt: skip
    for row, cut in enumerate(cuts):
        for number, column in enumerate(columns):
            axes = figure.add_subplot(grid[row, number])
            _panel(axes, cut, column)
            if row == 0:
                axes.set_title(_short(column.name), fontsize=9, pad=3)
            if lesion is not None and not column.difference and cut.of(lesion).any():
                axes.contour(cut.of(lesion), levels=[0.5], colors=[_OUTLINE], linewidths=0.8)
            _circle(axes, cut, marks)
            _sides(axes, cut, radiological)
    figure.text(0.004, 0.05 / size[1], "\n".join(said), fontsize=7, va="bottom", color="#444")
    return figure


class _Cut:
    """One plane through a volume: which voxels, and how they lie on the page."""

    def __init__(self, plane: str, at: tuple[int, int, int], like: Volume, radiological: bool) -> None:
        self.plane, self.axis, self.flat = plane, PLANES.index(plane), like.shape[0] == 1
        self.index = at[self.axis]
        self.mirrored = radiological and plane != "sagittal" and not self.flat
        self._rest = [i for i in range(3) if i != self.axis]
        self.rows, self.columns = (like.shape[i] for i in self._rest)
        self.steps = [like.spacing[i] for i in self._rest]
        self.thickness = like.spacing[self.axis]
        self.aspect = self.rows * self.steps[0] / (self.columns * self.steps[1])

    def of(self, volume: NDArray[Any]) -> NDArray[Any]:
        """The slice as drawn: anterior or superior up; of a picture the first row is the top already."""
        cut: NDArray[Any] = np.take(volume, self.index, axis=self.axis)
        cut = cut if self.flat else cut[::-1]
        return cut[:, ::-1] if self.mirrored else cut

    def place(self, at: tuple[int, int, int]) -> tuple[float, float]:
        """(x, y) on the page of a voxel."""
        row, column = (at[i] for i in self._rest)
        x = self.columns - 1 - column if self.mirrored else column
        return x, row if self.flat else self.rows - 1 - row


def _panel(axes: Axes, cut: _Cut, column: _Column) -> None:
    from .images.colour import to_rgb

    picture = cut.of(column.image)
    options: dict[str, Any] = {"aspect": "auto", "interpolation": "nearest"}
    if column.difference:
        axes.imshow(picture, cmap="RdBu_r", vmin=-_REACH, vmax=_REACH, **options)
    elif column.chroma is not None:
        axes.imshow(to_rgb(picture, np.stack([cut.of(c) for c in column.chroma])), **options)
    else:
        axes.imshow(picture, cmap="gray", vmin=0, vmax=1, **options)
    axes.set_axis_off()


def _circle(axes: Axes, cut: _Cut, marks: Sequence[_Mark]) -> None:
    """Circles around the findings that the slice cuts, as large as it cuts them."""
    for mark in marks:
        away = (mark.at[cut.axis] - cut.index) * cut.thickness
        if abs(away) < mark.radius and (not cut.flat or away == 0):
            radius = np.sqrt(mark.radius**2 - away**2)
            size = (2 * radius / cut.steps[1], 2 * radius / cut.steps[0])
            edge = "#ff9d2e" if mark.functional else "#4cc3ff"
            axes.add_patch(Ellipse(cut.place(mark.at), *size, fill=False, edgecolor=edge, linewidth=0.8))


def _sides(axes: Axes, cut: _Cut, radiological: bool) -> None:
    if cut.flat or cut.plane == "sagittal":
        return  # a picture does not say which side is which
    for text, x, align in zip("RL" if radiological else "LR", (0.02, 0.98), ("left", "right"), strict=True):
        axes.text(x, 0.5, text, transform=axes.transAxes, color="#bbb", fontsize=7, ha=align, va="center")


def _caption(cuts: Sequence[_Cut], columns: Sequence[_Column], marks: Sequence[_Mark], lesion: Any) -> str:
    parts = [] if cuts[0].flat else [", ".join(f"{cut.plane} {cut.index}" for cut in cuts)]
    if any(c.difference for c in columns):
        parts.append(f"differences: red brighter, blue darker, full colour at {_REACH:g}")
    if marks:
        parts.append("findings: blue structural, orange functional")
    if lesion is not None:
        parts.append("yellow: the case's lesion")
    return "; ".join(parts)


def _short(name: str, most: int = 20) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"


def _chroma(functional: Volume, colour: bool | str) -> NDArray[np.uint8] | None:
    if not colour:
        return None
    from .images.colour import DEFAULT_MAP, MAPS, chroma_of

    name = DEFAULT_MAP if colour is True else str(colour)
    if name not in MAPS:
        raise InputError(f"colour={colour!r}; the colour maps are {', '.join(MAPS)}")
    return chroma_of(functional, name)
