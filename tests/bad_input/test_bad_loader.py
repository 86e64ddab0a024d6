"""Python functions that should yield data and do something else."""

from __future__ import annotations

from tests.bad_input.case import REFUSED, UNREADABLE, Case, content, refused

LOADER = "model.onnx --passes prune,quantize --data loader.py:feeds"

CASES = [
    Case("no such file", LOADER, UNREADABLE, ("loader.py", "no such file")),
    Case(
        "no such function",
        LOADER,
        REFUSED,
        ("'feeds'", "batches"),
        content("loader.py", "def batches(): ..."),
    ),
    Case(
        "no function at all", LOADER, REFUSED, ("type int",), content("loader.py", "feeds = 3")
    ),
    Case(
        "wrong syntax",
        LOADER,
        REFUSED,
        ("loader.py", "SyntaxError"),
        content("loader.py", "def feeds(:"),
    ),
    Case(
        "wrong import",
        LOADER,
        REFUSED,
        ("loader.py", "ModuleNotFoundError", "nowhere_to_be"),
        content("loader.py", "import nowhere_to_be\ndef feeds(): ..."),
    ),
    Case(
        "raises",
        LOADER,
        REFUSED,
        ("KeyError", "lost"),
        content("loader.py", "def feeds():\n    raise KeyError('lost')"),
    ),
    Case(
        "exits",
        LOADER,
        REFUSED,
        ("SystemExit",),
        content("loader.py", "def feeds():\n    raise SystemExit(0)"),
    ),
    Case(
        "raises between batches",
        LOADER,
        REFUSED,
        ("ZeroDivisionError",),
        content(
            "loader.py",
            "import numpy as np\ndef feeds():\n"
            "    yield {'x': np.zeros((2, 8), np.float32)}\n    1 / 0",
        ),
    ),
    Case(
        "yields nothing",
        LOADER,
        REFUSED,
        ("yields nothing",),
        content("loader.py", "def feeds():\n    return iter(())"),
    ),
    Case(
        "yields nonsense",
        LOADER,
        REFUSED,
        ("batch 0", "type str"),
        content("loader.py", "def feeds():\n    yield 'nonsense'"),
    ),
    Case(
        "yields arrays",
        LOADER,
        REFUSED,
        ("batch 0", "type ndarray", "not a dictionary"),
        content("loader.py", "import numpy\ndef feeds():\n    yield numpy.ones((4, 8))"),
    ),
    Case(
        "gives a number",
        LOADER,
        REFUSED,
        ("type int", "batches"),
        content("loader.py", "def feeds():\n    return 7"),
    ),
    Case(
        "wants arguments",
        LOADER,
        REFUSED,
        ("TypeError",),
        content("loader.py", "def feeds(count):\n    yield {}"),
    ),
]


test_one_line_and_nothing_written = refused(CASES)
