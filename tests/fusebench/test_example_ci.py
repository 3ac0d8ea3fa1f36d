"""The example package's workflows: their own shell, run step by step against a local bare repository."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from .test_example_package import ROOT, environment, pip  # noqa: F401 - `environment` is a fixture

EXAMPLE = ROOT / "examples" / "fusebench-example"
LOSS = ("return ((wa * a", "return 0.98 * ((wa * a")

pytestmark = pytest.mark.skipif(not shutil.which("git"), reason="git is not installed")


def steps(workflow: str, job: str) -> dict[str, dict[str, Any]]:
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    text = (EXAMPLE / ".github" / "workflows" / workflow).read_text(encoding="utf-8")
    found = yaml.safe_load(text)["jobs"][job]
    return {s["name"]: {**s, "job": found} for s in found["steps"] if "name" in s}


def git(*command: object, cwd: Path) -> str:
    who = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", *who, *map(str, command)], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


class Hosted:
    """A stand-in for the service: a bare repository, and jobs that run the steps of the workflows."""

    def __init__(self, folder: Path, python: Path) -> None:
        self.folder, self.python = folder, python
        self.bare = folder / "server" / "owner" / "repo"
        self.bare.mkdir(parents=True)
        git("init", "-q", "--bare", "-b", "main", cwd=self.bare)
        self.work = folder / "work"
        shutil.copytree(
            EXAMPLE, self.work, ignore=shutil.ignore_patterns("__pycache__", "build", "*.egg-info")
        )
        git("init", "-q", "-b", "main", cwd=self.work)
        git("remote", "add", "origin", self.bare.as_uri(), cwd=self.work)
        tools = folder / "bin"
        tools.mkdir()
        call = "import sys; from fusebench.cli import main; sys.exit(main())"
        for name, body in (("fusebench", f'exec "{python}" -P -c "{call}" "$@"'), ("gh", "exit 0")):
            (tools / name).write_text(f"#!/bin/sh\n{body}\n")
            (tools / name).chmod(0o755)
        self.env = {
            **os.environ,
            "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
            "FUSEBENCH_CACHE": str(folder / "cache"),
            "OMP_NUM_THREADS": "1",
            "GITHUB_SERVER_URL": (folder / "server").as_uri(),
            "GITHUB_REPOSITORY": "owner/repo",
        }

    def push(self, message: str, branch: str = "main") -> str:
        git("add", "-A", cwd=self.work)
        git("commit", "-q", "--allow-empty", "-m", message, cwd=self.work)
        git("push", "-q", "origin", f"HEAD:{branch}", cwd=self.work)
        return git("rev-parse", "HEAD", cwd=self.work)

    def bench(self, name: str, commit: str, branch: str = "main") -> tuple[int, str, Path]:
        """The job `bench` on a commit: exit code, summary and the folder that it ran in."""
        folder = self.folder / name
        (folder / "temp").mkdir(parents=True)
        at = folder / "checkout"
        git("clone", "-q", "-b", branch, self.bare.as_uri(), at, cwd=folder)
        if git("branch", "-r", "--list", "origin/bench-data", cwd=at):
            git("clone", "-q", "-b", "bench-data", self.bare.as_uri(), at / "bench-data", cwd=folder)
        named = steps("bench.yml", "bench")
        env = {
            **self.env,
            **named["Benchmark"]["job"]["env"],
            "OPTIONS": "--cases 1 --data-option size=24 --jobs 0 --metrics psnr,ssim",
            "RUNNER_TEMP": str(folder / "temp"),
            "GITHUB_SHA": commit,
            "GITHUB_STEP_SUMMARY": str(folder / "summary.md"),
        }
        code = 0
        for step in ("Benchmark", "Compare with the history of main", "Record", "Summary"):
            assert ("always()" in named[step].get("if", "")) == (step in ("Record", "Summary"))
            if step == "Record" and branch != "main":
                continue
            done = self.shell(named[step]["run"], at, env)
            code = code or done.returncode
            assert step.startswith("Compare") or done.returncode == 0, done.stdout + done.stderr
        return code, (folder / "summary.md").read_text(), at

    def store(self, name: str, commit: str, made: Path) -> None:
        """The job `store`, which has the right to write and gets the artefact alone."""
        folder = self.folder / name
        shutil.copytree(made / "bench-data" / "store", folder / "store")
        script = steps("publish.yml", "store")["Store the history on the branch bench-data"]["run"]
        done = self.shell(script, folder, {**self.env, "COMMIT": commit})
        assert done.returncode == 0, done.stdout + done.stderr

    def shell(self, script: str, cwd: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-e", "-o", "pipefail", "-c", script], cwd=cwd, env=env, capture_output=True, text=True
        )

    def history(self) -> list[str]:
        return git("ls-tree", "-r", "--name-only", "bench-data", cwd=self.bare).splitlines()


@pytest.mark.slow
def test_the_workflows_keep_a_history_and_find_a_loss(environment: Path, tmp_path: Path) -> None:  # noqa: F811
    if subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True).returncode:
        pytest.skip("pip is not installed here")
    hosted = Hosted(tmp_path, environment)

    def install() -> None:
        source = tmp_path / "source"
        shutil.rmtree(source, ignore_errors=True)
        shutil.copytree(hosted.work, source)
        flags = ("--no-deps", "--no-build-isolation", "--no-index", "--force-reinstall")
        pip(environment, "install", *flags, str(source))

    install()
    first = hosted.push("A method")
    code, summary, made = hosted.bench("first", first)
    assert code == 0 and "no history to compare with yet" in summary
    hosted.store("publish-first", first, made)
    assert len(hosted.history()) == 1

    second = hosted.push("Nothing that counts")
    code, summary, made = hosted.bench("second", second)
    assert code == 0 and "nothing got worse" in summary, summary
    hosted.store("publish-second", second, made)
    assert len(hosted.history()) == 2 and "store/" in hosted.history()[0]
    assert (tmp_path / "second" / "temp" / "chart").is_dir()

    module = hosted.work / "fusebench_example.py"
    module.write_text(module.read_text().replace(*LOSS))
    install()
    code, summary, _ = hosted.bench("request", hosted.push("Worse", "request"), "request")
    assert code == 1 and "nothing got worse" not in summary, summary
    assert "example-gradient" in summary
    assert len(hosted.history()) == 2, "a pull request stores nothing"


def test_a_pull_request_can_write_nothing() -> None:
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    folder = EXAMPLE / ".github" / "workflows"
    bench, publish = (yaml.safe_load((folder / f"{n}.yml").read_text()) for n in ("bench", "publish"))
    assert bench["permissions"] == {"contents": "read"} and publish["permissions"] == {}
    for step in bench["jobs"]["bench"]["steps"]:
        if step.get("uses", "").startswith("actions/checkout"):
            assert step["with"]["persist-credentials"] is False
    for job in publish["jobs"].values():
        assert not any("checkout" in step.get("uses", "") for step in job["steps"])
    uses = [
        s["uses"] for w in (bench, publish) for j in w["jobs"].values() for s in j["steps"] if "uses" in s
    ]
    assert all(len(use.partition("@")[2]) == 40 for use in uses), "actions are pinned by hash"
