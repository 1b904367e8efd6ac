"""The command line on the shipped configs, shortened but otherwise as they are."""

import csv
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import open_clip
import pytest
import torch
import yaml

from tmkd_lightning import ClassifierModule, TMKDModule
from tmkd_lightning.cli import lightning_cli
from tmkd_lightning.cli.main import LIGHTNING_VERBS, VERBS, main
from tmkd_lightning.figures.curves import read_curve
from tmkd_lightning.models import WideResNet
from tmkd_lightning.teacher.cache import CacheError
from tmkd_lightning.text import EmbeddingFile
from tmkd_lightning.text.openclip import TextWeightsError

EXAMPLES = Path(__file__).parents[2] / "examples"
SHORT = ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2", "--trainer.limit_val_batches", "2"]
QUIET = ["--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"]


def tmkd(*args: str) -> None:
    main([str(arg) for arg in args])


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A folder in which the shipped teacher was trained for a moment."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        tmkd("fit", "--config", EXAMPLES / "digits_teacher.yaml", *SHORT, *QUIET)
    return folder


@pytest.fixture
def here(trained, tmp_path, monkeypatch) -> Path:
    """An empty folder with that teacher in it, and a cache of its own."""
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/digits_teacher").symlink_to(trained / "runs/digits_teacher")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


@pytest.mark.parametrize("config", ["digits_student", "digits_kd", "digits_default", "digits_tmkd"])
def test_shipped_config_trains_and_closes_with_a_table(here, config, capsys) -> None:
    """All of them name an integer seed and write where they are called, no two to one folder."""
    tmkd("fit", "--config", EXAMPLES / f"{config}.yaml", *SHORT, *QUIET)
    printed = capsys.readouterr().out
    assert "1 epochs, 2 steps" in printed
    assert f"runs/{config}/best.ckpt" in printed
    saved = yaml.safe_load(Path(f"runs/{config}/version_0/resolved_config.yaml").read_text())
    assert saved["seed_everything"] == 0
    state = torch.load(f"runs/{config}/best.ckpt", weights_only=True)["state_dict"]
    assert not [key for key in state if key.startswith("teacher")]
    for path in EXAMPLES.glob("*.yaml"):
        shipped = yaml.safe_load(path.read_text())
        assert type(shipped["seed_everything"]) is int, path
        logger = shipped["trainer"]["logger"]["init_args"]
        assert path.stem in (logger["name"], Path(logger["save_dir"]).name)


@pytest.fixture
def tmkd_run(here) -> Callable[..., Path]:
    def run(*options: str) -> Path:
        tmkd("fit", "--config", EXAMPLES / "digits_tmkd.yaml", *SHORT, *QUIET, *options)
        return here / "runs/digits_tmkd"

    return run


def test_resuming_goes_on_in_the_same_folder_and_refuses_a_damaged_checkpoint(tmkd_run, here) -> None:
    folder = tmkd_run()
    (folder / "last.ckpt").write_bytes((folder / "last.ckpt").read_bytes()[:1000])
    options = ["--trainer.max_epochs", "3", "--ckpt_path"]
    with pytest.raises(ValueError, match=r"last\.ckpt is damaged or cut off: resume from .* beside it, best\.ckpt"):
        tmkd_run(*options, "runs/digits_tmkd/last.ckpt")
    tmkd_run(*options, "runs/digits_tmkd/best.ckpt")
    assert torch.load(folder / "last.ckpt", weights_only=True)["global_step"] == 6  # 2 from the file, 4 new
    assert [row["epoch"] for row in read_curve(folder) if "val/top1" in row] == ["0", "1", "2"]


def test_resuming_without_a_named_folder_keeps_the_best_checkpoint(tmkd_run) -> None:
    """As with the benchmarks' configs, whose checkpoints stand in the logger's folder. The first epoch is the best."""
    kept = [{"filename": "best", "monitor": "step", "mode": "min"}, {"filename": "last"}]
    callbacks = [{"class_path": "ModelCheckpoint", "init_args": arguments} for arguments in kept]
    options = ["--trainer.callbacks", yaml.safe_dump(callbacks), "--model.text_weight", "0", "--model.fusion", "mean"]
    folder = tmkd_run(*options) / "version_0/checkpoints"
    tmkd_run(*options, "--ckpt_path", str(folder / "last.ckpt"), "--trainer.max_epochs", "2")
    found = {path: torch.load(path, weights_only=True)["global_step"] for path in folder.parents[1].rglob("*.ckpt")}
    assert found == {folder / "best.ckpt": 2, folder / "last.ckpt": 4}


def test_a_checkpoint_that_is_not_there_is_told_before_anything_is_made(here, capsys) -> None:
    before = sorted(here.rglob("*"))
    for verb in ("fit", "test"):
        with pytest.raises(SystemExit):
            tmkd(verb, "--config", EXAMPLES / "digits_tmkd.yaml", "--ckpt_path", "runs/nowhere.ckpt")
        assert "there is no checkpoint runs/nowhere.ckpt" in capsys.readouterr().err
        assert sorted(here.rglob("*")) == before


def test_the_checkpoint_of_another_run_is_refused(tmkd_run, trained, here, capsys) -> None:
    """And of the config's own, settings that win are named."""
    teacher = str(trained / "runs/digits_teacher/best.ckpt")
    with pytest.raises(SystemExit):
        tmkd_run("--ckpt_path", teacher)
    told = capsys.readouterr().err
    assert "is the checkpoint of another run than the config's: class_path 'tmkd_lightning.Cl" in told
    folder = tmkd_run()
    with pytest.raises(SystemExit):
        tmkd_run("--ckpt_path", str(folder / "last.ckpt"), "--model.student.depth", "16")
    assert "student.depth 10 (config: 16); give the config of that run" in capsys.readouterr().err
    with pytest.warns(UserWarning, match=r"last\.ckpt hold, and not the config's: temperature 4\.0 \(config: 2\.0\)$"):
        tmkd_run("--ckpt_path", "./runs/digits_tmkd/last.ckpt", "--model.temperature", "2")


def test_student_is_measured_and_loaded_without_the_teacher(tmkd_run, here, trained, capsys) -> None:
    folder = tmkd_run()
    (here / "runs/digits_teacher").unlink()  # the teacher's file is gone
    config = ["--config", str(EXAMPLES / "digits_tmkd.yaml"), *QUIET, "--ckpt_path", str(folder / "best.ckpt")]
    for verb in ("validate", "test", "predict"):
        tmkd(verb, *config)
    assert "test/top5" in capsys.readouterr().out
    module = TMKDModule.load_from_checkpoint(folder / "best.ckpt", weights_only=True)
    assert isinstance(module.student, WideResNet)
    assert module.teacher_checkpoint == "runs/digits_teacher/best.ckpt"
    path = trained / "runs/digits_teacher/best.ckpt"
    module = ClassifierModule.load_from_checkpoint(path, weights_only=True)
    assert module.network.fc.weight.equal(torch.load(path, weights_only=True)["state_dict"]["network.fc.weight"])


def test_both_networks_compile(tmkd_run) -> None:
    tiny = {"class_path": "tmkd_lightning.models.WideResNet", "init_args": {"depth": 10, "num_classes": 10}}
    options = ["--model.compile", "true", "--model.teacher", yaml.safe_dump(tiny), "--model.teacher_checkpoint", "null"]
    options += ["--trainer.limit_train_batches", "2", "--data.train_samples", "32"]
    torch._dynamo.utils.counters.clear()  # of what other tests have compiled
    folder = tmkd_run(*options)
    keys = torch.load(folder / "last.ckpt", weights_only=True)["state_dict"]
    assert not [key for key in keys if "_orig_mod" in key]
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 2
    assert not torch._dynamo.utils.counters["graph_break"]


def called(*args: str) -> subprocess.CompletedProcess[str]:
    """As from a shell."""
    command = [sys.executable, "-m", "tmkd_lightning", *map(str, args)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=180)


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["distillation", "label"])
def test_two_processes_train_one_student(here, objective) -> None:
    options = ["--trainer.strategy=ddp", "--trainer.devices=2", "--trainer.accelerator=cpu"]
    options += [f"--model.fusion_objective={objective}"]
    run = called("fit", "--config", EXAMPLES / "digits_tmkd.yaml", *SHORT, *QUIET, *options)
    assert run.returncode == 0, run.stderr
    assert "1 epochs, 2 steps" in run.stdout
    assert run.stdout.count("last epoch  val/top1") == 1  # one process speaks
    assert torch.load(here / "runs/digits_tmkd/last.ckpt", weights_only=True)["global_step"] == 2


def test_embed_makes_a_file_that_training_reads(here, tmkd_run, capsys) -> None:
    """Names come from data or from a file, and only once."""
    encoder = ["--encoder", "tmkd_lightning.text.HashingTextEncoder"]
    Path("names.txt").write_text("cat\n\ndog\n")
    tmkd("embed", "--output", "own.npz", "--class_names_file", "names.txt", *encoder)
    assert EmbeddingFile("own.npz").encode(["a photo of a dog"]).norm().item() == pytest.approx(1)
    with pytest.raises(ValueError, match="once"):
        tmkd("embed", "--output", "own.npz", "--class_names_file", "names.txt", "--class_names", "[a]", *encoder)
    tmkd("embed", "--output", "texts.npz", "--data", "tmkd_lightning.data.DigitsDataModule", *encoder)
    assert "texts.npz: 30 prompts of 10 classes" in capsys.readouterr().out
    assert EmbeddingFile("texts.npz").encode(["a photo of a handwritten digit zero"]).shape == (1, 512)
    file = {"encoder": {"class_path": "tmkd_lightning.text.EmbeddingFile", "init_args": {"path": "texts.npz"}}}
    callback = {"class_path": "tmkd_lightning.callbacks.PromptEmbeddings", "init_args": file}
    tmkd_run("--trainer.callbacks", yaml.safe_dump([callback]))


def test_clip_out_of_reach_says_what_would_help(tmkd_run, monkeypatch) -> None:
    def unreachable(*args, **kwargs):
        raise RuntimeError("Failed to download weights for tag 'openai': offline")

    monkeypatch.setattr(open_clip, "create_model", unreachable)
    message = r"ViT-B-32-quickgelu.*vit_base_patch32_clip_224\.openai.*tmkd embed"
    replaced = "the command line: --trainer.callbacks replaces all callbacks before it, PromptEmbeddings"
    with pytest.warns(UserWarning, match=replaced), pytest.raises(RuntimeError, match=message):
        tmkd_run("--trainer.callbacks", "[]")


def test_bad_settings_stop_before_anything_runs(here, capsys) -> None:
    seven = ["--model.student.num_classes", "7", "--model.teacher.num_classes", "7"]
    for config, option, message in (
        ("digits_tmkd", ["--model.views", "[rgb, depth]"], "unknown view 'depth'"),
        (
            "digits_tmkd",
            ["--model.student.num_classes", "7"],
            "the data has 10 classes, but student WideResNet was built for 7",
        ),
        ("digits_tmkd", ["--data.batch_size", "1"], "batch_size must be a whole number, at least 2"),
        ("digits_tmkd", seven, "the data has 10 classes, but student WideResNet was built for 7"),
        ("digits_kd", seven, "the data has 10 classes, but student WideResNet was built for 7"),
    ):
        with pytest.raises((SystemExit, ValueError)) as stopped:
            tmkd("fit", "--config", EXAMPLES / f"{config}.yaml", *SHORT, *QUIET, *option)
        assert message in capsys.readouterr().err + str(stopped.value)


def test_help_names_every_verb(capsys) -> None:
    for words, status in ((["--help"], 0), (["-h"], 0), ([], 2), (["fti"], 2)):
        with pytest.raises(SystemExit) as ended:
            main(words)
        said = capsys.readouterr()
        assert ended.value.code == status
        assert all(f"\n  {verb} " in (said.err if status else said.out) for verb in LIGHTNING_VERBS | VERBS)
        assert ("there is no verb fti" in said.err) == (words == ["fti"])


def test_views_with_numbers_of_their_own_and_several_methods_in_yaml(tmkd_run, here) -> None:
    grey = {"name": "grey", "template": "a grey picture of a {class}"}
    grey["function"] = "torchvision.transforms.v2.functional.grayscale_to_rgb"
    views = [
        "rgb",
        {"class_path": "tmkd_lightning.views.edge", "init_args": {"alpha": 0.1}},
        {"class_path": "tmkd_lightning.View", "init_args": grey},
    ]
    Path("both.yaml").write_text(
        "model:\n  class_path: tmkd_lightning.TMKDModule\n  init_args:\n    distiller:\n"
        "      - {class_path: tmkd_lightning.distillers.KD, init_args: {weight: 0.9}}\n"
        "      - class_path: tmkd_lightning.distillers.CATKD\n"
    )
    folder = tmkd_run("--config", "both.yaml", "--model.views", yaml.safe_dump(views))
    module = TMKDModule.load_from_checkpoint(folder / "best.ckpt", weights_only=True)
    assert [type(part).__name__ for part in module.distiller.parts] == ["KD", "CATKD", "FeatureKL"]
    assert module.views.names == ("rgb", "edge", "grey")
    image = torch.rand(1, 3, 8, 8)
    assert module.views(image)[1].sub(image).abs().max() <= 0.1 + 1e-6


def test_class_path_finds_modules_in_the_current_folder(here) -> None:
    Path("method_of_mine.py").write_text(
        "from tmkd_lightning.distillers import KD\n\nclass Mine(KD):\n    def forward(self, student, teacher, label):\n"
        "        return {'mine': super().forward(student, teacher, label)['kd']}\n"
    )
    options = [*SHORT, *QUIET, "--trainer.log_every_n_steps", "1", "--model.distiller", "method_of_mine.Mine"]
    tmkd("fit", "--config", EXAMPLES / "digits_kd.yaml", *options)
    assert "train/mine" in Path("runs/digits_kd/version_0/metrics.csv").read_text()


def test_best_and_last_are_different_epochs_and_the_users_own_config_is_left_alone(here, capsys) -> None:
    text = "# mine\n" + (EXAMPLES / "digits_student.yaml").read_text()
    Path("config.yaml").write_text(text)
    ruinous = ["--model.optimizer.lr", "0.5", "--trainer.max_epochs", "3", "--trainer.limit_train_batches", "2"]
    tmkd("fit", "--config", "config.yaml", *QUIET, *ruinous, "--trainer.logger", "false")
    assert Path("config.yaml").read_text() == text
    assert yaml.safe_load(Path("resolved_config.yaml").read_text())["trainer"]["max_epochs"] == 3
    last, best = (torch.load(f"runs/digits_student/{name}.ckpt", weights_only=True) for name in ("last", "best"))
    assert last["global_step"] == 6
    saved = next(state for name, state in best["callbacks"].items() if "val/top1" in name)
    assert best["global_step"] in (2, 4, 6)
    assert f"{saved['best_model_score'].item():.4f}" in capsys.readouterr().out


def test_our_verbs_end_with_a_few_lines_in_a_shell() -> None:
    ended = called("export", "--checkpoint", "gone.ckpt", "--output", "student.onnx")
    lines = [
        "tmkd export: error: no checkpoint at gone.ckpt: is the path right, and was the network trained?",
        "  at  the command line: --checkpoint",
        "  see docs/errors.md#export-and-predict; --debug shows the traceback",
    ]
    assert (ended.returncode, ended.stderr.splitlines(), ended.stdout) == (2, lines, "")


@pytest.mark.parametrize("error", [ValueError, FileNotFoundError, ImportError, CacheError, TextWeightsError, KeyError])
def test_errors_that_are_for_users(monkeypatch, capsys, error) -> None:
    """A fault of our code keeps its traceback, and in Lightning's verbs one of a user's code, such as this file."""

    def fail(*args, **options) -> None:
        raise error("what helps")

    monkeypatch.setattr("tmkd_lightning.cli.main.auto_cli", fail)
    monkeypatch.setattr(lightning_cli, "TMKDCLI", fail)
    monkeypatch.setattr(sys, "argv", ["tmkd", "predict", "--images", "photos"])
    with pytest.raises(KeyError if error is KeyError else SystemExit) as ended:
        main()
    if error is not KeyError:
        assert ended.value.code == 2
        assert capsys.readouterr().err.startswith("tmkd predict: error: what helps\n  see docs/")
    with pytest.raises(error, match="what helps"):
        main(["predict", "--images", "photos"])
    monkeypatch.setattr(sys, "argv", ["tmkd", "fit"])
    for_users = error.__module__.startswith("tmkd_lightning.")
    with pytest.raises(SystemExit if for_users else error, match="^2$" if for_users else "what helps"):
        main()


def readme_config(folder: Path) -> Path:
    """The README's short config as it stands there."""
    text = (Path(__file__).parents[2] / "README.md").read_text().split("# tmkd.yaml\n")[1].split("```")[0]
    (folder / "tmkd.yaml").write_text(text)
    return folder / "tmkd.yaml"


def test_the_readme_run_twice_is_tested_as_it_ran_last(here) -> None:
    short = [*SHORT, *QUIET, "--trainer.limit_test_batches", "1.0"]
    losses = []
    for lr in ("0.05", "0.0001"):
        tmkd("fit", "--config", readme_config(here), *short, "--model.optimizer.lr", lr)
        losses.append(torch.load("runs/digits_tmkd/best.ckpt", weights_only=True)["state_dict"])
    assert sorted(path.name for path in Path("runs/digits_tmkd").glob("*.ckpt")) == ["best.ckpt"]
    assert any(not value.equal(losses[1][name]) for name, value in losses[0].items())


@pytest.fixture
def logged(here):
    """Trains for two short epochs, and gives the rows of the curve with a loss."""

    def run(*options: str) -> list[dict[str, str]]:
        logger = ["--trainer.logger", "lightning.pytorch.loggers.CSVLogger", "--trainer.logger.save_dir", "logs"]
        tmkd("fit", "--config", readme_config(here), *SHORT, *QUIET, *logger, "--trainer.max_epochs", "2", *options)
        (path,) = (here / "logs").glob("**/metrics.csv")
        return [row for row in csv.DictReader(path.read_text().splitlines()) if row["train/loss"]]

    return run


def test_a_short_run_logs_each_epoch(logged) -> None:
    rows = logged()
    assert [(row["epoch"], row["step"]) for row in rows] == [("0", "1"), ("1", "3")]
    assert all(float(row["fusion/edge"]) > 0 for row in rows)


def test_an_interval_of_ones_own_is_kept_and_spoken_of(logged) -> None:
    with pytest.warns(UserWarning, match="The number of training batches .* is smaller than the logging interval"):
        rows = logged("--trainer.log_every_n_steps", "3")
    assert [row["step"] for row in rows] == ["2"]


@pytest.mark.parametrize(
    ("kind", "arguments", "monitor", "interval"),
    [
        ("torch.optim.lr_scheduler.ReduceLROnPlateau", {"mode": "max"}, "val/top1", "epoch"),
        ("lightning.pytorch.cli.ReduceLROnPlateau", {"monitor": "val/recall"}, "val/recall", "epoch"),
        ("torch.optim.lr_scheduler.OneCycleLR", {"max_lr": 0.1, "total_steps": 4}, None, "step"),
    ],
)
def test_schedules_in_a_config(here, monkeypatch, kind, arguments, monitor, interval) -> None:
    seen = []
    schedule = {"lr_scheduler": {"class_path": kind, "init_args": arguments}}
    (here / "schedule.yaml").write_text(yaml.safe_dump({"model": {"init_args": schedule}}))
    monkeypatch.setattr(
        lightning_cli.RunSummary, "on_fit_end", lambda self, trainer, _: seen.extend(trainer.lr_scheduler_configs)
    )
    config = ["--config", readme_config(here), "--config", "schedule.yaml"]
    tmkd("fit", *config, *SHORT, *QUIET, "--trainer.max_epochs", "2")
    (schedule,) = seen
    assert (schedule.monitor, schedule.interval) == (monitor, interval)


def test_a_script_with_our_command_line_gets_the_exception_itself(here) -> None:
    config = str(EXAMPLES / "digits_kd.yaml")
    with pytest.raises(ValueError, match=r"^temperature must be above 0 and finite, got -1\.0"):
        lightning_cli.TMKDCLI(["fit", "--config", config, "--model.temperature=-1"])
