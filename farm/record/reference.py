"""Reference models: trained by others, scored here by a study's evaluations.

OpenAI's GPT-2 is one. No run, seed or recipe of the farm stands behind a reference, so it has neither rank nor verdict;
its scores are the farm's own, by the same evaluations and on the same tokens as those of the study's runs.
"""

from collections.abc import Sequence

from pydantic import Field

from farm.errors import Conflict
from farm.study.recipe import Frozen, Model, Precision
from farm.study.run import Name


class ReferenceScore(Frozen):
    """A reference's score by one evaluation."""

    name: Name = Field(description="of the evaluation, as the study calls it")
    evaluation: str = Field(description="id of the evaluation: only scores that agree in it may be compared")
    value: float = Field(ge=0, description="nats per token")
    count: int = Field(ge=1, description="sequences")
    standard_error: float | None = Field(None, ge=0, description="of the value; None for a single sequence")
    items: str = Field(description="sha256 of the tokens that were scored")
    precision: Precision
    code: str = Field(description="sha256 over the installed sources of farm, model and workers")
    host: str
    accelerator: str = Field(description="what computed it: a GPU's name, or cpu")
    when: float = Field(description="Unix seconds")


class Reference(Frozen):
    """One model in transformers' format, and its scores."""

    name: Name
    weights: str = Field(pattern="^[0-9a-f]{64}$", description="sha256 of its model.safetensors")
    shape: Model = Field(description="what its config.json describes")
    scores: tuple[ReferenceScore, ...] = ()

    def lacks(self, evaluations: Sequence[str]) -> list[str]:
        """Which of the evaluation ids in `evaluations` it has no score by."""
        made = {score.evaluation for score in self.scores}
        return [one for one in evaluations if one not in made]


class References(Frozen):
    """All reference models of a study."""

    study: Name
    models: tuple[Reference, ...] = ()

    def find(self, name: str) -> Reference | None:
        return next((one for one in self.models if one.name == name), None)

    def join(self, more: Reference) -> "References":
        """These and `more`. A score of one that is there already joins those that it has; by an evaluation that it has
        a score by, the first stays.

        Raises: Conflict: other weights have its name.
        """
        there = self.find(more.name)
        if there is None:
            return References(study=self.study, models=(*self.models, more))
        if there.weights != more.weights:
            raise Conflict(
                f"reference {more.name!r} of {self.study!r} has weights {there.weights[:12]},"
                f" and this folder's are {more.weights[:12]}.",
                remedy=f"Give this one another --name, or drop the first: farm forget {self.study} --arm {more.name}",
            )
        ids = there.lacks([score.evaluation for score in more.scores])
        new = tuple(score for score in more.scores if score.evaluation in ids)
        whole = there.model_copy(update={"scores": (*there.scores, *new)})
        return References(study=self.study, models=tuple(whole if one is there else one for one in self.models))

    def without(self, names: Sequence[str]) -> "References":
        return References(study=self.study, models=tuple(one for one in self.models if one.name not in names))
