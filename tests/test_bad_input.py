"""Bad input that needs a setting of its own; the tables of cases are in ``bad_input/``."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import onnxruntime
import pytest

from gpusq_compiler import cli
from gpusq_compiler.errors import FileError
from tests import shell
from tests.bad_input import (
    test_bad_data,
    test_bad_engine,
    test_bad_loader,
    test_bad_model,
    test_bad_option,
    test_bad_output,
    test_bad_recipe,
)
from tests.bad_input.case import MISSING, ONE_SHOT, REFUSED, Case, check, judge

if TYPE_CHECKING:
    from pathlib import Path

TABLES = (
    test_bad_data,
    test_bad_engine,
    test_bad_loader,
    test_bad_model,
    test_bad_option,
    test_bad_output,
    test_bad_recipe,
)


def test_there_are_many() -> None:
    assert sum(len(table.CASES) for table in TABLES) >= 100


@pytest.mark.skipif(
    "CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="CUDA is there"
)
def test_cuda_without_cuda(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    says = ("--device cuda", "doctor")
    check(Case("no CUDA", f"{ONE_SHOT} --device cuda", MISSING, says), folder, capfd)


def test_what_was_compiled_is_not_compiled_again(
    folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = shell.call(shlex.split(f"{ONE_SHOT} -o done.onnx -q"), capfd)
    assert made.code == 0, made.err
    again = "done.onnx --passes prune,quantize"
    check(Case("compiled", again, REFUSED, ("done.onnx", "already")), folder, capfd)


@pytest.mark.parametrize("name", ["truncated", "dangling link"])
def test_a_process_of_its_own_says_the_same(
    name: str, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    case = next(case for case in test_bad_model.CASES if case.name == name)
    check(case, folder, capfd)
    command = shell.words("compile", *shlex.split(case.arguments))
    before = shell.contents(folder)
    judge(case, shell.spawn(command, folder))
    assert shell.contents(folder) == before


def test_who_asks_sees_where_an_error_comes_from(folder: Path) -> None:
    with pytest.raises(FileError, match=r"no\.onnx"):
        cli.compile_main(["no.onnx", "--passes", "prune", "--traceback"])
