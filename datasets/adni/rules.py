"""ADNI image descriptions: what an image is, and which of several is preferred.

Order of FDG-PET products: 6 mm, 8 mm, standardised, averaged, dynamic.  No tracer in the description means
FDG.  "Co-registered" there means frame to frame, never PET to MRI.  Order of T1 images: scaled or N3, N3m,
gradient-warped, original; first acquisition before repeat.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

PET_LEVELS = ("6mm", "8mm", "standardized", "averaged", "dynamic")
MRI_LEVELS = ("scaled", "n3", "n3m", "gradwarp", "original")

_TRACERS = {
    "AV45": r"av-?45|florbetapir|amyvid",
    "FBB": r"fbb|florbetaben",
    "AV1451": r"av-?1451|flortaucipir|\btau\b",
    "PIB": r"pib",
    "NAV4694": r"nav-?4694",
    "MK6240": r"mk-?6240",
    "PI2620": r"pi-?2620",
    "FDG": r"fdg",
}
_NOT_T1 = (
    (r"local[iy]s?z?er|scout|survey|3[- ]?plane", "a localizer"),
    (r"\bmask\b", "a mask"),
    (
        r"spatial(ly)?[- ]normali|normali[sz]ed (to|in)\b|\bmasked\b|skull[- ]?strip|talairach|\bmni|"
        r"template|\batlas\b|\bwarped\b",
        "spatially normalised or masked; download the native T1",
    ),
    (r"freesurfer|cross-sectional|longitudinal|aseg|segmentation|\bfs\b", "FreeSurfer output"),
    (r"calibration|phantom|field ?map", "a calibration scan"),
    (r"flair|\bt2\b|t2[-_ *]|\bpd\b|proton|hippo|\bgre\b|swi", "not T1"),
    (r"dti|dwi|\basl\b|perfusion|pcasl|fmri|\bbold\b|resting", "not T1"),
    (r" nd$| nd ", "without distortion correction (_ND)"),
)


# "MP RAGE", "MP- RAGE" and "MPR" too; of T1 spin echo only what says so.
_T1 = re.compile(r"mp[- ]*rage|\bmpr|\bmt1\b|spgr|bravo|\bt1\b|t1w|\btfl\b|tfl3d|3d[- ]?tfe")
# Scanners cut long names: REPEAT, REPEA, REPE, ASOREP; RPT; and the second of a row, "#2".
_REPEAT = re.compile(r"mpr-r\b|(?<!p)rep(?![a-df-z])|\brpt|# ?[2-9]|\b2nd\b|\bsecond\b")


@dataclass(frozen=True)
class Kind:
    """The facts that a series description states.

    Attributes
    ----------
    level : str
        One of `PET_LEVELS` or `MRI_LEVELS`; "" where the image is refused.
    tracer : str
        Of a PET.
    repeat : bool
        A second acquisition of the session.
    refused : str
        Why the image cannot be used; "" otherwise.
    """

    level: str = ""
    tracer: str = ""
    repeat: bool = False
    refused: str = ""


def normalise(description: str) -> str:
    """Words of a description in lower case; folders and file names write ``_`` for space and ``;``."""
    return re.sub(r"[_;,\s]+", " ", description).strip().lower()


def classify_pet(description: str) -> Kind:
    """Level and tracer of a PET description."""
    text = normalise(description)
    tracer = next((t for t, pattern in _TRACERS.items() if re.search(pattern, text)), "FDG")
    if re.search(r"\bmask(ed)?\b", text):
        return Kind(tracer=tracer, refused="a mask, or masked; download the whole image")
    if re.search(r"spatially normali[sz]ed|talairach|\bmni|\bwarped\b", text):
        return Kind(tracer=tracer, refused="spatially normalised; download the native product")
    if "early" in text:
        return Kind(tracer=tracer, refused="an early-frame acquisition")
    if re.search(r"\braw\b", text):
        return Kind(tracer=tracer, refused="raw PET (frames not aligned); download a processed product")
    if re.search(r"transmission|attenuation|\bac ?ct\b|\btopogram\b", text):
        return Kind(tracer=tracer, refused="not an emission image")
    if "6mm" in text or "6 mm" in text:
        return Kind("6mm", tracer)
    if "uniform" in text:
        return Kind("8mm", tracer)
    if re.search(r"standardi[sz]ed|std img", text):
        return Kind("standardized", tracer)
    if "dynamic" in text:
        return Kind("dynamic", tracer)
    if re.search(r"averaged?|\bavg\b", text):
        return Kind("averaged", tracer)
    return Kind(tracer=tracer, refused=f"unknown PET product {description!r}")


def classify_mri(description: str) -> Kind:
    """Level of an MRI description; anything but T1 is refused."""
    text = normalise(description)
    for pattern, what in _NOT_T1:
        if re.search(pattern, text):
            return Kind(refused=what)
    if not _T1.search(text):
        return Kind(refused=f"not a T1 description: {description!r}")
    repeat = bool(_REPEAT.search(text))
    if "scaled" in text:
        return Kind("scaled", repeat=repeat)
    if re.search(r"\bn3\b", text):
        return Kind("n3", repeat=repeat)
    if re.search(r"\bn3m\b", text):
        return Kind("n3m", repeat=repeat)
    if "gradwarp" in text or "b1 correction" in text:
        return Kind("gradwarp", repeat=repeat)
    return Kind("original", repeat=repeat)
