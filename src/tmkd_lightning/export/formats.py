"""File formats of exported networks: how each is written, and run for comparison with the network."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from tmkd_lightning.export.deployable import DeployableClassifier, predict_logits


class Format(NamedTuple):
    """A file format: its suffix, the packages that it needs, and how it is written and run."""

    suffix: str
    packages: tuple[str, ...]
    write: Callable[[DeployableClassifier, Tensor, Mapping[str, str]], bytes]  # of two images and the metadata
    run: Callable[[Path, DeployableClassifier, Tensor], Tensor]  # images (B, 3, H, W) to logits (B, K)


def _write_onnx(classifier: DeployableClassifier, example: Tensor, metadata: Mapping[str, str]) -> bytes:
    program = torch.onnx.export(
        classifier,
        (example,),
        input_names=["image"],
        output_names=["logits"],
        dynamic_shapes={"image": {0: torch.export.Dim("batch")}},
        dynamo=True,
        verbose=False,
    )
    assert program is not None  # with dynamo=True
    model = program.model_proto
    for node in model.graph.node:
        node.ClearField("metadata_props")  # paths and lines of the code on this machine
    for key, value in metadata.items():
        model.metadata_props.add(key=key, value=value)
    content: bytes = model.SerializeToString()
    return content


def _run_onnx(path: Path, classifier: DeployableClassifier, images: Tensor) -> Tensor:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"image": images.numpy()})
    return torch.from_numpy(logits)


def _write_program(classifier: DeployableClassifier, example: Tensor, metadata: Mapping[str, str]) -> bytes:
    shapes = {"image": {0: torch.export.Dim("batch")}}
    program = torch.export.export(classifier, (example,), dynamic_shapes=shapes, strict=False)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # paths and lines of the code on this machine
    content = BytesIO()
    torch.export.save(program, content, extra_files={"metadata.json": json.dumps(dict(metadata))})
    return content.getvalue()


def _run_program(path: Path, classifier: DeployableClassifier, images: Tensor) -> Tensor:
    with path.open("rb") as file:  # torch warns of paths with another suffix, as unfinished files have
        logits: Tensor = torch.export.load(file).module()(images)
    return logits


def _write_state_dict(classifier: DeployableClassifier, example: Tensor, metadata: Mapping[str, str]) -> bytes:
    from safetensors.torch import save

    weights = classifier.extractor.network.state_dict()
    return save({name: value.clone() for name, value in weights.items()}, {"format": "pt", **metadata})  # none shared


def _run_state_dict(path: Path, classifier: DeployableClassifier, images: Tensor) -> Tensor:
    """Loads a file into a copy of the network whose own weights are zeroed."""
    from safetensors.torch import load_file

    other = DeployableClassifier(classifier.extractor)
    for value in other.extractor.network.state_dict().values():
        value.zero_()
    other.extractor.network.load_state_dict(load_file(path))
    return predict_logits(other, images)


FORMATS = {
    "onnx": Format(".onnx", ("onnx", "onnxscript", "onnxruntime"), _write_onnx, _run_onnx),
    "torch_export": Format(".pt2", (), _write_program, _run_program),
    "state_dict": Format(".safetensors", ("safetensors",), _write_state_dict, _run_state_dict),
}
