"""Every command in the cluster's files and README is one that its program understands."""

import runpy
import sys
import warnings
from collections.abc import Iterable
from typing import Any

import click
import pytest
from ray.scripts.scripts import cli as ray_cli

from sddusr.cli import command_line
from tests.cluster.manifests import (
    JOBS,
    ROOT,
    mlflow_container,
    pod_templates,
    ray_cluster,
    ray_job,
    ray_up,
    readme_commands,
)
from tests.cluster.test_ray_up import started


def after(words: list[str], program: str) -> list[str]:
    """The command line of `program`, behind what submits it."""
    return words[words.index(program) :] if program in words else []


PYTHON = [
    *(ray_job(job)["spec"]["entrypoint"].split() for job in JOBS),
    *filter(None, (after(words, "python") for words in readme_commands())),
]
SCRIPTS = [words[1:] for words in PYTHON if words[1].endswith(".py")]

RAY = [
    *(words for words in readme_commands() if words[0] == "ray"),
    *(words for cloud in ("aws", "gcp") for words in started(cloud, "head_start_ray_commands")),
    *(words for cloud in ("aws", "gcp") for words in started(cloud, "worker_start_ray_commands")),
]


def flags(words: Iterable[str]) -> list[str]:
    """Names of the options, without their values, up to a lone `--`."""
    found: list[str] = []
    for word in words:
        if word == "--":
            break
        if word.startswith("--"):
            found.append(word.partition("=")[0])
    return found


def options_of(group: click.Command, words: list[str]) -> set[str]:
    """The options of the command that the words name."""
    command = group
    for word in words:
        if not isinstance(command, click.Group):
            break
        assert word in command.commands, f"{word} in {' '.join(words)}"
        command = command.commands[word]
    return {name for option in command.params for name in option.opts + option.secondary_opts}


def parsed_by(words: list[str], monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The options that a script takes from a command line."""
    script = ROOT / words[0]
    parsed: list[Any] = []

    def parse(
        _main: Any, options: Any, *, args: list[str] | None = None, description: str | None = None
    ) -> None:
        parsed.append(command_line.parse(options, args, description))

    monkeypatch.setattr(command_line, "run", parse)
    monkeypatch.setattr(sys, "argv", words)
    runpy.run_path(str(script), run_name="__main__")
    return parsed


@pytest.mark.parametrize("words", SCRIPTS, ids=" ".join)
def test_entrypoints_parse(words: list[str], monkeypatch: pytest.MonkeyPatch):
    assert len(parsed_by(words, monkeypatch)) == 1


def test_what_is_preprocessed_can_be_trained_on(monkeypatch: pytest.MonkeyPatch):
    """All shards of the README are of one kind, which each training and search wants."""
    options = [each for words in SCRIPTS for each in parsed_by(words, monkeypatch)]
    made = {each.register_ref for each in options if hasattr(each, "window_px")}
    wanted = {each.config.data.register_ref for each in options if hasattr(each, "config")}
    assert made == wanted == {"none"}


def test_an_option_that_a_script_does_not_have_is_found(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(SystemExit):
        parsed_by(["pipelines/train.py", "paper", "--wrokers", "2"], monkeypatch)


def test_jobs_have_as_many_workers_as_their_cluster_gpus():
    words = ray_job("train")["spec"]["entrypoint"].split()
    num_gpus = sum(group["replicas"] for group in ray_cluster()["spec"]["workerGroupSpecs"])
    assert int(words[words.index("--workers") + 1]) == num_gpus


@pytest.mark.parametrize("words", RAY, ids=" ".join)
def test_ray_knows_the_command_and_its_flags(words: list[str]):
    assert set(flags(words)) <= options_of(ray_cli, words[1:])


def test_rays_start_parameters_are_flags_of_ray_start():
    spec = ray_cluster()["spec"]
    given = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    names = {f"--{name}" for group in given for name in group["rayStartParams"]}
    assert names <= options_of(ray_cli, ["start"])


def test_a_pod_that_is_taken_drains_its_node():
    (container,) = pod_templates()["gpu"]["spec"]["containers"]
    *_, command = container["lifecycle"]["preStop"]["exec"]["command"]
    words = command.partition("&&")[0].split()
    assert words[:2] == ["ray", "drain-node"]
    assert set(flags(words)) <= options_of(ray_cli, words[1:])
    reasons = next(p for p in ray_cli.commands["drain-node"].params if p.name == "reason").type
    assert isinstance(reasons, click.Choice)
    assert words[words.index("--reason") + 1] in reasons.choices
    grace_s = pod_templates()["gpu"]["spec"]["terminationGracePeriodSeconds"]
    assert int(command.split()[-1]) < grace_s


def test_mlflow_knows_the_flags_of_its_server():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about MLflow's own type hints
        from mlflow.cli import cli as mlflow_cli
    server = [words for words in readme_commands() if words[:2] == ["mlflow", "server"]]
    manifest = [*mlflow_container()["command"], *mlflow_container()["args"]]
    for words in (*server, manifest):
        assert set(flags(words)) <= options_of(mlflow_cli, words[1:])


def test_ray_up_holds_as_many_gpus_as_the_readme_trains_on():
    for cloud in ("aws", "gcp"):
        assert "[{'GPU': 1}] * 2" in ray_up(cloud)["head_start_ray_commands"][-1]
    trained = [words for words in readme_commands() if "paper" in words and "--workers" in words]
    assert {words[words.index("--workers") + 1] for words in trained} == {"2"}
