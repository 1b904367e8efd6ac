"""The workflows name what there is, and a release refuses a tag or a changelog that is not that of the version."""

import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

import tmkd_lightning

ROOT = Path(__file__).parents[1]
WORKFLOWS = {path.stem: yaml.safe_load(path.read_text()) for path in (ROOT / ".github" / "workflows").glob("*.yml")}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def steps(workflow: str) -> list[dict[str, Any]]:
    return [step for job in WORKFLOWS[workflow]["jobs"].values() for step in job.get("steps", [])]


def test_workflows_call_targets_of_the_makefile_on_the_versions_of_the_project() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    called = {name for each in WORKFLOWS for step in steps(each) for name in re.findall(r"make ([\w-]+)", str(step))}
    assert called == {"check", "test", "docs", "test-min", "wheel"}
    assert called <= targets
    tested = set(WORKFLOWS["ci"]["jobs"]["newest"]["strategy"]["matrix"]["python"])
    prefix = "Programming Language :: Python :: 3."
    assert tested == {f"3.{name.removeprefix(prefix)}" for name in PROJECT["classifiers"] if name.startswith(prefix)}
    assert all(
        re.fullmatch(r"[\w/-]+@(v\d+|release/v1)", step["uses"])
        for each in WORKFLOWS
        for step in steps(each)
        if "uses" in step
    )


def test_only_what_was_tested_is_published() -> None:
    jobs = WORKFLOWS["release"]["jobs"]
    assert jobs["test"]["uses"] == "./.github/workflows/ci.yml"
    assert "workflow_call" in WORKFLOWS["ci"][True]  # the key `on` is a truth value in YAML 1.1
    assert WORKFLOWS["release"][True] == {"push": {"tags": ["v*"]}}
    assert jobs["publish"]["needs"] == ["test", "build"]
    assert jobs["announce"]["needs"] == "publish"
    assert [name for name, job in jobs.items() if "id-token" in job.get("permissions", {})] == ["publish"]


@pytest.mark.parametrize(
    ("tag", "changelog", "error"),
    [
        ("v1.2.3", "## [1.2.3] – 2026\n\n- New.\n\n## [1.2.2]\n\n- Old.\n", None),
        (
            "v1.2.4",
            "## [1.2.3]\n\n- New.\n",
            "the tag is v1.2.4, but __version__ in src/tmkd_lightning/__init__.py is 1.2.3",
        ),
        ("v1.2.3", "## [Unreleased]\n\n- New.\n", "has no section that begins with '## [1.2.3]'"),
        ("v1.2.3", "## [1.2.3]\n\n## [1.2.2]\n\n- Old.\n", "has no section"),
    ],
)
def test_a_release_has_one_version(tmp_path, tag, changelog, error) -> None:
    """The step of the workflow itself, run in a folder with both files."""
    (script,) = [step["run"] for step in steps("release") if step.get("name", "").startswith("The tag is the version")]
    package = tmp_path / "src" / "tmkd_lightning"
    package.mkdir(parents=True)
    text = (ROOT / "src" / "tmkd_lightning" / "__init__.py").read_text()
    (package / "__init__.py").write_text(text.replace(tmkd_lightning.__version__, "1.2.3"))
    (tmp_path / "CHANGELOG.md").write_text(changelog)
    environment = {"GITHUB_REF_NAME": tag, "PATH": "/usr/bin:/bin"}
    run = subprocess.run(["bash", "-e", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True)
    if error is None:
        assert (run.returncode, run.stdout) == (0, "")
        assert (tmp_path / "notes.md").read_text().strip() == "- New."
    else:
        assert run.returncode == 1
        assert error in run.stdout


def test_the_citation_is_that_of_this_version_and_of_the_readme() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == tmkd_lightning.__version__
    assert citation["license"] == PROJECT["license"]
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    paper, readme = citation["preferred-citation"], (ROOT / "README.md").read_text()
    authors = " and ".join(f"{author['family-names']}, {author['given-names']}" for author in paper["authors"])
    assert f"author  = {{{authors}}}" in readme
    assert f"title   = {{{paper['title']}}}" in readme
    assert paper["url"] == PROJECT["urls"]["Paper"]
