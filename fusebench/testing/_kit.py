"""The frame of the three kits: checks, their outcomes, and how pytest sees them."""

from __future__ import annotations

import re
import time
import unittest
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

from ..errors import InputError
from ..text import describe

Status = Literal["pass", "fail", "skip", "blocked", "xfail", "xpass"]
ExpectedFailures = Mapping[str, str]
# Names of plugins and cases end up in file names and in shell patterns.
SAFE_NAME = re.compile(r"\w[\w.+-]*")


class CheckFailed(AssertionError):
    """A plugin broke its contract; the message says what was seen and what to do."""


class NotApplicable(Exception):
    """A check that says nothing about this plugin; the message says why."""


@dataclass(frozen=True)
class Outcome:
    """Result of one check on one plugin.

    Attributes
    ----------
    check : str
    status : {"pass", "fail", "skip", "blocked", "xfail", "xpass"}
        "skip": says nothing about this plugin; "blocked": a check that it needs did not pass; "xfail":
        fails as expected; "xpass": was expected to fail but passes.
    message : str
        "" for a pass.
    seconds : float
    """

    check: str
    status: Status
    message: str = ""
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """True if the plugin conforms as far as this check goes."""
        return self.status not in ("fail", "xpass")


@dataclass(frozen=True)
class Check:
    """One rule of a contract.

    Parameters
    ----------
    function : callable
        Takes a subject; raises `CheckFailed` or `NotApplicable`.  Its docstring states the rule.
    needs : tuple of str
        Checks that must not fail first, so that one fault is reported once.
    """

    function: Callable[[Any], None]
    needs: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.function.__name__

    @property
    def rule(self) -> str:
        """The rule in one line."""
        return (self.function.__doc__ or "").strip().splitlines()[0]

    def __call__(self, plugin: Any) -> None:
        """Run as the body of a pytest item: raises, skips or xfails.

        Parameters
        ----------
        plugin : Subject
            As handed in by `parametrize_with_checks`.
        """
        outcome = plugin.outcome(self)
        if outcome.status in ("skip", "blocked"):
            raise unittest.SkipTest(outcome.message)
        if outcome.status == "xfail":
            import pytest

            pytest.xfail(outcome.message)
        if not outcome.ok:
            raise CheckFailed(f"{plugin.name}: {outcome.message}")

    def __repr__(self) -> str:
        return self.name


def check(*needs: str) -> Callable[[Callable[[Any], None]], Check]:
    """Make a `Check` of a function: ``@check("fuses")``."""
    return lambda function: Check(function, needs)


class Subject:
    """A plugin under test; remembers outcomes, so that what others need runs once.

    Parameters
    ----------
    plugin : object
        What is tested, or its registered name.
    expected_failed_checks : mapping, optional
        Check name to reason; joins the plugin's attribute of this name.
    """

    kind: ClassVar[str]
    checks: ClassVar[Sequence[Check]]

    def __init__(self, plugin: Any, expected_failed_checks: ExpectedFailures | None = None) -> None:
        self.given = plugin
        self._expected = dict(expected_failed_checks or {})
        self._outcomes: dict[str, Outcome] = {}

    @property
    def name(self) -> str:
        if isinstance(self.given, str):
            return self.given
        info = getattr(self.given, "info", None)
        return str(getattr(info, "name", "") or getattr(self.given, "__name__", type(self.given).__name__))

    @cached_property
    def plugin(self) -> Any:
        """The plugin itself; a name is looked up when first needed."""
        if not isinstance(self.given, str):
            return self.given
        from ..plugins import find_plugins

        return getattr(find_plugins(), f"{self.kind}s").load(self.given)

    @cached_property
    def expected(self) -> ExpectedFailures:
        """Reason by check that is expected to fail."""
        expected = {**getattr(self.plugin, "expected_failed_checks", {}), **self._expected}
        unknown = expected.keys() - {c.name for c in self.checks}
        if unknown:
            raise CheckFailed(
                f"expected_failed_checks names {', '.join(sorted(unknown))}, which is no {self.kind} check; "
                f"there are {', '.join(c.name for c in self.checks)}"
            )
        return expected

    def outcome(self, check: Check) -> Outcome:
        """Outcome of one check, run at most once."""
        if check.name not in self._outcomes:
            self._outcomes[check.name] = self._run(check)
        return self._outcomes[check.name]

    def _run(self, check: Check) -> Outcome:
        by_name = {c.name: c for c in self.checks}
        for needed in check.needs:
            before = self.outcome(by_name[needed])
            if before.status not in ("pass", "skip"):
                reason = f"not tried, because {needed} does not pass"
                return Outcome(
                    check.name, "blocked", before.message if before.status == "blocked" else reason
                )
        begin = time.perf_counter()
        status, message = self._judge(check)
        return Outcome(check.name, status, message, time.perf_counter() - begin)

    def _judge(self, check: Check) -> tuple[Status, str]:
        # A plugin is foreign code and may raise anything, on import as well.
        try:
            reason = self.expected.get(check.name)
        except Exception as error:
            return "fail", _text(error)
        try:
            check.function(self)
        except NotApplicable as error:
            return "skip", str(error)
        except Exception as error:
            return ("fail", _text(error)) if reason is None else ("xfail", f"{reason} ({_text(error)})")
        # The reason is the class's; a variant may well keep what the plain method does not.
        if reason is not None and "@" not in str(self.given):
            return "xpass", f"passes, but is listed as failing ({reason}); take it off expected_failed_checks"
        return "pass", ""


def _text(error: Exception) -> str:
    return str(error) if isinstance(error, CheckFailed) else describe(error)


def check_plugin(subject: Subject, on_fail: Literal["raise", "keep"] = "raise") -> list[Outcome]:
    """Run every check of a subject's kind.

    Parameters
    ----------
    on_fail : {"raise", "keep"}
        "raise": `CheckFailed` with every failure, one line each.

    Returns
    -------
    list of Outcome
        In the order of the checks.
    """
    outcomes = [subject.outcome(check) for check in subject.checks]
    failed = [o for o in outcomes if not o.ok]
    if failed and on_fail == "raise":
        lines = "\n".join(f"  {o.check}: {o.message}" for o in failed)
        raise CheckFailed(f"{subject.kind} {subject.name} fails {len(failed)} checks:\n{lines}")
    return outcomes


def parametrize_with_checks(
    plugins: Iterable[Any],
    expected_failed_checks: Mapping[str, ExpectedFailures] | Callable[[Any], ExpectedFailures] | None = None,
    *,
    kind: Literal["method", "metric", "dataset"] = "method",
) -> Any:
    """Make one pytest item per plugin and check.

    Parameters
    ----------
    plugins : iterable
        Method classes or instances, metrics, dataset instances, registered names, or subjects.
    expected_failed_checks : mapping or callable, optional
        Plugin name to {check: reason}, or a function of the plugin that returns {check: reason}.
    kind : {"method", "metric", "dataset"}
        What a bare name means; objects are recognised by their ``info``.

    Returns
    -------
    pytest mark
        For a test with the arguments ``plugin`` and ``check`` whose body is ``check(plugin)``.
    """
    import pytest

    items = []
    for given in plugins:
        if isinstance(given, Subject):
            subject = given
        elif callable(expected_failed_checks):
            subject = subject_of(given, expected_failed_checks(given), kind)
        else:
            subject = subject_of(given, None, kind)
            subject._expected = dict((expected_failed_checks or {}).get(subject.name, {}))
        items += [pytest.param(subject, c, id=f"{subject.name}-{c.name}") for c in subject.checks]
    return pytest.mark.parametrize(("plugin", "check"), items)


def subject_of(plugin: Any, expected: ExpectedFailures | None, kind: str) -> Subject:
    """The subject of the right kind for a plugin."""
    from ..dataset import DatasetInfo
    from ..method import MethodInfo
    from ..metric import MetricInfo
    from .datasets import DatasetSubject
    from .method_subject import MethodSubject
    from .metric_subject import MetricSubject

    info = getattr(plugin, "info", None)
    kinds: dict[str, tuple[type, type[Subject]]] = {
        "method": (MethodInfo, MethodSubject),
        "metric": (MetricInfo, MetricSubject),
        "dataset": (DatasetInfo, DatasetSubject),
    }
    if isinstance(plugin, str):
        return kinds[kind][1](plugin, expected)
    for info_class, subject_class in kinds.values():
        if isinstance(info, info_class):
            return subject_class(plugin, expected)
    raise InputError(f"{plugin!r} has no `info` of type MethodInfo, MetricInfo or DatasetInfo")
