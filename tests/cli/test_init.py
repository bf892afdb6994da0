"""`farm init`: a study for the machines and the data that are there, which loads, plans, and says why.

Longer than other files, since each situation is written out as a person meets it.
"""

import json
import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from results import result

from cli.init.machines import Here
from cli.init.size import PUBLISHED, choose
from cli.init.text import Draft, write
from farm.queue.node import Node
from farm.queue.rental import Rental, Stage
from farm.study.machine import BUILT_IN, Machine
from farm.study.recipe import Recipe
from farm.study.study import Study
from farm.verdict.forecast import plans
from model.corpus.nearby import examine

from .conftest import ROOT, Farm

SMALL_GPU = Machine(name="1xgtx1660", accelerator="GTX 1660", memory=6 * 2**30, bf16=False)
NEW_GPU = Machine(name="5xb300", accelerator="B300", accelerators=5, memory=280 * 2**30)
PROSE = "It was the best of times, it was the worst of times. "


def join(farm: Farm, *machines: Machine) -> None:
    """Machines join the farm, each with a slot for one run."""
    for machine in machines:
        farm.queue.roster.register(machine, machine.name, 60)
    nodes = [Node(id=one.name, name=one.name, host="h", address="a", units={one.name: 1}) for one in machines]
    farm.queue.roster.sight(nodes, 60)


def rent(farm: Farm, machine: str) -> str:
    """A machine of the class is asked for; its name."""
    asked = {"max_usd_per_hour": 12.0, "hours": 1.0, "idle_minutes": 5.0, "ssh_key": "k", "ssh": "ssh"}
    name = f"farm-{machine}"
    farm.queue.roster.rent(
        Rental(name=name, keeper="h:/f", cloud="lambda", machine=machine, asked=time.time(), **asked)
    )
    return name


def tokens(folder: Path, train: int, test: int | None, largest: int = 50256, name: str = "tokens") -> Path:
    """A folder of tokens, of which one is the largest."""
    place = folder / name
    place.mkdir()
    for split, count in (("train", train), ("validation", test)):
        if count:
            drawn = np.random.default_rng(count).integers(0, largest, count).astype("<u2")
            drawn[count // 2] = largest
            drawn.tofile(place / f"{split}.bin")
    return place


def text(folder: Path, name: str, characters: int) -> Path:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text((PROSE * (characters // len(PROSE) + 1))[:characters])
    return path


def written(farm: Farm, *words: str) -> tuple[dict, Study, str]:
    """What `farm init` says as JSON, the study, and the text of its file, which `farm plan` accepts."""
    answer = farm("init", "--json", *words)
    assert answer.code == 0, answer.err
    told = json.loads(answer.out)
    assert told["schema"] == "farm.init/1"
    path = Path(told["file"])
    planned = farm("plan", str(path), "--json")
    assert planned.code == 0, planned.err
    assert json.loads(planned.out)["total"]["runs"] == told["runs"]
    return told, Study.load(path), path.read_text(encoding="utf-8")


def blocks(lines: list[str]) -> Iterator[range]:
    """The lines that are taken out of their comment together: a table with those below it, any other by itself."""
    at = 0
    while at < len(lines):
        stop = at + 1
        if lines[at].startswith("#["):
            while stop < len(lines) and re.match("#[^ ]", lines[stop]) and not lines[stop].startswith("#["):
                stop += 1
        if re.match("#[^ ]", lines[at]):
            yield range(at, stop)
        at = stop


def uncommented(content: str) -> tuple[list[str], str]:
    """The file with each block in force, and with all of them."""
    lines = content.splitlines()

    def without(taken: set[int]) -> str:
        return "\n".join(line[1:] if at in taken else line for at, line in enumerate(lines)) + "\n"

    found = [set(block) for block in blocks(lines)]
    assert len(found) > 12
    return [without(block) for block in found], without(set().union(*found))


def check_comments(farm: Farm, content: str) -> None:
    """Whatever is taken out of its comment is a valid study that is not the one that was written, and has a plan."""
    known = farm.queue.roster.classes({})
    whole = Study.parse(content)
    each, every = uncommented(content)
    for version in each:
        study = Study.parse(version)
        assert study != whole, version
        plans(study, known)
    study = Study.parse(every)
    names = {"baseline", "remove-dropout", "schedule-learning-rate", "gradient-clipping", "weight-tying", "qkv-bias"}
    assert {arm.name for arm in study.arms()} == names | {"both"}
    answer = farm("plan", "-", reads=every)
    assert answer.code == 0, answer.err


def test_a_machine_that_is_being_rented_is_written_for_before_it_has_joined(farm: Farm) -> None:
    tokens(farm.folder, 30_000_000, 1_000_000)
    name = rent(farm, "8xa100m40")
    told, _, content = written(farm, "study.toml")
    assert told["machines"] == ["8xa100m40"]
    assert "8xa100m40 is being rented, and has not joined yet" in flat(content)
    join(farm, BUILT_IN["1xrtx3090"])
    rent(farm, "8xh100m80")
    told, _, content = written(farm, "both.toml")
    assert told["machines"] == ["1xrtx3090", "8xa100m40", "8xh100m80"]
    why = "machines of the farm that are up; 8xa100m40, 8xh100m80 are being rented, and have not joined yet"
    assert why in flat(content)
    for one in (name, "farm-8xh100m80"):
        farm.queue.roster.change_rental(one, lambda it: it.on(Stage.ENDED, time.time()))
    assert written(farm, "ended.toml")[0]["machines"] == ["1xrtx3090"]


def flat(content: str) -> str:
    """The file with its remarks unfolded."""
    return re.sub(r"\n# *(?=\S)", " ", content)


def empty(farm: Farm) -> None:
    """Nothing there, no machine in the farm: this machine, and what the demo trains on."""


def prepared(farm: Farm) -> None:
    text(farm.folder, "a.txt", 3_000_000)
    assert farm("data", "prepare", "a.txt", "made", "--tokenizer", "bytes", "--validation", "5%").code == 0


def gpu(farm: Farm) -> None:
    join(farm, BUILT_IN["1xrtx3090"], BUILT_IN["cpu-x1"])


def two_gpus_and_tokens(farm: Farm) -> None:
    join(farm, BUILT_IN["1xrtx3090"], BUILT_IN["8xa100m40"])
    tokens(farm.folder, 30_000_000, 1_000_000)


def small_gpu_and_text(farm: Farm) -> None:
    join(farm, SMALL_GPU)
    text(farm.folder, "book.txt", 8_000_000)


def five_gpus_and_shared_tokens(farm: Farm) -> None:
    join(farm, NEW_GPU)
    tokens(farm.folder, 5_000_000, None)


def json_lines(farm: Farm) -> None:
    (farm.folder / "texts").mkdir()
    for split, count in (("train", 4000), ("validation", 400)):
        lines = "".join(json.dumps({"text": f"{number} {PROSE}"}) + "\n" for number in range(count))
        (farm.folder / "texts" / f"{split}.jsonl").write_text(lines)


def characters(farm: Farm) -> None:
    """nanoGPT's tiny Shakespeare by characters: 65 different tokens."""
    tokens(farm.folder, 1_000_000, 100_000, largest=64)


SITUATIONS = [
    empty,
    prepared,
    gpu,
    two_gpus_and_tokens,
    small_gpu_and_text,
    five_gpus_and_shared_tokens,
    json_lines,
    characters,
]


@pytest.mark.parametrize("situation", SITUATIONS)
def test_what_is_written_has_a_plan_and_so_has_every_line_that_is_off(farm: Farm, situation) -> None:
    situation(farm)
    _, _, content = written(farm)
    check_comments(farm, content)
    assert max(map(len, content.splitlines())) < 140


def test_with_nothing_there_it_is_the_demo_s_text_on_a_cpu_of_this_machine(farm: Farm) -> None:
    told, study, content = written(farm)
    assert (told["machines"], told["corpus"]["source"]) == (["cpu-x1"], "builtin:python-reference")
    (one,) = told["hours"]
    assert (one["basis"], one["hours"] < 0.15) == ("assumed", True)
    assert study.arms()[0].recipe.train.tokens > 0.9 * told["corpus"]["train"], "one pass over it"
    assert "# Found: this machine, no GPU" in content
    assert "no corpus lies in this folder" in flat(content)
    assert "farm data prepare TEXT tokens" in flat(content)


def test_the_study_says_what_the_json_says(farm: Farm) -> None:
    told, study, _ = written(farm, "mine.toml", "--name", "shapes")
    recipe = study.arms()[0].recipe
    assert (study.name, told["file"], told["name"]) == ("shapes", "mine.toml", "shapes")
    assert recipe == Recipe().with_patch(told["baseline"])
    assert study.study.machines == tuple(told["machines"])
    assert len(study.runs()) == told["runs"]


def test_a_gpu_that_joined_gets_the_published_baseline_for_four_hours(farm: Farm) -> None:
    gpu(farm)
    told, study, content = written(farm)
    recipe = study.arms()[0].recipe
    assert (told["machines"], told["left_out"]) == (["1xrtx3090"], {"cpu-x1": "a CPU, too slow for it"})
    assert recipe.model == Recipe().model
    assert (recipe.data.source, recipe.evaluation) == (Recipe().data.source, Recipe().evaluation)
    (one,) = told["hours"]
    assert (one["basis"], one["hours"]) == ("declared", pytest.approx(4, abs=0.1))
    assert "machines of the farm that are up" in flat(content)
    assert "by the declared speed of the class" in flat(content)


def test_eight_a100s_get_the_published_budget_and_so_the_published_runs(farm: Farm) -> None:
    join(farm, BUILT_IN["8xa100m40"])
    told, study, _ = written(farm)
    assert study.arms()[0].recipe == Recipe()
    assert told["baseline"]["train"]["tokens"] == PUBLISHED


def test_two_classes_share_a_study_that_the_slower_one_trains_in_time(farm: Farm) -> None:
    two_gpus_and_tokens(farm)
    told, study, _ = written(farm)
    assert told["machines"] == ["1xrtx3090", "8xa100m40"]
    assert study.arms()[0].recipe.model == Recipe().model
    assert max(one["hours"] for one in told["hours"]) < 4
    assert study.arms()[0].recipe.train.tokens <= 30_000_000


def test_a_small_gpu_gets_a_smaller_model_and_text_is_read_byte_by_byte(farm: Farm) -> None:
    small_gpu_and_text(farm)
    told, study, content = written(farm)
    recipe = study.arms()[0].recipe
    assert (recipe.model.width, recipe.model.vocab, recipe.data.tokenizer) == (384, 257, "bytes")
    assert (told["corpus"]["train"], told["corpus"]["is_shared"]) == (8_000_001, True)
    assert recipe.train.tokens <= recipe.evaluation.offset == 7_200_000
    assert "6 GiB of memory, too few for it" in flat(content)


def test_a_batch_divides_over_the_gpus_that_there_are(farm: Farm) -> None:
    five_gpus_and_shared_tokens(farm)
    _, study, content = written(farm)
    recipe = study.arms()[0].recipe
    assert recipe.train.batch % 5 == 0
    assert recipe.evaluation.split == "train", "the folder has no other"
    assert "[machines." not in content.replace("#[machines.", ""), "the farm knows the class"


def test_gpus_that_no_batch_suits_together_are_not_named_together(farm: Farm) -> None:
    seven, eleven = (NEW_GPU.model_copy(update={"name": f"{n}xb300", "accelerators": n}) for n in (7, 11))
    join(farm, NEW_GPU, seven, eleven)
    tokens(farm.folder, 5_000_000, 100_000)
    told, study, _ = written(farm)
    (name,) = told["machines"]
    assert study.arms()[0].recipe.train.batch % int(name.partition("x")[0]) == 0
    assert {"5xb300", "7xb300", "11xb300"} == {name, *told["left_out"]}


def test_a_class_that_no_farm_knows_yet_is_described_in_the_study(tmp_path: Path) -> None:
    """As on a machine with GPUs before its first `farm up`: a plan would not know them otherwise."""
    place = tokens(tmp_path, 5_000_000, 100_000)
    known = BUILT_IN | {NEW_GPU.name: NEW_GPU}
    here = Here([NEW_GPU.name], "this machine", known, strange=frozenset({NEW_GPU.name}))
    corpus = examine(str(place), tmp_path)
    chosen = choose(corpus, here.classes, known)
    content = write(Draft("s.toml", "s", here, corpus, "as asked", [], chosen))
    study = Study.parse(content)
    assert study.machine(NEW_GPU.name, {}) == NEW_GPU
    assert plans(study, BUILT_IN)
    each, every = uncommented(content)
    assert all(plans(Study.parse(version), BUILT_IN) for version in (*each, every))


def test_the_speed_that_a_run_reached_decides_the_budget(farm: Farm) -> None:
    join(farm, BUILT_IN["cpu-x1"])
    first, study, _ = written(farm)
    farm.queue.put(study)
    claim = farm.claim("cpu-x1")
    farm.queue.finish(claim.lease, result(claim.run, 2.0, epoch=claim.lease.epoch, tokens_per_second=300.0))
    again, smaller, _ = written(farm, "--force")
    assert (first["hours"][0]["basis"], again["hours"][0]["basis"]) == ("assumed", "scaled")
    assert smaller.arms()[0].recipe.model.parameters < study.arms()[0].recipe.model.parameters
    assert again["name"] == f"{first['name']}-2", "the first name is taken"


def test_prepared_tokens_come_before_all_else_and_what_else_is_there_is_named(farm: Farm) -> None:
    prepared(farm)
    tokens(farm.folder, 9_000_000, 100_000)
    told, _, content = written(farm)
    assert told["corpus"]["source"] == str(farm.folder / "made")
    assert (told["corpus"]["tokenizer"], told["corpus"]["vocab"]) == ("bytes", 257)
    assert told["others"] == [
        f"{farm.folder}/tokens: tokens, 17 MiB",
        f"{farm.folder}/a.txt: text, 3 MiB, without a validation split",
    ]
    assert all(f" also there: {other}" in flat(content) for other in told["others"])
    asked, _, _ = written(farm, "--force", "--data", "tokens")
    assert asked["corpus"]["source"] == str(farm.folder / "tokens")


def test_nothing_large_is_read_and_what_has_to_be_prepared_is_named(farm: Farm) -> None:
    """Holes in files: 40 GiB that would take minutes to read, and more disk than there is to tokenise."""
    (farm.folder / "raw").mkdir()
    for name in ("raw/000.jsonl", "train.txt"):
        with (farm.folder / name).open("wb") as file:
            file.truncate(40 * 2**30)
    told, _, content = written(farm)
    assert told["corpus"]["source"] == "builtin:python-reference"
    assert f"{farm.folder} is 40.0 GiB of text" in " ".join(told["others"])
    assert f"farm data prepare {farm.folder}/raw tokens" in flat(content)
    refused = farm("init", "--force", "--data", "train.txt")
    assert refused.code == 2
    assert f"Make tokens of it first: farm data prepare {farm.folder}/train.txt tokens" in refused.err


def test_what_only_looks_like_a_corpus_is_left_alone(farm: Farm) -> None:
    (farm.folder / "model.bin").write_bytes(bytes(range(256)) * 4000)  # weights, as any bytes
    (farm.folder / "requirements.txt").write_text("numpy\n")
    (farm.folder / "venv").mkdir()
    (farm.folder / "venv" / "pyvenv.cfg").write_text("")
    text(farm.folder, "venv/train.txt", 900_000)
    told, _, _ = written(farm)
    assert (told["corpus"]["source"], told["others"]) == ("builtin:python-reference", [])


@pytest.mark.parametrize(("train", "test"), [(51_000, 50_000), (56_000, None), (90_000, 1000)])
def test_what_is_too_little_is_passed_over_and_said(farm: Farm, train: int, test: int | None) -> None:
    tokens(farm.folder, train, test)
    told, _, _ = written(farm)
    assert told["corpus"]["source"] == "builtin:python-reference"
    assert told["others"][0].endswith("too few tokens")
    refused = farm("init", "--force", "--data", "tokens")
    assert (refused.code, "50 steps of the smallest model need 51,200" in refused.err) == (2, True)


@pytest.mark.parametrize(("train", "test"), [(51_201, 1025), (56_890, None)])
def test_what_is_just_enough_is_taken(farm: Farm, train: int, test: int | None) -> None:
    tokens(farm.folder, train, test)
    told, study, _ = written(farm)
    assert told["corpus"]["source"] == str(farm.folder / "tokens")
    assert study.arms()[0].recipe.steps == 50


def test_a_repo_is_not_fetched_to_be_looked_at(farm: Farm) -> None:
    farm.environment |= {"HF_HOME": str(farm.folder / "hf"), "HF_ENDPOINT": "http://127.0.0.1:1"}
    told, study, content = written(farm, "--data", "hf:us/texts")
    assert (told["corpus"]["train"], study.arms()[0].recipe.data.source) == (None, "hf:us/texts")
    assert "It was not looked at" in flat(content)


def test_the_light_client_writes_for_the_classes_of_farm_toml_or_else_for_a_cpu(farm: Farm) -> None:
    without = "for name in ('ray', 'torch', 'pyarrow', 'psutil'): sys.modules[name] = None"
    code = f"import sys\n{without}\nfrom cli.main import main\nmain()"
    environment = os.environ | farm.environment | {"PYTHONPATH": str(ROOT)}

    del environment["FARM_REDIS_URL"]

    def init(*words: str) -> dict:
        done = subprocess.run(
            [sys.executable, "-c", code, "init", "--json", *words], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    text(farm.folder, "book.txt", 600_000)
    guessed = init()
    assert (guessed["machines"], guessed["corpus"]["train"]) == (["cpu-x1"], 600_001)
    assert "a guess: no farm was found, and this machine cannot train" in Path("study.toml").read_text()
    (farm.folder / "farm.toml").write_text(
        '[machines.attic]\naccelerator = "RTX 4090"\nmemory = "24GiB"\ntokens_per_second = 40000\n'
    )
    assert init("--force")["machines"] == ["attic"]
    check_comments_of_settings(farm)


def check_comments_of_settings(farm: Farm) -> None:
    for version in uncommented(Path("study.toml").read_text())[0]:
        answer = farm("submit", "--dry-run", "-", reads=version)
        assert answer.code == 0, answer.err


def test_a_farm_that_does_not_answer_is_said_and_refuses_nothing(farm: Farm) -> None:
    farm.environment["FARM_REDIS_URL"] = "redis://127.0.0.1:1/0"
    answer = farm("init")
    assert answer.code == 0
    assert "warning: the farm cannot be reached" in answer.err
    assert [line.strip() for line in answer.err.splitlines()[-2:]] == [
        "farm plan study.toml",
        "farm up && farm submit study.toml --wait",
    ]


def test_the_next_two_commands_are_those_for_a_farm_that_is_up(farm: Farm) -> None:
    gpu(farm)
    said = farm("init", "a.toml").err.splitlines()
    assert said == ["a.toml: written", "  farm plan a.toml", "  farm submit a.toml --wait"]


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["none/study.toml"], 3, "the folder none does not exist. Make it first: mkdir -p none"),
        (["."], 2, ". is a folder. Name a file, such as study.toml."),
        (["-"], 2, "- is no name for a file. Name a file, such as study.toml."),
        (["there.toml"], 6, "there.toml already exists; nothing was written. Name another file, or replace this one"),
        (["--name", "My Study"], 2, "--name 'My Study' is not a valid name: 1 to 64 of a-z"),
        (["--name", "../x"], 2, "Such as --name x."),
        (["--machine", "8xb200"], 2, "unknown machine class '8xb200'"),
        (["--machine", "a+b"], 2, "--machine a+b is a mixed group."),
        (["--data", "nothing"], 3, "nothing does not exist. Name a file or folder"),
        (["--data", "odd.csv"], 2, "odd.csv is not a corpus file; expected one of"),
        (
            ["--data", "few"],
            2,
            "few has 900 tokens to train on and 300 to test on; 50 steps of the smallest model need",
        ),
        (["--data", "bad.txt"], 2, "bad.txt is not UTF-8"),
        (["--data", "broken"], 2, "it is a zip archive"),
        (["--data", "lines.jsonl", "--text-field", "body"], 2, "has no 'body'; it has text."),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_is_one_line_with_a_remedy_and_nothing_is_written(
    farm: Farm, words: list[str], code: int, says: str
) -> None:
    Path("there.toml").write_text("mine")
    Path("odd.csv").write_text("a,b")
    Path("bad.txt").write_bytes(b"caf\xe9 " * 20_000)
    Path("lines.jsonl").write_text('{"text": "a"}\n')
    tokens(farm.folder, 900, 300, name="few")
    Path("broken").mkdir()
    Path("broken/train.bin").write_bytes(b"PK\x03\x04" + bytes(100_000))
    before = sorted(Path().rglob("*"))
    answer = farm("init", *words)
    assert (answer.code, answer.out) == (code, ""), answer.err
    assert answer.err.startswith("error: ")
    assert answer.err.count("\n") == 1
    assert says in answer.err
    assert sorted(Path().rglob("*")) == before
    assert Path("there.toml").read_text() == "mine"


def test_force_replaces_the_file_and_a_folder_without_leave_is_said(farm: Farm) -> None:
    Path("study.toml").write_text("mine")
    assert farm("init", "--force").code == 0
    assert Study.load(Path("study.toml")).name == re.sub("[^a-z0-9._-]+", "-", farm.folder.name.lower()).strip("-._")


def test_a_name_that_toml_has_to_escape_is_written_as_it_is(farm: Farm) -> None:
    odd = farm.folder / 'a "b" \\ é'
    odd.mkdir()
    tokens(odd, 900_000, 90_000)
    told, study, _ = written(farm, "--data", str(odd / "tokens"))
    assert study.arms()[0].recipe.data.source == str(odd / "tokens") == told["corpus"]["source"]


def typed(farm: Farm, words: list[str], *lines: str) -> tuple[int, str]:
    """A command on a terminal, whose questions are answered in turn. Returns its exit code and all that is shown."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "cli.main", *words],
        env=os.environ | farm.environment | {"PYTHONPATH": str(ROOT), "TERM": "dumb"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    shown, answers = b"", list(lines)
    while select.select([ours], [], [], 60)[0]:
        try:
            chunk = os.read(ours, 65536)
        except OSError:  # Linux: the other side is closed
            break
        shown += chunk
        if shown.endswith(b"]: ") and answers:
            os.write(ours, answers.pop(0).encode())
    os.close(ours)
    return process.wait(30), shown.decode()


def test_a_terminal_is_asked_for_name_machines_and_data_and_asks_again(farm: Farm) -> None:
    join(farm, BUILT_IN["1xrtx3090"], BUILT_IN["8xa100m40"])
    tokens(farm.folder, 30_000_000, 1_000_000)
    text(farm.folder, "book.txt", 8_000_000)
    answers = ("Mine!\n", "mine\n", "8xh200\n", "1xrtx3090\n", "none.txt\n", "2\n")
    code, shown = typed(farm, ["init"], *answers)
    assert code == 0, shown
    study = Study.load(Path("study.toml"))
    assert (study.name, study.study.machines) == ("mine", ("1xrtx3090",))
    assert study.arms()[0].recipe.data.source == str(farm.folder / "book.txt")
    assert "a name is 1 to 64 of a-z" in shown
    assert "unknown machine class '8xh200'" in shown
    assert "none.txt does not exist" in shown


def test_every_answer_has_a_default_and_yes_asks_nothing(farm: Farm) -> None:
    code, shown = typed(farm, ["init", "a.toml"], "\n", "\n", "\n")
    assert (code, "Name of the study [a]:" in shown) == (0, True)
    code, quiet = typed(farm, ["init", "b.toml", "--yes"])
    assert (code, "]: " in quiet) == (0, False)
    assert Path("b.toml").read_text() == Path("a.toml").read_text().replace("a.toml", "b.toml").replace('"a"', '"b"')


def test_leaving_a_question_is_130_and_writes_nothing(farm: Farm) -> None:
    code, shown = typed(farm, ["init"], "\x04")
    assert (code, "error: Interrupted." in shown) == (130, True), shown
    assert not Path("study.toml").exists()
