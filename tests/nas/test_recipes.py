"""Recipes name tasks that exist, with the epochs they say, and commands that the command line accepts."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from harness.cli.application import app

pytest.importorskip("torch", reason="TORCH ABSENT: nothing of training was tested; pip install '.[nas]'")

from nas.setups import find

RECIPES = sorted((Path(__file__).resolve().parents[2] / "nas" / "recipes").glob("*.yaml"))


def _read(file: Path) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(file.read_text())
    return document


def test_there_is_one_for_each_large_data_set() -> None:
    assert {f.stem for f in RECIPES} >= {"imagenet", "vww", "speech-commands", "voc"}


@pytest.mark.parametrize("file", RECIPES, ids=lambda f: f.stem)
def test_a_recipe_is_what_the_task_does(file: Path) -> None:
    recipe = _read(file)
    setup = find(recipe["task"])
    assert recipe["epochs"] == {
        "largest": setup.recipe.largest_epochs,
        "elastic": setup.recipe.elastic_epochs,
    }
    assert all({"what", "value", "source"} == set(e) for e in recipe["expected"])


@pytest.mark.parametrize("file", RECIPES, ids=lambda f: f.stem)
def test_its_commands_parse(file: Path) -> None:
    group: Any = typer.main.get_command(app)
    for command in _read(file)["commands"]:
        words = shlex.split(command)
        if words[0] == "torchrun":
            words = words[words.index("harness.cli.main") :]
        name, *arguments = words[1:]
        found = group.commands[name]
        context = found.make_context(name, list(arguments))
        assert context.params.get("task", _read(file)["task"]) == _read(file)["task"]
        assert "boards" not in context.params or context.params["boards"]
