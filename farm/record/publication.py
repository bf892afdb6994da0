"""A publication: that a run's model, or the report of a study, was sent to a repo of a Hub."""

from urllib.parse import urlsplit

from pydantic import Field

from farm.study.recipe import Frozen
from farm.study.run import Name


class Sent(Frozen):
    """Written when it was sent, over that of an earlier time."""

    hub: str = Field(description="address of the Hub, such as https://huggingface.co")
    repo: str = Field(pattern=r"^[\w-][\w.-]*/[\w-][\w.-]*$", description="OWNER/NAME")
    commit: str = Field(description="of the repo's main branch")
    when: float = Field(description="Unix seconds")

    @property
    def file(self) -> str:
        """The name of its file, without the end: one for each repo. The Hub allows no '--' in a name."""
        host = urlsplit(self.hub).netloc.replace(":", "-")
        return f"{host}--{self.repo.replace('/', '--')}"


class Publication(Sent):
    """A run's model in a model repo."""

    run_id: str
    weights: str = Field(description="sha256 of the weights that were sent, as the result has it")

    @property
    def url(self) -> str:
        return f"{self.hub}/{self.repo}"


class PublishedReport(Sent):
    """The report of a study in a dataset repo."""

    study: Name

    @property
    def url(self) -> str:
        return f"{self.hub}/datasets/{self.repo}"
