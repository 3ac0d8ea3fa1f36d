"""What the terms of a dataset let a report hold, and what its two sources are called."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fusebench.plugins import find_plugins
from fusebench.text import printable

ROLES = ("MRI", "PET")
_LONGEST = 30


def may_be_shared(dataset: str, manifest: Mapping[str, Any]) -> bool:
    """Whether images of a dataset may be passed on, by its manifest, else by what is registered of it."""
    said = manifest.get("dataset", {}).get("images_may_be_shared")
    if isinstance(said, bool) and said:
        # Of a manifest that a stranger wrote, or of an older version, the stricter counts.
        return _registered(dataset)
    return said if isinstance(said, bool) else _registered(dataset)


def _registered(dataset: str) -> bool:
    datasets = find_plugins().datasets
    return bool(datasets.load(dataset).info.images_may_be_shared) if dataset in datasets else True


def images_line(dataset: str, shared: bool, embedded: bool) -> str:
    """What a report says of the images it holds or not; "" where there is nothing to say."""
    if shared:
        return ""
    if embedded:
        return (
            f"This report holds images of {dataset}, whose terms do not let you pass them on: keep it to "
            "yourself, and off any server."
        )
    return (
        f"No images: the terms of {dataset} do not let them be passed on. For yourself, `report "
        "--embed-volumes` puts them in."
    )


def roles_of(facts: Mapping[str, Any]) -> tuple[str, str]:
    """What sources a and b are called, by the manifest's facts of a dataset."""
    said = facts.get("roles")
    if isinstance(said, list | tuple) and len(said) == 2 and all(isinstance(x, str) and x for x in said):
        return printable(said[0])[:_LONGEST], printable(said[1])[:_LONGEST]
    return ROLES


def roles_note(facts: Mapping[str, Any]) -> tuple[str, ...]:
    """A line below the board that says what a and b are, where that is not MRI and PET."""
    a, b = roles_of(facts)
    if (a, b) == ROLES:
        return ()
    return (f"Sources: a is the {a}, b the {b}.",)
