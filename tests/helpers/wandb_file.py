"""Reads the file that an offline run of Weights & Biases leaves: LevelDB's log format around protocol buffers."""

import json
import struct
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError
from wandb.proto import wandb_internal_pb2

_FILE_HEADER, _BLOCK, _RECORD_HEADER, _FULL, _LAST = 7, 32768, 7, 1, 4


def read_run(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The config of a finished run and its history, a dict for each row."""
    config: dict[str, Any] = {}
    history = []
    for record in _finished(path):
        for item in [*record.run.config.update, *record.config.update]:
            config[item.key or ".".join(item.nested_key)] = json.loads(item.value_json)
        if record.history.item:
            items = record.history.item
            history.append({i.key or ".".join(i.nested_key): json.loads(i.value_json) for i in items})
    return config, history


def run_id(path: Path) -> str:
    """The id of a finished run: what it is called when it is synchronised."""
    (run,) = {record.run.run_id for record in _finished(path) if record.HasField("run")}
    return run


def read_artifacts(path: Path) -> list[Any]:
    """The artifacts that a finished run has logged."""
    return [record.artifact for record in _finished(path) if record.HasField("artifact")]


def _finished(path: Path, patience: float = 60.0) -> list[Any]:
    """All records, once the last one is there: a service of its own writes them, and may be slower than finish()."""
    deadline = time.monotonic() + patience
    while True:
        records = []
        with suppress(DecodeError):  # the last of the blocks is still being written
            for data in _records(path.read_bytes()):
                records.append(wandb_internal_pb2.Record.FromString(data))
        if any(record.HasField("exit") for record in records):
            return records
        assert time.monotonic() < deadline, f"{path} was not finished within {patience} s"
        time.sleep(0.1)


def _records(content: bytes):
    position, pieces = _FILE_HEADER, []
    while position + _RECORD_HEADER <= len(content):
        left = _BLOCK - position % _BLOCK
        if left < _RECORD_HEADER:
            position += left
            continue
        length, kind = struct.unpack("<HB", content[position + 4 : position + _RECORD_HEADER])
        position += _RECORD_HEADER
        pieces.append(content[position : position + length])
        position += length
        if kind in (_FULL, _LAST):
            yield b"".join(pieces)
            pieces = []
