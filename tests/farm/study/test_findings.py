"""What is refused in a study, and what a person is told: the path, the value, and the nearest right name."""

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st
from studies import CLIPPED, HEAD, THREE, faults, head

from farm.errors import BadStudy
from farm.study.study import Study

REFUSED = {
    "an unknown table": (
        HEAD + "[interventionz.a]\nmodel.dropout = 0.0",
        "interventionz: unknown key; did you mean [interventions.a]?",
    ),
    "an unknown key of the study": (head(sed="[]"), "study.sed: unknown key; did you mean 'seeds'?"),
    "an unknown key of the model": (
        HEAD + "[baseline.model]\ndropuot = 0.1",
        "baseline.model.dropuot: unknown key; did you mean 'dropout'?",
    ),
    "an unknown key of an intervention": (
        HEAD + "[interventions.a]\nmodel.dropuot = 0.1",
        "interventions.a.model.dropuot: unknown key; did you mean 'dropout'?",
    ),
    "an unknown key of a schedule": (
        HEAD + "[interventions.a]\ntrain.schedule = { warmpu = 0.1 }",
        "interventions.a.train.schedule.warmpu: unknown key; did you mean 'warmup'?",
    ),
    "an unknown key of a machine": (
        HEAD + "[machines.x]\nacelerator = 'A100'",
        "machines.x.acelerator: unknown key; did you mean 'accelerator'?",
    ),
    "an unknown key of the policy": (
        HEAD + "[policy]\nattempt = 5",
        "policy.attempt: unknown key; did you mean 'attempts'?",
    ),
    "text for a number": (
        HEAD + "[baseline.train]\nbatch = '96'",
        "baseline.train.batch: must be a whole number, not '96'; write batch = 96.",
    ),
    "a fraction for a whole number": (
        HEAD + "[baseline.train]\nbatch = 96.5",
        "baseline.train.batch: must be a whole number, not 96.5.",
    ),
    "true for a number": (
        HEAD + "[baseline.train]\nbatch = true",
        "baseline.train.batch: must be a whole number, not true.",
    ),
    "a date for a number": (
        HEAD + "[baseline.train]\nbatch = 2024-01-01",
        "baseline.train.batch: must be a whole number.",
    ),
    "text for a table": (HEAD + "[baseline]\ntrain = 'fast'", "baseline.train: must be a table, not 'fast'."),
    "a list for a table": ("baseline = [1]\n" + HEAD, "baseline: must be a table."),
    "a number for a machine": (HEAD + "[machines]\nx = 3", "machines.x: must be a table, not 3."),
    "text for a list": (
        head(machines="'cpu'"),
        "study.machines: must be a list, not 'cpu'; write machines = [\"cpu\"].",
    ),
    "NaN": (
        HEAD + "[baseline.train]\nlearning_rate = nan",
        "baseline.train.learning_rate: must be a finite number, not nan.",
    ),
    "infinity": (
        HEAD + "[baseline.train]\nlearning_rate = inf",
        "baseline.train.learning_rate: must be a finite number, not inf.",
    ),
    "a negative rate": (
        HEAD + "[baseline.train]\nlearning_rate = -4e-4",
        "baseline.train.learning_rate: must be more than 0, not -0.0004.",
    ),
    "batch 0": (HEAD + "[baseline.train]\nbatch = 0", "baseline.train.batch: must be at least 1, not 0."),
    "a batch beyond reason": (
        HEAD + "[baseline.train]\nbatch = 9999999999999999999999",
        "baseline.train.batch: must be at most 1,048,576, not 9999999999999999999999.",
    ),
    "a dropout of 1": (
        HEAD + "[baseline.model]\ndropout = 1.0",
        "baseline.model.dropout: must be less than 1, not 1.0.",
    ),
    "a precision that is none": (
        HEAD + "[baseline.train]\nprecision = 'fp8'",
        "baseline.train.precision: must be 'fp32', 'tf32', 'fp16' or 'bf16', not 'fp8'.",
    ),
    "heads that do not divide": (
        HEAD + "[interventions.a]\nmodel.heads = 5",
        "interventions.a.model: heads = 5 does not divide width = 768.",
    ),
    "one beta": (
        HEAD + "[baseline.train]\nbetas = [0.9]",
        "baseline.train.betas: has too few values; write betas = [0.9, 0.95].",
    ),
    "a name that leads elsewhere": (
        head(name="'../x'"),
        "study.name: must be 1 to 64 of a-z, 0-9, '.', '_' and '-', the first a letter or a digit, not '../x';"
        ' write name = "x".',
    ),
    "an arm's name with a blank": (
        HEAD + "[interventions.'a b']\nmodel.dropout = 0.0",
        "interventions.a b: must be 1 to 64 of a-z, 0-9, '.', '_' and '-', the first a letter or a digit, not 'a b';"
        ' write "a-b".',
    ),
    "no name": ("[study]\nmachines = ['cpu']", 'study.name: is missing; write name = "my-study" under [study].'),
    "no machines": (
        "[study]\nname = 's'",
        'study.machines: is missing; write machines = ["cpu"], or other classes that `farm machines` lists.',
    ),
    "an empty list of machines": (head(machines="[]"), "study.machines: must name at least 1."),
    "a machine twice": (head(machines="['cpu', 'cpu']"), "study.machines: names one twice."),
    "nothing at all": ("", "study: is missing; a study begins with [study] and its name, as in examples/demo.toml."),
    "seeds twice": (head(seeds="[[1, 2], [1, 2]]"), "study.seeds: names a pair twice: 1.2, 1.2."),
    "a negative seed": (
        head(seeds="[[-1, 2]]"),
        "study.seeds: [-1, 2] is not a pair of whole numbers from 0 to 2**63 - 1.",
    ),
    "one seed alone": (head(seeds="[[1]]"), "study.seeds: [1] is not an [init, train] pair."),
    "no seeds": (head(seeds="{ init = [], train = [1] }"), "study.seeds: must name at least one (init, train) pair."),
    "a seed that is no list": (
        head(seeds="{ init = 1 }"),
        "study.seeds: must be { init = [...], train = [...] } or a list of [init, train] pairs;"
        " write seeds = { init = [1] }.",
    ),
    "a change of nothing": (
        HEAD + "[interventions.a]\nmodel.dropout = 0.1",
        "interventions.a: changes nothing, every value is the baseline's already.",
    ),
    "a change of how it is watched": (
        HEAD + "[interventions.a]\nevaluation.every = 100",
        "interventions.a: changes only how training is watched, which changes no loss; write it in [baseline].",
    ),
    "an intervention called baseline": (
        HEAD + "[interventions.baseline]\nmodel.dropout = 0.0",
        "interventions.baseline: the baseline is not an intervention.",
    ),
    "a fight over a field": (
        HEAD
        + "[interventions.a]\nmodel.dropout = 0.0\n[interventions.b]\nmodel.dropout = 0.2\n[stacks]\nx = ['a', 'b']",
        "arm x: 'a' sets model.dropout = 0.0 and 'b' sets it to 0.2; leave one out.",
    ),
    "a fight over a nested field": (
        head(design="'stack'")
        + "[interventions.a]\ntrain.schedule = { warmup = 0.1 }\n[interventions.b]\ntrain.schedule = { warmup = 0.2 }",
        "arm plus-b: 'a' sets train.schedule.warmup = 0.1 and 'b' sets it to 0.2; leave one out.",
    ),
    "a score that no evaluation makes": (
        head(score="'wikki'") + "[evaluations.wiki]\nsource = '/wiki'",
        "study.score: no evaluation 'wikki'; did you mean 'wiki'?",
    ),
    "an evaluation with the name of the test": (
        HEAD + "[evaluations.test_loss]\noffset = 0",
        "evaluations.test_loss: is the test that every arm has; write [baseline.evaluation].",
    ),
    "an evaluation that is the test again": (
        HEAD + "[evaluations.wiki]\nsequences = 19_200",
        "evaluations.wiki: scores what test_loss does; leave one out.",
    ),
    "an evaluation twice": (
        HEAD + "[evaluations.wiki]\noffset = 0\n[evaluations.web]\noffset = 0",
        "evaluations.web: scores what wiki does; leave one out.",
    ),
    "an evaluation longer than an arm looks back": (
        HEAD + "[interventions.a]\nmodel.context = 512\n[evaluations.wiki]\ncontext = 1024",
        "evaluations.wiki.context: 1024 is longer than model.context = 512 of arm a.",
    ),
    "an evaluation of no corpus": (
        HEAD + "[evaluations.wiki]\nsource = 'builtin:wiki'",
        "evaluations.wiki.source = 'builtin:wiki' is not a valid corpus source."
        " Use 'builtin:python-reference', 'hf:OWNER/NAME', 's3://BUCKET/PREFIX', or a full path that every node sees.",
    ),
    "a revision without its source": (
        HEAD + "[evaluations.wiki]\nrevision = 'v1'",
        "evaluations.wiki: revision belongs to source, which is not set; set both.",
    ),
    "an evaluation's unsafe name": (
        HEAD + "[evaluations.'../wiki']\noffset = 0",
        "evaluations.../wiki: must be 1 to 64 of a-z, 0-9, '.', '_' and '-', the first a letter or a digit,"
        " not '../wiki'; write \"wiki\".",
    ),
    "an evaluation's negative offset": (
        head(score="'wiki'") + "[evaluations.wiki]\noffset = -1",
        "evaluations.wiki.offset: must be at least 0, not -1.",
    ),
    "an evaluation's misspelt key": (
        HEAD + "[evaluations.wiki]\nsequence = 5",
        "evaluations.wiki.sequence: unknown key; did you mean 'sequences'?",
    ),
    "evaluations as others call them": (
        HEAD + "[benchmarks.wiki]\nsource = '/wiki'",
        "benchmarks: unknown key; did you mean [evaluations]?",
    ),
    "a stack of strangers": (
        HEAD + THREE + "[stacks]\nx = ['aa']",
        "stacks.x: no intervention 'aa'; did you mean 'a'?",
    ),
    "a stack with the name of an arm": (
        HEAD + THREE + "[stacks]\na = ['b', 'c']",
        "stacks.a: another arm has that name already.",
    ),
    "a size in words": (
        HEAD + "[machines.x]\nmemory = '40 gigs'",
        'machines.x.memory: must be bytes, or a size such as "40GiB", not \'40 gigs\'; write memory = "40GiB".',
    ),
    "a design that is none": (
        head(design="'grid'"),
        "study.design: must be 'one-at-a-time', 'stack', 'leave-one-out', 'factorial' or 'fraction', not 'grid';"
        ' write design = "factorial".',
    ),
    "too large a factorial": (
        head(design="'factorial'") + "".join(f"[interventions.a{i}]\ntrain.eps = {i + 1}e-7\n" for i in range(13)),
        "study.design: factorial over 13 interventions is 8,192 arms; name at most 12.",
    ),
    "too many runs": (
        head(seeds=f"{{ init = {list(range(101))}, train = {list(range(100))} }}"),
        "10,100 runs; a study has at most 10,000; split it.",
    ),
    "more tokens than there are": (
        HEAD + "[baseline.train]\ntokens = 1" + "0" * 400,
        f"baseline.train.tokens: must be at most 1,000,000,000,000,000, not 1{'0' * 56}...",
    ),
    "a table without end": (
        HEAD + f"[interventions.x]\nmodel.{'.'.join('a' * 5000)} = 1",
        "interventions.x.model.a: unknown key; known: context, dropout, heads, init, initializer, layers, qkv_bias,"
        " tie_weights, vocab, vocab_multiple, width.",
    ),
    "what is not TOML": ("name =", "not TOML: Invalid value (at end of document). See examples/demo.toml."),
    "a corpus that no node has": (
        HEAD + "[baseline.data]\nsource = 'tokens/here'",
        "arm baseline: data.source = 'tokens/here' is not a valid corpus source; write source = \"hf:tokens/here\""
        " for a dataset of Hugging Face."
        " Use 'builtin:python-reference', 'hf:OWNER/NAME', 's3://BUCKET/PREFIX', or a full path that every node sees.",
    ),
    "a built-in corpus that is none": (
        HEAD + "[interventions.x]\ndata.source = 'builtin:shakespeare'",
        "arm x: data.source = 'builtin:shakespeare' is not a valid corpus source."
        " Use 'builtin:python-reference', 'hf:OWNER/NAME', 's3://BUCKET/PREFIX', or a full path that every node sees.",
    ),
    "a table twice": (
        HEAD + HEAD,
        "not TOML: Cannot declare ('study',) twice (at line 4, column 7): [study]; it is in the file already: "
        "leave one out. See examples/demo.toml.",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_bad_study_is_refused_in_words(what: str) -> None:
    text, words = REFUSED[what]
    with pytest.raises(BadStudy) as caught:
        Study.parse(text, "study.toml")
    assert str(caught.value) == f"study.toml: {words}"
    assert caught.value.exit_code == 2


ALL_AT_ONCE = """
[study]
name = "My Study"
machines = ["cpu"]
seeds = 3
[baseline.model]
dropout = 10
[baseline.train]
lr = 1e-3
[baseline.data]
source = "./tokens.bin"
[interventions.heads]
model.heads = 5
[interventions.nothing]
train.clip_grad_norm = nan
[interventions.also-nothing]
train.clip_grad_norm = nan
[interventions.precise]
train.precision = "fp8"
train.eps = 0
[stacks]
both = ["nothing", "also-nothing"]
unknown = ["heads", "preciser"]
[policy]
attempts = 0
"""


def test_all_faults_are_told_at_once_and_one_does_not_hide_or_make_another() -> None:
    told = faults(ALL_AT_ONCE)
    assert [line.split(":")[0] for line in told] == [
        "study.name",
        "study.seeds",
        "policy.attempts",
        "baseline.model.dropout",
        "baseline.train.lr",
        "interventions.nothing.train.clip_grad_norm",
        "interventions.also-nothing.train.clip_grad_norm",
        "interventions.precise.train.eps",
        "interventions.precise.train.precision",
        "stacks.unknown",
        "arm baseline",
    ]
    mended = ALL_AT_ONCE.replace("My Study", "s").replace("seeds = 3", "").replace("dropout = 10", "dropout = 0.1")
    mended = mended.replace("lr =", "learning_rate =").replace("attempts = 0", "").replace("nan", "1.0", 1)
    mended = mended.replace("nan", "2.0").replace("fp8", "fp32").replace("eps = 0", "eps = 1e-9")
    assert [line.split(":")[0] for line in faults(mended)] == [
        "interventions.heads.model",
        "arm both",
        "stacks.unknown",
        "arm baseline",
    ], "what could not be judged before: how values go together"


def test_an_error_of_many_faults_is_one_line_where_one_is_asked_for() -> None:
    with pytest.raises(BadStudy) as caught:
        Study.parse(ALL_AT_ONCE, "s.toml")
    assert str(caught.value).startswith("s.toml: study.name: must be 1 to 64")
    assert str(caught.value).endswith("(and 10 more)")
    assert pickle.loads(pickle.dumps(caught.value)).lines == caught.value.lines


def test_no_more_faults_are_told_than_a_person_reads() -> None:
    told = faults(HEAD + "".join(f"[interventions.a{i}]\nmodel.heads = {i + 1}.5\n" for i in range(100)))
    assert told[29:] == ["interventions.a29.model.heads: must be a whole number, not 30.5.", "70 more faults."]


def test_tables_that_do_not_go_together_are_told_of_the_arm() -> None:
    too_long = "evaluation.context = 2048 is longer than model.context = 1024."
    assert faults(HEAD + "[baseline.evaluation]\ncontext = 2048\n") == [f"baseline: {too_long}"]
    assert faults(HEAD + "[interventions.a]\nevaluation.context = 2048\n") == [f"interventions.a: {too_long}"]
    both = "[interventions.a]\nevaluation.context = 1024\n[interventions.b]\nmodel.context = 64\n"
    assert faults(head(design="'leave-one-out'") + both) == [
        "stacks.all: evaluation.context = 1024 is longer than model.context = 64."
    ]


def test_a_corpus_that_none_can_have_is_told_of_training_and_of_the_test() -> None:
    text = HEAD + "[baseline.data]\nsource = 'x'\n[interventions.a]\nevaluation.source = 'y'\n"
    assert [line.split(" is not")[0] for line in faults(text)] == [
        "arm baseline: data.source = 'x'",
        "arm a: evaluation.source = 'y'",
    ]


def test_two_arms_with_one_fault_tell_it_once() -> None:
    shared = "[interventions.h]\nmodel.heads = 5\n[interventions.d]\nmodel.dropout = 0.0\n"
    fight = "[interventions.e]\nmodel.dropout = 0.2\n"
    assert faults(head(design="'factorial'") + shared) == [
        "interventions.h.model: heads = 5 does not divide width = 768."
    ]
    assert len(faults(head(design="'factorial'") + fight + shared)) == 2


@given(st.sets(st.sampled_from(range(11)), min_size=1))
def test_each_fault_is_told_whatever_else_is_wrong(chosen: set[int]) -> None:
    """Of faults that do not hide each other, every subset is told in full."""
    pieces = [
        ("study", "seeds = 3", "study.seeds"),
        ("study", "sed = 1", "study.sed"),
        ("baseline.model", "dropout = 10", "baseline.model.dropout"),
        ("baseline.train", "batch_size = 4", "baseline.train.batch_size"),
        ("baseline.train.schedule", "warmup = 5", "baseline.train.schedule.warmup"),
        ("interventions.a.train", "lr = 1", "interventions.a.train.lr"),
        ("interventions.a.model", "heads = 2.5", "interventions.a.model.heads"),
        ("interventions.b", "dropout = 1", "interventions.b.dropout"),
        ("machines.m", "memory = '3'", "machines.m.memory"),
        ("policy", "attempts = 0", "policy.attempts"),
        ("arms", "x = 1", "arms"),
    ]
    tables: dict[str, list[str]] = {"study": ["name = 's'", "machines = ['cpu']"]}
    for index in sorted(chosen):
        table, entry, _ = pieces[index]
        tables.setdefault(table, []).append(entry)
    text = "".join(f"[{table}]\n" + "\n".join(entries) + "\n" for table, entries in tables.items())
    assert {line.split(":")[0] for line in faults(text)} == {pieces[index][2] for index in chosen}


def test_a_stack_does_not_both_set_and_unset_a_field() -> None:
    text = CLIPPED + "[interventions.a]\ntrain.clip_grad_norm = 'none'\n[interventions.b]\ntrain.clip_grad_norm = 2.0\n"
    assert faults(text + "[stacks]\nab = ['a', 'b']\n") == [
        "arm ab: 'a' sets train.clip_grad_norm = 'none' and 'b' sets it to 2.0; leave one out."
    ]


def test_nan_is_refused_as_nan_also_in_a_stack() -> None:
    text = CLIPPED + "[interventions.a]\ntrain.clip_grad_norm = nan\n[interventions.b]\ntrain.clip_grad_norm = nan\n"
    assert faults(head(design="'stack'") + text.removeprefix(HEAD) + "[stacks]\nab = ['a', 'b']\n") == [
        f"interventions.{name}.train.clip_grad_norm: must be a finite number, not nan." for name in "ab"
    ]
