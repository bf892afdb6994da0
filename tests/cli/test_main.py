"""The frame: what there is to type, exit codes, one-line errors, what is imported, signals and pipes.

Longer than other files by the list of all options.
"""

import os
import pty
import re
import select
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from results import study_text
from typer.main import get_command
from typer.testing import CliRunner

from cli.examples import EXAMPLES
from cli.main import COMMANDS, FAMILIES, GROUPS, app
from cli.offers import units
from farm.errors import BadSetting
from farm.site.server import Server
from farm.site.settings import Settings
from farm.study.machine import Machine
from farm.study.study import Study

from .conftest import ROOT, Farm

SERVING = ["--machine", "--cpus", "--shared", "--host", "--dashboard-port"]
NAMES = [*COMMANDS, *(f"{name} {word}" for name, words in FAMILIES.items() for word in words)]
# Adding a command or an option is a decision: it is written here as well.
FROZEN: dict[str, list[str]] = {
    "demo": ["--json"],
    "init": ["FILE", "--name", "--machine", "--data", "--text-field", "--force", "-y", "--yes", "--json"],
    "up": [*SERVING, "--json"],
    "down": ["--keep-rented", "--json"],
    "status": ["--json"],
    "serve": [*SERVING, "--attach", "--autoscaling-config"],
    "connect": ["HEAD", "--redis", "--home", "--ssh"],
    "join": ["INVITATION|HEAD", "--machine", "--name", "--host"],
    "drain": ["NODE", "--undo", "--json"],
    "plan": ["STUDY", "--sd", "--noise", "--json"],
    "submit": ["STUDY", "--wait", "--twin", "--dry-run", "--max-usd", "--max-hours", "-y", "--yes", "--json"],
    "seeds": ["add", "[STUDY] ARM", "--to", "--alone", "--dry-run", "-y", "--yes", "--json"],
    "resolve": ["STUDY", "--usd", "--hours", "--runs", "--no-wait", "--json"],
    "runs": ["STUDY", "--arm", "--json"],
    "show": ["RUN|STUDY", "--json"],
    "logs": ["RUN", "-f", "--follow", "--json"],
    "watch": ["STUDY|RUN", "--json"],
    "cancel": ["RUN|STUDY", "--dropped", "--json"],
    "retry": ["RUN|STUDY", "--cancelled", "--json"],
    "eval": ["RUN|STUDY", "EVALUATION", "--stale", "--machine", "--reference", "--name", "--json"],
    "forget": ["RUN|STUDY", "--arm", "--dropped", "--files", "-y", "--yes", "--json"],
    "table": ["STUDY", "--score", "--scores", "--at", "--target", "--format", "--json"],
    "noise": ["STUDY", "--json"],
    "effects": ["STUDY", "--json"],
    "report": ["STUDY|RUN", "--output", "-o", "--format", "--json"],
    "compare": ["RUN", "RUN", "--json"],
    "import": ["PATH", "--study", "--output", "--json"],
    "data": [],
    "data prepare": [
        *["SOURCE", "FOLDER", "--validation", "--tokenizer", "--text-field", "--revision", "--processes", "--json"]
    ],
    "data show": ["SOURCE", "--tokenizer", "--text-field", "--revision", "--json"],
    "data push": ["FOLDER", "OWNER/NAME", "--private", "--dry-run", "--json"],
    "sample": [
        "RUN",
        "--prompt",
        "--prompts",
        "--tokens",
        "--temperature",
        "--top-k",
        "--seed",
        "--checkpoint",
        "--json",
    ],
    "export": ["RUN", "DIR", "--json"],
    "publish": [
        "RUN|ARM|STUDY",
        "OWNER/NAME",
        "--study",
        "--checkpoint",
        "--private",
        "--no-collection",
        "--force",
        "--dry-run",
        "--json",
    ],
    "track": ["RUN|STUDY", "--to", "-f", "--follow", "--json"],
    "rent": [
        "CLASS",
        "--engine",
        "--region",
        "--max-usd-per-hour",
        "--hours",
        "--usd",
        "--count",
        "--idle",
        "--ssh-key",
        "--identity",
        "--ssh",
        "--setup",
        "--trust-first-contact",
        "--wait",
        "--dry-run",
        "--list",
        "--end",
        "--json",
    ],
    "machines": ["--probe", "--json"],
    "reindex": ["--json"],
    "doctor": ["--cluster", "--notify", "--json"],
}


def command_of(name: str) -> Any:
    """The command of one word, or of two."""
    command: Any = get_command(app)
    for word in name.split():
        command = command.commands[word]
    return command


def words_of(command: Any) -> list[str]:
    return [word for parameter in command.params for word in _words(parameter)]


def _words(parameter: Any) -> list[str]:
    return [parameter.metavar] if parameter.param_type_name == "argument" else list(parameter.opts)


def test_the_commands_and_their_options_are_frozen() -> None:
    found = {name: words_of(command_of(name)) for name in NAMES}
    assert found == {name: [*words, "-v", "--verbose"] for name, words in FROZEN.items()}
    assert words_of(get_command(app)) == ["--version", "-v", "--verbose", "--install-completion", "--show-completion"]


def test_every_line_of_the_help_is_the_first_line_of_its_command() -> None:
    lines = COMMANDS | {f"{name} {word}": line for name, words in FAMILIES.items() for word, line in words.items()}
    for name, line in lines.items():
        assert command_of(name).help.splitlines()[0] == line


def test_the_help_shows_every_command_in_one_group_and_groups_as_the_design_does() -> None:
    shown = CliRunner().invoke(app, ["--help"]).stdout
    assert sorted(name for names in GROUPS.values() for name in names.split()) == sorted(COMMANDS)
    for title, names in GROUPS.items():
        section = shown.partition(f"\n{title}:\n")[2].partition("\n\n")[0]
        found = [line.split()[0] for line in section.splitlines() if line.startswith("  ") and line[2] != " "]
        assert found == names.split()


@pytest.mark.parametrize("name", NAMES)
def test_the_help_of_a_command_ends_in_examples_that_can_be_typed(name: str) -> None:
    lines = EXAMPLES[name]
    assert 2 <= len(lines) <= 3
    shown = CliRunner().invoke(app, [*name.split(), "--help"], env={"COLUMNS": "80"}).stdout
    assert shown.endswith("".join(f"    {line}\n" for line in lines)), "whole lines, and nothing below them"
    for line in lines:
        words = shlex.split(re.split(" [<>] ", line)[0], comments=True)
        typed = words[words.index("farm") + 1 :]
        assert f"{' '.join(typed)} ".startswith(f"{name} ")
        command, context = get_command(app), None
        while hasattr(command, "commands"):
            context = command.make_context("farm", list(typed), parent=context, obj={"verbose": False})
            command = command.commands[typed.pop(0)]
        command.make_context(name, typed, parent=context)  # refuses options, choices and arguments that are not


def test_there_are_examples_of_nothing_else() -> None:
    assert EXAMPLES.keys() == set(NAMES)


def test_help_imports_nothing_heavy() -> None:
    """0.11 s on an idle machine; each of these takes longer than that alone."""
    code = (
        "import sys\nfrom cli.main import app\n"
        "try: app(['--help'])\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'ray', 'scipy', 'redis', 'pydantic', 'rich', 'numpy'} & sys.modules.keys()\n"
        "assert not heavy, heavy"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    said = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert "submit" in said.stdout


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["sumbit"], 2, "Did you mean 'submit'?"),
        (["plan"], 2, "Missing argument 'STUDY'"),
        (["table", "--format", "yaml"], 2, "'yaml' is not one of 'md', 'csv', 'json', 'latex', 'tsv'"),
        (["plan", "missing.toml"], 2, "missing.toml: No such file or directory"),
        (["submit", "."], 2, "is a folder"),
        (["table", "nope"], 3, "no study 'nope'"),
        (["table", "--at", "hours=nan"], 2, "--at hours=nan is not a budget. Write --at hours=2,"),
        (["table", "--target", "-1"], 2, "--target -1 is not a loss. Write nats per token"),
        (["table", "--target", "3", "--at", "usd=1"], 2, "cannot be used together. Use one at a time."),
        (["show", "nope"], 3, "no run 'nope'"),
        (["up", "--machine", "cpu=0"], 2, "is not a valid number of units"),
        (["up", "--machine", "8xb200"], 2, "unknown machine class '8xb200'"),
        (["up", "--host", "10.0.0.5"], 2, "listens on loopback only. Write --shared --host 10.0.0.5."),
        (["up", "--shared"], 2, "no other machine can reach the Redis at redis://127.0.0.1:"),
        (["serve", "--shared", "--attach", "10.0.0.5:6379"], 2, "this farm does not own that Ray"),
        (["join", "nothing.json"], 3, "the invitation nothing.json cannot be read: No such file"),
    ],
)
def test_an_error_is_one_line_with_its_exit_code(farm: Farm, words: list[str], code: int, says: str) -> None:
    answer = farm(*words)
    assert (answer.code, answer.out) == (code, "")
    assert answer.err.startswith("error: ")
    assert answer.err.count("\n") == 1, "one line"
    assert says in answer.err


def test_the_traceback_comes_with_v_before_or_after_the_command(farm: Farm) -> None:
    assert "Traceback" not in farm("show", "nope").err
    for words in (["-v", "show", "nope"], ["show", "nope", "-v"]):
        assert "Traceback" in farm(*words).err
        assert farm(*words).code == 3


HEAVY = {
    "torch",
    "ray",
    "scipy",
    "scipy.stats",
    "numpy",
    "rich",
    "jinja2",
    "plotly",
    "pydoe",
    "safetensors",
    "boto3",
    "requests",
    "opentelemetry",
}


NEEDS = {  # in this order: what one has imported is there for those behind it
    "runs": "",
    "runs tiny": "",
    "status": "",
    "show cpu-baseline-s42": "",
    "table unfinished": "",
    "table pair": "numpy scipy",
    "table tiny": "numpy scipy scipy.stats",
}


def test_a_command_imports_nothing_heavy_that_it_does_not_need(farm: Farm) -> None:
    """A second is what it may take, and each of these takes a good part of one: scipy.stats more than that."""
    farm.put()
    farm.queue.put(Study.parse(study_text("pair", init=(7, 8, 9)).partition("[interventions.gradient-clipping]")[0]))
    farm.finish_all()
    farm.put(name="unfinished", init=(1,))
    code = (
        "import sys\nfrom cli.main import app\n"
        f"for words in {[*NEEDS]!r}:\n"
        "    try: app(words.split())\n"
        "    except SystemExit as end: assert not end.code, words\n"
        f"    print(*({HEAVY!r} & sys.modules.keys()), file=sys.stderr)\n"
        "    print('that was', words, file=sys.stderr)"
    )
    environment = os.environ | farm.environment | {"PYTHONPATH": str(ROOT)}
    said = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    lines = said.stderr.splitlines()
    found = {
        line.removeprefix("that was "): lines[i - 1] for i, line in enumerate(lines) if line.startswith("that was ")
    }
    assert {words: set(names.split()) for words, names in found.items()} == {
        words: set(names.split()) for words, names in NEEDS.items()
    }


def test_completion_imports_nothing_heavy(farm: Farm) -> None:
    farm.put()
    code = (
        "import atexit, sys\nfrom cli.main import app\n"
        f"atexit.register(lambda: print(*({HEAVY!r} & sys.modules.keys()), file=sys.stderr))\n"
        "sys.argv = ['farm']\napp()"
    )
    asked = {"_FARM_COMPLETE": "complete_bash", "COMP_WORDS": "farm table t", "COMP_CWORD": "2"}
    environment = os.environ | farm.environment | {"PYTHONPATH": str(ROOT)} | asked
    said = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert (said.stdout.split(), said.stderr.split()) == (["tiny"], [])


def test_an_unreachable_redis_is_5_and_a_wrong_password_4_and_neither_shows_it(farm: Farm) -> None:
    url = farm.environment["FARM_REDIS_URL"]
    farm.environment["FARM_REDIS_URL"] = "redis://:hunter2@127.0.0.1:1/0"
    answer = farm("runs")
    assert (answer.code, "hunter2" in answer.err) == (5, False)
    farm.environment["FARM_REDIS_URL"] = f"redis://:hunter2@{url.rpartition('@')[2]}"
    answer = farm("runs")
    assert (answer.code, "hunter2" in answer.err) == (4, False)


def test_reading_and_submitting_need_neither_torch_nor_ray(farm: Farm) -> None:
    study = farm.file()
    commands = [["plan", study], ["submit", study], ["submit", study, "--dry-run"], ["runs"], ["show", "cpu-base"]]
    commands += [
        ["table", "--format", "md"],
        ["status"],
        ["machines"],
        ["doctor"],
        ["reindex"],
        ["cancel", "tiny"],
        ["retry", "tiny"],
        ["eval", "tiny"],
    ]
    commands += [["watch", "tiny"], ["logs", "cpu-b"], ["down"]]
    code = (
        "import sys\nfrom cli.main import app\n"
        f"for words in {commands!r}:\n"
        "    try: app(words)\n"
        "    except SystemExit: pass\n"
        "    heavy = {'torch', 'ray'} & sys.modules.keys()\n"
        "    assert not heavy, (words, heavy)"
    )
    environment = os.environ | farm.environment | {"PYTHONPATH": str(ROOT)}
    said = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr


def test_commands_work_while_the_embedded_farm_is_down_and_leave_no_server(farm: Farm) -> None:
    del farm.environment["FARM_REDIS_URL"]
    assert farm("table").code == 0
    assert farm("submit", farm.file()).code == 0
    assert len(farm("runs", "tiny").rows) == 9
    status = farm("status")
    assert "no farm is up here" in status.err
    home = Settings(home=farm.folder / "home", storage=farm.folder / "storage").home
    assert not Server(home / "redis").is_running()
    assert farm.store.root.joinpath("studies", "tiny.json").exists(), "the study is recorded for a reindex"


@pytest.mark.parametrize("unbuffered", ["", "1"])  # the pipe breaks at the last flush, or at the first write
def test_a_reader_that_leaves_is_no_error(farm: Farm, unbuffered: str) -> None:
    farm.put()
    with farm.start("runs", "--json", PYTHONUNBUFFERED=unbuffered) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == ""
        assert process.wait(30) == 1


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_a_closed_stream_is_no_error(farm: Farm, closed: str) -> None:
    done = subprocess.run(
        ["sh", "-c", f"exec {sys.executable} -m cli.main runs {closed}"],
        env=os.environ | farm.environment | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "error" not in done.stderr


def test_ctrl_c_is_130_without_a_traceback(farm: Farm) -> None:
    farm.put()
    farm.claim()
    with farm.start("watch", "tiny") as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("running    baseline s42.23 on cpu: step 1/10")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (130, "")
    assert "Traceback" not in err


def test_a_sign_that_the_locale_lacks_is_replaced(farm: Farm) -> None:
    farm.put(init=(42,))
    farm.curve(farm.claim(), 3.0, 1.0)
    with farm.start("show", "cpu-baseline", PYTHONIOENCODING="ascii") as process:
        out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, "")
    assert "curve\t??" in out


@pytest.mark.parametrize(("no_color", "is_coloured"), [("", True), ("1", False)])
def test_a_terminal_gets_a_table_and_no_color_is_obeyed(farm: Farm, no_color: str, is_coloured: bool) -> None:
    farm.put()
    farm.finish_all()
    shown = on_terminal(farm, ["table", "tiny"], NO_COLOR=no_color)
    assert "remove-dropout" in shown
    assert "─" in shown
    assert "\t" not in shown
    assert ("\x1b[1m" in shown) == is_coloured


def test_a_narrow_terminal_breaks_no_number_and_says_what_it_left_out(farm: Farm) -> None:
    farm.put()
    farm.finish_all()
    shown = on_terminal(farm, ["table", "tiny"], COLUMNS="80")
    table = [line for line in shown.splitlines() if "remove-dropout" in line or "gradient-clipping" in line]
    assert len(table) == 2
    assert all("cpu" in line and "." in line for line in table), "a row is one line"
    assert all("±" in line and ("better" in line or "worse" in line) for line in table), "what it is all for stays"
    assert "too narrow for: " in shown
    assert "init; all of it: --json" in shown
    assert "too narrow" not in on_terminal(farm, ["table", "tiny"])


def test_a_terminal_shows_progress_and_takes_no_cause_for_markup(farm: Farm) -> None:
    farm.put(init=(42,))
    farm.finish(farm.claim(), 3.25)
    farm.fail(farm.claim(), message="[bold]nan[/bold] \x1b]0;title\x07")
    farm.queue.cancel(farm.queue.listing.statuses()[2].run.id)
    shown = on_terminal(farm, ["watch", "tiny"], code=1)
    assert "succeeded  baseline s42.23 on cpu: test loss 3.2500" in shown
    assert "nonfinite: [bold]nan[/bold]" in shown
    assert "\x1b]0;title" not in shown


def test_a_terminal_that_cannot_move_its_cursor_gets_plain_lines(farm: Farm) -> None:
    farm.put(init=(42,))
    claim = farm.claim()
    farm.queue.cancel(claim.run.id)
    farm.queue.acknowledge_cancel(claim.lease)
    for status in farm.queue.listing.unfinished():
        farm.queue.cancel(status.run.id)
    shown = on_terminal(farm, ["watch", "tiny"], code=1, TERM="dumb")
    assert "cancelled  baseline s42.23 on cpu" in shown
    assert "\x1b" not in shown


def on_terminal(farm: Farm, words: list[str], code: int = 0, **environment: str) -> str:
    """All that a command writes on a terminal."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "cli.main", *words],
        env=os.environ | farm.environment | {"PYTHONPATH": str(ROOT), "TERM": "xterm"} | environment,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    shown = b""
    while select.select([ours], [], [], 60)[0]:
        try:
            chunk = os.read(ours, 65536)
        except OSError:  # Linux: the other side is closed
            break
        if not chunk:
            break
        shown += chunk
    os.close(ours)
    assert process.wait(30) == code, shown
    return shown.decode()


def test_what_is_offered_has_room_here(tmp_path: Path) -> None:
    """Not by the command, which would be a farm where this is not refused."""
    here = Settings(home=tmp_path, storage=tmp_path, machines={"home": Machine(name="home")})
    assert units(["cpu-x1=3", "home"], here, 3) == {"cpu-x1": 3, "home": 1}
    for offer, words in (("cpu-x1=4", "Offer at most 3"), ("home=2", "one run of it takes all 3 cores")):
        with pytest.raises(BadSetting, match=words):
            units([offer], here, 3)


@pytest.mark.parametrize(
    "words",
    [
        ("table", "A!"),
        ("table", "A!", "--at", "usd=1"),
        ("runs", "A!"),
        ("noise", "A!"),
        ("effects", "A!"),
        ("resolve", "A!", "--usd", "1"),
        ("seeds", "add", "A!", "a", "--to", "3"),
        ("watch", "A!"),
        ("cancel", "A!"),
        ("eval", "A!"),
        ("show", "A!"),
        ("compare", "A!", "A!"),
    ],
    ids=" ".join,
)
def test_a_word_that_can_be_no_name_is_not_found(farm: Farm, words: tuple[str, ...]) -> None:
    answer = farm(*words)
    assert (answer.code, "'A!'" in answer.err) == (3, True), answer.err
    assert "bug" not in answer.err
