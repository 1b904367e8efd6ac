"""Runs examples/digits.py as a notebook, and writes its cells and what they gave to docs/notebook.md.

    make notebook

Figures go to docs/images/notebook. A cell that fails, or prints to the error stream, leaves the page as it was.
"""

from __future__ import annotations

import base64
import shutil
import tempfile
from pathlib import Path

import jupytext
from nbclient import NotebookClient
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "examples" / "digits.py"
PAGE = ROOT / "docs" / "notebook.md"
FIGURES = ROOT / "docs" / "images" / "notebook"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        text, figures = render(run(SCRIPT, Path(folder)))
    shutil.rmtree(FIGURES, ignore_errors=True)
    FIGURES.mkdir(parents=True)
    for name, content in figures.items():
        (FIGURES / f"{name}.png").write_bytes(content)
    PAGE.write_text(text)


def run(script: Path, folder: Path) -> NotebookNode:
    """Executes a script in jupytext's percent format as a notebook that lies in a folder."""
    place = {"metadata": {"path": str(folder)}}
    return NotebookClient(jupytext.read(script), timeout=600, coalesce_streams=True, resources=place).execute()


def render(notebook: NotebookNode) -> tuple[str, dict[str, bytes]]:
    """The page of an executed notebook in Markdown, and its figures as PNG by name."""
    parts, figures = [], {}
    for cell in notebook.cells:
        parts.append(source(cell))
        for output in cell.get("outputs", []):
            if output.get("name") == "stderr":
                raise ValueError(f"a cell printed to the error stream:\n{output.text}")
            data = output.get("data", {})
            if "image/png" in data:
                figures[cell.metadata["name"]] = base64.b64decode(data["image/png"])
                parts.append(f"![{cell.metadata['alt']}](images/notebook/{cell.metadata['name']}.png)")
            else:
                text = output.text if output.output_type == "stream" else data["text/plain"]
                parts.append(f"<!-- not run: output -->\n```text\n{text.rstrip()}\n```")
    return "\n\n".join(parts) + "\n", figures


def source(cell: NotebookNode) -> str:
    """A cell in Markdown, with links as they are from the page."""
    if cell.cell_type == "markdown":
        return cell.source.replace("](../docs/", "](")
    return f"<!-- not run: notebook -->\n```python\n{cell.source}\n```"


if __name__ == "__main__":
    main()
