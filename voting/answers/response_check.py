r"""Runs inside worker processes: the official SRT code's reward, a search for the label in the whole response."""

from __future__ import annotations


def found_in_response(label: str, response: str) -> bool:
    r"""Whether math-verify finds `\boxed{label}` in a response, by the extraction settings of the official code.

    A label that cannot be read is found nowhere, as there; an error in the comparison counts as not found.
    """
    from math_verify import parse, verify
    from math_verify.parser import ExprExtractionConfig, LatexExtractionConfig

    gold = parse("\\boxed{" + label + "}", (LatexExtractionConfig(),), parsing_timeout=None)
    found = parse(response, (ExprExtractionConfig(), LatexExtractionConfig()), parsing_timeout=None)
    return bool(gold and found and verify(gold, found, float_rounding=6, timeout_seconds=None))
