"""Entries of others: made, checked as untrusted files, scored again, merged, and walked through CI."""

from __future__ import annotations

import errno
import gzip
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fusebench.leaderboard import public, rescore
from fusebench.leaderboard.entries import chosen_cases, read_entry
from fusebench.leaderboard.rescore import check

from fusebench import create_dataset
from fusebench.cli import main
from fusebench.errors import InputError

from ..layouts import pairs

ROOT = Path(__file__).resolve().parents[2]
DATA = ["--data-option", "size=32", "--data-option", "subjects=3"]  # a later option of the same name counts
CASES = ["phantom-test-001", "phantom-test-002", "phantom-test-003"]
ABOUT = ["--authors", "A. Author", "--training-data", "none", "--code", "https://example.org/x"]


def run_of(out: Path, methods: str, metrics: str, *options: str) -> Path:
    command = ["run", "--methods", methods, *DATA, "--metrics", metrics, "--save-fused", "--jobs", "0"]
    assert main([*command, *options, "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two methods on three small phantoms."""
    return run_of(tmp_path_factory.mktemp("runs") / "run", "average,max", "psnr,ssim,mi")


def submit(run: Path, out: Path, name: str, method: str = "max") -> Path:
    assert main(["submit", str(run), "--method", method, "--name", name, "--out", str(out), *ABOUT]) == 0
    return out


@pytest.fixture(scope="module")
def made(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return submit(run, tmp_path_factory.mktemp("made") / "entry", "net-a")


@pytest.fixture
def entry(made: Path, tmp_path: Path) -> Path:
    """An entry that a test may spoil."""
    shutil.copytree(made, tmp_path / "entry")
    return tmp_path / "entry"


def change_rows(entry: Path, change: Callable[[dict[str, object]], None]) -> None:
    rows = [json.loads(line) for line in (entry / "rows.jsonl").read_text().splitlines()]
    for row in rows:
        change(row)
    (entry / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))


def forge(case: str, metric: str = "psnr", gain: float = 2.0) -> Callable[[dict[str, object]], None]:
    def change(row: dict[str, object]) -> None:
        if row["case"] == case and row["metric"] == metric:
            row["value"] = float(row["value"]) + gain  # type: ignore[arg-type]

    return change


def older(entry: Path, metric: str) -> None:
    """Make the values of a metric those of another version of its code."""
    manifest = json.loads((entry / "manifest.json").read_text())
    manifest["code"]["metrics"][metric] = "0123456789abcdef"
    (entry / "manifest.json").write_text(json.dumps(manifest))
    change_rows(entry, lambda r: r.update(value=r["value"] * 1.1) if r["metric"] == metric else None)  # type: ignore[operator]


# -- made and checked --------------------------------------------------------------------------------


def test_an_honest_entry_is_scored_again(
    made: Path, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["submit", "--check", str(made), "--verdict", str(tmp_path / "v.json")]) == 0
    assert re.search(r"net-a: re-scored, 6 values scored again", capfd.readouterr().out)
    said = json.loads((tmp_path / "v.json").read_text())
    assert said["badge"] == "re-scored" and not said["problems"] and said["compared"] == 2 * 3
    text = "".join(p.read_text() for p in made.glob("*.*"))
    assert str(ROOT) not in text and "command" not in text


def test_readings_are_scored_again(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", "max", "cho_auc", "--protocol", "readers", "--data-option", "subjects=2")
    entry = submit(run, tmp_path / "entry", "net")
    assert check(read_entry(entry)).compared >= 2 * 3
    change_rows(entry, forge("phantom-test-001", "cho_auc.a", 0.05))
    assert "cho_auc.a of phantom-test-001" in check(read_entry(entry)).problems[0]
    (entry / "volumes" / "phantom-test-001+findings.nii.gz").unlink()
    assert "+findings.nii.gz is missing" in check(read_entry(entry)).problems[0]


def test_a_forged_value_is_found(entry: Path, capfd: pytest.CaptureFixture[str]) -> None:
    case = read_entry(entry).about.name
    (first, _) = chosen_cases(case, CASES)
    change_rows(entry, forge(first))
    assert main(["submit", "--check", str(entry)]) == 1
    assert re.search(
        rf"psnr of {first} is [\d.]+ and not [\d.]+ \(its volume scored again\)", capfd.readouterr().out
    )


def test_rounding_is_no_forgery(entry: Path) -> None:
    (first, _) = chosen_cases("net-a", CASES)
    change_rows(entry, forge(first, "ssim", 1e-8))
    assert check(read_entry(entry)).badge == "re-scored"


def test_an_older_metric_version_is_no_forgery(entry: Path) -> None:
    older(entry, "mi")
    verdict = check(read_entry(entry))
    assert (verdict.badge, verdict.old, verdict.problems) == ("re-scored", ("mi",), ())


def test_other_code_with_the_same_values_is_not_old(entry: Path) -> None:
    manifest = json.loads((entry / "manifest.json").read_text())
    manifest["code"]["metrics"]["ssim"] = "0123456789abcdef"  # a comment was changed, say
    (entry / "manifest.json").write_text(json.dumps(manifest))
    assert check(read_entry(entry)).old == ()


@pytest.mark.parametrize(("change", "message"), [
    (lambda r: r.update(group="somebody"), "none of these phantoms"),
    (lambda r: r.update(case="phantom-test-077"), "none of these phantoms"),
    (lambda r: r.update(fingerprint="0" * 32), "other voxels here"),
    (lambda r: r.update(key="0" * 16), "does not fit the row"),
    (lambda r: r["metric"] == "ssim" and r.update(value=1.5), "it lies in"),
    (lambda r: r["metric"] == "psnr" and r.update(metric="nonsense"), "nonsense"),
    (lambda r: r.update(protocol="mine"), "protocol"),
])  # fmt: skip
def test_rows_that_do_not_fit_are_refused(
    entry: Path, change: Callable[[dict[str, object]], None], message: str
) -> None:
    if message == "none of these phantoms":
        rows = (entry / "rows.jsonl").read_text().splitlines()
        first = json.loads(rows[0])
        change(first)
        (entry / "rows.jsonl").write_text("\n".join([json.dumps(first), *rows[1:]]) + "\n")
    else:
        change_rows(entry, change)
    verdict = check(read_entry(entry))
    assert verdict.badge == "refused" and message in verdict.problems[0]


@pytest.mark.parametrize(
    "parameters", [{"size": 100_000}, {"size": "x"}, {"data_dir": "/etc"}, {"size": True}]
)
def test_data_of_any_size_are_not_made_for_a_stranger(entry: Path, parameters: object) -> None:
    manifest = json.loads((entry / "manifest.json").read_text())
    manifest["dataset"]["parameters"] = parameters
    (entry / "manifest.json").write_text(json.dumps(manifest))
    assert check(read_entry(entry)).badge == "refused"


def test_a_run_without_volumes_or_of_other_code_makes_no_entry(run: Path, tmp_path: Path) -> None:
    from fusebench.leaderboard.submission import make_entry

    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    said = {"authors": ["A"], "training_data": "none", "code": "https://x.org"}
    with pytest.raises(InputError, match="say which with --method"):
        make_entry(copy, tmp_path / "e", **said)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="authors is empty"):
        make_entry(copy, tmp_path / "e", method="max", training_data="none", code="https://x.org")
    for path in (copy / "fused").rglob("max.nii.gz"):
        path.unlink()
    with pytest.raises(InputError, match="--save-fused"):
        make_entry(copy, tmp_path / "e", method="max", **said)  # type: ignore[arg-type]
    change_rows(copy, lambda r: r.update(key="0" * 16))
    with pytest.raises(InputError, match="run the same command again"):
        make_entry(copy, tmp_path / "e", method="max", **said)  # type: ignore[arg-type]
    assert not (tmp_path / "e").exists()


# -- untrusted files ---------------------------------------------------------------------------------


def bomb(path: Path, size: int = 200 << 20) -> None:
    with gzip.open(path, "wb", 9) as handle:
        for _ in range(size >> 20):
            handle.write(bytes(1 << 20))


def volume_of(entry: Path) -> Path:
    return min((entry / "volumes").iterdir())


@pytest.mark.parametrize(("spoil", "message"), [
    (lambda e: (e / "x.py").write_text("1"), "does not belong"),
    (lambda e: (e / "volumes" / "sub").mkdir(), "link or no plain file"),
    (lambda e: (e / "volumes" / "..x.nii.gz").symlink_to("/etc/passwd"), "link or no plain file"),
    (lambda e: (e / "volumes" / "\x1b[2J.nii.gz").write_text("x"), "does not belong"),
    (lambda e: os.mkfifo(e / "volumes" / "p.nii.gz"), "link or no plain file"),
    (lambda e: [(e / "volumes" / f"{n}.nii.gz").write_text("x") for n in range(9)], "volumes, at most"),
    (lambda e: ((e / "rows.jsonl").unlink(), (e / "rows.jsonl").symlink_to("/dev/zero")), "link or no plain"),
    (lambda e: os.link(e / "rows.jsonl", e.parent / "other"), "hard links"),
    (lambda e: (e / "entry.toml").write_text("x" * 100_000), "larger than"),
    (lambda e: (e / "entry.toml").write_text("a = " + "[" * 5000), "not TOML"),
    (lambda e: (e / "entry.toml").write_text("schema = 1\nsurprise = 1"), "not a field"),
    (lambda e: (e / "manifest.json").write_text("[" * 100_000), "not JSON"),
    (lambda e: (e / "manifest.json").write_text('{"methods": 3}'), "no manifest"),
    (lambda e: (e / "rows.jsonl").write_text("{}\n"), "not a row"),
    (lambda e: (e / "rows.jsonl").write_text((e / "rows.jsonl").read_text() * 2), "each result once"),
    (lambda e: change_rows(e, lambda r: r.update(value=float("nan"))), "not a number"),
    (lambda e: change_rows(e, lambda r: r.update(reason="x" * 600)), "more than 500"),
    (lambda e: change_rows(e, lambda r: r.update(method="other")), "while entry.toml names"),
    (lambda e: (e / "manifest.json").unlink(), "missing"),
])  # fmt: skip
def test_what_is_no_entry_is_refused_unread(
    entry: Path, spoil: Callable[[Path], object], message: str
) -> None:
    spoil(entry)
    with pytest.raises(InputError, match=message) as error:
        read_entry(entry)
    assert str(error.value).isprintable()


@pytest.mark.parametrize(("field", "value", "message"), [
    ("name", "../../x", "name"), ("name", "a\x1b[31mb", "printed"), ("name", "=cmd()", "name"),
    ("name", "\u202eabc", "printed"), ("code", "javascript:alert(1)", "https"), ("code", "http://x", "https"),
    ("notes", "x" * 3000, "at most"), ("authors", [], "authors"), ("authors", ["a\nb"], "printed"),
    ("training_data", "", "training_data"),
])  # fmt: skip
def test_what_an_entry_says_is_checked(entry: Path, field: str, value: object, message: str) -> None:
    path = entry / "entry.toml"
    text = re.sub(rf"(?m)^{field} = .*$", lambda _: f"{field} = {json.dumps(value)}", path.read_text())
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_entry(entry)


SPOILED = {
    "bomb": bomb,
    "other": lambda p: p.write_bytes(b"no gzip"),
    "cut": lambda p: p.write_bytes(p.read_bytes()[:500]),
    "missing": lambda p: p.unlink(),
}


@pytest.mark.parametrize("spoil", SPOILED.values(), ids=SPOILED)
def test_volumes_that_are_none_are_refused(entry: Path, spoil: Callable[[Path], None]) -> None:
    spoil(volume_of(entry))
    verdict = check(read_entry(entry))
    assert verdict.badge == "refused" and "volumes/" in verdict.problems[0]


@pytest.mark.parametrize(
    "change",
    [
        {"badge": 5},
        {"badge": "other"},
        {"old": [5]},
        {"digest": [1]},
        {"compared": "many"},
        {"name": "a\x1b[2J"},
        {"problems": None},
        {"new": 1},
        None,
    ],
)
def test_a_verdict_that_is_none_is_a_line(tmp_path: Path, change: dict[str, object] | None) -> None:
    good = rescore.verdict_text(rescore.Verdict("net", "0" * 64, "re-scored"))
    path = tmp_path / "v.json"
    path.write_text(good)
    assert rescore.read_verdicts(tmp_path)["0" * 64].badge == "re-scored"
    path.write_text("[" * 100_000 if change is None else json.dumps({**json.loads(good), **change}))
    with pytest.raises(
        InputError, match=r"v\.json: no verdict .*; make it again with --verdict, or delete it"
    ):
        rescore.read_verdicts(tmp_path)


def test_an_entry_is_whole_or_not_there(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> bytes:
        raise OSError(errno.ENOSPC, "No space left on device", "volume")

    command = ["submit", str(run), "--method", "max", "--name", "net-a", *ABOUT, "--out", str(tmp_path / "e")]
    with monkeypatch.context() as disk:
        disk.setattr("fusebench.leaderboard.entries.read_bytes", full)
        assert main(command) == 2
    assert not (tmp_path / "e").exists()
    assert main(command) == 0


def test_a_link_to_an_entry_is_none(made: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(made)
    with pytest.raises(InputError, match="no folder of an entry"):
        read_entry(tmp_path / "link")


# -- the board ---------------------------------------------------------------------------------------


def test_three_entries_one_forged_one_old(
    run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    entries = tmp_path / "entries"
    submit(run, entries / "a", "honest")
    submit(run, entries / "b", "forged")
    submit(run, entries / "c", "old", method="average")
    (first, _) = chosen_cases("forged", CASES)
    change_rows(entries / "b", forge(first))
    older(entries / "c", "mi")
    assert main(["board", "merge", str(entries), "--trusted", str(run), "--out", str(tmp_path / "site")]) == 1
    assert f"refused: forged: psnr of {first}" in capfd.readouterr().out
    page = (tmp_path / "site" / "index.html").read_text()
    rows = {name: kind for kind, name in re.findall(r'<tr class="([^"]*)" data-search="([^" ]+)', page)}
    assert rows["old"] == "old" and rows["honest"] == "" and "forged" not in rows
    assert re.search(r"Not on the board</h2>.*forged: psnr", page, re.DOTALL)
    facts = {e["name"]: e for e in json.loads((tmp_path / "site" / "entries.json").read_text())["entries"]}
    assert facts["honest"]["badge"] == "re-scored" and facts["max"]["badge"] == "reference"
    assert facts["old"]["old"] == ["mi"]
    table = (tmp_path / "site" / "board-phantom.csv").read_text()
    assert "honest,re-scored" in table and "forged" not in table
    assert "| – | old | re-scored |" in (tmp_path / "site" / "board-phantom.md").read_text()


def test_a_run_of_the_maintainers_confirms_or_refutes(run: Path, tmp_path: Path) -> None:
    entry = submit(run, tmp_path / "entries" / "a", "net")
    (case,) = set(CASES) - set(chosen_cases("net", CASES))
    trusted = tmp_path / "trusted"
    shutil.copytree(run, trusted)
    change_rows(trusted, lambda r: r.update(method="net") if r["method"] == "max" else None)
    paths, refused = public.merge([entry], tmp_path / "site", trusted=[trusted])
    facts = json.loads(paths[-1].read_text())["entries"]
    assert not refused and {e["name"]: e["badge"] for e in facts}["net"] == "re-run"
    change_rows(entry, forge(case))  # a case whose volume the entry need not hold
    assert check(read_entry(entry)).badge == "re-scored"
    _, refused = public.merge([entry], tmp_path / "site", trusted=[trusted])
    assert "its code run again" in refused[0]


def test_data_that_the_board_does_not_have_are_self_reported(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    pairs(folder)
    given = [w for n in ("mri", "pet") for w in ("--data-option", f"{n}_dir={folder / n}")]
    command = ["run", "--dataset", "pairs", *given, "--methods", "max", "--metrics", "psnr", "--save-fused"]
    assert main([*command, "--jobs", "0", "--out", str(tmp_path / "run")]) == 0
    entry = submit(tmp_path / "run", tmp_path / "entry", "net")
    assert str(tmp_path) not in "".join(p.read_text() for p in entry.glob("*.*"))
    verdict = check(read_entry(entry))
    assert (verdict.badge, verdict.compared, verdict.problems) == ("self-reported", 0, ())
    paths, refused = public.merge([entry], tmp_path / "site")
    assert not refused and "self-reported" in paths[0].read_text()


def test_a_board_that_cannot_be_written_leaves_the_former_one(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "site"
    public.merge([made], out)
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}

    def full(target: Path, text: str) -> None:
        raise OSError(errno.ENOSPC, "no space", str(target))

    monkeypatch.setattr(public, "write_text", full)
    with pytest.raises(OSError, match="no space") as caught:
        public.merge([made], out)
    assert caught.value.filename == str(out / public.MARKER)
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before


def test_a_name_is_taken_once_and_text_stays_text(made: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        shutil.copytree(made, tmp_path / "entries" / name)
    path = tmp_path / "entries" / "a" / "entry.toml"
    path.write_text(path.read_text().replace("A. Author", "<script>alert(1)</script>"))
    _, refused = public.merge([tmp_path / "entries"], tmp_path / "site")
    assert len(refused) == 1 and "there already" in refused[0]
    page = (tmp_path / "site" / "index.html").read_text()
    assert "<script>alert" not in page and "&lt;script&gt;" in page


# -- the hidden test ---------------------------------------------------------------------------------


def test_hidden_phantoms_come_from_the_secret_and_do_not_tell_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FUSEBENCH_HIDDEN_SEED", raising=False)
    with pytest.raises(InputError, match="FUSEBENCH_HIDDEN_SEED"):
        create_dataset("phantom-hidden").cases("test")
    found = {}
    for secret in ("a secret of the year", "another secret of it"):
        monkeypatch.setenv("FUSEBENCH_HIDDEN_SEED", secret)
        found[secret] = [c.fingerprint for c in create_dataset("phantom-hidden", size=24).cases("test")]
    one, other = found.values()
    assert len(set(one) | set(other)) == 16
    case = create_dataset("phantom-hidden", size=24, period="example").cases("test")[0]
    assert "seed" not in case.meta and case.a.data.shape == (24, 24, 24)
    with pytest.raises(InputError, match="example is"):
        create_dataset("phantom-hidden", period="2040").cases("test")


# -- the workflow, walked through --------------------------------------------------------------------

yaml = pytest.importorskip("yaml")
WORKFLOW = yaml.safe_load((ROOT / "fusebench" / "templates" / "submissions.yml").read_text())


def walk(job: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the commands of a job, the installation aside."""
    tools = folder / ".tools"
    tools.mkdir(exist_ok=True)
    (tools / "fusebench").write_text(f'#!/bin/sh\nexec {sys.executable} {ROOT / "run_bench.py"} "$@"\n')
    (tools / "fusebench").chmod(0o755)
    steps = [s["run"] for s in WORKFLOW["jobs"][job]["steps"] if "run" in s and "pip install" not in s["run"]]
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("GIT_") and "HIDDEN" not in k}
    env = {**inherited, "PATH": f"{tools}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "GH_TOKEN": "",
           "PYTHONDONTWRITEBYTECODE": "1", "OPTIONS": "", **environment}  # fmt: skip
    command = ["bash", "-e", "-o", "pipefail", "-c", "\n".join(steps)]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=300)


def git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    return subprocess.run(
        ["git", "-C", str(folder), *who, *arguments], check=True, capture_output=True, text=True
    ).stdout


def test_a_submission_goes_through_the_workflow(made: Path, entry: Path, tmp_path: Path) -> None:
    bare, work = tmp_path / "board.git", tmp_path / "work"
    subprocess.run(["git", "init", "-q", "--bare", "-b", "main", str(bare)], check=True)
    subprocess.run(["git", "clone", "-q", str(bare), str(work)], check=True, capture_output=True)
    (work / "README.md").write_text("a board\n")
    (work / ".git" / "info" / "exclude").write_text(".tools\nchanged.txt\nsite\nboard\n")
    git(work, "add", "README.md")
    git(work, "commit", "-qm", "start")
    git(work, "push", "-q", "origin", "HEAD:main")
    base = git(work, "rev-parse", "HEAD").strip()

    git(work, "checkout", "-qb", "good")
    shutil.copytree(made, work / "entries" / "net-a")
    git(work, "add", "entries")
    git(work, "commit", "-qm", "an entry")
    done = walk("check", work, BASE=base)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "net-a: re-scored" in done.stdout

    (work / "README.md").write_text("changed\n")
    git(work, "commit", "-qam", "more than an entry")
    assert "entries/<name>/ only" in walk("check", work, BASE=base).stdout
    git(work, "reset", "-q", "--hard", "HEAD~1")

    git(work, "push", "-q", "origin", "HEAD:main")
    done = walk("publish", work, REMOTE=str(bare))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "net-a" in git(bare, "show", "board:index.html")
    assert "README.md" not in git(bare, "ls-tree", "--name-only", "board")


def test_rights_are_split() -> None:
    jobs = WORKFLOW["jobs"]
    assert WORKFLOW["permissions"] == {}
    knows = {name for name, job in jobs.items() if "secrets." in json.dumps(job)}
    writes = {name for name, job in jobs.items() if "write" in json.dumps(job.get("permissions", {}))}
    foreign = {name for name, job in jobs.items() if "inputs.code" in json.dumps(job)}
    assert (knows, writes, foreign) == ({"hidden-inputs", "hidden-score"}, {"publish"}, {"hidden-fuse"})
    uses = [s["uses"] for job in jobs.values() for s in job["steps"] if "uses" in s]
    assert all(re.search(r"@[0-9a-f]{40}$", u) for u in uses)
    checkouts = [s for job in jobs.values() for s in job["steps"] if "checkout" in s.get("uses", "")]
    assert all(s["with"]["persist-credentials"] is False for s in checkouts)


@pytest.mark.slow
def test_the_hidden_test_is_fused_without_the_secret(tmp_path: Path) -> None:
    secret, options = "a secret for this test", "--data-option size=32 --data-option subjects=1 --jobs 0"
    folders = [tmp_path / n for n in ("inputs-job", "fuse-job", "score-job")]
    for folder in folders:
        folder.mkdir()
    first = walk(
        "hidden-inputs", folders[0], FUSEBENCH_HIDDEN_SEED=secret, OPTIONS=f"{options} --metrics psnr,cho_auc"
    )
    assert first.returncode == 0, first.stdout + first.stderr
    shutil.copytree(folders[0] / "inputs", folders[1] / "inputs")
    assert {p.name for p in (folders[1] / "inputs").rglob("*") if p.is_file()} == {"mri.nii.gz", "pet.nii.gz"}
    (folders[1] / "code").mkdir()
    (folders[1] / "code" / "p.py").write_text(
        (ROOT / "methods" / "average.py").read_text().replace('"average"', '"theirs"')
    )
    second = walk("hidden-fuse", folders[1], PLUGIN="p.py", METHOD="theirs")
    assert second.returncode == 0, second.stdout + second.stderr
    shutil.copytree(folders[1] / "results", folders[2] / "results")
    third = walk("hidden-score", folders[2], FUSEBENCH_HIDDEN_SEED=secret,
                 OPTIONS=options.replace("--jobs 0", "--metrics psnr"))  # fmt: skip
    assert third.returncode == 0, third.stdout + third.stderr
    text = "".join(p.read_text(errors="replace") for p in (folders[2] / "scored").glob("*.*"))
    assert "hidden-001" in text and secret not in text
    assert np.isfinite(
        float(re.search(r"entry.*?,psnr,([\d.]+)", (folders[2] / "scored" / "rows.csv").read_text())[1])
    )  # type: ignore[index]


def test_a_folder_that_is_no_entry_is_called_so(tmp_path: Path) -> None:
    (tmp_path / ".lock").touch()  # as in a run folder
    with pytest.raises(InputError, match=r"no entry, it holds no entry\.toml; `submit RUN"):
        read_entry(tmp_path)
