"""The `farm` command: what there is to type, and the one place where a FarmError becomes a line and an exit code.

A command's module is imported when it is typed, so that `farm --help` reads none of them.
"""

import gc
import io
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from keyword import iskeyword
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_command_from_info
from typer.models import CommandInfo

from farm.errors import FarmError, in_plain_words, read_at

COMMANDS = {
    "demo": "Train a small study here and now, and show its table.",
    "init": "Write a study file for the machines and the data that are there.",
    "up": "Start a farm on this machine, in the background.",
    "down": "Stop the farm of this machine.",
    "status": "Show what is up, waiting and training.",
    "serve": "Run a farm on this machine in the foreground, until Ctrl-C.",
    "connect": "Reach the farm on HEAD through ssh; commands of this home use it until Ctrl-C.",
    "join": "Let this machine train for a farm that another machine shares.",
    "drain": "Empty a node: no run starts there, and those running save a checkpoint and are queued again.",
    "plan": "Forecast a study: plans, hours, dollars, and the smallest effect it resolves.",
    "submit": "Queue every new run of a study.",
    "runs": "List runs: state, step, loss, and why they wait.",
    "show": "Show everything about one run, or a study in short: its runs, arms and machines.",
    "logs": "Show the log of a run's newest attempt.",
    "watch": "Follow runs until they are done.",
    "seeds": "Give an arm of a submitted study more seed pairs, and queue only what is missing.",
    "resolve": "Add seed pairs where they most likely change a verdict, until all are resolved or the budget is spent.",
    "cancel": "Cancel a run, or all runs of a study that are not finished.",
    "retry": "Queue a failed or cancelled run again, or the failed ones of a study.",
    "forget": "Drop finished, failed or cancelled runs from every table, list and study.",
    "table": "Rank the arms of a study by test loss, or by another evaluation that the study names.",
    "noise": "Show how much the test loss varies with a rerun, other hardware, and other seeds.",
    "effects": "Estimate the effect of each intervention, and of each pair of them, averaged over all others.",
    "report": "Write a study or a run as one page: the answer in words, charts, and where every number comes from.",
    "compare": "Check whether two runs began alike and saw the same data, and where their losses diverge.",
    "eval": "Score trained models: queue a job for every score that a run, or the runs of a study, lack.",
    "sample": "Have a run's model go on from a prompt, on this machine's CPU.",
    "export": "Write a run's weights as a folder that transformers loads as a GPT-2, without custom code.",
    "publish": "Publish a run's model, or a study's report, on the Hugging Face Hub, with a card of how it was made.",
    "rent": "Rent a machine: wait until a cloud has one, launch it, let it join this farm, and end it when idle.",
    "data": "Make, show and share the tokens that runs train on.",
    "track": "Send the curves of runs to TensorBoard, MLflow, Weights & Biases or Trackio.",
    "machines": "List the known machine classes, and what they offer now.",
    "import": "Import the losses of models that were trained elsewhere, and write a study file that trains them here.",
    "reindex": "Bring back into Redis every run whose directory is in the storage.",
    "doctor": "Check Redis, storage, Ray and versions.",
}
GARBAGE = 50_000  # objects more before it is looked for: Python's 700 cost a command a seventh of its time
GROUPS = {  # of `farm --help`
    "Set up a farm": "demo init up down status serve join connect drain rent machines doctor reindex",
    "Ask": "plan submit cancel retry seeds resolve forget",
    "Watch": "runs show logs watch",
    "Conclude": "table noise effects compare report sample",
    "Evaluate and share": "eval export publish track import data",
}
FAMILIES = {  # commands of two words
    "data": {
        "prepare": "Make a folder of tokens from text or from tokens in another format.",
        "show": "Show how many tokens and documents a source has, their fingerprint, and how it begins.",
        "push": "Send a folder of tokens to the Hugging Face Hub, as a dataset repo that farm and others can read.",
    },
}


class Commands(Mapping[str, Any]):
    """The commands by name, each built when it is looked up."""

    def __getitem__(self, name: str) -> Any:
        COMMANDS[name]
        if name in FAMILIES:
            return _family(name)
        word = f"{name}_" if iskeyword(name) else name
        command = _build(name, _function(f"cli.{word}", word))
        command.params += _build(name, _only_verbose).params
        return command

    def __iter__(self) -> Iterator[str]:
        return iter(COMMANDS)

    def __len__(self) -> int:
        return len(COMMANDS)


class Members(Mapping[str, Any]):
    """The commands of a family by their second word, each built when it is looked up."""

    def __init__(self, family: str):
        self.family = family

    def __getitem__(self, name: str) -> Any:
        FAMILIES[self.family][name]
        command = _build(name, _function(f"cli.{self.family}.{name}", name), f"{self.family} {name}")
        command.params += _build(name, _only_verbose).params
        return command

    def __iter__(self) -> Iterator[str]:
        return iter(FAMILIES[self.family])

    def __len__(self) -> int:
        return len(FAMILIES[self.family])


class Family(TyperGroup):
    """A command whose next word is a command. Its help imports none of them."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([*FAMILIES[self.name or ""].items()])


def _function(module: str, name: str) -> Callable[..., None]:
    """The function of a command, imported now."""
    with _without_telemetry():
        return getattr(import_module(module), name)


@contextmanager
def _without_telemetry() -> Iterator[None]:
    """redis-py imports OpenTelemetry where that is installed, as it is with Ray: a tenth of a second of each command,
    for metrics that nobody asks it for. Within the block it finds none.
    """
    hidden = "opentelemetry"
    if hidden in sys.modules:
        yield
        return
    sys.modules[hidden] = None  # type: ignore[assignment]  # how Python marks what cannot be imported
    try:
        yield
    finally:
        del sys.modules[hidden]


def _family(name: str) -> Any:
    from cli.examples import epilogue

    params = _build(name, _only_verbose).params
    family = Family(
        name=name,
        help=COMMANDS[name],
        epilog=epilogue(name),
        params=params,
        no_args_is_help=True,
        rich_markup_mode=None,
        callback=_only_verbose,
    )
    family.commands = Members(name)  # type: ignore[assignment]
    return family


def _build(name: str, function: Callable[..., None], words: str | None = None) -> Any:
    from cli.examples import epilogue

    info = CommandInfo(name=name, callback=function, epilog=epilogue(words or name))
    return get_command_from_info(info, pretty_exceptions_short=True, rich_markup_mode=None)


def _set_verbose(context: typer.Context, value: bool) -> None:
    if value:
        context.find_root().obj["verbose"] = True


Verbose = Annotated[
    bool,
    typer.Option("-v", "--verbose", callback=_set_verbose, expose_value=False, help="Show the traceback of an error."),
]


def _only_verbose(verbose: Verbose = False) -> None:
    """The option that works after every command as well as before it."""


class Farm(TyperGroup):
    """The group of commands. `main` is where every error ends."""

    def __init__(self, **attrs: Any):
        super().__init__(**attrs)
        self.commands = Commands()  # type: ignore[assignment]

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        width = max(map(len, COMMANDS))  # one column for all groups
        for title, names in GROUPS.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(width), COMMANDS[name]) for name in names.split()])

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run the command and exit with its code."""
        asked = {"verbose": False}
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="replace")  # a terminal that cannot show a sign shows '?'
        try:
            code = super().main(args, "farm", complete_var, False, windows_expand_args, obj=asked, **extra)
            sys.stdout.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter's own flush complains
            code = 1  # as typer does when a write breaks before the flush
        except Exception as error:
            code = _report(error, asked["verbose"])
        sys.exit(code if isinstance(code, int) else 0)


def _report(error: Exception, verbose: bool) -> int:
    """Write a line to stderr for each fault, after the traceback if `verbose`. Returns the exit code."""
    from cli.render import line

    if type(error).__name__ == "NoArgsIsHelpError":
        sys.stderr.write(f"{error.ctx.get_help()}\n")  # type: ignore[attr-defined]
        return 2
    if verbose:
        import traceback

        traceback.print_exception(error)
    code, *told = _explain(error)
    if isinstance(error, FarmError) and error.page:
        told[-1] += f" More: {read_at(error.page, _docs())}"
    sys.stderr.writelines(f"error: {line(text)}\n" for text in told)
    return code


def _explain(error: Exception) -> tuple[int, *tuple[str, ...]]:
    if isinstance(error, FarmError):
        return error.exit_code, *error.lines
    if isinstance(error, typer.Abort):
        return 130, "Interrupted."
    if hasattr(error, "format_message"):  # typer's usage errors share no public class
        return _usage(error)
    if isinstance(error, OSError):
        return 1, f"{error.filename or 'farm'}: {error.strerror or error}."
    return 1, f"{type(error).__name__}: {error}. This is a bug in farm; rerun with -v for the traceback."


def _docs() -> str | None:
    """Where the documentation is served, if a setting says so; an error in the settings must not hide another."""
    from farm.site.settings import Settings

    with suppress(Exception):
        return Settings.load(through_tunnel=False).docs_url
    return None


def _usage(error: Any) -> tuple[int, str]:
    context = getattr(error, "ctx", None)
    path = context.command_path if context else "farm"
    text = in_plain_words(error.format_message())
    return 2, f"{text}{'' if text.endswith(('.', '?')) else '.'} Try '{path} --help'."


def _version(value: bool) -> None:
    if value:
        from importlib.metadata import PackageNotFoundError, version

        try:
            sys.stdout.write(f"farm {version('farm')}\n")
        except PackageNotFoundError:
            sys.stdout.write("farm (not installed, run from a checkout)\n")
        raise typer.Exit


app = typer.Typer(cls=Farm, name="farm", rich_markup_mode=None, pretty_exceptions_enable=False, no_args_is_help=True)


@app.callback()
def farm(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    verbose: Verbose = False,
) -> None:
    """A training farm for GPT-2 ablations: studies in, a ranking you can defend out."""


def main() -> None:
    """The entry point of the `farm` script."""
    gc.set_threshold(GARBAGE)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the caller, as in `farm runs >&-`
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
    app()


if __name__ == "__main__":
    main()
