"""Components: small exchangeable parts that are themselves options of a pass.

A component is a frozen dataclass of one *kind* (score, observer, quantizer, loss) with a
*name*; its fields are its options, exactly as those of a pass are. Third parties add theirs
through the entry-point group ``gpusq_compiler.<kind>s``.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar


@dataclasses.dataclass(frozen=True, kw_only=True)
class Component:
    """Base of everything that a recipe names inside a pass (``use = "name"``)."""

    kind: ClassVar[str]
    name: ClassVar[str]
