"""Settings that are put back where methods share a process."""

from __future__ import annotations

from fusebench.methods._precision import full_precision

from fusebench.engine import settings


def test_settings_can_be_read_after_a_learned_method() -> None:
    """torch refuses some of them where two ways of setting one were mixed."""
    with full_precision():
        pass
    for get, put in settings.SETTINGS.values():
        put(get())
