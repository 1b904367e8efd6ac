"""Rows of text as Markdown and as LaTeX."""

from __future__ import annotations

import re
from collections.abc import Sequence

_LATEX = {
    "\\": r"\textbackslash{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "→": r"$\rightarrow$",
    "±": r"$\pm$",
    "−": "$-$",
    "[": "{[}",  # behind a line's end it would be taken for an argument
}


def markdown(rows: Sequence[Sequence[str]]) -> str:
    r"""A table in Markdown; the first row is its header.

    Example:
        >>> print(markdown([["", "A|B"], ["KD", "1.00"]]), end="")
        |  | A\|B |
        |---|---|
        | KD | 1.00 |
    """
    lines = ["| " + " | ".join(text.replace("|", r"\|") for text in row) + " |" for row in rows]
    return "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:]]) + "\n"


def latex(rows: Sequence[Sequence[str]], caption: str) -> str:
    r"""A table in LaTeX, for the package booktabs.

    Example:
        >>> print(latex([["", "A"], ["KD & co", "-1 ± 2"]], "100 %").splitlines()[6])
        KD \& co & $-$1 $\pm$ 2 \\
    """
    lines = [" & ".join(_escaped(text) for text in row) + r" \\" for row in rows]
    content = ["\\toprule", lines[0], "\\midrule", *lines[1:], "\\bottomrule"]
    begin = ["\\begin{table}", "\\centering", f"\\begin{{tabular}}{{l{'r' * (len(rows[0]) - 1)}}}"]
    end = ["\\end{tabular}", f"\\caption{{{_escaped(caption)}}}", "\\end{table}"]
    return "\n".join([*begin, *content, *end]) + "\n"


def _escaped(text: str) -> str:
    text = re.sub(r"(?<![^ \[(])-(?=\d)", "−", text)  # the minus of a number, not the hyphen of a word
    return "".join(_LATEX.get(sign, sign) for sign in text)
