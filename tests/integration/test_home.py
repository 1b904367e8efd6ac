"""``~`` is the home folder in every path that is given to us, and nothing needs a home folder that does not use it."""

import importlib
import inspect
import os
import pwd
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import huggingface_hub
import pytest
import torch
from PIL import Image

from helpers.tiny import tmkd_module
from helpers.tiny_clip import write_clip
from tmkd_lightning import Extractor, data
from tmkd_lightning.callbacks import Figures, PromptEmbeddings, TeacherCache
from tmkd_lightning.cli.cache import check_caches, list_caches, remove_caches
from tmkd_lightning.cli.embed import embed
from tmkd_lightning.cli.main import main as tmkd
from tmkd_lightning.export import RunPage, export_hub, export_int8, export_student, page, predict_folder, push_to_hub
from tmkd_lightning.figures import History, plot_curves, read_history, save_figures
from tmkd_lightning.models import WideResNet, ZeroShotCLIP, load_weights
from tmkd_lightning.modules.loading import load_module, load_student
from tmkd_lightning.text import EmbeddingFile, HashingTextEncoder, OpenCLIPTextEncoder, write_embeddings
from tmkd_lightning.text.embedding_cache import cached_embeddings, default_cache_dir

NETWORK = "{class_path: tmkd_lightning.models.WideResNet, init_args: {depth: 10, num_classes: 10}}"
RUN = f"""
model:
  class_path: tmkd_lightning.TMKDModule
  init_args:
    {{teacher: {NETWORK}, student: {NETWORK}, teacher_checkpoint: ~/teacher.pt, views: [rgb, edge], fusion: mean}}
data: {{class_path: tmkd_lightning.data.DigitsDataModule, init_args: {{image_size: 8, batch_size: 20}}}}
trainer:
  {{accelerator: cpu, max_epochs: 1, limit_train_batches: 2, limit_val_batches: 2, log_every_n_steps: 1,
    enable_progress_bar: false, enable_model_summary: false}}
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A home folder with a run in it; the working folder is another one, and stays empty."""
    home, elsewhere = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("elsewhere")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        patch.chdir(elsewhere)
        torch.save(network().state_dict(), home / "teacher.pt")
        (home / "run.yaml").write_text(RUN)
        logger = f"{{class_path: CSVLogger, init_args: {{save_dir: {home}}}}}"
        tmkd(["fit", "--config=~/run.yaml", f"--trainer.logger={logger}"])
        (folder,) = home.glob("lightning_logs/version_0/checkpoints")
        (folder / "epoch=0-step=2.ckpt").rename(home / "run.ckpt")
        shutil.copyfile(home / "run.ckpt", home / "other.ckpt")
        (home / "images").mkdir()
        Image.new("RGB", (8, 8)).save(home / "images" / "a.png")
        (home / "classes.txt").write_text("cat\ndog\n")
        (home / "caches").mkdir()
        yield home
        assert list(elsewhere.rglob("~*")) == []


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return WideResNet(depth=10, num_classes=10)


def test_command_line(home) -> None:
    """A checkpoint that is named so is used, and one that is not there is told."""
    tmkd(["fit", "--config=~/run.yaml", "--ckpt_path=~/run.ckpt", "--trainer.logger=false", "--trainer.max_epochs=1"])
    with pytest.raises(SystemExit, match="2"):
        tmkd(["test", "--config=~/run.yaml", "--ckpt_path=~/none.ckpt"])
    tmkd(["figures", "--checkpoint=~/run.ckpt", "--output=~/drawn", "--page=~/page.png", "--formats=[png]"])
    assert (home / "drawn" / "logits.png").is_file()
    assert (home / "page.png").is_file()
    curves = ["--run=~/lightning_logs/version_0", "--which=curves", "--formats=[png]"]
    tmkd(["figures", "--checkpoint=~/run.ckpt", "--output=~/again", *curves])
    assert (home / "again" / "curves.png").is_file()
    logits = ["--against=~/other.ckpt", "--teacher=~/teacher.pt", "--which=logits", "--batches=1"]
    tmkd(["figures", "--checkpoint=~/run.ckpt", "--output=~/again", *logits])
    tmkd(["predict", "--checkpoint=~/run.ckpt", "--images=~/images", "--output=~/a.csv", "--num_workers=0"])
    assert (home / "a.csv").read_text().count("\n") == 2
    tmkd(["export", "--checkpoint=~/run.ckpt", "--output=~/a.safetensors", "--format=state_dict"])
    assert (home / "a.safetensors").is_file()
    tmkd(["data", "resize", "--root=~/images", "--output=~/small"])
    assert (home / "small" / "a.png").is_file()
    embed("~/a.npz", class_names_file="~/classes.txt", encoder=HashingTextEncoder(8))
    assert EmbeddingFile("~/a.npz").encode(["a photo of a dog"]).shape == (1, 8)


def test_files(home) -> None:
    write_embeddings("~/b.npz", ["a"], torch.ones(1, 4), "by hand")
    assert EmbeddingFile("~/b.npz").encode(["a"]).tolist() == [[0.5] * 4]
    student = network()
    load_weights(student, "~/teacher.pt")
    expected = network().state_dict()
    assert all(value.equal(expected[name]) for name, value in student.state_dict().items())
    save_figures({Path("~/c.png"): plot_curves({"a": History(accuracy={0: 0.5})})})
    assert (home / "c.png").is_file()
    assert read_history(Path("~/lightning_logs/version_0/metrics.csv")).accuracy.keys() == {0}
    assert load_module("~/run.ckpt").teacher_checkpoint == str(home / "teacher.pt")
    assert load_student("~/run.ckpt").image_size == 8
    export_student(Extractor(student), "~/b.safetensors", format="state_dict", image_size=8)
    assert (home / "b.safetensors").is_file()
    predict_folder(Extractor(student), "~/images", "~/b.csv", transform=data.DigitsDataModule().eval_transform)
    assert (home / "b.csv").is_file()


def test_arguments(home, capsys) -> None:
    for checkpoint in ("~/teacher.pt", Path("~/teacher.pt")):
        module = tmkd_module(network(), network(), teacher_checkpoint=checkpoint, fusion="mean", text_weight=0)
        assert module.teacher_checkpoint == str(home / "teacher.pt")
    assert TeacherCache("~/caches").directory == home / "caches"
    assert Figures(folder="~/figures").folder == home / "figures"
    assert PromptEmbeddings(HashingTextEncoder(), cache_dir="~/texts").cache_dir == home / "texts"
    clip = OpenCLIPTextEncoder(pretrained="~/images", cache_dir="~/hub")
    assert (clip.pretrained, clip.cache_dir) == (str(home / "images"), str(home / "hub"))
    assert clip.identity().startswith("open_clip-folder-")
    encoder = ZeroShotCLIP(pretrained=str(write_clip(home / "clip")).replace(str(home), "~"), cache_dir="~/hub").encoder
    assert (encoder.pretrained, encoder.cache_dir) == (str(home / "clip"), str(home / "hub"))
    list_caches("~/caches")
    check_caches("~/caches")
    remove_caches("~/caches", all=True)
    modules = ("CUB200", "DTD", "ImageFolder", "RAFDB", "StanfordDogs", "CIFAR100")
    for kind in (getattr(data, f"{name}DataModule") for name in modules):
        assert kind("~/images").root == home / "images"


def test_the_folder_for_the_hub(home, monkeypatch) -> None:
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "token")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    asked = []
    api = SimpleNamespace(
        create_repo=lambda *args, **kw: "url", upload_folder=lambda **kw: asked.append(kw["folder_path"])
    )
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: api)
    recipe = {"class_path": "tmkd_lightning.models.WideResNet", "init_args": {"depth": 10, "num_classes": 10}}
    export_hub(Extractor(network()), "~/hub", image_size=8, recipe=recipe)
    push_to_hub("~/hub", "me/net")
    assert asked == [home / "hub"]
    (home / "a.json").write_text("{}")
    with pytest.raises(ValueError, match="is no report"):
        tmkd(["export", "--checkpoint=~/run.ckpt", "--output=~/other", "--format=hub", "--report=~/a.json"])
    with pytest.raises(ValueError, match=rf"must end in \.onnx, got {home}/a\.int8"):
        export_int8(Extractor(network()), "~/a.int8", data=data.DigitsDataModule(), image_size=8)


def test_the_page_of_a_run(home, monkeypatch) -> None:
    monkeypatch.setattr(page, "to_html", lambda *_: "<p>")
    assert page.write_page(cast(RunPage, None), "~/run.html") == home / "run.html"
    assert (home / "run.html").read_text() == "<p>"


PROVEN = {
    "CIFAR100DataModule.root, CUB200DataModule.root, DTDDataModule.root, ImageFolderDataModule.root",
    "RAFDBDataModule.root, StanfordDogsDataModule.root, BenchmarkDataModule.root",
    "CUB200.root, RAFDB.root, StanfordDogs.root",  # tests/data/test_cub200.py, for the class that they share
    "EmbeddingFile.path, write_embeddings.path, load_weights.path, read_history.path, save_figures.figures",
    "OpenCLIPTextEncoder.cache_dir, OpenCLIPTextEncoder.pretrained, PromptEmbeddings.cache_dir",
    "ZeroShotCLIP.cache_dir, ZeroShotCLIP.pretrained",
    "TMKDModule.teacher_checkpoint, TeacherCache.directory, Figures.folder",
    "export_hub.output, export_int8.output, push_to_hub.folder",  # test_the_folder_for_the_hub
    "export_hub.report, RunPage.report, RunPage.files, RunPage.figures",  # are no paths
    "write_page.output",  # test_the_page_of_a_run
    "StreamDataModule.root, StreamDataModule.cache_dir, optimize.output",  # tests/data/test_stream.py
    "export_student.output, predict_folder.images, predict_folder.output, load_student.checkpoint",
    "list_caches.directory, check_caches.directory, remove_caches.directory, embed.output, embed.class_names_file",
    "draw.checkpoint, draw.output, draw.against, draw.teacher, draw.run, draw.page",
    "export.checkpoint, export.output, export.report, load_module.checkpoint",
    "predict.checkpoint, predict.images, predict.output",
    "resize.root, resize.output",
}
PATHS = {name.strip().partition(".")[2] for line in PROVEN for name in line.split(",")}
PLACES = (
    "callbacks data distillers export figures losses models modules text views text.prompts teacher feature_extraction"
)
VERBS = "cache data embed export figures predict"


def test_every_path_is_among_those() -> None:
    """Arguments with such a name that take a text or a path, of all that is public; a new one belongs in here."""
    modules = [importlib.import_module(f"tmkd_lightning.{name}") for name in PLACES.split()]
    named = (one for module in modules for one in map(module.__dict__.get, getattr(module, "__all__", ())))
    public = {one for one in named if callable(one)}
    verbs = [importlib.import_module(f"tmkd_lightning.cli.{name}") for name in VERBS.split()]
    functions = [one for verb in verbs for one in vars(verb).values() if inspect.isfunction(one)]
    public |= {one for one in functions if one.__module__ in {verb.__name__ for verb in verbs}}
    found = set()
    for one in public | {load_student, load_module}:
        error = isinstance(one, type) and issubclass(one, Exception)
        if not error and not one.__name__.startswith("_"):
            for name, parameter in inspect.signature(one).parameters.items():
                kind = str(parameter.annotation)
                suspect = name in PATHS or any(part in name for part in ("path", "dir", "file", "folder", "root"))
                if suspect and ("str" in kind or "Path" in kind):
                    found.add(f"{one.__name__}.{name}")
    assert found == {name.strip() for line in PROVEN for name in line.split(",")}


@pytest.fixture
def homeless(monkeypatch):
    """As in a container whose user has no entry in passwd."""

    def unknown(uid):
        raise KeyError(uid)

    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    with pytest.raises(RuntimeError):
        Path.home()


def test_without_a_home_folder_texts_are_not_kept(homeless, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    callback = PromptEmbeddings(HashingTextEncoder(8))
    assert callback.cache_dir is None
    with pytest.warns(UserWarning, match="not be cached.*no home folder: set HOME, XDG_CACHE_HOME"):
        texts = cached_embeddings(callback.encoder, ["a cat", "a dog", "a cat"], callback.cache_dir)
    torch.testing.assert_close(texts, HashingTextEncoder(8).encode(["a cat", "a dog", "a cat"]))
    assert os.listdir(tmp_path) == []
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert PromptEmbeddings(HashingTextEncoder(8)).cache_dir == tmp_path / "tmkd_lightning"


def test_a_home_folder_of_somebody_else(tmp_path, monkeypatch) -> None:
    """What cannot even be looked into is no reason to stop."""
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    (tmp_path / "file").write_text("no folder")
    with pytest.warns(UserWarning, match="could not be cached"):
        cached_embeddings(HashingTextEncoder(8), ["a cat"], default_cache_dir())
