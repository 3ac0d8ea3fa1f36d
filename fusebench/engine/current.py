"""Which stored rows stand: those of this run's cases, made by the present code under its options."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

from ..case import Case
from ..errors import FuseBenchError
from ..metric import MetricId
from ..plugins import Plugins
from ..store.keys import fuse_key, score_key, source_key
from ..store.rows import Row
from .plan import Options, metric_source
from .spec import MethodSpec, Task

OTHER_DATA = "made from other data of the same cases"
OTHER_CODE = "made with other code, settings, seed, device or libraries"


class Outdated:
    """Tells what keeps a row off a board; "" for a row that stands.

    Parameters
    ----------
    plugins : Plugins
    cases : iterable of Case
        The whole split, as the dataset has it now.
    methods : sequence of MethodSpec
        Of this run.
    tasks : sequence of Task
        Planned.
    options : Options
    before : mapping
        Manifest of the folder before this run; it knows the methods that are not in it.
    """

    def __init__(
        self,
        plugins: Plugins,
        cases: Iterable[Case],
        methods: Sequence[MethodSpec],
        tasks: Sequence[Task],
        options: Options,
        before: Mapping[str, Any],
    ) -> None:
        self._plugins, self._options = plugins, options
        self._now = {(c.dataset, c.id): c.fingerprint for c in cases}
        self._methods = {m.name: m for m in methods}
        self._planned = {t.identity(s): s.key for t in tasks for s in t.scores}
        self._from_files = any(t.image for t in tasks)
        self._before = before
        self._sources = cache(lambda name: metric_source(plugins, name))
        self._keys = cache(self._method_key)
        self._volumes = cache(fuse_key)

    def __call__(self, row: Row) -> str:
        fingerprint = self._now.get((row.dataset, row.case))
        if fingerprint is None:
            others = {dataset for dataset, _ in self._now}
            if row.dataset not in others:
                return "of another dataset"
            return f"of cases that split {self._options.split} does not have"
        if row.fingerprint not in ("", fingerprint):
            return OTHER_DATA
        wanted = self._planned.get(row.identity) or self._wanted(row, fingerprint)
        return "" if wanted in (None, row.key) else OTHER_CODE

    def _wanted(self, row: Row, fingerprint: str) -> str | None:
        """Key under which the row would be made now; None where nothing can be said."""
        key = self._keys(row.method)
        if not key:
            return key
        seed, device = self._options.seed, self._options.device
        threads = self._options.threads
        if self._from_files:  # images are scored beside methods, whatever these were run with
            seed, device = row.seed, row.device
            threads = self._before.get("options", {}).get("threads", threads)
        try:
            source = self._sources(MetricId.parse(row.metric).name)
        except FuseBenchError:
            return ""
        volume = self._volumes(key, fingerprint, seed, device, threads)
        return score_key(volume, row.protocol, row.metric, source)

    def _method_key(self, name: str) -> str | None:
        """Content key of a method; "" where its code has changed, None where it is not to be known."""
        spec = self._methods.get(name)
        if spec is not None:
            return spec.key if spec.plugin else None
        facts = self._before.get("methods", {}).get(name, {})
        plugin = facts.get("plugin")
        if not plugin or not facts.get("key"):
            return None
        source = method_source(self._plugins, str(plugin))
        return "" if source and source != facts.get("source", source) else str(facts["key"])


def method_source(plugins: Plugins, plugin: str) -> str:
    """Hash of the source of a registered method, which is not imported; "" where there is none."""
    if plugin not in plugins.methods:
        return ""
    path = plugins.methods.entry(plugin).path
    return source_key(path) if path else ""
