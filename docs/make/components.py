"""The page of scores, observers, quantizers and losses."""

from __future__ import annotations

import inspect

from docs.make.passes import option_table
from docs.make.prose import markdown
from gpusq_compiler.passes import registry

PLACES = {
    "score": ("Scores", "`prune.score`: what makes a weight worth keeping."),
    "observer": ("Observers", "`quantize.observer`: where the range of activations ends."),
    "quantizer": ("Quantizers", "`qat.quantizer`: how a Q/DQ pair is trained."),
    "loss": ("Losses", "`losses` of `distill` and `qat`: what training makes small."),
}
HEAD = """# Components

Small exchangeable parts of passes. In a recipe a component is its name, or a table with `use`
and its options; on the command line it is its name:

```toml
[[pass]]
use = "quantize"
observer = { use = "percentile", percentile = 99.9 }
```

```sh
gpusq-compile model.onnx --passes prune,quantize --set quantize.observer=minmax
```

Packages can bring their own: [Writing a pass](writing-a-pass.md#components). This page is made
from the code.
"""


def page() -> str:
    """Every component of ours by kind, with what it says of itself and its options."""
    text = HEAD
    for kind, (title, use) in PLACES.items():
        text += f"\n## {title}\n\n{use}\n"
        for name in registry.COMPONENTS[kind]:
            found = registry.find_component(kind, name)
            text += f"\n### {name}\n\n{markdown(inspect.getdoc(found) or '')}\n"
            options = option_table(found)
            if options.startswith("|"):
                text += f"\n{options}"
    return text
