"""The page of what ``gpusq lint`` looks for."""

from __future__ import annotations

from docs.make import table
from gpusq_compiler.trt.legality.legal import RULES
from gpusq_compiler.trt.legality.rules import MAJORS, MEANING, Severity

HEAD = """# Rules of TensorRT

What `gpusq lint` and `gpusq inspect` look for and `--target tensorrt` takes care of:
[TensorRT](trt.md#lint) tells how far to believe them. `--fix` repairs those that are marked
with *yes* at least in some cases. This page is made from the code.
"""


def page() -> str:
    """Every rule by what happens where it is broken."""
    text = HEAD
    for severity in Severity:
        rows = [
            (
                f"`{rule.name}`",
                rule.reason,
                rule.remedy,
                "all" if rule.majors == MAJORS else ", ".join(map(str, rule.majors)),
                "yes" if rule.repairable else "",
            )
            for rule in RULES
            if rule.severity is severity
        ]
        meaning = MEANING[severity]
        text += f"\n## {severity.value}\n\n{meaning[0].upper()}{meaning[1:]}.\n\n"
        text += table(("rule", "why", "what to do", "versions", "--fix"), rows)
    return text
