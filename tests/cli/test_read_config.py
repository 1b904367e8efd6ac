"""Configs that can be read, and what is said of the others."""

import sys
from pathlib import Path

import pytest
import yaml

from tmkd_lightning.cli.main import main
from tmkd_lightning.utils.configs import load_yaml
from tmkd_lightning.utils.secrets import redact_words

DIGITS = Path(__file__).parents[2] / "examples" / "digits_student.yaml"

LAUGHS = b"a0: &a0 [ha]\n" + b"".join(
    b"a%d: &a%d [%s]\n" % (level, level, b", ".join([b"*a%d" % (level - 1)] * 10)) for level in range(1, 12)
)
MERGED = b"a0: &a0 {x: 1}\n" + b"".join(  # already safe_load would not come to an end
    b"a%d: &a%d {<<: [%s]}\n" % (level, level, b", ".join([b"*a%d" % (level - 1)] * 10)) for level in range(1, 12)
)
WIDE = b"a: &a [%s]\nb: [%s]\n" % (b", ".join([b"1"] * 20_000), b", ".join([b"*a"] * 20_000))


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
        (b"a: " + b"[" * 150 + b"]" * 150, "safely: it is nested more than 100 levels deep"),
        (b"a: &a [*a]", "safely: it is nested more than 100 levels deep"),
        (b"a: &a {b: *a}", "safely: it is nested more than 100 levels deep"),
        (LAUGHS, "safely: it unfolds to more than 200,000 values"),
        (MERGED, "safely: it unfolds to more than 200,000 values"),
        (WIDE, "safely: it unfolds to more than 200,000 values"),
    ],
)
def test_what_is_refused(tmp_path, content, message) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"^{path} is not a config.*{message}") as caught:
        load_yaml(path)
    assert "\n" not in str(caught.value)
    assert "unicode string" not in str(caught.value)


def test_what_is_read(tmp_path) -> None:
    """Text beyond ASCII, many values, and aliases that were meant."""
    path = tmp_path / "run.yaml"
    path.write_bytes("\ufeffname: Größe".encode())
    assert load_yaml(path) == {"name": "Größe"}
    path.write_text("names: [" + "ant, " * 50_000 + "bee]\na: &a {x: 1}\nb: *a\nc: {<<: *a, y: 2}")
    config = load_yaml(path)
    assert len(config["names"]) == 50_001
    assert (config["b"], config["c"]) == ({"x": 1}, {"x": 1, "y": 2})


def printed(capsys, *words: object) -> dict:
    """The config that the parser comes to."""
    with pytest.raises(SystemExit) as ended:
        main(["fit", *map(str, words), "--print_config"])
    said = capsys.readouterr()
    assert not ended.value.code, said.err
    return yaml.safe_load(said.out)


def test_what_is_no_file_of_a_config_is_left_to_the_parser(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
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


def test_configs_that_no_walk_would_come_to_the_end_of(tmp_path, monkeypatch, capsys) -> None:
    """Named for all of a run or for a part of it."""
    (tmp_path / "run.yaml").write_bytes(LAUGHS)
    message = f"{tmp_path}/run.yaml is not a config that can be read safely: it unfolds to more than 200,000 values"
    for verb in (["fit"], ["embed"], ["data", "check"]):
        for option in ("--config", "--data"):
            monkeypatch.setattr(sys, "argv", ["tmkd", *verb, option, str(tmp_path / "run.yaml")])
            with pytest.raises(SystemExit, match=r"^2$"):
                main()
            assert message in capsys.readouterr().err
    assert redact_words(["--data", LAUGHS.decode()])[0] == "--data"  # in a moment
