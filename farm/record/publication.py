"""A publication: that a run's model was sent to a repo of a Hub."""

from urllib.parse import urlsplit

from pydantic import Field

from farm.study.recipe import Frozen


class Publication(Frozen):
    """Written when it was sent, over that of an earlier time."""

    run_id: str
    hub: str = Field(description="address of the Hub, such as https://huggingface.co")
    repo: str = Field(pattern=r"^[\w-][\w.-]*/[\w-][\w.-]*$", description="OWNER/NAME")
    commit: str = Field(description="of the repo's main branch")
    weights: str = Field(description="sha256 of the weights that were sent, as the result has it")
    when: float = Field(description="Unix seconds")

    @property
    def file(self) -> str:
        """The name of its file, without the end: one for each repo. The Hub allows no '--' in a name."""
        host = urlsplit(self.hub).netloc.replace(":", "-")
        return f"{host}--{self.repo.replace('/', '--')}"
