"""What is wrong in a case of bad input, how it is brought about, and how it must be told."""

from __future__ import annotations

import dataclasses
import shlex
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest

from tests import shell

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from _pytest.mark import ParameterSet

REFUSED, USAGE, MISSING, UNREADABLE = 1, 2, 4, 6
QAT = "model.onnx --passes prune,qat --steps 2"
ONE_SHOT = "model.onnx --passes prune,quantize"


@dataclasses.dataclass(frozen=True)
class Case:
    """One mistake.

    Attributes:
        name: What is wrong.
        arguments: Of gpusq-compile.
        code: The exit code.
        says: Words of the line on stderr.
        make: Puts the mistake into the folder.
        late: The plan was already printed when the mistake shows.
    """

    name: str
    arguments: str
    code: int
    says: tuple[str, ...]
    make: Callable[[Path], None] | None = None
    late: bool = False

    @property
    def trains(self) -> bool:
        """Whether it gets as far as the question whether this runtime can train."""
        return self.code in {REFUSED, UNREADABLE} and QAT in self.arguments


def content(name: str, what: bytes | str) -> Callable[[Path], None]:
    """A file with this content."""

    def make(folder: Path) -> None:
        (folder / name).write_bytes(what.encode() if isinstance(what, str) else what)

    return make


def data(name: str = "data.npz", **changes: object) -> Callable[[Path], None]:
    """The sound data with some arrays replaced, left out (None) or edited (a function)."""

    def make(folder: Path) -> None:
        arrays: dict[str, Any] = shell.arrays()
        for key, change in changes.items():
            arrays[key] = change(arrays[key]) if callable(change) else change
        (folder / name).parent.mkdir(exist_ok=True)
        shell.save(folder / name, {k: v for k, v in arrays.items() if v is not None})

    return make


def edited(index: tuple[int, ...], value: float) -> Callable[[Any], Any]:
    """An array with one other element."""

    def edit(array: Any) -> Any:
        changed = array.copy()
        changed[index] = value
        return changed

    return edit


def model(name: str = "model.onnx", **shape: Any) -> Callable[[Path], None]:
    """Another network."""
    return lambda folder: shell.mlp(folder / name, **shape)


def operator(op_type: str) -> Callable[[Path], None]:
    """The sound model with another operator in the place of its Relu."""

    def make(folder: Path) -> None:
        proto = onnx.load(folder / "model.onnx")
        next(node for node in proto.graph.node if node.name == "relu").op_type = op_type
        proto.opset_import[0].version = 18
        onnx.save(proto, folder / "model.onnx")

    return make


def cut(name: str, share: float) -> Callable[[Path], None]:
    """Only the beginning of a file."""

    def make(folder: Path) -> None:
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[: int(share * len(whole))])

    return make


def link(name: str) -> Callable[[Path], None]:
    """A symbolic link to nowhere: unreadable for root, too."""
    return lambda folder: (folder / name).symlink_to("nowhere")


def folder_of(name: str) -> Callable[[Path], None]:
    """An empty folder."""
    return lambda folder: (folder / name).mkdir()


def together(*makers: Callable[[Path], None]) -> Callable[[Path], None]:
    """One after the other."""

    def make(folder: Path) -> None:
        for maker in makers:
            maker(folder)

    return make


def gone(name: str) -> Callable[[Path], None]:
    """Without this file."""
    return lambda folder: (folder / name).unlink()


def flipped(name: str) -> Callable[[Path], None]:
    """One damaged byte in the middle, where the numbers are."""

    def make(folder: Path) -> None:
        whole = bytearray((folder / name).read_bytes())
        whole[len(whole) // 3] ^= 0xFF
        (folder / name).write_bytes(bytes(whole))

    return make


def objects(folder: Path) -> None:
    """An array that only a pickle can hold."""
    ragged = np.empty(2, object)
    ragged[:] = [np.zeros(8, np.float32), np.zeros(9, np.float32)]
    shell.save(folder / "data.npz", {"x": ragged})


def huge_header(folder: Path) -> None:
    """A protobuf whose first field claims more bytes than there are."""
    (folder / "bad.onnx").write_bytes(b"\x3a\xff\xff\xff\xff\x07abc")


def judge(case: Case, outcome: shell.Outcome) -> None:
    """Hold an outcome to what the case says."""
    *before, line = outcome.err.splitlines() or [""]
    assert outcome.code == case.code, outcome.err
    assert line.startswith("gpusq: error: ")
    assert not case.late or all(note.startswith("gpusq: ") for note in before)
    assert case.late or not before
    assert not any(note.startswith("gpusq: error:") for note in before)
    for word in case.says:
        assert word in line
    assert "Traceback" not in outcome.err
    assert "internal error" not in line
    assert len(line) < 500
    assert not outcome.out


def check(case: Case, folder: Path, capture: pytest.CaptureFixture[str]) -> None:
    """Bring the mistake about; hold the command to one line and an untouched folder."""
    shell.write(folder)
    if case.make is not None:
        case.make(folder)
    before = shell.contents(folder)
    judge(case, shell.call(shlex.split(case.arguments), capture))
    assert shell.contents(folder) == before


def refused(cases: Sequence[Case]) -> Callable[..., None]:
    """The test that every case is told in one line and leaves the folder as it was."""

    @pytest.mark.parametrize("case", _parameters(cases))
    def test(
        case: Case,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capfd: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.chdir(tmp_path)
        check(case, tmp_path, capfd)

    return test


def _parameters(cases: Sequence[Case]) -> list[ParameterSet]:
    """Cases by name; those that a runtime without training would refuse earlier are marked."""
    assert len({case.name for case in cases}) == len(cases)
    return [
        pytest.param(case, id=case.name, marks=[pytest.mark.training] if case.trains else [])
        for case in cases
    ]
