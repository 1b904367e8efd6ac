"""The command line on the shipped configs, shortened but otherwise as they are."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import wandb
import yaml

from helpers.wandb_file import read_run
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


@pytest.mark.parametrize("config", ["digits_student", "digits_kd", "digits_tmkd"])
def test_shipped_config_trains_and_closes_with_a_table(here, config, capsys) -> None:
    tmkd("fit", "--config", EXAMPLES / f"{config}.yaml", *SHORT, *QUIET)
    printed = capsys.readouterr().out
    assert "1 epochs, 2 steps" in printed
    assert f"runs/{config}/best.ckpt" in printed
    (resolved,) = here.glob(f"runs/{config}/version_0/resolved_config.yaml")
    saved = yaml.safe_load(resolved.read_text())
    assert saved["seed_everything"] == 0
    state = torch.load(here / f"runs/{config}/best.ckpt", weights_only=True)["state_dict"]
    assert not [key for key in state if key.startswith("teacher")]


def test_every_shipped_config_names_an_integer_seed_and_writes_where_it_is_called() -> None:
    for path in EXAMPLES.glob("*.yaml"):
        config = yaml.safe_load(path.read_text())
        assert type(config["seed_everything"]) is int, path
        logger = config["trainer"]["logger"]["init_args"]
        assert path.stem in (logger["name"], Path(logger["save_dir"]).name)  # no two write to one folder


@pytest.fixture
def tmkd_run(here) -> Callable[..., Path]:
    def run(*options: str) -> Path:
        tmkd("fit", "--config", EXAMPLES / "digits_tmkd.yaml", *SHORT, *QUIET, *options)
        return here / "runs/digits_tmkd"

    return run


def test_half_precision_and_accumulation(tmkd_run) -> None:
    folder = tmkd_run("--trainer.precision", "bf16-mixed", "--trainer.accumulate_grad_batches", "2")
    checkpoint = torch.load(folder / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 1  # two batches, one step
    assert all(value.isfinite().all() for value in checkpoint["state_dict"].values())
    assert checkpoint["state_dict"]["student.conv1.weight"].dtype == torch.float32


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
    steps = {
        path.name: torch.load(path, weights_only=True)["global_step"] for path in folder.parent.parent.rglob("*.ckpt")
    }
    assert steps == {"best.ckpt": 2, "last.ckpt": 4}
    assert sorted(path.parent for path in folder.parent.parent.rglob("*.ckpt")) == [folder, folder]


@pytest.mark.parametrize("verb", ["fit", "test"])
def test_a_checkpoint_that_is_not_there_is_told_before_anything_is_made(here, capsys, verb) -> None:
    before = sorted(here.rglob("*"))
    with pytest.raises(SystemExit):
        tmkd(verb, "--config", EXAMPLES / "digits_tmkd.yaml", "--ckpt_path", "runs/nowhere.ckpt")
    assert "there is no checkpoint runs/nowhere.ckpt" in capsys.readouterr().err
    assert sorted(here.rglob("*")) == before


def test_settings_of_the_checkpoint_that_win_are_named(tmkd_run, here) -> None:
    tmkd_run()
    with pytest.warns(UserWarning, match=r"last\.ckpt hold, and not the config's: temperature 4\.0 \(config: 2\.0\)$"):
        tmkd_run("--ckpt_path", "./runs/digits_tmkd/last.ckpt", "--model.temperature", "2")


def test_the_checkpoint_of_another_run_is_refused(tmkd_run, trained, here, capsys) -> None:
    teacher = str(trained / "runs/digits_teacher/best.ckpt")
    with pytest.raises(SystemExit):
        tmkd_run("--ckpt_path", teacher)
    assert (
        "is the checkpoint of another run than the config's: class_path 'tmkd_lightning.Cl" in capsys.readouterr().err
    )
    folder = tmkd_run()
    with pytest.raises(SystemExit):
        tmkd_run("--ckpt_path", str(folder / "last.ckpt"), "--model.student.depth", "16")
    assert "student.depth 10 (config: 16); give the config of that run" in capsys.readouterr().err


def test_student_is_measured_and_loaded_without_the_teacher(tmkd_run, here, capsys) -> None:
    folder = tmkd_run()
    (here / "runs/digits_teacher").unlink()  # the teacher's file is gone
    config = ["--config", str(EXAMPLES / "digits_tmkd.yaml"), *QUIET, "--ckpt_path", str(folder / "best.ckpt")]
    for verb in ("validate", "test", "predict"):
        tmkd(verb, *config)
    assert "test/top5" in capsys.readouterr().out
    module = TMKDModule.load_from_checkpoint(folder / "best.ckpt", weights_only=True)
    assert isinstance(module.student, WideResNet)
    assert module.teacher_checkpoint == "runs/digits_teacher/best.ckpt"


def test_classifier_loads_from_its_checkpoint_alone(trained) -> None:
    module = ClassifierModule.load_from_checkpoint(trained / "runs/digits_teacher/best.ckpt", weights_only=True)
    saved = torch.load(trained / "runs/digits_teacher/best.ckpt", weights_only=True)["state_dict"]
    assert module.network.fc.weight.equal(saved["network.fc.weight"])


def test_wandb_gets_losses_accuracies_fusion_weights_and_the_resolved_config(tmkd_run, here) -> None:
    logger = ["--trainer.logger", "WandbLogger", "--trainer.logger.project", "tests"]
    tmkd_run(*logger, "--trainer.logger.offline", "true", "--trainer.log_every_n_steps", "1")
    wandb.finish()  # a process of its own does so when it ends
    (path,) = here.rglob("run-*.wandb")
    config, history = read_run(path)
    logged = {name for row in history for name in row}
    terms = {"train/ce", "train/kd", "train/feature", "train/text", "train/loss"}
    assert terms | {"val/top1", "val/top5", "val/recall"} <= logged
    row = next(row for row in history if "fusion/rgb" in row)
    assert sum(row[f"fusion/{view}"] for view in ("rgb", "edge", "high_frequency")) == pytest.approx(1)
    assert config["trainer"]["max_epochs"] == 1
    assert config["model"]["init_args"]["student"]["init_args"]["depth"] == 10
    assert config["data"]["init_args"]["train_samples"] == 100


def test_both_networks_compile(tmkd_run) -> None:
    tiny = {"class_path": "tmkd_lightning.models.WideResNet", "init_args": {"depth": 10, "num_classes": 10}}
    options = ["--model.compile", "true", "--model.teacher", yaml.safe_dump(tiny), "--model.teacher_checkpoint", "null"]
    options += ["--trainer.limit_train_batches", "1", "--data.train_samples", "32"]
    folder = tmkd_run(*options)
    keys = torch.load(folder / "last.ckpt", weights_only=True)["state_dict"]
    assert not [key for key in keys if "_orig_mod" in key]
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 2
    assert not torch._dynamo.utils.counters["graph_break"]


@pytest.mark.parametrize("objective", [pytest.param("distillation", marks=pytest.mark.slow), "label"])
def test_two_processes_train_one_student(here, objective) -> None:
    options = ["--trainer.strategy", "ddp", "--trainer.devices", "2", "--trainer.accelerator", "cpu"]
    options += ["--model.fusion_objective", objective]
    command = [sys.executable, "-m", "tmkd_lightning", "fit", "--config", str(EXAMPLES / "digits_tmkd.yaml")]
    run = subprocess.run(
        [*command, *SHORT, *QUIET, *options],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert run.returncode == 0, run.stderr
    assert "1 epochs, 2 steps" in run.stdout
    assert run.stdout.count("last epoch  val/top1") == 1  # one process speaks
    checkpoint = torch.load(here / "runs/digits_tmkd/last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 2


def test_embed_makes_a_file_that_training_reads(here, tmkd_run, capsys) -> None:
    encoder = ["--encoder", "tmkd_lightning.text.HashingTextEncoder"]
    tmkd("embed", "--output", "texts.npz", "--data", "tmkd_lightning.data.DigitsDataModule", *encoder)
    assert "texts.npz: 30 prompts of 10 classes" in capsys.readouterr().out
    assert EmbeddingFile("texts.npz").encode(["a photo of a handwritten digit zero"]).shape == (1, 512)
    callback = {
        "class_path": "tmkd_lightning.callbacks.PromptEmbeddings",
        "init_args": {
            "encoder": {"class_path": "tmkd_lightning.text.EmbeddingFile", "init_args": {"path": "texts.npz"}}
        },
    }
    tmkd_run("--trainer.callbacks", yaml.safe_dump([callback]))


def test_embed_reads_names_from_a_file_and_wants_them_once(here) -> None:
    Path("names.txt").write_text("cat\n\ndog\n")
    encoder = ["--encoder", "tmkd_lightning.text.HashingTextEncoder"]
    tmkd("embed", "--output", "texts.npz", "--class_names_file", "names.txt", *encoder)
    assert EmbeddingFile("texts.npz").encode(["a photo of a dog"]).norm().item() == pytest.approx(1)
    with pytest.raises(ValueError, match="once"):
        tmkd("embed", "--output", "texts.npz", "--class_names_file", "names.txt", "--class_names", "[a]", *encoder)


def test_clip_out_of_reach_says_what_would_help(here, monkeypatch) -> None:
    import open_clip

    def unreachable(*args, **kwargs):
        raise RuntimeError("Failed to download weights for tag 'openai': offline")

    monkeypatch.setattr(open_clip, "create_model", unreachable)
    config = ["--config", str(EXAMPLES / "digits_tmkd.yaml"), *SHORT, *QUIET, "--trainer.callbacks", "[]"]
    with pytest.raises(RuntimeError, match=r"ViT-B-32-quickgelu.*vit_base_patch32_clip_224\.openai.*tmkd embed"):
        tmkd("fit", *config)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--model.views", "[rgb, depth]"], "unknown view 'depth'"),
        (["--model.student.num_classes", "7"], "student WideResNet has 7"),
        (["--data.batch_size", "1"], "batch_size must be a whole number, at least 2"),
    ],
)
def test_bad_settings_stop_before_anything_runs(tmkd_run, option, message, capsys) -> None:
    with pytest.raises((SystemExit, ValueError)) as stopped:
        tmkd_run(*option)
    assert message in capsys.readouterr().err + str(stopped.value)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("digits_kd", "the data has 10 classes, but WideResNet was built for 7"),
        ("digits_tmkd", "the data has 10 classes, but WideResNet was built for 7"),
    ],
)
def test_data_with_other_classes_stops_in_setup(here, config, message) -> None:
    seven = ["--model.student.num_classes", "7", "--model.teacher.num_classes", "7"]
    with pytest.raises(ValueError, match=message):
        tmkd("fit", "--config", EXAMPLES / f"{config}.yaml", *SHORT, *QUIET, *seven)


@pytest.mark.parametrize(("words", "status"), [(["--help"], 0), (["-h"], 0), ([], 2), (["fti"], 2)])
def test_help_names_every_verb(capsys, words, status) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    said = capsys.readouterr()
    assert ended.value.code == status
    assert all(f"\n  {verb} " in (said.err if status else said.out) for verb in LIGHTNING_VERBS | VERBS)
    assert ("there is no verb fti" in said.err) == (words == ["fti"])


def test_views_by_class_path_with_numbers_of_their_own(tmkd_run) -> None:
    faint = {"class_path": "tmkd_lightning.views.edge", "init_args": {"alpha": 0.1}}
    grey = {
        "class_path": "tmkd_lightning.View",
        "init_args": {
            "name": "grey",
            "function": "torchvision.transforms.v2.functional.grayscale_to_rgb",
            "template": "a grey picture of a {class}",
        },
    }
    folder = tmkd_run("--model.views", yaml.safe_dump(["rgb", faint, grey]))
    module = TMKDModule.load_from_checkpoint(folder / "best.ckpt", weights_only=True)
    assert module.views.names == ("rgb", "edge", "grey")
    image = torch.rand(1, 3, 8, 8)
    assert module.views(image)[1].sub(image).abs().max() <= 0.1 + 1e-6


def test_several_methods_in_yaml(tmkd_run, here) -> None:
    Path("both.yaml").write_text(
        "model:\n  class_path: tmkd_lightning.TMKDModule\n  init_args:\n    distiller:\n"
        "      - {class_path: tmkd_lightning.distillers.KD, init_args: {weight: 0.9}}\n"
        "      - class_path: tmkd_lightning.distillers.CATKD\n"
    )
    folder = tmkd_run("--config", "both.yaml")
    module = TMKDModule.load_from_checkpoint(folder / "best.ckpt", weights_only=True)
    assert [type(part).__name__ for part in module.distiller.parts] == ["KD", "CATKD", "FeatureKL"]


def test_class_path_finds_modules_in_the_current_folder(here) -> None:
    Path("method_of_mine.py").write_text(
        "from tmkd_lightning.distillers import KD\n\nclass Mine(KD):\n    def forward(self, student, teacher, label):\n"
        "        return {'mine': super().forward(student, teacher, label)['kd']}\n"
    )
    tmkd_options = ["--config", str(EXAMPLES / "digits_kd.yaml"), *SHORT, *QUIET, "--trainer.log_every_n_steps", "1"]
    tmkd("fit", *tmkd_options, "--model.distiller", "method_of_mine.Mine")
    assert "train/mine" in Path("runs/digits_kd/version_0/metrics.csv").read_text()


def test_best_and_last_are_different_epochs(here, capsys) -> None:
    ruinous = ["--model.optimizer.lr", "0.5", "--trainer.max_epochs", "3", "--trainer.limit_train_batches", "2"]
    config = ["--config", str(EXAMPLES / "digits_student.yaml"), *QUIET]
    tmkd("fit", *config, *ruinous)
    last, best = (torch.load(here / f"runs/digits_student/{n}.ckpt", weights_only=True) for n in ("last", "best"))
    assert last["global_step"] == 6
    saved = next(state for name, state in best["callbacks"].items() if "val/top1" in name)
    assert best["global_step"] in (2, 4, 6)
    assert f"{saved['best_model_score'].item():.4f}" in capsys.readouterr().out


def test_the_users_own_config_is_left_alone(here) -> None:
    text = "# mine\n" + (EXAMPLES / "digits_student.yaml").read_text()
    Path("config.yaml").write_text(text)
    tmkd("fit", "--config", "config.yaml", *SHORT, *QUIET, "--trainer.logger", "false")
    assert Path("config.yaml").read_text() == text
    assert yaml.safe_load(Path("resolved_config.yaml").read_text())["trainer"]["max_epochs"] == 1


# Errors


def called(*args: str) -> subprocess.CompletedProcess[str]:
    """As from a shell."""
    command = [sys.executable, "-m", "tmkd_lightning", *args]
    return subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)


def test_our_verbs_end_with_one_line_in_a_shell(here) -> None:
    ended = called("export", "--checkpoint", "gone.ckpt", "--output", "student.onnx")
    line = "tmkd export: error: no checkpoint at gone.ckpt: is the path right, and was the network trained?\n"
    assert (ended.returncode, ended.stderr, ended.stdout) == (2, line, "")


@pytest.mark.parametrize("error", [ValueError, FileNotFoundError, ImportError, CacheError, TextWeightsError])
def test_errors_that_are_for_users(here, monkeypatch, capsys, error) -> None:
    def fail(*args, **options) -> None:
        raise error("what helps")

    monkeypatch.setattr("tmkd_lightning.cli.main.auto_cli", fail)
    monkeypatch.setattr(sys, "argv", ["tmkd", "predict", "--images", "photos"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert (ended.value.code, capsys.readouterr().err) == (2, "tmkd predict: error: what helps\n")
    with pytest.raises(error, match="what helps"):
        main(["predict", "--images", "photos"])


def test_a_fault_of_the_code_keeps_its_traceback(here, monkeypatch) -> None:
    monkeypatch.setattr("tmkd_lightning.cli.main.auto_cli", lambda *args, **options: {}["gone"])
    monkeypatch.setattr(sys, "argv", ["tmkd", "embed"])
    with pytest.raises(KeyError):
        main()


def test_lightnings_verbs_keep_their_tracebacks(here, monkeypatch) -> None:
    """The fault may be in a user's code."""

    def fail(args) -> None:
        raise ValueError("of a user's dataset")

    monkeypatch.setattr(lightning_cli, "TMKDCLI", fail)
    monkeypatch.setattr(sys, "argv", ["tmkd", "fit"])
    with pytest.raises(ValueError, match="of a user's dataset"):
        main()


def readme_config(folder: Path) -> Path:
    """The README's short config as it stands there."""
    text = (Path(__file__).parents[2] / "README.md").read_text().split("# tmkd.yaml\n")[1].split("```")[0]
    (folder / "tmkd.yaml").write_text(text)
    return folder / "tmkd.yaml"


def test_the_readme_run_twice_is_tested_as_it_ran_last(here) -> None:
    config = readme_config(here)
    short = [*SHORT, *QUIET, "--trainer.limit_test_batches", "1"]
    losses = []
    for lr in ("0.05", "0.0001"):
        tmkd("fit", "--config", config, *short, "--model.optimizer.lr", lr)
        losses.append(torch.load(here / "runs/digits_tmkd/best.ckpt", weights_only=True)["state_dict"])
    assert sorted(path.name for path in (here / "runs/digits_tmkd").glob("*.ckpt")) == ["best.ckpt"]
    assert any(not value.equal(losses[1][name]) for name, value in losses[0].items())


@pytest.fixture
def logged(here):
    """Trains for two short epochs, and gives the rows of the curve."""

    def run(*options: str) -> list[dict[str, str]]:
        logger = ["--trainer.logger", "lightning.pytorch.loggers.CSVLogger", "--trainer.logger.save_dir", "logs"]
        tmkd("fit", "--config", readme_config(here), *SHORT, *QUIET, *logger, "--trainer.max_epochs", "2", *options)
        (path,) = (here / "logs").glob("**/metrics.csv")
        with path.open() as file:
            return list(csv.DictReader(file))

    return run


def test_a_short_run_logs_each_epoch(logged) -> None:
    rows = [row for row in logged() if row["train/loss"]]
    assert [(row["epoch"], row["step"]) for row in rows] == [("0", "1"), ("1", "3")]
    assert all(float(row["fusion/edge"]) > 0 for row in rows)


def test_an_interval_of_ones_own_is_kept_and_spoken_of(logged) -> None:
    with pytest.warns(UserWarning, match="The number of training batches .* is smaller than the logging interval"):
        rows = logged("--trainer.log_every_n_steps", "3")
    assert [row["step"] for row in rows if row["train/loss"]] == ["2"]


@pytest.mark.parametrize(
    ("scheduler", "monitor", "interval"),
    [
        (
            {"class_path": "torch.optim.lr_scheduler.ReduceLROnPlateau", "init_args": {"mode": "max"}},
            "val/top1",
            "epoch",
        ),
        (
            {"class_path": "lightning.pytorch.cli.ReduceLROnPlateau", "init_args": {"monitor": "val/recall"}},
            "val/recall",
            "epoch",
        ),
        (
            {"class_path": "torch.optim.lr_scheduler.OneCycleLR", "init_args": {"max_lr": 0.1, "total_steps": 4}},
            None,
            "step",
        ),
    ],
    ids=["plateau", "named plateau", "one cycle"],
)
def test_schedules_in_a_config(here, scheduler, monitor, interval) -> None:
    seen = []
    (here / "schedule.yaml").write_text(yaml.safe_dump({"model": {"init_args": {"lr_scheduler": scheduler}}}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            lightning_cli.RunSummary,
            "on_fit_end",
            lambda self, trainer, module: seen.extend(trainer.lr_scheduler_configs),
        )
        config = ["--config", readme_config(here), "--config", "schedule.yaml"]
        tmkd("fit", *config, *SHORT, *QUIET, "--trainer.max_epochs", "2")
    (schedule,) = seen
    assert (schedule.monitor, schedule.interval) == (monitor, interval)
