"""Images of a case on the site: scripts with volumes for the viewer, and pictures that need no script."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusebench.engine.volumes import has_own_findings
from fusebench.files import atomic_path, write_text
from fusebench.images.colour import DEFAULT_MAP, chroma, ramp, span, tint
from fusebench.images.sheet import NEUROLOGICAL, RADIOLOGICAL, View, panel

from . import volumes

# Longer side of a picture in pixels.
SIZE = 192


@dataclass(frozen=True)
class Picture:
    """The middle axial slice of one image.

    Attributes
    ----------
    id : str
        As of the viewer's volumes: ``mri``, ``pet`` or ``method:NAME``.
    label : str
    src : str
        File, from the entry page.
    control : bool
    """

    id: str
    label: str
    src: str
    control: bool = False


@dataclass(frozen=True)
class CaseImages:
    """What the pages show of a case.

    Attributes
    ----------
    case, page : str
        Name, and file of its page.
    viewer : mapping
        What ``startViewer`` takes.
    pictures : tuple of Picture
        Sources first, then methods best first.
    caption : str
        Which slice it is, how it lies and what its colours say.
    """

    case: str
    page: str
    viewer: Mapping[str, Any]
    pictures: tuple[Picture, ...]
    caption: str

    @property
    def coloured(self) -> bool:
        """Pictures are in colour: the second source shows function."""
        return bool(self.viewer["hue"] or self.viewer["chroma"])

    @property
    def of_methods(self) -> dict[str, Picture]:
        """Pictures by name of the method."""
        return {p.label: p for p in self.pictures if p.id.startswith("method:")}


def write(
    out: Path,
    name: str,
    folder: str,
    stored: volumes.StoredCase,
    order: Sequence[str],
    controls: Collection[str],
    *,
    radiological: bool = False,
) -> CaseImages:
    """Write scripts and pictures of a case.

    Parameters
    ----------
    out : Path
        Of the report.
    name, folder : str
        The case with its dataset, and the same as a file name.
    stored : StoredCase
    order : sequence of str
        Methods, best first; others that are stored come behind.
    controls : collection of str
    radiological : bool
        The patient's right on the left.
    """
    known = {method: i for i, method in enumerate(order)}
    files = [(n, role, stored.sources[n]) for n, role in zip(("mri", "pet"), stored.roles, strict=True)]
    for method in sorted(stored.fused, key=lambda m: (known.get(m, len(known)), m)):
        files.append((f"method:{method}", method, stored.fused[method]))
    pet = volumes.read(stored.sources["pet"])[0]
    carried = np.asarray(volumes.read(stored.chroma)[0], np.uint8) if stored.chroma else None
    colours = tint(pet) if carried is None and stored.functional else carried
    geometry = volumes.geometry(stored.sources["mri"])
    view = View(tuple(geometry["spacing"]), radiological=radiological)
    scripts, pictures = _Scripts(out, name, folder), out / "pictures" / folder
    pictures.mkdir(parents=True)
    listed, drawn = [], []
    for i, (key, label, path) in enumerate(files):
        data = pet if key == "pet" else volumes.read(path)[0]
        stem = f"{i}-{_safe(label)}"
        method = key.removeprefix("method:")
        # A method called like a source has no volume with findings: the one of that name is the source's.
        with_ = stored.with_findings.get(method) if key == method or has_own_findings(method) else None
        listed.append(
            {
                "id": key,
                "label": label,
                **scripts.add(stem, key, data),
                "with": scripts.add(f"{stem}-with", f"{key} with findings", volumes.read(with_)[0])
                if with_
                else None,
            }
        )
        with atomic_path(pictures / f"{stem}.png") as temporary:
            # The structural image stays grey: what colour adds is told from it.
            picture = panel(data, "axial", view, None if key == "mri" else colours, SIZE)
            picture.save(temporary, "png")
        drawn.append(Picture(key, label, f"pictures/{folder}/{stem}.png", label in controls))
    viewer = {
        **geometry,
        "case": name,
        "roles": stored.roles,
        "volumes": listed,
        "chroma": scripts.add("chroma", "chroma", carried, levels=True) if carried is not None else None,
        "hue": _hue(pet) if carried is None and stored.functional else None,
        "lesion": scripts.add("lesion", "lesion", volumes.read(stored.lesion)[0]) if stored.lesion else None,
        "findings": volumes.findings(stored.findings) if stored.findings else [],
        "radiological": radiological,
        "niivue": "../static/niivue.umd.js",
    }
    return CaseImages(stored.case, f"cases/{folder}.html", viewer, tuple(drawn), _caption(viewer))


def _safe(label: str) -> str:
    """A label as part of a file name; the number before it keeps it apart from others."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in label.lower())[:60]


def _hue(pet: NDArray[np.float32]) -> dict[str, list[int]]:
    """Cb and Cr of the colour map by 8-bit level of the functional image."""
    levels = np.rint(np.clip(np.arange(256) / 255 / span(pet), 0, 1) * 255).astype(int)
    cb, cr = chroma(ramp(DEFAULT_MAP))[:, levels]
    return {"cb": cb.tolist(), "cr": cr.tolist()}


def _caption(viewer: Mapping[str, Any]) -> str:
    said = ["the picture" if viewer["flat"] else "axial slice {} of {}".format(*_middle(viewer["shape"][0]))]
    if not viewer["flat"]:
        said.append(RADIOLOGICAL if viewer["radiological"] else NEUROLOGICAL)
    if viewer["hue"]:
        said.append("hue by the functional image, blue where it is low and orange where it is high")
    elif viewer["chroma"]:
        said.append("in the colours of the functional picture")
    return "; ".join(said)


def _middle(n: int) -> tuple[int, int]:
    return n // 2 + 1, n


class _Scripts:
    """Writes the volumes of a case as scripts."""

    def __init__(self, out: Path, name: str, folder: str) -> None:
        self.folder, self.name = out / "data" / folder, name
        self.folder.mkdir(parents=True)

    def add(self, stem: str, what: str, data: NDArray[Any], *, levels: bool = False) -> dict[str, str]:
        """Key and address of a volume."""
        key = f"{self.name} {what}"
        write_text(self.folder / f"{stem}.js", volumes.script(key, data, levels=levels))
        return {"key": key, "url": f"../data/{self.folder.name}/{stem}.js"}
