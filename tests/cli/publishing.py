"""Runs and studies to be published, and what a Hub then holds."""

from pathlib import Path
from typing import Any

import yaml
from hub_server import Hub, Repo
from results import result

from farm.queue.values import Claim
from farm.record.publication import Publication
from farm.study.study import Study
from model.corpus.text import BUILTIN

from .conftest import Farm
from .small import finish, small_study, train

MORE = """
[interventions.no-dropout]
model.dropout = 0.0
[samples]
prompts = [{prompt}, "and"]
tokens = 8
"""
PROMPT = '"def "'
MODEL = {"README.md", "config.json", "farm.json", "generation_config.json", "model.safetensors"}
TOKENIZER = {"merges.txt", "tokenizer_config.json", "vocab.json"}


def publishable(prompt: str = PROMPT, **changes: Any) -> Study:
    """Four runs: two arms of two seed pairs."""
    seeds = "seeds = { init = [42, 22], train = [23] }"
    return small_study(study=seeds, more=MORE.format(prompt=prompt), **changes)


def trained(farm: Farm, source: str | Path = BUILTIN, vocab: int = 257, prompt: str = PROMPT) -> Claim:
    """A study of four runs: its first is trained for real, the others only say that they are done."""
    study = publishable(prompt, source=source, vocab=vocab)
    farm.queue.put(study)
    first = farm.claim()
    outcome = train(farm, first, samples=study.samples)
    finish(farm, first, outcome, 5.5, kwh=0.25, energy_meter="rapl", usd=1.5)
    while farm.queue.listing.backlog().get("cpu"):
        claim = farm.claim()
        loss = 5.5 - 0.2 * (claim.run.arm != "baseline") + 0.001 * (claim.run.seeds.init == 22)
        farm.queue.finish(claim.lease, result(claim.run, loss, fingerprints=outcome.fingerprints))
    return first


def published(farm: Farm, hub: Hub, *words: str) -> dict[str, bytes]:
    answer = farm("publish", *words)
    assert answer.code == 0, answer.err
    return hub.repos[f"models/{words[1]}"].files


def front(card: bytes) -> dict:
    """The front matter of a card."""
    return yaml.safe_load(card.decode().split("\n---\n")[0].removeprefix("---\n"))


def keep(farm: Farm, hub: str, *repos: str) -> None:
    """Record that the first finished runs were published as these repos."""
    done = [one for one in farm.queue.listing.statuses() if one.result]
    for status, repo in zip(done, repos, strict=False):
        assert status.result
        of = {"run_id": status.id, "hub": hub, "repo": repo, "commit": "c", "when": 1.0}
        farm.store.publications.keep(Publication(**of, weights=status.result.fingerprints.final))


def collected(farm: Farm, hub: Hub, *repos: str) -> None:
    """A finished study, of whose runs some were published."""
    farm.put()
    farm.finish_all()
    keep(farm, hub.url, *repos)
    hub.repos |= {f"models/{repo}": Repo() for repo in repos}


def held(hub: Hub, title: str = "tiny") -> tuple[list[str], str, bool]:
    """What a collection holds, how it is described, and whether it is private."""
    (found,) = [one for one in hub.collections.values() if one["title"] == title]
    return [f"{one['type']}s/{one['id']}" for one in found["items"]], found["description"], found["private"]
