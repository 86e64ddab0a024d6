"""What is measured, against what, and what is said about it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from gpusq_compiler.analysis import bench as timing
from gpusq_compiler.analysis import inputs
from gpusq_compiler.analysis.bench import Settings, bench
from gpusq_compiler.analysis.contestants import opened, stand_in
from gpusq_compiler.analysis.figures import Bench, Cell, Entry
from gpusq_compiler.analysis.twins import against, twins_of
from gpusq_compiler.errors import FileError, ModelError
from gpusq_compiler.ir import io
from gpusq_compiler.passes.canonicalize import Canonicalize
from gpusq_compiler.passes.prune import Prune
from gpusq_compiler.runtime.events import Silent
from gpusq_compiler.runtime.latency import Times
from tests import tiny
from tests.trt.fake_gpu import SECONDS_PER_RUN, FakeDriver, install, plan

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx_ir as ir

    from gpusq_compiler.runtime.latency import Turn

QUICK = Settings(batch_sizes=(1, 3), seconds=0, warm_up=0, threads=1)
TWINS = ("dense-fp16", "dense-int8", "sparse-fp16", "sparse-int8")
DOUBLE = "double ({kind}[{batch}, 8] x) => ({kind}[{batch}, 8] y) {{ y = Add(x, x) }}"


class Told(Silent):
    """Keeps the notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, line: str) -> None:
        self.notes.append(line)


def saved(path: Path, model: ir.Model) -> Path:
    io.save(model, path)
    return path


def double(path: Path, *, kind: str = "float", batch: str = "N") -> Path:
    """The network that the fake engines compute, as ONNX."""
    return saved(path, tiny.model_of(DOUBLE.format(kind=kind, batch=batch)))


def figures_of(
    seconds: Sequence[Sequence[float]], *, twins: Sequence[str] = (), **settings: Any
) -> Bench:
    """Figures of files that took so long, at batch 4."""
    others: list[int | None] = [None, *[0] * (len(seconds) - 1)]
    if twins:
        others = [against(twin, twins) for twin in twins]
    times = [Times(turns=[[s] for s in taken]) for taken in seconds]
    cells = []
    for file, other in enumerate(others):
        faster = None if other is None else times[file].faster_than(times[other])
        cells.append(Cell(file=file, batch=4, times=times[file], faster=faster))
    entries = [
        Entry(
            path=f"{i}.onnx",
            name=twins[i] if twins else f"{i}.onnx",
            twin=twins[i] if twins else "",
            bytes=1000,
            runs_on="ONNX Runtime CPU",
            against=other,
        )
        for i, other in enumerate(others)
    ]
    known = {**dataclasses.asdict(QUICK), **settings}
    return Bench(entries=entries, cells=cells, settings=known, remarks=["said"], machine={})


def test_files_side_by_side(tmp_path: Path) -> None:
    a = saved(tmp_path / "a.onnx", tiny.mlp())
    b = saved(tmp_path / "b.onnx", Prune()(Canonicalize()(tiny.mlp())))
    found = bench([a, b], QUICK)
    assert [(cell.batch, cell.file) for cell in found.cells] == [
        (1, 0),
        (1, 1),
        (3, 0),
        (3, 1),
    ]
    assert [entry.bytes for entry in found.entries] == [a.stat().st_size, b.stat().st_size]
    assert [entry.name for entry in found.entries] == ["a.onnx", "b.onnx"]
    for cell in found.cells:
        assert len(cell.times.seconds) == 5
        assert (cell.faster is None) == (cell.file == 0)
        mean = np.mean(cell.times.seconds)
        assert cell.samples_per_second == pytest.approx(cell.batch / mean)
    assert found.remarks == ["b.onnx: ONNX Runtime makes no use of its 2:4 pattern"]
    assert found.title == "ONNX Runtime CPU numbers, 1 thread, synthesised inputs"
    json.dumps(found.as_json(), allow_nan=False)


def test_data_files_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(io, "INLINE_LIMIT", 100)
    path = saved(tmp_path / "a.onnx", tiny.mlp())
    files = list(tmp_path.iterdir())
    assert len(files) == 2
    (entry,) = bench([path], QUICK).entries
    assert entry.bytes == sum(file.stat().st_size for file in files)


def test_equal_names_are_told_by_their_folders(tmp_path: Path) -> None:
    paths = []
    for folder in ("p", "q"):
        (tmp_path / folder).mkdir()
        paths.append(saved(tmp_path / folder / "m.onnx", tiny.mlp()))
    assert [entry.name for entry in bench(paths, QUICK).entries] == list(map(str, paths))


def test_half_precision_beside_single(tmp_path: Path) -> None:
    single = double(tmp_path / "a.onnx")
    text = "half (float16[N, 8] x) => (float16[N, 8] y) <float16[1] w> { y = Mul(x, w) }"
    half = saved(tmp_path / "b.onnx", tiny.model_of(text))
    found = bench([single, half], QUICK)
    (line,) = found.remarks
    assert line.startswith("b.onnx: FP16, which ONNX Runtime's CPU mostly casts to FP32")


def test_a_prescribed_batch_is_kept_and_said(tmp_path: Path) -> None:
    free, fixed = double(tmp_path / "a.onnx"), double(tmp_path / "b.onnx", batch="2")
    told = Told()
    found = bench([free, fixed], QUICK, events=told)
    assert {cell.batch for cell in found.cells} == {2}
    assert told.notes == [f"{fixed} prescribes batch size 2: only that is measured"]
    quiet = Told()
    bench([fixed], dataclasses.replace(QUICK, batch_sizes=(2,)), events=quiet)
    assert not quiet.notes


def test_two_prescribed_batches_do_not_fit(tmp_path: Path) -> None:
    files = [double(tmp_path / f"{n}.onnx", batch=str(n)) for n in (2, 3)]
    with pytest.raises(ModelError, match=r"differ: 2 in .*2\.onnx and 3 in .*3\.onnx"):
        bench(files, QUICK)


@pytest.mark.parametrize(
    "other",
    [
        "m (float[N, 9] x) => (float[N, 9] y) { y = Add(x, x) }",
        "m (float[N, 8, 1] x) => (float[N, 8, 1] y) { y = Add(x, x) }",
        "m (float[N, 8] z) => (float[N, 8] y) { y = Add(z, z) }",
        "m (int64[N, 8] x) => (int64[N, 8] y) { y = Add(x, x) }",
        "m (float[N, 8] x, float[N, 8] z) => (float[N, 8] y) { y = Add(x, z) }",
    ],
)
def test_other_inputs_do_not_fit(other: str, tmp_path: Path) -> None:
    first = double(tmp_path / "a.onnx")
    second = saved(tmp_path / "b.onnx", tiny.model_of(other))
    with pytest.raises(
        ModelError, match=r"b\.onnx: it takes .*a\.onnx takes x float32\[\?,8\]"
    ):
        bench([first, second], QUICK)


def test_a_free_size_fits_a_fixed_one(tmp_path: Path) -> None:
    fixed = double(tmp_path / "a.onnx")
    text = "m (float[N, M] x) => (float[N, M] y) { y = Add(x, x) }"
    bench([fixed, saved(tmp_path / "b.onnx", tiny.model_of(text))], QUICK)


def test_data_are_used_and_repeated(tmp_path: Path) -> None:
    text = "m (int64[N] x) => (float[N] y) <float[50] w> { y = Gather(w, x) }"
    path = saved(tmp_path / "a.onnx", tiny.model_of(text))
    np.savez(tmp_path / "d.npz", x=np.array([49, 48], np.int64))
    data = str(tmp_path / "d.npz")
    found = bench([path], dataclasses.replace(QUICK, data=data))
    assert found.title.endswith(f"1 thread, {data}")


def test_time_is_per_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = double(tmp_path / "a.onnx")
    asked: list[dict[str, float]] = []

    def fake(turns: Sequence[Turn], **given: float) -> list[Times]:
        asked.append(given)
        return [Times(turns=[[1.0]]) for _ in turns]

    monkeypatch.setattr(timing, "interleaved", fake)
    settings = dataclasses.replace(QUICK, batch_sizes=(1,), seconds=3.0, warm_up=0.5)
    bench([path, path], settings)
    assert asked == [{"seconds": 6.0, "warm_up": 1.0, "runs": None}]


def test_runs_are_bounded(tmp_path: Path) -> None:
    path = double(tmp_path / "a.onnx")
    found = bench([path], dataclasses.replace(QUICK, seconds=1e6, runs=12))
    assert [len(cell.times.seconds) for cell in found.cells] == [12, 12]


def test_an_engine_beside_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the FAKES of ``fake_gpu``: its times come from the clock of the fake."""
    driver = FakeDriver()
    install(monkeypatch, driver)
    engine = plan(tmp_path / "m.engine")
    found = bench([double(tmp_path / "a.onnx"), engine], QUICK)
    assert found.entries[1].runs_on == "TensorRT 10.14.1.48 on Fake GPU"
    assert found.machine["gpu"] == "Fake GPU"
    # Floats of milliseconds.
    assert found.cells[1].times.median == pytest.approx(SECONDS_PER_RUN, rel=1e-4)
    assert "the files run on different things" in " ".join(found.lines())
    assert not driver.alive


def test_engines_alone_are_fed_by_their_own_inputs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, FakeDriver())
    described = {
        "inputs": {"x": [-1, -1]},
        "outputs": {"y": [-1, -1]},
        "profiles": [{"x": [[1, 5], [2, 7], [4, 9]]}],
    }
    engine = opened(plan(tmp_path / "m.plan", **described))
    (value,) = stand_in(engine).graph.inputs
    assert list(map(str, value.shape or ())) == ["None", "7"]
    with inputs.samples_for([engine], None, 0) as samples:
        x = samples.take(np.arange(3))["x"]
    assert x.shape == (3, 7)
    assert np.count_nonzero(x) == x.size
    found = bench([tmp_path / "m.plan"], QUICK)
    assert found.title == "TensorRT 10.14.1.48 on Fake GPU numbers, synthesised inputs"


def test_sizes_of_an_engine_go_before_a_guess(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, FakeDriver())
    text = "m (float[N, M] x) => (float[N, M] y) { y = Add(x, x) }"
    files = [saved(tmp_path / "a.onnx", tiny.model_of(text)), plan(tmp_path / "m.engine")]
    with inputs.samples_for([opened(file) for file in files], None, 0) as samples:
        assert samples.take(np.arange(3))["x"].shape == (3, 8)


def test_missing_graphs_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = FakeDriver()
    install(monkeypatch, driver)
    driver.fail["cuStreamEndCapture"] = 900
    path = plan(tmp_path / "m.engine")
    monkeypatch.setattr(driver, "enqueue", lambda work: work())
    (line,) = bench([path], QUICK).remarks
    assert line.startswith("m.engine: timed without a CUDA graph: cuStreamEndCapture failed")


def test_slower_is_said() -> None:
    # 0.5 times as fast, as fast, and slower by less than a file differs from itself.
    found = figures_of([[1.0] * 9, [2.0] * 9, [1.0] * 9, [1.02] * 9])
    assert list(found.lines()) == ["1.onnx is SLOWER than 0.onnx: 0.50x at batch 4", "said"]


def test_slower_by_chance_is_not_said() -> None:
    noisy = [0.5, 2.0, 2.0, 0.5, 2.0, 2.0, 0.5, 2.0, 2.0]
    found = figures_of([[1.0] * 9, noisy])
    (cell,) = [cell for cell in found.cells if cell.faster]
    assert cell.faster is not None
    assert (cell.faster.median, cell.faster.low, cell.faster.high) == (0.5, 0.5, 2.0)
    assert list(found.lines()) == ["said"]


def test_a_busy_machine_is_said() -> None:
    """Of 200 runs, four take seven times as long: the 99th percentile is among them."""
    quiet, busy = [1.0] * 200, [7.0] * 4 + [1.0] * 196
    assert list(figures_of([quiet]).lines()) == ["said"]
    (line, _) = figures_of([quiet, busy]).lines()
    assert line.startswith("p99 is up to 7 times the median: other work disturbed the runs")


def test_the_gain_of_sparsity_is_against_dense_int8() -> None:
    """8 times as fast as FP16, and slower than its dense twin."""
    twins = TWINS
    found = figures_of([[8.0] * 9, [1.0] * 9, [8.0] * 9, [1.25] * 9], twins=twins)
    assert list(found.lines()) == [
        "sparse-int8 is SLOWER than dense-int8: 0.80x at batch 4",
        "sparse gain on ONNX Runtime CPU, dense-int8 over sparse-int8: 0.80x at batch 4",
        "said",
    ]
    ratios = [row[-1] for row in found.rows()]
    assert ratios == [
        "",
        "8.00x (8.00-8.00) as dense-fp16",
        "1.00x (1.00-1.00) as dense-fp16",
        "0.80x (0.80-0.80) as dense-int8",
    ]


def test_without_dense_int8_no_gain_is_claimed() -> None:
    found = figures_of([[8.0] * 9, [1.0] * 9], twins=["dense-fp16", "sparse-int8"])
    assert next(found.lines()) == "sparse gain: unknown, for there is no dense-int8 twin"
    assert [row[-1] for row in found.rows()] == ["", ""]


@pytest.mark.parametrize(
    ("sparse", "stem"),
    [
        ("m.gpusq.onnx", "m"),
        ("m.gpusq.onnx", "m.gpusq"),
        ("m.onnx", "m"),
        ("m.sparse-int8.onnx", "m"),
        ("m.engine", "m"),
    ],
)
def test_twins_are_found(sparse: str, stem: str, tmp_path: Path) -> None:
    ending = Path(sparse).suffix
    for twin in ("dense-fp16", "dense-int8", "sparse-fp16"):
        (tmp_path / f"{stem}.{twin}{ending}").touch()
        (tmp_path / f"other.{twin}{ending}").touch()
        (tmp_path / f"{stem}.{twin}.json").touch()
    found = twins_of(Path(sparse), tmp_path)
    assert list(found) == list(TWINS)
    assert found["sparse-int8"] == Path(sparse)
    assert found["dense-int8"] == tmp_path / f"{stem}.dense-int8{ending}"


@pytest.mark.parametrize("kind", ["fp16", "bf16", "fp32"])
def test_the_rest_may_be_another_float(kind: str, tmp_path: Path) -> None:
    for twin in (f"dense-{kind}", "dense-int8", f"sparse-{kind}"):
        (tmp_path / f"m.{twin}.onnx").touch()
    twins = list(twins_of(Path("m.gpusq.onnx"), tmp_path))
    assert twins == [f"dense-{kind}", "dense-int8", f"sparse-{kind}", "sparse-int8"]
    assert [against(twin, twins) for twin in twins] == [None, 0, 0, 1]


def test_some_twins_may_be_missing(tmp_path: Path) -> None:
    (tmp_path / "m.dense-int8.onnx").touch()
    assert list(twins_of(Path("m.gpusq.onnx"), tmp_path)) == ["dense-int8", "sparse-int8"]
    (tmp_path / "m.dense-int8.onnx").unlink()
    with pytest.raises(
        FileError, match=r"no twin of m\.gpusq\.onnx.*m\.gpusq\.dense-int8\.onnx"
    ):
        twins_of(Path("m.gpusq.onnx"), tmp_path)
