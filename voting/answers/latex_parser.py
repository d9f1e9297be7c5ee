"""Makes math-verify's LaTeX parser several times faster in the process that asks for it, with the same results.

Its grammar is parsed with ANTLR's full context prediction, which takes tens of milliseconds on an interval. Two stages,
as ANTLR's authors recommend, try the cheap prediction first; only a text that it cannot parse is parsed again in full.
"""

from __future__ import annotations

from typing import Any


def use_two_stage_parsing() -> None:
    """Replace the parser class that `latex2sympy2_extended` makes; calling it twice changes nothing."""
    from antlr4.atn.PredictionMode import PredictionMode
    from antlr4.error.Errors import ParseCancellationException
    from antlr4.error.ErrorStrategy import BailErrorStrategy
    from latex2sympy2_extended import latex2sympy2

    full: Any = latex2sympy2.PSParser
    if getattr(full, "is_two_stage", False):
        return

    class TwoStageParser(full):  # type: ignore[misc]
        is_two_stage = True

        def math(self) -> Any:
            parser: Any = self
            handler, listeners = parser._errHandler, parser._listeners
            parser._errHandler, parser._listeners = BailErrorStrategy(), []
            parser._interp.predictionMode = PredictionMode.SLL
            try:
                return super().math()
            except ParseCancellationException:
                parser.reset()
            finally:
                parser._errHandler, parser._listeners = handler, listeners
                parser._interp.predictionMode = PredictionMode.LL
            return super().math()

    latex2sympy2.PSParser = TwoStageParser
