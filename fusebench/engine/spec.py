"""Orders to a worker: `MethodSpec` (an entry of the board), `Score` (a row to be) and `Task`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..case import Case
from ..errors import InputError, PluginError
from ..method_info import MethodInfo
from ..plugins import Plugins, make_method
from ..store.data_keys import NOT_KNOWN, Loading
from ..store.keys import Stamps, are_as_they_were, digest, method_key, watched_files
from ..store.rows import Row, Status
from ..text import describe
from .facts import plain_facts

if TYPE_CHECKING:
    from ..method import Method


@dataclass(frozen=True)
class MethodSpec:
    """An entry of the board: a method with its parameters, enough for a worker to make it.

    Attributes
    ----------
    name : str
        On the board: the method's, ``name@variant``, or the user's label.
    parameters : mapping
        Constructor arguments; of a variant its own, then the user's.
    key : str
        Content key of the method as it is set.
    info : MethodInfo
        Of the instance.
    plugin : str
        Registered name; "" for fused images from files.
    origin : str
        Where the plugin lies.
    broken : str
        The reason where the plugin cannot be made; its rows are then errors.
    watched : tuple
        The files that `key` depends on, with their stamps.
    file : str
        The plugin file; "" for a plugin without one.
    """

    name: str
    parameters: Mapping[str, Any]
    key: str
    info: MethodInfo
    plugin: str = ""
    origin: str = ""
    broken: str = ""
    watched: Stamps = ()
    file: str = ""


@dataclass(frozen=True)
class Score:
    """One row to be.

    Attributes
    ----------
    protocol, metric, key : str
        `metric` is an id.
    skip : str
        The reason for no value.
    source : str
        Hash of the metric's source, which is in the key; "" where nobody is to check it.
    needs : tuple of str
        Besides the images: "truth", "twin", "trial", "findings" (`MetricInfo.needs_truth` and so on).
    """

    protocol: str
    metric: str
    key: str
    skip: str = ""
    source: str = ""
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Task:
    """One method on one case: fuse once, then score.

    Attributes
    ----------
    image : str
        A fused image made elsewhere, which is read instead of fusing; ":" where the case has none.
    image_with : str
        The same made of the sources with findings; ":" where there is none.
    image_range : (float, float), optional
        Its values for 0 and 1; None: as the file says.
    data : str
        Key of the case with the code that loads it, `loading`; "" where its fingerprint has to do.
    patient : bool
        `timeout` is nobody's wish: it stretches on a machine that is slow or busy (`Pace.limited`).
    """

    run: str
    method: MethodSpec
    case: Case
    scores: tuple[Score, ...]
    seed: int = 0
    device: str = "cpu"
    repeats: int = 1
    timeout: float | None = None
    patient: bool = False
    fuse_key: str = ""
    fused_path: str = ""
    save: bool = False
    reuse: bool = True  # take the fused volume from `fused_path` where it is stored under `fuse_key`
    plugins: tuple[str, ...] = ()
    image: str = ""
    image_with: str = ""
    image_range: tuple[float, float] | None = None
    split: str = ""
    data: str = ""
    loading: Loading = NOT_KNOWN

    @property
    def data_key(self) -> str:
        """Key that the sources are stored under."""
        return self.data or self.case.fingerprint

    @property
    def label(self) -> str:
        return f"{self.method.name} on {self.case.id}"

    def identity(self, score: Score) -> tuple[str, ...]:
        """`Row.identity` of the row of one score."""
        return self.method.name, self.case.dataset, self.case.id, score.protocol, score.metric

    def row(self, score: Score, **values: Any) -> Row:
        """The result row of one score."""
        return Row(
            run=self.run,
            key=score.key,
            method=self.method.name,
            dataset=self.case.dataset,
            case=self.case.id,
            group=self.case.group,
            protocol=score.protocol,
            metric=score.metric,
            device=self.device,
            seed=self.seed,
            fingerprint=self.loading.stated(self.case, self.data),
            split=self.split,
            **values,
        )

    def failed(self, status: Status, reason: str) -> list[Row]:
        """The rows where nothing of the task came back; what was to be skipped is still a skip."""
        return [
            self.row(s, status="skip", reason=s.skip) if s.skip else self.row(s, status=status, reason=reason)
            for s in self.scores
        ]


@dataclass(frozen=True)
class Choice:
    """A method that the user asked for.

    Attributes
    ----------
    label : str
        On the board.
    method : str
        Registered name, or ``name@variant``.
    parameters : mapping
        Constructor arguments given by the user.
    """

    label: str
    method: str
    parameters: Mapping[str, Any]


def method_specs(plugins: Plugins, choices: Iterable[Choice]) -> list[MethodSpec]:
    """Make each method once to learn its facts and key; a broken plugin becomes a spec that says so.

    Raises
    ------
    InputError
        A parameter that the method does not take or refuses, or a file that is missing.
    """
    specs = []
    for choice in choices:
        entry = plugins.methods.entry(choice.method)
        try:
            cls = plugins.methods.load(choice.method)
        except PluginError as error:
            specs.append(broken_spec(choice, entry.origin, str(error)))
            continue
        try:
            specs.append(_spec(plugins, choice, cls))
        except InputError:  # of the user's
            raise
        except Exception as error:
            reason = str(PluginError(choice.method, entry.origin, describe(error)))
            specs.append(broken_spec(choice, entry.origin, reason))
    return specs


def _spec(plugins: Plugins, choice: Choice, cls: type[Method]) -> MethodSpec:
    entry = plugins.methods.entry(choice.method)
    method = make_method(plugins, choice.method, choice.parameters)
    preset = cls.variants[entry.variant] if entry.variant else {}
    files = method.files()
    given = {**preset, **choice.parameters}
    file = str(entry.path or "")
    return MethodSpec(
        choice.label,
        given,
        method_key(cls, method.parameters(), files, given, file),
        plain_facts(method.describe(), MethodInfo, "what describe() returned"),
        entry.name.partition("@")[0],
        entry.origin,
        watched=watched_files(cls, files, file),
        file=file,
    )


def check_source(spec: MethodSpec, method: Method) -> None:
    """Raise `PluginError` where a method, as it was made here, is not the one that was planned."""
    if not spec.watched or are_as_they_were(spec.watched):
        return
    key = method_key(type(method), method.parameters(), method.files(), spec.parameters, spec.file)
    if key != spec.key:
        reason = "its code or weights are not those of the plan: edited meanwhile, or another copy"
        raise PluginError(spec.name, spec.origin, f"{reason}; run the same command again")


def broken_spec(choice: Choice, origin: str, reason: str) -> MethodSpec:
    """Spec of a method that cannot be loaded."""
    info = MethodInfo(name=choice.method, summary="cannot be loaded")
    return MethodSpec(choice.label, choice.parameters, digest(reason), info, choice.method, origin, reason)
