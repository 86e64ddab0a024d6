"""Killed, interrupted, resumed: the same bytes in the end, and nothing half-written before."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from gpusq_compiler.compile import compile_model
from gpusq_compiler.recipe import Overrides
from gpusq_compiler.train.checkpoints import FolderCheckpoints
from gpusq_compiler.train.run import Run
from tests import shell

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.training

STEPS = 600
SETTINGS = ("qat.evaluate_every=20", "qat.blockwise=0")
LONG = ("--passes", "prune,qat", "--steps", str(STEPS), *(f"--set={s}" for s in SETTINGS))


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Digest of the model that a run from start to end writes."""
    folder = shell.write(tmp_path_factory.mktemp("uninterrupted"))
    report = compile_model(
        folder / "model.onnx",
        passes="prune,qat",
        data=folder / "data.npz",
        out=folder / "out.onnx",
        workdir=folder / ".gpusq",
        overrides=Overrides(steps=STEPS, settings=SETTINGS),
    )
    return report.output.sha256


def compiled(*arguments: str, capture: pytest.CaptureFixture[str]) -> shell.Outcome:
    """Compile the folder's model in this process."""
    return shell.call(["model.onnx", "--data", "data.npz", *arguments], capture)


def steps_done(folder: Path) -> int:
    """Steps in the newest checkpoint of qat; -1 without one."""
    for path in folder.glob(".gpusq/*/checkpoints/qat.npz"):
        found = FolderCheckpoints(path.parent, resume=True).load("qat")
        if found is not None:
            return int(str(found[1]["step"]))
    return -1


def stopped_midway(folder: Path, number: signal.Signals, *arguments: str) -> tuple[int, str]:
    """Start a compile, send a signal after some training; exit code and stderr."""
    command = shell.words("compile", "model.onnx", "--data", "data.npz", *arguments)
    with subprocess.Popen(
        command,
        cwd=folder,
        env=shell.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=_listen,  # noqa: PLW1509  this process has no other thread
    ) as process:
        end = time.monotonic() + 60
        while steps_done(folder) < 1:
            assert process.poll() is None, "it ended before it could be stopped"
            assert time.monotonic() < end, "it never wrote a checkpoint"
            time.sleep(0.01)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    return process.returncode, err


def _listen() -> None:
    """A test run started in the background of a shell inherits a deaf ear for Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def leftovers(folder: Path) -> set[str]:
    """What lies in the folder beside the input, at its top."""
    return {path.name for path in folder.iterdir()} - {"model.onnx", "data.npz"}


@pytest.fixture(scope="module")
def wreck(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was killed while it trained."""
    folder = shell.write(tmp_path_factory.mktemp("killed"))
    code, _ = stopped_midway(folder, signal.SIGKILL, *LONG)
    assert code == -signal.SIGKILL
    assert 0 < steps_done(folder) < STEPS
    return folder


@pytest.fixture
def killed(wreck: Path, folder: Path) -> Path:
    """A copy of it, the times of the files included."""
    return shutil.copytree(wreck, folder, dirs_exist_ok=True)


def test_killed_and_resumed(
    killed: Path, uninterrupted: str, capfd: pytest.CaptureFixture[str]
) -> None:
    source = shell.digest(killed / "model.onnx")
    assert leftovers(killed) == {".gpusq"}
    outcome = compiled(*LONG, "--resume", capture=capfd)
    assert outcome.code == 0, outcome.err
    assert "nothing to resume" not in outcome.err
    assert shell.digest(killed / "model.gpusq.onnx") == uninterrupted
    assert leftovers(killed) == {"model.gpusq.onnx", "model.gpusq.json"}
    assert shell.digest(killed / "model.onnx") == source


def test_resume_goes_on_where_it_stopped(
    killed: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    done, seen = steps_done(killed), []
    one_step = Run.step

    def counted(self: Run, step: int) -> dict[str, float]:
        seen.append(step)
        return one_step(self, step)

    monkeypatch.setattr(Run, "step", counted)
    assert compiled(*LONG, "--resume", capture=capfd).code == 0
    assert seen == list(range(done, STEPS))


def test_without_resume_it_starts_again(
    killed: Path, uninterrupted: str, capfd: pytest.CaptureFixture[str]
) -> None:
    outcome = compiled(*LONG, capture=capfd)
    assert outcome.code == 0, outcome.err
    assert shell.digest(killed / "model.gpusq.onnx") == uninterrupted
    assert ".gpusq" not in leftovers(killed)


def test_a_checkpoint_of_other_options_is_not_taken(
    killed: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    other = ("--passes", "prune,qat", "--steps", "3", "--resume")
    outcome = compiled(*other, capture=capfd)
    assert outcome.code == 0, outcome.err
    assert "nothing to resume" in outcome.err
    assert 0 < steps_done(killed) < STEPS


def test_interrupted_by_hand(folder: Path) -> None:
    before = shell.contents(folder)
    code, err = stopped_midway(folder, signal.SIGINT, *LONG)
    *notes, line = err.splitlines()
    assert code == 130
    assert line == "gpusq: interrupted; repeat the command with --resume to continue"
    assert all(note.startswith("gpusq: ") for note in notes)
    assert "Traceback" not in err
    assert leftovers(folder) == {".gpusq"}
    assert {k: v for k, v in shell.contents(folder).items() if k in before} == before


def test_nothing_to_resume(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    few = ("--passes", "prune,qat", "--steps", "4")
    plain = compiled(*few, capture=capfd)
    digest = shell.digest(folder / "model.gpusq.onnx")
    resumed = compiled(*few, "--resume", capture=capfd)
    assert plain.code == resumed.code == 0
    assert "nothing to resume: starting from the beginning" in resumed.err
    assert "nothing to resume" not in plain.err
    assert shell.digest(folder / "model.gpusq.onnx") == digest


def test_the_step_count_of_a_budget_is_kept(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    budget = ("--passes", "prune,qat", "--budget", "0.02")
    code, _ = stopped_midway(folder, signal.SIGKILL, *budget)
    assert code == -signal.SIGKILL
    (stored,) = folder.glob(".gpusq/*/checkpoints/qat-budget.npz")
    found = FolderCheckpoints(stored.parent, resume=True).load("qat-budget")
    assert found is not None
    shutil.copytree(folder / ".gpusq", folder / "copy")
    digests = set()
    for workdir in (".gpusq", "copy"):
        outcome = compiled(*budget, "--resume", "--workdir", workdir, capture=capfd)
        assert outcome.code == 0, outcome.err
        digests.add(shell.digest(folder / "model.gpusq.onnx"))
        qat = shell.passes_of(shell.report_of(folder))["qat"]
        assert qat["options"]["steps"] == found[1]["steps"]
    assert len(digests) == 1


def test_same_seed_same_bytes(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    few = ("--passes", "prune,qat", "--steps", "8", "-q")
    source = shell.digest(folder / "model.onnx")
    for seed in ("1", "2"):
        outcome = compiled(*few, "--seed", seed, "-o", f"{seed}.onnx", capture=capfd)
        assert outcome.code == 0, outcome.err
    monkeypatch.setenv("PYTHONHASHSEED", "4711")
    command = shell.words("compile", "model.onnx", "--data", "data.npz", *few, "--seed", "1")
    outcome = shell.spawn([*command, "-o", "again.onnx"], folder)
    assert outcome.code == 0, outcome.err
    first, second, again = (shell.digest(folder / f"{n}.onnx") for n in ("1", "2", "again"))
    assert first == again != second
    assert shell.digest(folder / "model.onnx") == source
