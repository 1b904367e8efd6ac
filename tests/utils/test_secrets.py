"""Keys, in environment variables or given as options, are in no file that a run writes."""

import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
import wandb
import yaml
from lightning.pytorch.loggers import CSVLogger

from helpers.wandb_file import read_run
from tmkd_lightning import ClassifierModule
from tmkd_lightning.cli.main import main as tmkd
from tmkd_lightning.data import DigitsDataModule
from tmkd_lightning.utils.secrets import redact, redact_words, without_secrets

EXAMPLES = Path(__file__).parents[2] / "examples"
SECRETS = {"WANDB_API_KEY": "0123456789abcdef" * 2 + "cafe0123", "CLOUD_SECRET_TOKEN": "swordfish-7f3a9d1c"}


@pytest.mark.filterwarnings("ignore")
def test_no_file_of_a_run_holds_a_key(tmp_path, monkeypatch) -> None:
    """Config, run record, logs, checkpoints, caches, and all that Weights & Biases writes when it is offline."""
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    command = ["fit", "--config", str(EXAMPLES / "digits_tmkd.yaml"), "--model.teacher_checkpoint", "null"]
    loggers = [
        {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": "runs", "name": "digits_tmkd"}},
        {"class_path": "WandbLogger", "init_args": {"project": "tests", "offline": True, "save_dir": "runs"}},
    ]
    options = {"max_epochs": 1, "limit_train_batches": 1, "limit_val_batches": 1, "logger": loggers}
    Path("runs").mkdir()  # where there is none, some versions of wandb write to the folder of temporary files
    Path("short.yaml").write_text(yaml.safe_dump({"trainer": {**options, "enable_progress_bar": False}}))
    monkeypatch.setattr(sys, "argv", ["tmkd", *command, "--config", "short.yaml"])
    wandb.teardown()  # its service of an earlier test knows the environment of that time
    tmkd()
    wandb.finish()
    wandb.teardown()
    (offline,) = tmp_path.rglob("run-*.wandb")
    config, history = read_run(offline)
    assert "digits_tmkd.yaml" in config["run"]["command"]  # that is where a key would be
    logged = {name for row in history for name in row}  # all the rest is there
    assert {f"train/{term}" for term in ("ce", "kd", "feature", "text", "loss")} <= logged
    assert {"val/top1", "val/top5", "val/recall"} <= logged
    row = next(row for row in history if "fusion/rgb" in row)
    assert sum(row[f"fusion/{view}"] for view in ("rgb", "edge", "high_frequency")) == pytest.approx(1)
    assert config["trainer"]["max_epochs"] == 1
    assert config["model"]["init_args"]["student"]["init_args"]["depth"] == 10
    assert config["data"]["init_args"]["train_samples"] == 100
    files = {"best.ckpt", "last.ckpt", "resolved_config.yaml", "run_record.json", "metrics.csv"}
    assert_in_no_file(tmp_path, SECRETS.values(), files)


def assert_in_no_file(folder: Path, secrets: Iterable[str], expected: set[str]) -> None:
    files = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert expected <= {path.name for path in files}
    assert [path for path, content in files.items() if any(secret.encode() in content for secret in secrets)] == []


KEY, PASSWORD, TOKEN = "k3y-4c1f", "pa55w0rd-77", "t0ken-9b2e"
seen: dict[str, str] = {}  # what got through to what trains


class KeyLogger(CSVLogger):
    """Takes a key, as those of services do."""

    def __init__(self, save_dir: str, api_key: str, url: str) -> None:
        super().__init__(save_dir, name="keys")
        seen.update(api_key=api_key, url=url)


class KeyModule(ClassifierModule):
    """A module of a user's that takes one."""

    def __init__(self, network: torch.nn.Module, service_token: str) -> None:
        super().__init__(network)
        seen["service_token"] = service_token


class KeyData(DigitsDataModule):
    """A datamodule of a user's that takes one."""

    def __init__(self, password: str, image_size: int = 16) -> None:
        super().__init__(100, image_size=image_size)
        seen["password"] = password


NETWORK = {"class_path": "tmkd_lightning.models.WideResNet", "init_args": {"depth": 10, "num_classes": 10}}
RUN = {
    "model": {"class_path": "test_secrets.KeyModule", "init_args": {"network": NETWORK}},
    "data": {"class_path": "test_secrets.KeyData"},
    "trainer": {
        "accelerator": "cpu",
        "max_epochs": 1,
        "limit_train_batches": 2,
        "limit_val_batches": 2,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    },
}


@pytest.mark.filterwarnings("ignore")
def test_no_file_of_a_run_holds_a_key_that_was_an_option(tmp_path, monkeypatch) -> None:
    """As a word of the command, and in YAML that is written out in one; a resumed run is given them again."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(RUN))
    url = f"https://me:{PASSWORD}@here/x?token={TOKEN}"
    options = ["--trainer.logger=test_secrets.KeyLogger", f"--trainer.logger={{save_dir: runs, api_key: {KEY}}}"]
    options += [f"--trainer.logger.url={url}", "--model.service_token", TOKEN, f"--data.password={PASSWORD}"]
    options = ["fit", "--config", "run.yaml", *options]
    monkeypatch.setattr(sys, "argv", ["tmkd", *options])
    for resumed in ([], ["--ckpt_path", "runs/keys/version_0/checkpoints/epoch=0-step=2.ckpt"]):
        seen.clear()
        tmkd([*options, *resumed])
        assert seen == {"api_key": KEY, "url": url, "service_token": TOKEN, "password": PASSWORD}
    files = {"epoch=0-step=2.ckpt", "resolved_config.yaml", "run_record.json", "hparams.yaml"}
    assert_in_no_file(tmp_path, (KEY, PASSWORD, TOKEN), files)
    assert "--model.service_token '***'" in next(tmp_path.rglob("run_record.json")).read_text()
    saved = torch.load("runs/keys/version_0/checkpoints/epoch=0-step=2.ckpt", weights_only=True)
    assert saved["datamodule_hyper_parameters"]["image_size"] == 16
    assert "password" not in saved["datamodule_hyper_parameters"]  # a mask would be taken for the password


SECRET_NAMES = """
api_key WANDB_API_KEY apiKey api-key hub.hf_token password auth APIToken pwd license_key licence_key encryption_key
signing_key key cookie session_cookie pat github_pat webhook slack_webhook_url token refresh_token token2 tokens
AccountKey SharedAccessKey AWSAccessKeyId aws_secret_access_key private_key client_secret wandb_key dbpassword
db_pass passphrase jwt bearer Authorization Proxy-Authorization X-Api-Key connection_string credentials
"""
OTHER_NAMES = """
tokenizer num_tokens class_token text_tokens token_dim pad_token cls_token max_new_tokens monkey author keys
monitor_key teacher_key student_key sort_key keypoints keyboard keyword pattern path patience compat patch high_pass
forward_pass secretary tokens_per_batch auth_mode key_file
"""


@pytest.mark.parametrize("name", SECRET_NAMES.split())
def test_names_of_secrets(name) -> None:
    assert redact({name: "x"}) == {name: "***"}
    assert redact({name: ["x", {"class_path": "a.B", "user": "y"}]}) == {
        name: ["***", {"class_path": "a.B", "user": "***"}]
    }
    assert without_secrets([{name: "x", "b": 1}]) == [{"b": 1}]
    assert redact({name: None, "b": {name: True}, "c": {name: 3}}) == {name: None, "b": {name: True}, "c": {name: 3}}
    assert redact_words([f"--{name}", "x", f"--a.{name}=x", "x"]) == [f"--{name}", "***", f"--a.{name}=***", "x"]


@pytest.mark.parametrize("name", OTHER_NAMES.split())
def test_names_of_what_is_no_secret(name) -> None:
    assert redact({name: "x"}) == without_secrets({name: "x"}) == {name: "x"}
    assert redact_words([f"--{name}", "x", f"--{name}=x"]) == [f"--{name}", "x", f"--{name}=x"]
    assert redact(f"{name}=x; {name}: x, https://h/?{name}=x") == f"{name}=x; {name}: x, https://h/?{name}=x"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://h/x?token=S&b=1", "https://h/x?token=***&b=1"),
        ("https://h/x?a=1&api_key=S#f", "https://h/x?a=1&api_key=***#f"),
        ("https://h/x?key=S", "https://h/x?key=***"),
        ("https://h/x#access_token=S&state=2", "https://h/x#access_token=***&state=2"),
        ("https://h/c?sv=1&sig=S%2B&se=3", "https://h/c?sv=1&sig=***&se=3"),
        ("https://h/c?X-Amz-Signature=S&X-Amz-Date=3", "https://h/c?X-Amz-Signature=***&X-Amz-Date=3"),
        ("https://me:S@h/x", "https://me:***@h/x"),
        ("https://me:S/#@h/x", "https://me:***@h/x"),
        ("git+https://S@github.com/a/b", "git+https://***@github.com/a/b"),
        ("postgresql://user:S@h/db", "postgresql://user:***@h/db"),
        ("redis://:S@h:6379/0", "redis://:***@h:6379/0"),
        ("mongodb+srv://u:S@h/db?authSource=admin", "mongodb+srv://u:***@h/db?authSource=admin"),
        ("https://hooks.slack.com/services/S/S", "https://hooks.slack.com/***"),
        ("https://discord.com/api/webhooks/1/S", "https://discord.com/api/webhooks/***"),
        ("Server=h;User Id=u;Password=S S;Encrypt=1", "Server=h;User Id=u;Password=***;Encrypt=1"),
        ("AccountName=n;AccountKey=S==;EndpointSuffix=c", "AccountName=n;AccountKey=***;EndpointSuffix=c"),
        ("host=h user=u password=S", "host=h user=u password=***"),
        ("Authorization: Bearer S", "Authorization: ***"),
        ("Bearer S", "Bearer ***"),
        ("X-Api-Key: S", "X-Api-Key: ***"),
        ("Cookie: a=S; b=S", "Cookie: ***"),
        ("curl --token S --get h", "curl --token *** --get h"),
        ("{'api_key': 'S', 'auth': {'u': 'S'}, 'id': 3}", "{'api_key': ***, 'auth': ***, 'id': 3}"),
        (r'{"api_key": "S\"S", "id": 3}', '{"api_key": ***, "id": 3}'),
        ("Namespace(api_key='S', id=3)", "Namespace(api_key=***, id=3)"),
    ],
)
def test_secrets_within_a_text(text, expected) -> None:
    assert redact({"a": [text]}) == {"a": [expected]}
    assert without_secrets({"a": text, "b": 1}) == {"b": 1}


def test_texts_without_secrets() -> None:
    for text in (
        "ssh://git@github.com/a",
        "https://h/@scope/x?a=1",
        "http://y:80/me:x@z",
        "a photo of a {class}, key: value",
        "the token is a pall bearer of the secret",
        "runs/key=3/token=4/x",
        "state_dict_ema",
    ):
        assert redact(text) == text
        assert without_secrets({"teacher_key": text}) == {"teacher_key": text}


LOGGER = ["--trainer.logger=test_secrets.KeyLogger"]


@pytest.mark.parametrize(
    "command",
    [
        ["fit", *LOGGER, f"--trainer.logger={{save_dir: a, api_key: {KEY}, nope: 3}}"],
        ["fit", *LOGGER, f"--trainer.logger={{save_dir: a, api_key: [{KEY}, {KEY}]}}"],
        ["fit", f"--trainer.logger.api_key={KEY}"],
        ["fit", "--trainer.api_key", KEY],
        ["fit", "--trainer.max_epochs", f"https://me:{KEY}@h"],
        ["fit", f"--model={{class_path: test_secrets.KeyModule, init_args: {{service_token: {KEY}, wrong: 3}}}}"],
        ["embed", "--output=a.npz", f"--encoder={{class_path: HashingTextEncoder, init_args: {{api_key: {KEY}}}}}"],
        ["data", "check", f"--data={{class_path: DigitsDataModule, init_args: {{api_key: {KEY}}}}}"],
        ["export", "--output=a.onnx", f"--checkpoint=https://me:{KEY}@h/a.ckpt"],
        ["cache", "list", "--directory=a", f"--token={KEY}"],
        ["predict", "--images=a", "--output=a.csv", "--checkpoint=a", "--token", KEY],
        ["figures", "--checkpoint=a.ckpt", f"--data=https://h?token={KEY}"],
    ],
    ids=lambda command: command[0],
)
def test_an_error_does_not_repeat_a_key(command, tmp_path, capsys, monkeypatch) -> None:
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(RUN))
    given = ["--config", str(tmp_path / "run.yaml"), "--model.service_token=x", "--data.password=x"]
    monkeypatch.setattr(sys, "argv", ["tmkd", command[0], *(given if command[0] == "fit" else []), *command[1:]])
    with pytest.raises(SystemExit, match="2"):
        tmkd()
    told = capsys.readouterr().err
    assert "error: " in told
    assert KEY not in told


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["--a.token", "x", "x"], ["--a.token", "***", "x"]),
        (["--a.token", "--b", "x"], ["--a.token", "--b", "x"]),
        (["--a.token=x=y", "x"], ["--a.token=***", "x"]),
        (["--a.password", "1234"], ["--a.password", "***"]),
        (["--a.password", "null"], ["--a.password", "null"]),
        (["--a.secrets", "[x, y]"], ["--a.secrets", "***"]),
        (["--l+", '[{"token": "x", "b": 1}]'], ["--l+", '[{"token": ***, "b": 1}]']),
        (["--l", "{token: x, b: 1}"], ["--l", "{token: ***, b: 1}"]),
        (["--header", "Authorization: Bearer x"], ["--header", "Authorization: ***"]),
        (["--header+=Cookie: a=x; b=x", "url=https://h?token=x"], ["--header+=Cookie: ***", "url=https://h?token=***"]),
        (["--l", "{b:  1}"], ["--l", "{b:  1}"]),
        (["--u=http://me:x@y/z?a=b@c"], ["--u=http://me:***@y/z?a=b@c"]),
        (["--u", "http://y:80/me:x@z"], ["--u", "http://y:80/me:x@z"]),
    ],
    ids=str,
)
def test_words_of_a_command(given, expected) -> None:
    assert redact_words(given) == expected
