"""What `farm import` reads: rows of losses and run folders, and how it refuses what makes no sense."""

import json
from pathlib import Path
from typing import Any

import pytest

from farm.errors import BadImport, Conflict
from farm.imports import harness, importing, rows
from farm.record.imported import Imported, ImportedRun
from farm.study.recipe import Recipe, Schedule, Seeds
from farm.study.study import Study

HEAD = "arm,machine,init_seed,train_seed,test_loss"
MODEL = {
    "vocab_size": 50257,
    "context_length": 1024,
    "emb_dim": 768,
    "n_heads": 12,
    "n_layers": 12,
    "drop_rate": 0.1,
    "qkv_bias": False,
}
TRAIN = {
    "microbatch_size": 12,
    "checkpoint_interval": 617,
    "dataset": "gpjt/fineweb-gpt2-tokens",
    "min_train_tokens": 3_260_190_720,
    "start_train_token": 0,
    "start_val_token": 0,
}


def written(folder: Path, text: str, name: str = "losses.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def run_folder(root: Path, name: str, model: dict[str, Any] | None = None, **train: Any) -> Path:
    path = root / "runs" / name
    path.mkdir(parents=True)
    (path / "model.json").write_text(json.dumps(MODEL | (model or {})), encoding="utf-8")
    (path / "train.json").write_text(json.dumps(TRAIN | train), encoding="utf-8")
    return path


# Rows


def test_a_row_says_what_it_says_and_nothing_else(tmp_path: Path) -> None:
    text = f"{HEAD},hours,usd\nbaseline,8xa100m40,42,23,3.69,3.4,\nqkv-bias,8xa100m40,,23,3.67,,50\n"
    one, other = rows.read(written(tmp_path, text)).runs
    assert (one.seeds, one.test_loss, one.hours, one.usd) == (Seeds(init=42, train=23), 3.69, 3.4, None)
    assert (one.tokens, one.tokens_per_second, one.recipe) == (None, None, None)
    assert (other.init_seed, other.train_seed, other.seeds, other.usd) == (None, 23, None, 50.0)
    assert one.source.endswith("losses.csv:2")
    assert one.id.startswith("imported-8xa100m40-baseline-s42.23-")


def test_json_says_the_same_as_csv(tmp_path: Path) -> None:
    csv = rows.read(written(tmp_path, f"{HEAD},tokens\nbaseline,m,42,23,3.69,1000\nx,m,,,3.5,\n")).runs
    listed = [
        {"arm": "baseline", "machine": "m", "init_seed": 42, "train_seed": 23, "test_loss": 3.69, "tokens": 1000},
        {"arm": "x", "machine": "m", "init_seed": None, "train_seed": None, "test_loss": 3.5},
    ]
    for name, text in (
        ("a.json", json.dumps(listed, indent=1)),
        ("a.jsonl", "\n".join(map(json.dumps, listed))),
        ("b.json", json.dumps(listed)),
    ):
        found = rows.read(written(tmp_path, text, name)).runs
        assert [run.id for run in found] == [run.id for run in csv]
        assert [run.tokens for run in found] == [1000, None]
    assert rows.read(tmp_path / "a.json").runs[1].source.endswith("a.json:10")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("arm,machine,init_seed,train_seed\nb,m,1,2\n", "losses.csv:1: column test_loss is missing"),
        (f"{HEAD},arm\nb,m,1,2,3,b\n", "losses.csv:1: column arm is there twice."),
        (f"{HEAD}\nb,m,1,2,low\n", "losses.csv:2: column test_loss: 'low' is not a number."),
        (f'{HEAD}\nb,m,1,2,"3,69"\n', "losses.csv:2: column test_loss: '3,69' is not a number; write 3.69."),
        (f"{HEAD}\nb,m,1,2,1_0\n", "losses.csv:2: column test_loss: '1_0' is not a number."),
        (f"{HEAD}\nb,m,1,2,nan\n", "losses.csv:2: column test_loss: nan is not finite."),
        (f"{HEAD}\nb,m,1,2,-inf\n", "losses.csv:2: column test_loss: -inf is not finite."),
        (f"{HEAD}\nb,m,1,2,1e999\n", "losses.csv:2: column test_loss: 1e999 is not finite"),
        (f"{HEAD}\nb,m,1,2,-3\n", "losses.csv:2: column test_loss: -3.0: must be greater than or equal to 0."),
        (f"{HEAD}\nb,m,1,2,\n", "losses.csv:2: column test_loss: is empty."),
        (f"{HEAD}\nb,m,1.5,2,3\n", "losses.csv:2: column init_seed: 1.5 is not a whole number."),
        (f"{HEAD}\nb,m,-1,2,3\n", "losses.csv:2: column init_seed: -1: must be greater than or equal to 0."),
        (
            f"{HEAD}\nb,m,1,2,3\n\nb,m,1,2,3.1\n",
            "losses.csv:4: column init_seed: the same arm, machine and seeds as line 2",
        ),
        (f"{HEAD}\nb,m,,2,3\nb,m,,2,3\n", "losses.csv:3: column test_loss: the same arm, machine and loss as line 2"),
        (f"{HEAD}\nNo Name,m,1,2,3\n", "losses.csv:2: column arm: 'No Name': must be 1 to 64 of a-z"),
        (f"{HEAD}\nb,m,1,2\n", "losses.csv:2: column test_loss is missing: the line has 4 cells and the header 5."),
        (f"{HEAD}\nb,m,1,2,3,4\n", "losses.csv:2: column 6 has no name in the header"),
        (f'{HEAD}\nb,"m,1,2,3\n', "losses.csv:2: is not CSV (unexpected end of data). Is a quotation mark not closed?"),
        (HEAD.replace(",", ";") + "\nb;m;1;2;3\n", "losses.csv:1: its columns are separated by ';'. Separate them by"),
        (f"{HEAD}\nb,m,1,2,1e300\n", "losses.csv:2: column test_loss: 1e+300: must be less than or equal to 1000000."),
        (f"{HEAD},hours\nb,m,1,2,3,1e300\n", "losses.csv:2: column hours: 1e+300: must be less than or equal to"),
        (HEAD, "losses.csv: holds no row."),
        ("", "losses.csv:1: column arm is missing"),
    ],
)
def test_what_is_wrong_with_a_csv_is_told_with_file_line_and_column(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(BadImport) as refused:
        rows.read(written(tmp_path, text))
    assert says in str(refused.value)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ('{"arm": "b"}', "a.json:2: column machine is missing."),
        ('{"arm": "b", "arm": "c"}', "a.json:2: column arm is there twice."),
        ("[1]", "a.json:2: is not an object"),
        ('{"arm": b}', "a.json:2: is not JSON at column 9"),
        (
            '{"arm":"b","machine":"m","init_seed":1,"train_seed":2,"test_loss":NaN}',
            "a.json:2: column test_loss: nan is not",
        ),
        ('{"arm":"b","machine":"m","init_seed":1,"train_seed":2,"test_loss":true}', "test_loss: true is not a number."),
        ('{"arm":"b","machine":"m","init_seed":1,"train_seed":2,"test_loss":"x"}', "test_loss: 'x' is not a number."),
        ('{"arm":"b","machine":"m","init_seed":1.0,"train_seed":0.5,"test_loss":3}', "train_seed: 0.5 is not a whole"),
        (
            '{"arm":3,"machine":"m","init_seed":1,"train_seed":2,"test_loss":3}',
            "a.json:2: column arm: 3: must be a valid",
        ),
    ],
)
def test_what_is_wrong_with_json_is_told_likewise(tmp_path: Path, row: str, says: str) -> None:
    with pytest.raises(BadImport) as refused:
        rows.read(written(tmp_path, f"[\n{row}\n]", "a.json"))
    assert says in str(refused.value)


def test_every_fault_has_a_line_and_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadImport) as refused:
        rows.read(written(tmp_path, f"{HEAD}\nb,m,x,2,3\nb,m,1,2,y\n"))
    assert [line.split(": ")[1] for line in refused.value.lines] == ["column init_seed", "column test_loss"]
    (tmp_path / "latin.csv").write_bytes(f"{HEAD}\n\xe9".encode("latin-1"))
    with pytest.raises(BadImport, match=r":2: is not UTF-8"):
        rows.read(tmp_path / "latin.csv")
    for name, says in (("none.csv", "No such file or directory"), ("study.toml", "is none of .csv, .json, .jsonl")):
        (tmp_path / "study.toml").touch()
        with pytest.raises(BadImport, match=says):
            importing.read([tmp_path / name])


def test_faults_of_both_kinds_in_one_row_are_told_at_once(tmp_path: Path) -> None:
    """A cell that is no number, and a number that is out of range."""
    with pytest.raises(BadImport) as refused:
        rows.read(written(tmp_path, f"{HEAD},hours,usd,tokens\nNo,m,1,2,low,-1,-2,1.5\n"))
    assert len(refused.value.lines) == 5, refused.value.lines
    for column in ("arm: 'No'", "test_loss: 'low'", "hours: -1.0", "usd: -2.0", "tokens: 1.5"):
        assert f"losses.csv:2: column {column}" in " ".join(refused.value.lines)


def test_a_byte_order_mark_windows_lines_and_other_columns_do_no_harm(tmp_path: Path) -> None:
    text = f"\ufeff{HEAD},remark\r\nbaseline,m,42,23, 3.69 ,ours\r\n"
    found = rows.read(written(tmp_path, text))
    assert [run.test_loss for run in found.runs] == [3.69]
    assert found.unread == ("remark",)


# Twice is once


def test_twice_is_once_and_a_second_source_adds_what_the_first_did_not_say() -> None:
    first = ImportedRun(arm="a", machine="m", init_seed=1, train_seed=2, test_loss=3.0, source="one:2")
    again = first.model_copy(update={"hours": 2.0, "source": "two:2"})
    whole, new, known = Imported(study="s").join([first]).whole.join([again])
    assert (new, known) == ((), (first.id,))
    assert [(run.hours, run.source) for run in whole.runs] == [(2.0, "one:2")]
    other = first.model_copy(update={"test_loss": 3.1, "source": "two:2"})
    with pytest.raises(Conflict, match=r"test_loss is 3\.0 by one:2 and 3\.1 by two:2"):
        whole.join([other])
    assert whole.join([other.model_copy(update={"rerun": 1})]).new


# Run folders


def test_the_published_baseline_is_the_farms(tmp_path: Path) -> None:
    run_folder(tmp_path, "8xa100m40-baseline")
    run_folder(tmp_path, "1xrtx3090-baseline", microbatch_size=6, gradient_accumulation_steps=16)
    for folder in harness.read(tmp_path):
        assert folder.recipe == Recipe(), "batch = microbatch x accumulators x GPUs, and its defaults are the farm's"
        assert (folder.arm, folder.init_seed) == ("baseline", 42)


def test_every_field_comes_over(tmp_path: Path) -> None:
    model = {"vocab_size": 300, "context_length": 64, "emb_dim": 32, "n_heads": 4, "n_layers": 3, "drop_rate": 0.0}
    run_folder(
        tmp_path,
        "2xa100-everything.at_once",
        model | {"qkv_bias": True, "tie_weights": True},
        microbatch_size=5,
        gradient_accumulation_steps=3,
        validation_interval=10,
        validation_batches=2,
        dataset="someone/corpus",
        min_train_tokens=1_000_000,
        clipping_max_norm=3.5,
        weight_decay=0.01,
        learning_rate=0.0014,
        schedule_learning_rate=True,
        warmup_period_percent=7,
        use_amp=False,
    )
    (folder,) = harness.read(tmp_path / "runs")
    recipe = folder.recipe
    assert recipe is not None
    assert (folder.machine, folder.arm) == ("2xa100", "everything.at_once")
    assert recipe.model.model_dump(include={"vocab", "context", "width", "heads", "layers", "dropout"}) == {
        "vocab": 300,
        "context": 64,
        "width": 32,
        "heads": 4,
        "layers": 3,
        "dropout": 0.0,
    }
    assert recipe.model.qkv_bias
    assert recipe.model.tie_weights
    train = recipe.train
    assert (train.batch, train.tokens, train.learning_rate, train.weight_decay) == (30, 1_000_000, 0.0014, 0.01)
    assert (train.clip_grad_norm, train.precision) == (3.5, "fp32")
    assert train.schedule == Schedule(kind="warmup-cosine", warmup=0.07, floor=0.1)
    assert recipe.data.source == "hf:someone/corpus"
    assert any("validation_interval, validation_batches" in note for note in folder.notes)


@pytest.mark.parametrize(
    ("model", "train", "says"),
    [
        ({"moe": {"num_experts": 6}}, {}, "model.json: moe: a mixture-of-experts layer cannot be expressed"),
        ({"rope": True}, {}, "model.json: rope: cannot be expressed"),
        ({}, {"optimizer": "muon"}, "train.json: optimizer: cannot be expressed"),
        ({}, {"start_train_token": 5}, "train.json: start_train_token: "),
        ({}, {"min_train_tokens": -1}, "train.json: min_train_tokens: -1"),
        ({"n_heads": 5}, {}, "heads = 5 does not divide width = 768"),
        ({"drop_rate": 2}, {}, "dropout"),
        ({}, {"microbatch_size": "12"}, "must be whole numbers"),
        ({}, {"schedule_learning_rate": True, "warmup_period_percent": "5"}, "warmup_period_percent"),
    ],
)
def test_what_cannot_be_expressed_is_listed(tmp_path: Path, model: dict, train: dict, says: str) -> None:
    run_folder(tmp_path, "8xa100m40-baseline")
    path = run_folder(tmp_path, "8xa100m40-strange", model, **train)
    found = importing.read([tmp_path], "s")
    (note,) = found.left_out
    assert note.source == str(path)
    assert says in note.text
    assert "strange" not in found.study


def test_folders_without_a_machine_an_arm_or_their_files_are_listed(tmp_path: Path) -> None:
    run_folder(tmp_path, "original")
    run_folder(tmp_path, "8xa100m40")
    (run_folder(tmp_path, "8xa100m40-torn") / "model.json").write_text("{", encoding="utf-8")
    (run_folder(tmp_path, "8xa100m40-lacking") / "train.json").write_text("{}", encoding="utf-8")
    with pytest.raises(BadImport) as refused:
        importing.read([tmp_path], "s")
    assert len(refused.value.lines) == 4, "where nothing is left, it is refused, and says why of each"
    run_folder(tmp_path, "8xa100m40-baseline")
    told = {Path(note.source).name: note.text for note in importing.read([tmp_path], "s").left_out}
    assert "does not begin with a machine" in told["original"]
    assert "no arm after the machine" in told["8xa100m40"]
    assert "model.json is not JSON" in told["8xa100m40-torn"]
    assert "train.json lacks microbatch_size, dataset, min_train_tokens" in told["8xa100m40-lacking"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadImport, match="holds no run folder"):
        importing.read([tmp_path / "empty"])


def test_a_checkpoint_says_that_a_run_has_not_finished(tmp_path: Path) -> None:
    path = run_folder(tmp_path, "8xa100m40-baseline") / "checkpoints"
    for name, step in (("first", 616), ("latest", 1233)):
        (path / name).mkdir(parents=True)
        (path / name / "meta.json").write_text(json.dumps({"global_step": step}), encoding="utf-8")
    (note,) = [text for text in harness.read(tmp_path)[0].notes if "checkpoint is at" in text]
    assert note == "its newest checkpoint is at step 1,234 of 33,165: it has not finished"


def test_the_study_file_trains_what_was_imported(tmp_path: Path) -> None:
    """Recipes of folders, losses of rows: the baseline again is the baseline; two recipes of one name are two arms."""
    run_folder(tmp_path, "8xa100m40-baseline", clipping_max_norm=1.0)
    run_folder(tmp_path, "8xa100m40-baseline-2", clipping_max_norm=1.0)
    run_folder(tmp_path, "8xa100m40-no-clipping")
    run_folder(tmp_path, "8xa100m80-no-clipping", use_amp=False, clipping_max_norm=1.0)
    losses = f"{HEAD}\nbaseline,8xa100m40,42,23,3.69\nno-clipping,8xa100m40,42,23,3.68\nqkv-bias,8xa100m40,1,,3.67\n"
    found = importing.read([tmp_path, written(tmp_path, losses)], "ours")
    built = Study.parse(found.study)
    arms = {arm.name: arm for arm in built.arms()}
    assert (built.name, built.study.machines, built.study.seeds) == (
        "ours",
        ("8xa100m40",),
        (Seeds(init=42, train=23),),
    )
    assert arms.keys() == {"baseline", "no-clipping", "no-clipping-8xa100m80"}
    assert arms["baseline"].recipe == Recipe().with_patch({"train": {"clip_grad_norm": 1.0}})
    assert arms["no-clipping"].recipe == Recipe()
    assert arms["no-clipping-8xa100m80"].machines == ("8xa100m80",)
    assert arms["no-clipping-8xa100m80"].recipe.train.precision == "fp32"
    assert any("counts as another run of the baseline" in note.text for note in found.notes)
    assert "# [interventions.qkv-bias]" in found.study
    recipes = {run.arm: run.recipe for run in found.runs}
    assert recipes == {"baseline": arms["baseline"].recipe, "no-clipping": Recipe(), "qkv-bias": None}


def test_losses_alone_name_arms_and_no_recipe(tmp_path: Path) -> None:
    found = importing.read([written(tmp_path, f"{HEAD}\nbaseline,m,,,3.69\nqkv-bias,m,,,3.67\n", "Our Losses.csv")])
    assert found.name == "our-losses"
    assert [arm.name for arm in Study.parse(found.study).arms()] == ["baseline"]
    assert "# [interventions.qkv-bias]" in found.study
