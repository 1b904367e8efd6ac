"""ONNX, for onnxruntime and what else reads it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import IO

import torch
from torch import Tensor

from tmkd_lightning.export.deployable import Deployed


class OnnxFile:
    """One file with graph and weights; input ``image``, output ``logits``, any number of images."""

    suffix = ".onnx"
    packages: tuple[str, ...] = ("onnx", "onnxscript", "onnxruntime")

    def write(self, file: IO[bytes], deployed: Deployed, example: Tensor, metadata: Mapping[str, str]) -> None:
        """Writes a network; see `Format`."""
        program = torch.onnx.export(
            deployed,
            (example,),
            input_names=["image"],
            output_names=["logits"],
            dynamic_shapes={"image": {0: torch.export.Dim("batch")}},
            dynamo=True,
            verbose=False,
        )
        if program is None:
            raise RuntimeError("torch.onnx.export made no program")
        model = program.model_proto
        for node in model.graph.node:
            node.ClearField("metadata_props")  # paths and lines of the code on this machine
        for key, value in metadata.items():
            model.metadata_props.add(key=key, value=value)
        file.write(model.SerializeToString())

    def run(self, path: str, deployed: Deployed, image: Tensor) -> Tensor:
        """Runs a file in onnxruntime; see `Format`."""
        import onnxruntime

        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        (logits,) = session.run(["logits"], {"image": image.numpy()})
        return torch.from_numpy(logits)
