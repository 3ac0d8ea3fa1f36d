"""Which stored rows stand: those of this run's cases, made by the present code under its options."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from ..case import Case
from ..errors import FuseBenchError, InputError
from ..metric import MetricId
from ..plugins import Plugins
from ..store.data_keys import Loading, case_keys
from ..store.keys import fuse_key, score_key
from ..store.rows import Row
from .deadline import asking_dataset, listing_seconds
from .made_of import GONE, OTHER_CODE, metric_source_now, what_changed
from .plan import Options
from .spec import MethodSpec, Task

OTHER_DATA = "made from other data of the same cases"
OTHER_IMAGES = "made of other images, or with other code, settings or libraries"


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
        Manifest of the folder before this run.
    manifest : mapping
        The present one, which knows the methods and metrics of both.
    loading : Loading
        Of the dataset.
    """

    def __init__(
        self,
        plugins: Plugins,
        cases: Iterable[Case],
        methods: Sequence[MethodSpec],
        tasks: Sequence[Task],
        options: Options,
        before: Mapping[str, Any],
        manifest: Mapping[str, Any],
        loading: Loading,
    ) -> None:
        self._plugins, self._options, self._loading = plugins, options, loading
        self._now = {(c.dataset, c.id): c for c in cases}
        # A dataset may keep what it has loaded, which a key of now would be taken from as well.
        self._data = {(t.case.dataset, t.case.id): t.data for t in tasks}
        self._methods = {m.name: m for m in methods}
        self._planned = {t.identity(s): s.key for t in tasks for s in t.scores}
        self._run_of_files = any(t.image for t in tasks)
        self._before, self._manifest = before, manifest
        self._sources = cache(self._metric_source)
        self._keys = cache(self._method_key)
        self._images = cache(self._find_images)
        self._volumes = cache(fuse_key)

    def __call__(self, row: Row) -> str:
        case = self._now.get((row.dataset, row.case))
        if case is None:
            others = {dataset for dataset, _ in self._now}
            if row.dataset not in others:
                return "of another dataset"
            return f"of cases that split {self._options.split} does not have"
        if (row.dataset, row.case) not in self._data:
            self._read_others()
        data = self._data[row.dataset, row.case]
        if row.fingerprint not in ("", self._loading.stated(case, data)):
            return OTHER_DATA
        if planned := self._planned.get(row.identity):
            return "" if planned == row.key else OTHER_CODE
        key, reason = self._keys(row.method)
        source = self._sources(row.metric)
        if reason or not source:
            return reason or GONE
        if self._is_of_files(row.method):
            return self._of_images(row, key, data, source)
        seed, device, threads = self._options.seed, self._options.device, self._options.threads
        if self._run_of_files:  # images are scored beside methods, whatever these were run with
            seed, device = row.seed, row.device
            threads = self._before.get("options", {}).get("threads", threads)
        volume = self._volumes(key, data, seed, device, threads)
        return "" if score_key(volume, row.protocol, row.metric, source) == row.key else OTHER_CODE

    def _read_others(self) -> None:
        """Find the keys of the cases without a task, all at once: to watch over a plugin takes a while."""
        others = {name: case for name, case in self._now.items() if name not in self._data}
        self._data |= dict.fromkeys(others, "")  # where the plugin cannot say it, rows are of other data
        [dataset, *_], seconds = {dataset for dataset, _ in others}, listing_seconds(self._options.timeout)
        with (
            suppress(FuseBenchError, OSError),
            asking_dataset(dataset, "reading what its cases are made of", seconds),
        ):
            # One by one: what is found before a fault stands.
            for name, key in zip(others, case_keys(others.values(), self._loading), strict=True):
                self._data[name] = key

    def _of_images(self, row: Row, key: str, data: str, source: str) -> str:
        """The reason against a row of an image that was made elsewhere: the image is another, or gone."""
        from .from_files import WITH_FINDINGS, image_key  # numpy

        images = self._images(row.method)
        if images is None:
            return GONE
        # The seed and the like are in the key, and decide nothing of an image.
        volume = self._volumes(key, data, row.seed, row.device, self._threads(row.run))
        score = score_key(volume, row.protocol, row.metric, source)
        facts = self._manifest.get("metrics", {}).get(MetricId.parse(row.metric).name, {})
        second = images.get(row.case + WITH_FINDINGS)
        try:
            wanted = image_key(score, images.get(row.case), second, bool(facts.get("needs_findings")))
        except OSError:
            return GONE
        return "" if wanted == row.key else OTHER_IMAGES

    def _find_images(self, entry: str) -> Mapping[str, Path] | None:
        """Images of an entry by case, as they are now; None where its folder is not to be read."""
        from ..images.raw import folder_images
        from .from_files import WITH_FINDINGS

        folder = self._manifest.get("method_files", {}).get(entry, {}).get("folder")
        cases = {case for _, case in self._now}
        try:
            return folder_images(Path(folder), cases | {c + WITH_FINDINGS for c in cases}) if folder else None
        except (OSError, ValueError, InputError):
            return None

    def _threads(self, run: str) -> Any:
        """Threads of an earlier run into the folder, or of this one."""
        how = self._manifest.get("earlier", {}).get(run)
        options = how.get("options") if isinstance(how, dict) and run != self._options.run else None
        return (options if isinstance(options, dict) else {}).get("threads", self._options.threads)

    def _metric_source(self, metric: str) -> str:
        try:
            name = MetricId.parse(metric).name
        except FuseBenchError:
            return ""
        kept = self._manifest.get("metric_files", {}).get(name, {})
        return metric_source_now(self._plugins, name, kept)

    def _is_of_files(self, name: str) -> bool:
        spec = self._methods.get(name)
        return not (spec.plugin if spec else self._manifest.get("methods", {}).get(name, {}).get("plugin"))

    def _method_key(self, name: str) -> tuple[str, str]:
        """Content key of a method, and the reason where its rows do not stand whatever theirs are."""
        if name in self._methods:
            return self._methods[name].key, ""
        facts = self._manifest.get("methods", {}).get(name, {})
        key, plugin = str(facts.get("key") or ""), str(facts.get("plugin") or "")
        if not key:
            return "", GONE
        if not plugin:
            return key, ""
        kept = self._manifest.get("method_files", {}).get(name, {})
        return key, what_changed(self._plugins, plugin, facts.get("source"), kept)
