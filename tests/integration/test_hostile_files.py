"""Files that would run code if they were unpickled, in every place where the library opens one.

Each is refused by an error that names it, and what it would have done has not happened. Elsewhere: archives that lead
out of their folder (test_download.py), CIFAR-100's own pickles (test_cifar100.py), torchvision's weights
(test_pretrained.py).
"""

import ast
import io
import os
import pickle
import re
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from functools import partial, reduce
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import EpsImagePlugin, Image
from torch import nn

from helpers.fake_datasets import Trap, make_dogs, md5
from helpers.tiny import Net, make_images, tmkd_module
from tmkd_lightning import ClassifierModule
from tmkd_lightning.callbacks import PromptEmbeddings
from tmkd_lightning.cli.figures import FinishedRun
from tmkd_lightning.cli.main import main as tmkd
from tmkd_lightning.data import DataError, ImageFolderDataModule, StanfordDogsDataModule
from tmkd_lightning.data.download import Archive, download_and_unpack
from tmkd_lightning.data.image_files import ImageFiles
from tmkd_lightning.figures import read_history
from tmkd_lightning.models import load_weights
from tmkd_lightning.modules.loading import load_module, load_student
from tmkd_lightning.teacher.cache.array_file import ArrayFile, CacheError
from tmkd_lightning.teacher.cache.folder import CacheFolder, read_manifest
from tmkd_lightning.text import EmbeddingFile, HashingTextEncoder, OpenCLIPTextEncoder
from tmkd_lightning.utils.checkpoint_reading import read_checkpoint

ROOT = Path(__file__).parents[2]


@pytest.fixture
def sprung(tmp_path: Path) -> Iterator[Path]:
    """What a trap makes; it must not be there in the end."""
    yield tmp_path / "sprung"
    assert not (tmp_path / "sprung").exists()


def in_memory(write: Callable[[io.BytesIO], Any]) -> bytes:
    file = io.BytesIO()
    write(file)
    return file.getvalue()


def zipped(trap: Trap) -> bytes:
    """As torch.save writes a checkpoint."""
    content = {"state_dict": nn.Linear(2, 2).state_dict(), "hyper_parameters": {}, "epoch": 0, "more": trap}
    return in_memory(partial(torch.save, content))


def legacy(trap: Trap) -> bytes:
    """As it was written before torch 1.6."""
    content = {"state_dict": {"weight": torch.ones(2)}, "more": trap}
    return in_memory(partial(torch.save, content, _use_new_zipfile_serialization=False))


def objects(trap: Trap) -> np.ndarray:
    """An array that numpy stores as a pickle."""
    array = np.empty(1, dtype=object)
    array[0] = trap
    return array


def npy(trap: Trap) -> bytes:
    return in_memory(lambda file: np.save(file, objects(trap), allow_pickle=True))


def npz(trap: Trap, *names: str) -> bytes:
    return in_memory(lambda file: np.savez(file, **dict.fromkeys(names, objects(trap)), allow_pickle=True))


def tag(trap: Trap) -> bytes:
    """YAML that calls a function where it is loaded without care."""
    return f"!!python/object/apply:os.mkdir ['{trap.path}']\n".encode()


FORMS = {"zip": zipped, "legacy": legacy, "pickle": pickle.dumps, "npy": npy, "yaml": tag}


def test_the_traps_are_traps(tmp_path: Path) -> None:
    """Opened without care, each springs."""
    careless: dict[str, Callable[[bytes], Any]] = {
        "zip": lambda content: torch.load(io.BytesIO(content), weights_only=False),
        "legacy": lambda content: torch.load(io.BytesIO(content), weights_only=False),
        "pickle": pickle.loads,
        "npy": lambda content: np.load(io.BytesIO(content), allow_pickle=True),
        "yaml": yaml.unsafe_load,
    }
    for name, form in FORMS.items():
        careless[name](form(Trap(tmp_path / name)))
        assert (tmp_path / name).is_dir()


# Checkpoints


def main(*args: str) -> None:
    tmkd([str(arg) for arg in args])


def run_on(path: Path, verb: str, *options: object) -> None:
    main(verb, "--checkpoint", path, "--output", path.with_name("output"), *options)


def run_from(path: Path, verb: str) -> None:
    main(verb, "--config", ROOT / "examples/digits_student.yaml", "--ckpt_path", path)


CHECKPOINT_DOORS: dict[str, Callable[[Path], Any]] = {
    "load_weights": lambda path: load_weights(Net(), path),
    "restore": load_student,
    "rebuild": load_module,
    "tmkd export": partial(run_on, verb="export"),
    "tmkd predict": lambda path: run_on(path, "predict", "--images", path.parent),
    "tmkd report": partial(run_on, verb="report"),
    "tmkd figures": partial(run_on, verb="figures"),
    "clip": lambda path: OpenCLIPTextEncoder(pretrained=str(path)).encode(["a cat"]),
    **{f"tmkd {verb} --ckpt_path": partial(run_from, verb=verb) for verb in ("fit", "validate", "test", "predict")},
}


@pytest.mark.parametrize("door", CHECKPOINT_DOORS)
def test_checkpoints(tmp_path, sprung, monkeypatch, door) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "last.ckpt"
    for form in (zipped,) if door == "clip" else (zipped, legacy, pickle.dumps):  # CLIP takes a second to build
        path.write_bytes(form(Trap(sprung)))
        with pytest.raises((ValueError, RuntimeError), match=re.escape(str(path))):
            CHECKPOINT_DOORS[door](path)
    assert [path] == [file for file in tmp_path.rglob("*") if file.is_file()]  # and nothing was written


def test_teacher_checkpoint(net, fit, tmp_path, sprung) -> None:
    path = tmp_path / "teacher.ckpt"
    path.write_bytes(zipped(Trap(sprung)))
    module = tmkd_module(net(16), net(), teacher_checkpoint=str(path), views=["rgb"], text_weight=0)
    with pytest.raises(ValueError, match=f"{path} is not a checkpoint that can be read safely"):
        fit(module)
    assert module.trainer.global_step == 0


def test_modules_and_trainers_of_python_by_default(net, fit, tmp_path, sprung) -> None:
    """The lines that read these are Lightning's, which name no file; but they are as careful without being told."""
    path = tmp_path / "last.ckpt"
    path.write_bytes(zipped(Trap(sprung)))
    with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
        ClassifierModule.load_from_checkpoint(path, network=net())
    trainer = fit(ClassifierModule(net()), max_epochs=0)
    with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
        trainer.validate(ClassifierModule(net()), make_images(4), ckpt_path=path)


# Texts


@pytest.mark.parametrize("name", ["texts.npz", "texts.npy"])
def test_embedding_files(tmp_path, sprung, name) -> None:
    path = tmp_path / name
    for content in (npz(Trap(sprung), "prompts", "embeddings"), npy(Trap(sprung)), pickle.dumps(Trap(sprung))):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"{path} is not a readable file of text embeddings"):
            EmbeddingFile(path).encode(["a cat"])


def test_prompt_cache(net, fit, tmp_path, sprung) -> None:
    """It is made anew, with a warning, and serves the next run."""

    def run() -> None:
        prompts = PromptEmbeddings(HashingTextEncoder(), class_names=["a", "b", "c"], cache_dir=str(tmp_path / "cache"))
        fit(tmkd_module(net(16), net()), callbacks=[prompts], max_epochs=1, limit_train_batches=1)

    run()
    (path,) = (tmp_path / "cache").iterdir()
    good = EmbeddingFile(path).encode(["a photo of a b"])
    path.write_bytes(npz(Trap(sprung), "prompts", "embeddings"))
    with pytest.warns(UserWarning, match=f"The cached text embeddings {path} cannot be used and are made anew"):
        run()
    assert EmbeddingFile(path).encode(["a photo of a b"]).equal(good)


# The teacher cache


def test_teacher_cache(tmp_path, sprung) -> None:
    folder = CacheFolder(tmp_path, {"rows": 2}, {"logits": "float32"})
    folder.path.mkdir()
    rows = folder.path / "logits.float32.npy"
    ArrayFile.create(rows, 2, (3,), "float32").close()
    manifest = folder.path / "identity.json"
    doors = {manifest: partial(read_manifest, folder.path), folder.path / "head.npz": folder.read_head}
    for path, door in (doors | {rows: folder.reopen}).items():
        for content in (npy(Trap(sprung)), npz(Trap(sprung), "weight"), pickle.dumps(Trap(sprung)), tag(Trap(sprung))):
            path.write_bytes(content)
            with pytest.raises(CacheError, match=re.escape(str(path))):
                door()


# Data


@pytest.mark.parametrize("form", FORMS)
def test_lists_images_and_archives(tmp_path, sprung, form) -> None:
    content = FORMS[form](Trap(sprung))
    make_dogs(tmp_path / "dogs")
    lists = tmp_path / "dogs/train_list.mat"
    lists.write_bytes(content)
    with pytest.raises(ValueError, match=f"{lists} cannot be read as a list of images"):
        StanfordDogsDataModule(str(tmp_path / "dogs")).prepare_data()

    image = tmp_path / "photos/train/cat/1.jpg"
    image.parent.mkdir(parents=True)
    for number in (1, 2, 3):
        image.with_name(f"{number}.jpg").write_bytes(content)
    data = ImageFolderDataModule(str(tmp_path / "photos"), image_size=8, num_workers=0)
    data.setup("fit")
    with pytest.raises(ValueError, match=rf"{image.parent}/\d.jpg cannot be read as an image"):
        next(iter(data.train_dataloader()))

    archive = tmp_path / "photos.tar"
    archive.write_bytes(content)
    with pytest.raises(ValueError, match=f"{archive} cannot be unpacked"):
        download_and_unpack(tmp_path, [Archive("photos.tar", "", md5(archive), ("none",))], download=False)


def test_images_that_other_programs_would_open(tmp_path, sprung, monkeypatch, capsys) -> None:
    """PIL hands PostScript to Ghostscript, whatever the file is called; here to a program that springs the trap."""
    program = tmp_path / "bin/gs"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\nmkdir {sprung}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)  # looked for once
    folder = tmp_path / "photos/train/cat"
    folder.mkdir(parents=True)
    for number in range(3):
        Image.new("RGB", (8, 8)).save(folder / f"{number}.png", format="PNG" if number else "EPS")
    Image.init()  # all that PIL knows
    with pytest.raises(SystemExit, match="1 problem"):
        main("data", "check", "--data", "tmkd_lightning.data.ImageFolderDataModule", "--data.root", tmp_path / "photos")
    assert f"WRONG: {folder}/0.png cannot be read as an image (cannot identify" in capsys.readouterr().out
    with pytest.raises(ValueError, match=rf"{folder}/0.png cannot be read as an image \(cannot identify"):
        ImageFiles([(folder / "0.png", 0)])[0]


# What runs leave: records, configs, curves


@pytest.mark.parametrize("form", FORMS)
def test_what_lies_beside_a_checkpoint(tmp_path, sprung, form) -> None:
    metrics, checkpoint = tmp_path / "metrics.csv", tmp_path / "last.ckpt"
    metrics.write_bytes(FORMS[form](Trap(sprung)))
    torch.save({"global_step": 3}, checkpoint)
    for door in (lambda: read_history(metrics), FinishedRun(checkpoint).history):
        with pytest.raises(ValueError, match=re.escape(str(metrics))):
            door()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("words", [["--config", "{}"], ["--config={}"], ["-c", "{}"]])
def test_configs_of_the_command_line(tmp_path, sprung, capsys, form, words) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes(FORMS[form](Trap(sprung)))
    with pytest.raises(SystemExit) as ended:
        main("fit", "--config", ROOT / "examples/digits_student.yaml", *(word.format(path) for word in words))
    assert ended.value.code == 2
    assert f"error: {path} is not a config that can be read safely: " in capsys.readouterr().err.splitlines()[0]


# The code itself

CALLS = """
    eval exec __import__ pickle.load pickle.loads yaml.load yaml.unsafe_load yaml.full_load joblib.load marshal.loads
    shelve.open pd.read_pickle torch.jit.load os.system
"""


def unsafe(source: str) -> list[str]:
    """Calls in some code that would run what is in a file."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        options = {option.arg: ast.unparse(option.value) for option in node.keywords}
        if (
            name in CALLS.split()
            or (name == "torch.load" and options.get("weights_only") != "True")
            or (name.endswith("load_from_checkpoint") and options.get("weights_only") != "True")
            or (name in ("np.load", "numpy.load") and options.get("allow_pickle") != "False")
            or (name.endswith("extractall") and options.get("filter") != "'data'")
            or options.get("shell") == "True"
        ):
            found.append(ast.unparse(node))
    return found


# Nested so deep, or so often, that nothing could walk through it


def deep() -> list:
    """Not deeper than what pickles: what reads a file does so without recursion."""
    return reduce(lambda value, _: [value], range(5000), [])


def wide() -> list:
    """Ten to the power of twelve references to one word."""
    return reduce(lambda value, _: [value] * 10, range(12), ["ha"])


def nested(path: Path, arguments: dict) -> None:
    """A checkpoint with these arguments; the pickler's own recursion is given room."""

    def write() -> None:
        limit = sys.getrecursionlimit()
        sys.setrecursionlimit(100_000)
        torch.save({"state_dict": {"fc.weight": torch.ones(1)}, "epoch": 0, **arguments}, path)
        sys.setrecursionlimit(limit)

    size = threading.stack_size(512 * 2**20)
    thread = threading.Thread(target=write)
    thread.start()
    thread.join()
    threading.stack_size(size)


@pytest.mark.parametrize("part", ["hyper_parameters", "datamodule_hyper_parameters"])
@pytest.mark.parametrize(
    ("value", "told"), [(deep, "is nested more than 100 levels deep"), (wide, "unfolds to more than 200,000 values")]
)
def test_arguments_in_checkpoints_that_no_walk_comes_to_the_end_of(tmp_path, part, value, told) -> None:
    path = tmp_path / "last.ckpt"
    nested(path, {part: {"student": value()}})
    message = rf"^{path} is not a checkpoint that can be read safely, in its {part}: it {told}"
    for door in (load_student, load_module, read_checkpoint, FinishedRun):
        with pytest.raises(ValueError, match=message):
            door(path)


@pytest.mark.parametrize(
    "content", [b"[" * 100_000, b'{"a":' * 100_000, b'{"teacher": ' + b"[" * 900 + b"]" * 900 + b"}"]
)
def test_manifests_that_are_nested(tmp_path, content, capsys) -> None:
    folder = tmp_path / "0123"
    folder.mkdir()
    (folder / "identity.json").write_bytes(content)
    main("cache", "list", "--directory", str(tmp_path))
    assert "0123  DAMAGED: " in capsys.readouterr().out


def test_archives_that_are_nested(tmp_path) -> None:
    """Each header says that a longer name follows, which is read by recursion."""
    header = tarfile.TarInfo("name")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 5
    (tmp_path / "birds.tar").write_bytes((header.tobuf() + b"name\0".ljust(512, b"\0")) * 5000)
    birds = Archive("birds.tar", "", md5(tmp_path / "birds.tar"), ("birds",))
    with pytest.raises(DataError, match=rf"^{tmp_path}/birds.tar cannot be unpacked \(.*\): remove it,"):
        download_and_unpack(tmp_path, [birds], download=False)


UNSAFE = """torch.load(path)
torch.load(path, weights_only=False)
np.load(path, allow_pickle=True)
yaml.load(text, Loader=yaml.Loader)
pickle.loads(content)
eval(text)
tar.extractall(folder)
subprocess.run(command, shell=True)
TMKDModule.load_from_checkpoint(path)"""


def test_no_code_of_ours_unpickles() -> None:
    assert [unsafe(line) for line in UNSAFE.splitlines()] == [[line] for line in UNSAFE.splitlines()]
    files = [path for folder in ("src", "examples") for path in (ROOT / folder).rglob("*.py")]
    assert len(files) > 100
    assert {str(path): calls for path in files if (calls := unsafe(path.read_text(encoding="utf-8")))} == {}
