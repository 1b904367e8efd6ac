"""Foreign text that is shown: nothing in it steers a terminal, and what is meant to be read stays."""

import os
import pickle
import sys

import pytest
from PIL import Image

from tmkd_lightning.cli.main import main
from tmkd_lightning.data import DataError
from tmkd_lightning.utils.messages import printable, short


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("ant", "ant"),
        ("Größe 蟻 🐜 e\u0301", "Größe 蟻 🐜 e\u0301"),
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("\x9b2J", r"\x9b2J"),  # of eight bits, and as good as ESC [
        ("a\r\nb\tc\x00\x7f", r"a\r\nb\tc\x00\x7f"),
        ("gpj.\u202eexe", r"gpj.\u202eexe"),  # shown from right to left
        ("\u2028\u200b", r"\u2028\u200b"),
        (os.fsdecode(b"\xff.png"), r"\udcff.png"),  # print would fail
        (r"\x1b", r"\x1b"),
    ],
)
def test_what_steers_a_terminal_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown
    printable(text).encode()


def test_errors_of_data_show_names_so_and_travel_between_processes() -> None:
    error = DataError("\x1b[2J.png is missing")
    assert str(error) == f"{error}" == r"\x1b[2J.png is missing"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert printable("a\n\x1b", keep="\n") == "a\n\\x1b"  # lines may stay
    assert short(KeyError("crop"), kind=True) == "KeyError: 'crop'"  # and the type can be told
    assert short(MemoryError(), kind=True) == short(MemoryError()) == "MemoryError"


def test_names_of_classes_and_files_steer_no_verb(tmp_path, monkeypatch, capsys) -> None:
    for name in ("\x1b[31mred", "blue\nAll images can be read."):
        (tmp_path / "train" / name).mkdir(parents=True)
        for index in range(2):
            Image.new("RGB", (8, 8)).save(tmp_path / "train" / name / f"{index}.png")
    (tmp_path / "train" / "\x1b[31mred" / os.fsdecode(b"\xff\x07.png")).write_bytes(b"x")
    root = ["--data.root", str(tmp_path), "--per_class", "true"]
    with pytest.raises(SystemExit, match="1 problem"):
        main(["data", "check", "--data", "tmkd_lightning.data.ImageFolderDataModule", *root])
    printed = capsys.readouterr().out
    assert all(line.isprintable() for line in printed.splitlines())
    assert r" \x1b[31mred" in printed
    assert "All images can be read." not in printed.splitlines()
    assert rf"WRONG: {tmp_path}/train/\x1b[31mred/\udcff\x07.png cannot be read" in printed
    command = ["tmkd", "predict", "--checkpoint", f"{tmp_path}/\x1b[2Jgone.ckpt", "--images", ".", "--output", "x.csv"]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit):
        main()
    assert rf"tmkd predict: error: no checkpoint at {tmp_path}/\x1b[2Jgone.ckpt: " in capsys.readouterr().err
    (tmp_path / "0123").mkdir()
    about = '{"teacher": {"name": "\\u001b[2Jnet"}, "views": [["rgb\\u0007"]], "data": {"replicas": 1, "images": 2}}'
    (tmp_path / "0123" / "identity.json").write_text(about)
    main(["cache", "list", "--directory", str(tmp_path)])
    assert capsys.readouterr().out.startswith(r"0123  \x1b[2Jnet, rgb\x07, 1 replicas of 2 images, ")
