"""torch.export, for PyTorch without the code that the network was written in."""

from __future__ import annotations

import json
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import IO

import torch
from torch import Tensor

from tmkd_lightning.export.deployable import Deployed

METADATA = "metadata.json"
"""Name of the extra file in which the metadata stand."""


class ProgramFile:
    """An ``ExportedProgram`` of any number of images; its metadata are an extra file, as JSON."""

    suffix = ".pt2"
    packages: tuple[str, ...] = ()

    def write(self, file: IO[bytes], deployed: Deployed, example: Tensor, metadata: Mapping[str, str]) -> None:
        """Writes a network; see `Format`."""
        shapes = {"image": {0: torch.export.Dim("batch")}}
        program = torch.export.export(deployed, (example,), dynamic_shapes=shapes, strict=False)
        for node in program.graph.nodes:
            node.meta.pop("stack_trace", None)  # paths and lines of the code on this machine
        content = BytesIO()  # it warns of open files whose names do not end as it expects
        torch.export.save(program, content, extra_files={METADATA: json.dumps(dict(metadata))})
        file.write(content.getbuffer())

    def run(self, path: str, deployed: Deployed, image: Tensor) -> Tensor:
        """Runs a file; see `Format`."""
        with Path(path).open("rb") as file:
            logits: Tensor = torch.export.load(file).module()(image)
        return logits
