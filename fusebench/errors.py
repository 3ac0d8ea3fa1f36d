"""Errors that end in one line for the user.  Everything else is a bug and keeps its traceback."""

from __future__ import annotations


class FuseBenchError(Exception):
    """Base of all errors that the command line prints as one line (exit code 2)."""


class InputError(FuseBenchError):
    """A file, array or option from the user is unusable; the message names it and says what to do."""


class OutOfMemory(InputError, MemoryError):
    """A file needs more memory than there is; the message names it."""


class Undefined(FuseBenchError):
    """A metric has no value for this case, which is no failure; the message says why."""


class UnknownNameError(FuseBenchError):
    """A plugin name that no origin provides; the message offers near names."""


class DuplicateNameError(FuseBenchError):
    """Two plugins claim one name; the message names both origins."""


class PluginError(FuseBenchError):
    """A known plugin that cannot be loaded."""

    def __init__(self, name: str, origin: str, reason: str) -> None:
        super().__init__(f"{name} ({origin}) cannot be loaded: {reason}")
        self.name, self.origin, self.reason = name, origin, reason

    def __reduce__(self) -> tuple[type[PluginError], tuple[str, str, str]]:
        return type(self), (self.name, self.origin, self.reason)


class WorkerDied(FuseBenchError):
    """A worker process ended while it answered a question of the runner; the message says how it ended."""
