"""The shape of the package: imports go down, heavy ones stay put, all is explained."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import gpusq_compiler
from gpusq_compiler import passes
from gpusq_compiler.passes import registry

if TYPE_CHECKING:
    import types
    from collections.abc import Iterator

PACKAGE = Path(gpusq_compiler.__file__).parent
ROOT = PACKAGE.parent
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}

# From top to bottom; names in one line may not import each other.
LAYERS = (
    ("__main__",),
    ("cli",),
    ("progress", "doctor"),
    ("compile",),
    ("report", "context"),
    ("manifest", "page"),
    ("watch", "request"),
    ("recipe",),
    ("analysis",),
    ("passes",),
    ("calibration", "train", "trt"),
    ("sparsity", "quant", "runtime"),
    ("ir",),
    ("components", "errors", "plain", "parallel"),
)
# Types that everything speaks.
BELOW = {
    "gpusq_compiler.runtime.samples": "ir",
    "gpusq_compiler.runtime.events": "ir",
}
EDGES = {
    "onnx": (
        *("ir.io", "ir.schemas", "ir.soundness", "ir.wire"),
        *("passes.base", "runtime", "train", "doctor"),
    ),
    "onnxruntime": ("runtime", "train", "doctor"),
    "onnx_graphsurgeon": ("ir.surgeon", "trt"),
    "tensorrt": ("trt.bindings",),
    "tensorrt_rtx": ("trt.bindings",),
    "onnxscript": ("passes.canonicalize",),
    "matplotlib": ("analysis.picture",),
    "torch": (),
}


def imports(path: Path) -> Iterator[str]:
    """Every module that a file names in an import, wherever it stands."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            module = node.module or ""
            for alias in node.names:
                inner = f"{module}.{alias.name}"
                yield inner if inner in MODULES else module


def layer(module: str) -> tuple[int, str]:
    """How far down a module stands, and the name that places it."""
    name = BELOW.get(module, module.split(".")[1] if "." in module else "")
    for depth, names in enumerate(LAYERS):
        if name in names:
            return depth, name
    raise AssertionError(f"{module} has no place in the layers: give it one")


def inside(module: str, places: tuple[str, ...]) -> bool:
    names = [f"gpusq_compiler.{place}" for place in places]
    return any(module == name or module.startswith(f"{name}.") for name in names)


@pytest.mark.parametrize("module", [name for name in MODULES if name != "gpusq_compiler"])
def test_imports_go_down(module: str) -> None:
    depth, place = layer(module)
    for other in imports(MODULES[module]):
        if not other.startswith("gpusq_compiler."):
            continue
        below, theirs = layer(other)
        assert below > depth or theirs == place, f"{module} imports {other}"


@pytest.mark.parametrize("module", MODULES)
def test_sparsity_and_quantization_know_no_graph(module: str) -> None:
    if not inside(module, ("sparsity", "quant")) or inside(module, ("quant.placement",)):
        return
    found = {name.split(".")[0] for name in imports(MODULES[module])}
    assert "onnx_ir" not in found
    assert not any(name.startswith("gpusq_compiler.ir") for name in imports(MODULES[module]))


@pytest.mark.parametrize("module", MODULES)
def test_heavy_packages_stay_at_the_edges(module: str) -> None:
    for name in imports(MODULES[module]):
        places = EDGES.get(name.split(".")[0])
        assert places is None or inside(module, places), f"{module} imports {name}"


def test_the_test_sees_what_it_should(tmp_path: Path) -> None:
    file = tmp_path / "x.py"
    file.write_text(
        "import onnx.helper\nfrom gpusq_compiler import cli\n"
        "def f():\n    from gpusq_compiler.ir.io import load\n"
    )
    found = ["onnx.helper", "gpusq_compiler.cli", "gpusq_compiler.ir.io"]
    assert list(imports(file)) == found
    assert layer("gpusq_compiler.cli")[0] < layer("gpusq_compiler.ir.io")[0]
    with pytest.raises(AssertionError, match="has no place"):
        layer("gpusq_compiler.nowhere")


@pytest.mark.parametrize("arguments", [["--help"], ["compile", "--help"], ["--version"]])
def test_help_is_light(arguments: list[str]) -> None:
    program = (
        "import sys, runpy\n"
        f"sys.argv = ['gpusq', *{arguments}]\n"
        "try:\n    runpy.run_module('gpusq_compiler', run_name='__main__')\n"
        "except SystemExit as end:\n    assert not end.code, end.code\n"
        "heavy = {'onnx', 'onnx_ir', 'numpy', 'rich', 'onnxruntime', 'onnxscript', 'scipy'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_importing_the_package_is_light() -> None:
    program = (
        "import sys, gpusq_compiler, gpusq_compiler.passes\n"
        "print({'onnx', 'onnx_ir', 'numpy', 'rich', 'click'} & set(sys.modules) or 'none')\n"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "none"


@pytest.mark.parametrize("module", [gpusq_compiler, passes], ids=lambda one: one.__name__)
def test_every_public_name_is_there(module: types.ModuleType) -> None:
    for name in module.__all__:
        assert getattr(module, name).__name__ == name
    with pytest.raises(AttributeError, match="has no attribute 'no_such_name'"):
        _ = module.no_such_name


def test_every_pass_of_ours_has_a_public_name() -> None:
    ours = {place.partition(":")[2] for place in registry.PASSES.values()}
    assert ours == set(passes.__all__) - {"SurgeonPass", "IrPass", "ForOnnxIr"}


def test_the_doors_lead_to_the_package() -> None:
    door = ROOT / "passes"
    if door.is_symlink():
        assert door.readlink() == Path("gpusq_compiler/passes")
        assert (door / "base.py").samefile(PACKAGE / "passes" / "base.py")
    else:  # a checkout without symbolic links holds the target as text
        assert door.read_text().strip() == "gpusq_compiler/passes"
    tree = ast.parse((ROOT / "cli.py").read_text())
    assert [n.module for n in tree.body if isinstance(n, ast.ImportFrom)] == [
        "gpusq_compiler.cli"
    ]
    assert len(tree.body) == 3
    done = subprocess.run(
        [sys.executable, "cli.py", "--version"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.startswith("gpusq")


def public(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, ast.AST]]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield f"{prefix}{node.name}", node
            if isinstance(node, ast.ClassDef):
                yield from public(node, f"{prefix}{node.name}.")


@pytest.mark.parametrize("module", MODULES)
def test_everything_public_is_explained(module: str) -> None:
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    assert ast.get_docstring(tree), f"{module} has no docstring"
    for name, node in public(tree):
        assert isinstance(node, ast.FunctionDef | ast.ClassDef)
        if not name.rpartition(".")[0].startswith("_"):
            assert ast.get_docstring(node), f"{module}.{name} has no docstring"


@pytest.mark.parametrize("module", MODULES)
def test_files_and_functions_stay_small(module: str) -> None:
    text = MODULES[module].read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            # The arguments' explanation is no code.
            body = node.body[1:] if ast.get_docstring(node) else node.body
            lines = (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0
            assert lines <= 50, f"{module}.{node.name}: {lines} lines"
