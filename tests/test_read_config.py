"""Configs that can be read, and what is said of the others."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml

from tmkd_lightning.cli import main
from tmkd_lightning.configs import read_config

DIGITS = Path(__file__).parent.parent / "examples" / "digits_student.yaml"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: 1\nb: {c: 1\n", "safely: .*expected ',' or '}'.* in line 3, column 1"),
        (b"a: 1\n---\nb: 2\n", "safely: expected a single document"),
        (b"a: !!python/name:os.system\n", "safely: could not determine a constructor .* in line 1, column 4"),
        ("a: ä".encode("latin-1"), "safely: 'utf-8' codec can't decode byte 0xe4 in position 3"),
        (b"a: \x00", "safely: unacceptable character #x0000: special characters are not allowed in position 3"),
        (b"[" * 5000, "safely: "),
        (b"a: 2024-13-01", "safely: month must be in 1..12"),
        (b"", "it holds no mapping"),
        (b"- a", "it holds no mapping"),
    ],
)
def test_what_is_refused(tmp_path, content, message) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"^{path} is not a config.*{message}") as caught:
        read_config(path)
    assert "\n" not in str(caught.value)
    assert "unicode string" not in str(caught.value)


def test_text_beyond_ascii(tmp_path) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes("\ufeffname: Größe".encode())
    assert read_config(path) == {"name": "Größe"}


# On the command line, which holds its configs to the same


def printed(capsys, *words: object) -> dict:
    """The config that the parser comes to."""
    with pytest.raises(SystemExit) as ended:
        main(["fit", *map(str, words), "--print_config"])
    said = capsys.readouterr()
    assert not ended.value.code, said.err
    return yaml.safe_load(said.out)


def test_what_is_no_file_of_a_config_is_left_to_the_parser(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["tmkd"])
    long = yaml.safe_dump(yaml.safe_load(DIGITS.read_text()))  # no name of a file can be as long
    assert printed(capsys, "--config", long) == printed(capsys, "--config", DIGITS)
    (tmp_path / "empty.yaml").write_text("{}")
    assert printed(capsys, "--config", DIGITS, "-c", "empty.yaml") == printed(capsys, f"--config={DIGITS}")
    (tmp_path / "notes").write_text("no: [config")
    option = "--trainer.logger.init_args.name"  # of which the value happens to be a file
    assert printed(capsys, "--config", DIGITS, option, "notes")["trainer"]["logger"]["init_args"]["name"] == "notes"
    with pytest.raises(SystemExit):
        main(["fit", "--config", "gone.yaml"])
    assert "gone.yaml" in capsys.readouterr().err
