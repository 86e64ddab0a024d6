"""What builds an engine elsewhere: the words for trtexec, the session for ONNX Runtime."""

from __future__ import annotations

import json
import os
import shlex
import stat
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import onnx
import onnx_ir as ir
import pytest

from gpusq_compiler.errors import FileError
from gpusq_compiler.trt.engines import ondevice
from gpusq_compiler.trt.engines.deploy import prepare
from gpusq_compiler.trt.engines.options import EngineOptions
from gpusq_compiler.trt.engines.profiles import Shapes, profiles_of
from gpusq_compiler.trt.legality.rules import NEWEST, Version
from tests import tiny
from tests.trt.chains import chain

if TYPE_CHECKING:
    from pathlib import Path

ODD = 'it\'s a "model" $HOME; -x `id` ü.onnx'


def order(
    folder: Path, options: EngineOptions | None = None, version: Version = NEWEST, **more: Any
) -> ondevice.Order:
    model = more.pop("model", None) or chain(1)
    options = options or EngineOptions()
    return ondevice.Order.of(
        model,
        model=more.get("path", folder / "m.onnx"),
        engine=more.get("engine", folder / "m.engine"),
        options=options,
        profiles=profiles_of(model, options.shapes),
        version=version,
    )


def test_the_line(tmp_path: Path) -> None:
    assert ondevice.trtexec(order(tmp_path)) == (
        "trtexec",
        "--onnx=./m.onnx",
        "--saveEngine=./m.engine",
        "--sparsity=enable",
        "--stronglyTyped",
        "--profilingVerbosity=detailed",
        "--exportLayerInfo=./m.engine.layers.json",
        "--skipInference",
        "--verbose",
    )


def test_every_option_has_its_words(tmp_path: Path) -> None:
    options = EngineOptions(
        sparse_weights=False,
        shapes=Shapes.parse("x:1x16", "x:4x16", "x:8x16"),
        timing_cache=tmp_path,
        workspace=512,
        hardware="same-compute-capability",
        version_compatible=True,
        optimization_level=4,
        plugins=(tmp_path / "lib" / "p.so", tmp_path / "q.so"),
    )
    words = ondevice.trtexec(order(tmp_path, options, model=tiny.mlp()))
    assert "--sparsity=enable" not in words
    assert set(words) >= {
        "--minShapes=x:1x16",
        "--optShapes=x:4x16",
        "--maxShapes=x:8x16",
        "--memPoolSize=workspace:512",
        "--timingCacheFile=./m.engine.timing",
        "--hardwareCompatibilityLevel=sameComputeCapability",
        "--builderOptimizationLevel=4",
        "--versionCompatible",
        "--setPluginsToSerialize=lib/p.so",
        "--dynamicPlugins=lib/p.so",
        "--dynamicPlugins=./q.so",
    }
    config: Any = ondevice.session_config(order(tmp_path, options, model=tiny.mlp()))
    assert config["providers"][0] == [
        "TensorrtExecutionProvider",
        {
            "trt_sparsity_enable": False,
            "trt_int8_enable": False,
            "trt_fp16_enable": False,
            "trt_engine_cache_enable": True,
            "trt_engine_cache_path": "./m.engine.cache",
            "trt_detailed_build_log": True,
            "trt_profile_min_shapes": "x:1x16",
            "trt_profile_opt_shapes": "x:4x16",
            "trt_profile_max_shapes": "x:8x16",
            "trt_max_workspace_size": 512 << 20,
            "trt_timing_cache_enable": True,
            "trt_builder_optimization_level": 4,
            "trt_extra_plugin_lib_paths": "lib/p.so;./q.so",
        },
    ]


def test_compatibility_with_ampere(tmp_path: Path) -> None:
    asked = order(tmp_path, EngineOptions(hardware="ampere+"))
    assert "--hardwareCompatibilityLevel=ampere+" in ondevice.trtexec(asked)
    config: Any = ondevice.session_config(asked)
    assert config["providers"][0][1]["trt_engine_hw_compatible"] is True


def test_static_plugins(tmp_path: Path) -> None:
    words = ondevice.trtexec(order(tmp_path, EngineOptions(plugins=(tmp_path / "p.so",))))
    assert "--staticPlugins=./p.so" in words


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, {"--int8"}),
        ({"fp16": True}, {"--int8", "--fp16"}),
        ({"int8": False}, set()),
    ],
)
def test_eight_takes_types_by_flags(
    fields: dict[str, Any], words: set[str], tmp_path: Path
) -> None:
    asked = order(tmp_path, EngineOptions(**fields), Version(8, 6))
    said = set(ondevice.trtexec(asked))
    assert said & {"--int8", "--fp16", "--stronglyTyped"} == words
    config: Any = ondevice.session_config(asked)
    options = config["providers"][0][1]
    assert options["trt_int8_enable"] == ("--int8" in words)
    assert options["trt_fp16_enable"] == ("--fp16" in words)


def test_quantizers_are_left_to_tensorrt(tmp_path: Path) -> None:
    config: Any = ondevice.session_config(order(tmp_path))
    assert config["graph_optimization_level"] == "ORT_DISABLE_ALL"
    assert config["providers"][0][1]["trt_int8_enable"] is True


@pytest.mark.parametrize("version", ["8.6", "10", "11"])
def test_odd_paths_reach_trtexec_whole(version: str, tmp_path: Path) -> None:
    """A stand-in for trtexec writes down its arguments; a shell runs the script for real."""
    folder, tools = tmp_path / "a folder; 'of' $mine", tmp_path / "tools"
    folder.mkdir()
    tools.mkdir()
    recorder = tools / "trtexec"
    recorder.write_text('#!/bin/sh\nprintf "%s\\n" "$@" > "$RECORD"\necho "a line"\n')
    recorder.chmod(recorder.stat().st_mode | stat.S_IXUSR)
    model = folder / ODD
    onnx.save(ir.to_proto(chain(1)), model)
    files = prepare(model, folder / "-e n.engine", EngineOptions(), Version.parse(version))
    env = {
        **os.environ,
        "PATH": f"{tools}:{os.environ['PATH']}",
        "RECORD": str(tools / "r"),
    }
    done = subprocess.run(["sh", str(files.script)], env=env, check=False, cwd="/")
    assert done.returncode == 0
    words = (tools / "r").read_text().splitlines()
    assert words[0] == f"--onnx=./{ODD}"
    assert words[1] == "--saveEngine=./-e n.engine"
    assert (folder / "-e n.engine.log").read_text() == "a line\n"


def test_a_failing_trtexec_shows_its_last_words(tmp_path: Path) -> None:
    onnx.save(ir.to_proto(chain(1)), tmp_path / "m.onnx")
    files = prepare(tmp_path / "m.onnx", tmp_path / "m.engine", EngineOptions())
    (tmp_path / "trtexec").write_text("#!/bin/sh\nseq 9\nexit 3\n")
    (tmp_path / "trtexec").chmod(0o755)
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["sh", str(files.script)], env=env, check=False, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr.split() == ["5", "6", "7", "8", "9"]


def test_the_model_may_lie_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    asked = order(tmp_path, path=tmp_path / "in" / "m.onnx", engine=tmp_path / "out" / "e")
    assert f"--onnx=..{os.sep}in{os.sep}m.onnx" in ondevice.trtexec(asked)


def test_the_script_is_one_line_around_the_words(tmp_path: Path) -> None:
    asked = order(tmp_path, engine=tmp_path / "two\nlines")
    text = ondevice.script(asked)
    comments = text[: text.index("cd -- ")].splitlines()
    assert all(line.startswith("#") for line in comments)
    assert shlex.join(ondevice.trtexec(asked)) in text
    assert "TensorRT 10 or newer" in text
    assert "TensorRT 8.6" in ondevice.script(order(tmp_path, version=Version(8, 6)))


def test_the_snippet_runs_and_says_what_is_missing(tmp_path: Path) -> None:
    """Here ONNX Runtime has no TensorRT, and the snippet does not run on something else."""
    onnx.save(ir.to_proto(chain(1)), tmp_path / "m.onnx")
    files = prepare(tmp_path / "m.onnx", tmp_path / "m.engine", EngineOptions())
    program = [sys.executable, str(files.snippet)]
    done = subprocess.run(program, check=False, capture_output=True, text=True, cwd="/")
    assert done.returncode == 1
    assert done.stderr.strip().endswith(
        "this ONNX Runtime has no TensorRT: pip install onnxruntime-gpu"
    )
    assert 10 <= len(files.snippet.read_text().splitlines()) <= 20


def test_the_snippet_makes_the_session_of_the_file(tmp_path: Path) -> None:
    """The same program with the CPU in the place of TensorRT: names and paths are right."""
    model = chain(1)
    onnx.save(ir.to_proto(model), tmp_path / "m.onnx")
    files = prepare(tmp_path / "m.onnx", tmp_path / "m.engine", EngineOptions())
    config = json.loads(files.config.read_text())
    config["providers"] = [["CPUExecutionProvider", {}]]
    files.config.write_text(json.dumps(config))
    program = [sys.executable, str(files.snippet)]
    done = subprocess.run(program, check=True, capture_output=True, text=True, cwd="/")
    assert done.stdout.strip() == "['CPUExecutionProvider']"


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    onnx.save(ir.to_proto(chain(1)), tmp_path / "m.onnx")
    (tmp_path / "e.ort.json").mkdir()
    with pytest.raises(FileError, match=r"e\.ort\.json: a folder"):
        prepare(tmp_path / "m.onnx", tmp_path / "e", EngineOptions())
    assert not (tmp_path / "e.trtexec.sh").exists()
