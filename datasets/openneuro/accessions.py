"""What is known of each accession: its terms, its people, where its images lie, and what is right for it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

SERVER = "https://s3.amazonaws.com/openneuro.org"


@dataclass(frozen=True)
class Accession:
    """Facts of one dataset of OpenNeuro, as its version on record has them.

    Attributes
    ----------
    name, version, title, licence, cite : str
    layout : {"energetic-costs", "bids"}
        Derivatives of ds004513, or raw BIDS.
    tracer : str
    last : float
        Seconds at the end of a dynamic PET that are averaged; 0 for all of it.
    visits : {"all", "first"}
        Which sessions may be used, where nothing else is said.
    note : str
        What to know before a fused image of it is read.
    """

    name: str
    version: str
    title: str
    licence: str
    cite: str
    layout: str
    tracer: str
    note: str
    last: float = 0.0
    visits: str = "all"

    @property
    def listing(self) -> Path:
        """Paths, sizes and hashes of what is fetched."""
        return Path(__file__).with_name(f"{self.name}.csv")


ACCESSIONS = {
    a.name: a
    for a in (
        Accession(
            name="ds004513",
            version="1.0.5",
            title="The energetic costs of the human connectome",
            licence="CC0",
            cite="Castrillon et al., Science Advances 9(50):eadi7632 (2023), doi:10.1126/sciadv.adi7632; "
            "data doi:10.18112/openneuro.ds004513.v1.0.5",
            layout="energetic-costs",
            tracer="FDG",
            note="brain-extracted T1w in its own space; CMRglc (a rate of glucose use, not uptake) resampled "
            "to MNI at 3 mm by an affine transform, which is undone here: a rigid registration cannot undo "
            "that the template is larger than the head. 30 healthy people, 17 of them twice (eyes open and "
            "closed, or two days)",
        ),
        Accession(
            name="ds002898",
            version="1.1.0",
            title="Monash rsPET-MR",
            licence="CC0",
            cite="Jamadar et al. (2020), doi:10.1101/2020.05.01.071662; "
            "data doi:10.18112/openneuro.ds002898.v1.1.0; 'obtained from the OpenNeuro database'",
            layout="bids",
            tracer="FDG",
            last=1800.0,
            note="FDG infused over the whole scan, 356 frames of 16 s: uptake grows to the end, and the mean "
            "of all frames would be mostly noise and blood. The mean of the last half hour is made when the "
            "file has come (1.5 GB a person). The T1w is defaced",
        ),
        Accession(
            name="ds004868",
            version="1.0.4",
            title="[11C]PS13 binding to cyclooxygenase-1 (COX-1)",
            licence="CC0",
            cite="Ghazanfari et al. (2024), data doi:10.18112/openneuro.ds004868.v1.0.4",
            layout="bids",
            tracer="PS13",
            last=3600.0,
            visits="first",
            note="no FDG: the tracer binds to an enzyme, most in hippocampus and occipital cortex, so that "
            "grey matter is not simply bright. The mean of the last hour leaves out the first pass of blood. "
            "Only baseline scans: the others were made under a drug that blocks the binding. Four people of "
            "the test-retest group have no T1w and are left out",
        ),
    )
}
