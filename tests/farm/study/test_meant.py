"""Near misses: what somebody types who comes from nanoGPT, transformers, torch, YAML or Python, and the right form."""

import pytest

from farm.errors import BadStudy
from farm.study import meant
from farm.study.faults import inner_model
from farm.study.machine import Machine
from farm.study.meant import paths
from farm.study.recipe import Recipe
from farm.study.study import Study

HEAD = '[study]\nname = "s"\nmachines = ["cpu"]\n'
TRAIN, MODEL, DATA = (f"{HEAD}[baseline.{table}]\n" for table in ("train", "model", "data"))


def told(text: str) -> str:
    """All that is wrong, without the file's name."""
    with pytest.raises(BadStudy) as caught:
        Study.parse(text, "s.toml")
    return " | ".join(line.removeprefix("s.toml: ") for line in caught.value.lines)


SEEDS = {
    "[1, 2, 3]": "write seeds = { init = [1, 2, 3] }.",
    "3": "not 3; write seeds = { init = [3] }.",
    "[42, 23]": "write seeds = { init = [42, 23] }, or [[42, 23]] for one pair.",
    '"1, 2"': "write seeds = { init = [1, 2] }, or [[1, 2]] for one pair.",
    "{ init = 3 }": "write seeds = { init = [3] }.",
    "{ init = [1], train = 2 }": "write seeds = { init = [1], train = [2] }.",
}


@pytest.mark.parametrize("typed", SEEDS)
def test_seeds(typed: str) -> None:
    assert told(f"{HEAD}seeds = {typed}").endswith(SEEDS[typed])


# What stands behind `key = ` in [baseline.train], and what is told of it.
VALUES = {
    'tokens = "300k"': "write tokens = 300_000.",
    'tokens = "3e9"': "write tokens = 3_000_000_000.",
    "tokens = 3e9": "write tokens = 3_000_000_000.",
    'tokens = "1,000,000"': "write tokens = 1_000_000.",
    'tokens = "2.5B"': "write tokens = 2_500_000_000.",
    'tokens = "3.3 million"': "write tokens = 3_300_000.",
    "tokens = 1.5": "must be a whole number, not 1.5.",
    'tokens = "1e400"': "must be a whole number, not '1e400'.",
    'batch = "96"': "write batch = 96.",
    'learning_rate = "4e-4"': "write learning_rate = 0.0004.",
    'schedule = "cosine"': 'write schedule = { kind = "warmup-cosine", warmup = 0.05, floor = 0.1 }.',
    'schedule = "linear"': 'write schedule = { kind = "warmup-linear", warmup = 0.05, floor = 0.1 }.',
    'schedule = "constant"': 'write schedule = { kind = "constant" }.',
    'schedule = { kind = "cosine" }': 'write kind = "warmup-cosine".',
    'schedule = { type = "cosine" }': "did you mean 'kind'?",
    "schedule = { warmup = 5 }": "it is a share of all steps: 0.05 for 5 %.",
    'schedule = { warmup = "5%" }': "it is a share of all steps: 0.05 for 5 %.",
    "schedule = { warmup_steps = 500 }": "write train.schedule.warmup, a share of all steps.",
    "schedule = { min_lr = 1e-5 }": "write train.schedule.floor, a share of the peak.",
    "schedule = { floor = 10 }": "for 10 % write floor = 0.1.",
    'precision = "float16"': 'write precision = "fp16".',
    'precision = "torch.bfloat16"': 'write precision = "bf16".',
    'precision = "16-mixed"': 'write precision = "fp16".',
    "precision = 32": 'write precision = "fp32".',
    "betas = 0.9": "write betas = [0.9, 0.95].",
    "betas = [0.9]": "write betas = [0.9, 0.95].",
    'clip_grad_norm = "off"': 'write clip_grad_norm = "none".',
    "clip_grad_norm = 0": 'write clip_grad_norm = "none".',
    "clip_grad_norm = false": 'write clip_grad_norm = "none".',
    "clip_grad_norm = -1": "must be more than 0, not -1.",
    'weight_decay = "none"': "write weight_decay = 0.0.",
    'compile = "yes"': "write compile = true.",
    "compile = 1": "write compile = true.",
    'compile = "automatic"': "must be 'auto', true or false, not 'automatic'; write compile = \"auto\".",
    'decay = "no_bias"': 'write decay = "matrices".',
    'reduction = "deterministic"': 'write reduction = "canonical".',
}


@pytest.mark.parametrize("typed", VALUES)
def test_values(typed: str) -> None:
    assert told(TRAIN + typed).endswith(VALUES[typed])


OTHER_VALUES = {
    MODEL + "dropout = 10": "must be less than 1, not 10; for 10 % write dropout = 0.1.",
    MODEL + 'dropout = "10%"': "write dropout = 0.1.",
    MODEL + "dropout = 1": "must be less than 1, not 1.",
    MODEL + 'tie_weights = "true"': "write tie_weights = true.",
    MODEL + "layers = 12.0": "write layers = 12.",
    DATA + 'order = "random"': 'write order = "shuffled".',
    DATA + 'source = "openai/webtext"': 'write source = "hf:openai/webtext" for a dataset of Hugging Face. Use',
    DATA + 'source = "https://huggingface.co/datasets/a/b"': 'write source = "hf:a/b" for a dataset of Hugging',
    DATA + 'source = "./tokens"': '/tokens". Use',
    HEAD.replace('["cpu"]', '"cpu"'): 'write machines = ["cpu"].',
    HEAD.replace('["cpu"]', '"cpu, cpu-x1"'): 'write machines = ["cpu", "cpu-x1"].',
    HEAD.replace('"s"', '"My Study"'): 'write name = "my-study".',
    HEAD + 'design = "grid"': 'write design = "factorial".',
    HEAD + '[policy]\nusd_limit = "$5"': "write usd_limit = 5.0.",
    HEAD + "[policy]\nusd_limit = 0": "policy.usd_limit: must be more than 0, not 0.",
    HEAD + '[policy]\nusd_limit = "off"': 'write usd_limit = "none".',
    HEAD + '[policy]\ncheckpoint_seconds = "10 min"': "write checkpoint_seconds = 600.0.",
    HEAD + '[machines.x]\nmemory = "24"': 'write memory = "24GiB".',
    HEAD + '[stacks]\ns = "a, b"': 'write s = ["a", "b"].',
}


@pytest.mark.parametrize("text", OTHER_VALUES, ids=lambda text: text.splitlines()[-1])
def test_values_elsewhere(text: str) -> None:
    assert OTHER_VALUES[text] in told(text)


KEYS = {
    "[baseline.train]\nlr = 1": "baseline.train.lr: unknown key; did you mean 'learning_rate'?",
    "[baseline.train]\nlearning-rate = 1": "did you mean 'learning_rate'?",
    "[baseline.train]\nbatch_size = 1": "did you mean 'batch'?",
    "[baseline.train]\ndropout = 0.1": "that is model.dropout.",
    "[baseline.train]\nn_layer = 12": "that is model.layers.",
    "[baseline.train]\nwarmup = 0.1": "write schedule.warmup.",
    "[baseline.train]\nwarmup_iters = 100": "write train.schedule.warmup, a share of all steps.",
    "[baseline.train]\nlr_scheduler_type = 'cosine'": "write schedule.kind.",
    "[baseline.train]\ndtype = 'bfloat16'": "did you mean 'precision'?",
    "[baseline.train]\nbeta1 = 0.9": "did you mean 'betas'?",
    "[baseline.train]\ngrad_clip = 1.0": "did you mean 'clip_grad_norm'?",
    "[baseline.train]\nmax_iters = 600000": "write train.tokens = steps x train.batch x model.context.",
    "[baseline.train]\nnum_train_epochs = 3": "write train.tokens; with data.repeat = true it may be more than",
    "[baseline.train]\noptimizer = 'adamw'": "every run is trained with AdamW: leave it out.",
    "[baseline.train]\ngradient_accumulation_steps = 4": "the planner splits train.batch over each machine",
    "[baseline.train]\nwandb_log = true": "every step is recorded, and the test is at the end: leave it out.",
    "[baseline.model]\nlearning_rate = 1": "that is train.learning_rate.",
    "[baseline.model]\nn_embd = 768": "did you mean 'width'?",
    "[baseline.model]\nblock_size = 1024": "did you mean 'context'?",
    "[baseline.model]\nnum_attention_heads = 12": "did you mean 'heads'?",
    "[baseline.model]\nvocab_size = 50304": "did you mean 'vocab'?",
    "[baseline.model]\nbias = true": "did you mean 'qkv_bias'?",
    "[baseline.model]\nactivation = 'gelu'": "unknown key; known: context, dropout,",
    "[baseline.data]\ndataset = 'x'": "did you mean 'source'?",
    "[baseline.data]\nshuffle = true": "did you mean 'order'?",
    "[baseline]\nlr = 1": "write train.learning_rate.",
    "[baseline.optimizer]\nlr = 1": "did you mean 'train'?",
    "[interventions.x]\ndropout = 0": "interventions.x.dropout: unknown key; write model.dropout.",
    "[interventions.x]\ntrain.lr = 1": "did you mean 'learning_rate'?",
    "[interventions.x]\nseed = 1": "did you mean 'seeds'?",
    "[interventions]\ndropout = 0.0": "write [interventions.NAME] for each, with what it changes below.",
    "[[interventions]]\nname = 'x'": "write [interventions.NAME] for each, with what it changes below.",
    "[interventions.'No Dropout']\nmodel.dropout = 0": 'write "no-dropout".',
    "[intervention.x]\nmodel.dropout = 0": "intervention: unknown key; did you mean [interventions.x]?",
    "[ablations.x]\nmodel.dropout = 0": "did you mean [interventions.x]?",
    "[stack]\ns = ['a']": "did you mean [stacks]?",
    "[stacks.s]\narms = ['a']": "did you mean 'of'?",
    "[machine.x]\nmemory = 1": "did you mean [machines.x]?",
    "[machines.x]\ngpus = 8": "did you mean 'accelerators'?",
    "[machines.x]\nvram = '24GiB'": "did you mean 'memory'?",
    "[machines.x]\nprice = 1": "did you mean 'usd_per_hour'?",
    "[model]\ndropout = 0": "write [baseline.model], or [interventions.NAME].",
    "[training]\nlr = 1": "write [baseline.train], or [interventions.NAME].",
    "[defaults.train]\nlr = 1": "did you mean [baseline]?",
    "[policy]\nretries = 3": "did you mean 'attempts'?",
    "[policy]\nbudget = 3": "did you mean 'usd_limit'?",
    "seed = 42": "study.seed: unknown key; did you mean 'seeds'?",
    "device = 'cuda'": "study.device: unknown key; did you mean 'machines'?",
    "repeats = 2": "study.repeats: unknown key; did you mean 'reruns'?",
}


@pytest.mark.parametrize("typed", KEYS)
def test_keys(typed: str) -> None:
    assert KEYS[typed] in told(HEAD + typed)


SYNTAX = {
    "name = s": 'write name = "s".',
    "name: s": "TOML writes name = s.",
    "x = True": "write x = true.",
    "x = None": 'write x = "none".',
    "x = .5": "write x = 0.5.",
    "x = 300k": "write x = 300_000.",
    "x = 1,000": "write x = 1_000.",
    "x = (1, 2)": "write x = [1, 2].",
    "x = 1e-4,": "write x = 1e-4.",
    "machines = [cpu]": 'write machines = ["cpu"].',
    "source = /data/tokens": 'write source = "/data/tokens".',
    "[interventions.no dropout]": "write [interventions.no-dropout].",
    "study:": "TOML writes [study].",
    '{"study": {}}': "this looks like JSON, and a study is TOML.",
    'name = "s"\nname = "s"\nx = 1': 'name = "s"; it is in the file already: leave one out.',
    "[study]": "[study]; it is in the file already: leave one out.",
    "import torch": "(at line 2, column 8): import torch. See",
}


@pytest.mark.parametrize("typed", SYNTAX)
def test_what_is_not_toml_is_quoted_with_what_toml_would_say(typed: str) -> None:
    assert SYNTAX[typed] in told(f"[study]\n{typed}")


def test_a_flat_file_is_told_where_its_keys_go() -> None:
    assert "machines: must be a table; write machines under [study]" in told('name = "s"\nmachines = ["cpu"]\n')
    assert "name: unknown key; write name under [study]" in told('name = "s"\nmachines = ["cpu"]\n')


def test_every_place_that_is_named_is_one() -> None:
    """A key that is renamed leaves no advice behind that leads nowhere."""
    places = {*paths(Recipe)} | {f"{table}.{key}" for table in ("study", "policy") for key in keys_of(table)}
    assert meant.KEYS.keys() <= places
    assert meant.MACHINE.keys() <= set(Machine.model_fields)
    words = [word for table in (meant.KEYS, meant.NOTES) for words in table.values() for word in words.split()]
    assert len(words) == len(set(words)), "one word, one place"


def keys_of(table: str) -> set[str]:
    found = inner_model(Study.model_fields[table].annotation)
    assert found
    return set(found.model_fields)
