"""The right form of a near miss, for the end of a fault's line.

Values by their form (`"300k"`, `"cosine"`, `10` for 10 %), and keys as nanoGPT, transformers and torch name them.
"""

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from fractions import Fraction
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from farm.study.machine import slug
from farm.study.recipe import NONE, Recipe

_POWERS = {"": 0, "%": -2, "k": 3, "thousand": 3, "m": 6, "million": 6, "b": 9, "g": 9, "billion": 9, "t": 12}
_NUMBER = re.compile(rf"\$?\s*([+-]?(?:\d[\d_, ]*)?\.?\d+(?:e[+-]?\d+)?)\s*({'|'.join(map(re.escape, _POWERS))})\.?")
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(s|sec|secs|seconds?|m|min|mins|minutes?|h|hrs?|hours?|d|days?)")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_NOTHING = {"", NONE, "off", "no", "null", "nil", "nan", "false", "disabled"}
_YES, _NO = {"true", "yes", "on", "1"}, {"false", "no", "off", "0"}
LARGEST = Fraction(10**18)  # beyond it no number is spelled out

# One of these words instead of the farm's own, for any field that takes words.
WORDS = {
    "float32": "fp32", "single": "fp32", "full": "fp32", "32": "fp32",
    "float16": "fp16", "half": "fp16", "amp": "fp16", "16": "fp16", "16-mixed": "fp16", "mixed": "fp16",
    "bfloat16": "bf16", "bf16-mixed": "bf16", "bfloat": "bf16", "tensorfloat32": "tf32",
    "cosine": "warmup-cosine", "cosine-annealing": "warmup-cosine", "cosine-with-warmup": "warmup-cosine",
    "linear": "warmup-linear", "linear-with-warmup": "warmup-linear", "none": "constant", "fixed": "constant",
    "random": "shuffled", "shuffle": "shuffled", "in-order": "sequential",
    "deterministic": "canonical", "ddp": "fast", "2d": "matrices", "no-bias": "matrices",
    "grid": "factorial", "full-factorial": "factorial", "half-factorial": "fraction", "oat": "one-at-a-time",
    "ofat": "one-at-a-time", "ladder": "stack", "cumulative": "stack", "loo": "leave-one-out",
    "ablation": "leave-one-out", "gpt-2": "gpt2", "pytorch": "torch", "default": "torch",
}  # fmt: skip

# Keys of other tools, without '-' and '_': the farm's own place for the same thing.
KEYS = {
    "model.vocab": "vocabsize nvocab",
    "model.context": "blocksize npositions nctx contextlength contextsize seqlen seqlength sequencelength maxseqlen"
    " maxlength maxpositionembeddings",
    "model.width": "nembd embd dmodel hiddensize hiddendim embeddim embeddingdim dim",
    "model.layers": "nlayer nlayers numlayers numhiddenlayers depth",
    "model.heads": "nhead nheads numheads numattentionheads",
    "model.dropout": "attndropout attentiondropout attnpdrop residpdrop embdpdrop residdropout dropoutrate pdrop",
    "model.qkv_bias": "bias attentionbias usebias",
    "model.tie_weights": "tiewordembeddings tieembeddings weighttying tied tiedembeddings tie",
    "model.initializer": "initmethod initialization initialisation initialiser initializerrange",
    "train.batch": "batchsize globalbatchsize globalbatch trainbatchsize totalbatchsize bs",
    "train.tokens": "numtokens traintokens maxtokens totaltokens ntokens tokenbudget",
    "train.learning_rate": "lr maxlr peaklr baselr",
    "train.schedule.kind": "lrschedulertype lrscheduler scheduler lrschedule decaylr lrdecay",
    "train.schedule.warmup": "warmupratio warmupfraction warmupfrac",
    "train.schedule.floor": "minlrratio minlrfraction finallrfrac",
    "train.weight_decay": "wd weightdecayrate",
    "train.betas": "beta1 beta2 adambeta1 adambeta2 adambetas beta",
    "train.eps": "epsilon adamepsilon adameps",
    "train.clip_grad_norm": "gradclip maxgradnorm gradientclipping gradientclip gradclipnorm clip clipnorm gradnorm"
    " gradientclipval maxnorm clipgrad",
    "train.precision": "dtype mixedprecision fp16 bf16 amp tf32 autocast torchdtype ampdtype",
    "train.compile": "torchcompile usecompile",
    "train.reduction": "deterministic",
    "data.source": "dataset datasetname datapath datadir dataroot corpus path trainfile inputbin",
    "data.revision": "commit tag datasetrevision",
    "data.text_field": "textcolumn textkey datasettextfield",
    "data.order": "shuffle sampler",
    "data.repeat": "allowrepeat",
    "evaluation.sequences": "evaliters evalbatches maxevalsamples valmaxsteps evalsteps",
    "evaluation.offset": "evaloffset",
    "evaluation.every": "evalinterval evalevery validationinterval valinterval validationevery valevery",
    "evaluation.validation_sequences": "validationbatches valbatches valsequences",
    "study.seeds": "seed seeds randomseed manualseed trainseed initseed",
    "study.machines": "machine gpu gpus device devices hardware accelerator nodes",
    "study.score": "metric rankby sortby objective",
    "study.reruns": "repeats repetitions replicates",
    "policy.attempts": "retries maxretries maxattempts tries",
    "policy.usd_limit": "budget maxusd usd maxcost budgetusd",
    "policy.hours_limit": "maxhours hours budgethours",
    "policy.checkpoint_seconds": "checkpointinterval saveinterval savesteps saveevery checkpointevery",
    "policy.hang_seconds": "timeout timeoutseconds hangtimeout",
}  # fmt: skip

OF_A_STUDY = ("name", "question", "design", "reruns")

# Keys of other tools that no key of the farm's stands for, and why.
NOTES = {
    "the planner splits train.batch over each machine: leave it out": "gradientaccumulationsteps gradaccum"
    " gradaccumsteps accumulation accumulategradbatches microbatch microbatchsize"
    " perdevicetrainbatchsize devicebatchsize worldsize",
    "write train.tokens = steps x train.batch x model.context": "maxiters maxsteps steps numsteps nsteps iterations"
    " iters numiterations trainsteps totalsteps",
    "write train.tokens; with data.repeat = true it may be more than the corpus holds": "epochs numepochs maxepochs"
    " numtrainepochs nepochs",
    "write train.schedule.warmup, a share of all steps": "warmupiters warmupsteps numwarmupsteps warmuptokens",
    "write train.schedule.floor, a share of the peak": "minlr finallr etamin",
    "a schedule ends with the run: leave it out": "lrdecayiters decaysteps tmax",
    "every run is trained with AdamW: leave it out": "optimizer optim optimiser optimizername",
    "every step is recorded, and the test is at the end: leave it out": "loginterval logevery loggingsteps evalstrategy"
    " wandb wandblog wandbproject wandbrunname evalonly alwayssavecheckpoint",
    "a run keeps its files under the farm's storage: leave it out": "outdir outputdir logdir savedir checkpointdir",
    "a run starts from its seed, and goes on from its checkpoint by itself: leave it out": "initfrom resume resumefrom"
    " fromscratch",
    "the farm does that: leave it out": "numworkers pinmemory backend ddp distributed ngpu nproc nprocpernode",
    "the MLP is 4 x model.width: leave it out": "ninner dff dimfeedforward mlpratio intermediatesize ffndim",
}  # fmt: skip

# Tables as others call them.
TABLES = {
    "baseline": "base default defaults recipe config reference control",
    "interventions": "arms arm ablations ablation experiments experiment variants variant changes change"
    " runs treatments",
    "stacks": "combinations combined combos",
    "machines": "machine hardware clusters",
    "policy": "policies limits",
    "samples": "sample sampling generate generation",
    "model": "network net gpt architecture arch",
    "train": "training optim optimizer optimiser opt trainer hyperparameters",
    "data": "dataset corpus datasets",
    "evaluation": "eval test validation val evaluate",
    "evaluations": "evals tests scores benchmarks",
}
MACHINE = {
    "accelerators": "gpus count numgpus ngpus devices",
    "accelerator": "gpu type device gputype name",
    "memory": "ram vram memorygb memorygib gpumemory",
    "usd_per_hour": "price cost usd dollars priceperhour hourly costperhour",
    "tokens_per_second": "speed throughput tps",
    "microbatch": "batch batchsize maxbatch",
    "threads": "cpus cores numthreads",
}


def _invert(table: Mapping[str, str]) -> dict[str, str]:
    return {word: place for place, words in table.items() for word in words.split()}


_KEYS, _NOTES, _TABLES, _MACHINE = map(_invert, (KEYS, NOTES, TABLES, MACHINE))


def _bare(key: str) -> str:
    return re.sub(r"[-_ .]", "", key).lower()


def _places() -> dict[str, str]:
    """Every key of a recipe, bare -> the dotted path from its table."""
    return {_bare(path.rpartition(".")[2]): path for path in paths(Recipe)} | {"schedule": "train.schedule"}


def paths(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """The dotted paths of all values below a model."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from paths(field.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name


def key(path: Sequence[str], known: Sequence[str], given: Any = None) -> str:
    """The end of the line for the unknown key at `path`, where a table has the keys `known`: the right one, or ''."""
    word, table = _bare(path[-1]), list(path[:-1])
    if word in ("notify", "notifications", "notification", "alerts"):
        return "; a study notifies nobody: write [notify] urls = [...] in the farm.toml of the head"
    if own := {_bare(name): name for name in known}.get(word):
        return f"; did you mean {own!r}?"
    if not table:
        return _of_the_file(path[-1], word, known, given)
    if table[-1] == "schedule" and word in ("type", "name", "lrschedule"):
        return "; did you mean 'kind'?"
    if table[0] == "stacks":
        return "; did you mean 'of'?" if _TABLES.get(word) == "interventions" or word in ("members", "names") else ""
    if table[0] == "machines":
        return f"; did you mean {_MACHINE[word]!r}?" if word in _MACHINE else ""
    return _of_a_recipe(table, word, known)


def _of_the_file(key: str, word: str, known: Sequence[str], given: Any) -> str:
    """A key at the top of the file."""
    if not isinstance(given, dict) and (word in OF_A_STUDY or _KEYS.get(word, "").startswith("study.")):
        return f"; write {_KEYS.get(word, f'study.{word}').partition('.')[2]} under [study]"
    meant = word if word in Recipe.model_fields else _TABLES.get(word, "")
    if meant in Recipe.model_fields:
        return f"; write [baseline.{meant}], or [interventions.NAME]"
    if not meant and (close := get_close_matches(key, known, n=1)):
        meant = close[0]
    if meant in ("interventions", "machines") and isinstance(given, dict):
        name = next((name for name, inner in given.items() if isinstance(inner, dict)), "NAME")
        return f"; did you mean [{meant}.{name}]?"
    if meant:
        return f"; did you mean [{meant}]?" if isinstance(given, dict) else f"; did you mean {meant!r}?"
    return f"; write {place} under [baseline]" if (place := _places().get(word) or _KEYS.get(word)) else ""


def _of_a_recipe(table: list[str], word: str, known: Sequence[str]) -> str:
    """A key of [study], [policy], [baseline], an intervention, or a table of a recipe."""
    if (meaning := _TABLES.get(word)) in known:
        return f"; did you mean {meaning!r}?"
    place = _places().get(word) or _KEYS.get(word)
    if place is None:
        return f"; {_NOTES[word]}" if word in _NOTES else ""
    here, name = ".".join(_inside(table)), place.rpartition(".")[2]
    if place in (f"{here}.{name}", "study.seeds", "study.machines") and name in known:
        return f"; did you mean {name!r}?"
    if not here or place.startswith(f"{here}."):
        return f"; write {place.removeprefix(f'{here}.')}"
    return f"; that is {place}"


def _inside(table: list[str]) -> list[str]:
    """A table's path in a recipe: without [baseline] or [interventions.NAME]; [evaluations.NAME] is as its own."""
    if table[0] == "evaluations":
        return ["evaluation", *table[2:]]
    return table[1:] if table[0] == "baseline" else table[2:] if table[0] in ("interventions", "stacks") else table


def value(name: str, given: Any, kind: str, *, is_optional: bool = False, expected: Sequence[str] = ()) -> str:
    """The end of the line for a value of the wrong form: what to write, or ''. `kind` is pydantic's name of it."""
    if name == "warmup" and kind.startswith(("less_than", "float_type")):
        return "; it is a share of all steps: 0.05 for 5 %"
    if kind.startswith("less_than"):
        is_percent = isinstance(given, int | float) and 1 < given < 100 and expected == ["1"]
        return f"; for {given:g} % write {name} = {float(Fraction(str(given)) / 100)}" if is_percent else ""
    if name in ("usd_limit", "hours_limit") and given == 0 and given is not False:
        return ""  # who wants to spend nothing is not told how to spend without limit
    if _is_nothing(given) and (is_optional or name in ("dropout", "weight_decay", "every")):
        return f'; write {name} = "{NONE}"' if is_optional else f"; write {name} = 0.0"
    form = _form(name, given, kind, expected)
    return f"; write {name} = {form}" if form else ""


def _is_nothing(given: Any) -> bool:
    return given is False or given == 0 or (isinstance(given, str) and given.strip().lower() in _NOTHING)


def _form(name: str, given: Any, kind: str, expected: Sequence[str]) -> str | None:
    match kind:
        case "int_type" | "int_from_float" | "float_type":
            number = _number(name, given)
            is_whole = kind != "float_type"
            return None if number is None or (is_whole and number.denominator > 1) else _spell(number, is_whole)
        case "bool_type":
            return _switch(given)
        case "literal_error":
            return _word(given, expected) or (_switch(given) if name == "compile" else None)
        case "tuple_type" | "missing" | "too_long" if name == "betas":
            return "[0.9, 0.95]"
        case "tuple_type" | "dict_type" | "model_type" | "model_attributes_type":
            return _table(name, given, kind)
        case "value_error" if name == "seeds":
            return _seeds(given)
        case "value_error" if name == "memory":
            found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(?:[gG](?:i?[bB]|igs?|igabytes?)?)?\s*", str(given))
            return f'"{found[1]}GiB"' if found else None
        case "name":
            like = slug(str(given))
            return f'"{like}"' if like else None
    return None


def _number(name: str, given: Any) -> Fraction | None:
    """The number in a text, with its unit: 300k, 3e9, 1,000, 10 %, and 10 min where seconds are asked for."""
    if isinstance(given, bool) or not isinstance(given, int | float | str):
        return None
    text = str(given).strip().lower()
    if name.endswith("_seconds") and (found := _DURATION.fullmatch(text)):
        return Fraction(found[1]) * _SECONDS[found[2][0]]
    if len(text) > 40 or not (found := _NUMBER.fullmatch(text)):
        return None
    digits = re.sub(r"[_, ]", "", found[1])
    if abs(int(digits.partition("e")[2] or "0")) > 30:
        return None
    number = Fraction(digits) * Fraction(10) ** _POWERS[found[2]]
    return number if abs(number) <= LARGEST else None


def _spell(number: Fraction, is_whole: bool) -> str:
    return f"{int(number):_}" if is_whole else repr(float(number))


def _switch(given: Any) -> str | None:
    text = str(given).strip().lower()
    return "true" if text in _YES else "false" if text in _NO else None


def _word(given: Any, expected: Sequence[str]) -> str | None:
    """The word of `expected` that `given` may mean."""
    said = re.sub(r"[_ ]", "-", str(given).strip().lower()).removeprefix("torch.")
    found = [said] if said in expected else [WORDS[said]] if WORDS.get(said) in expected else []
    return next((f'"{word}"' for word in found or get_close_matches(said, expected, n=1)), None)


def _table(name: str, given: Any, kind: str) -> str | None:
    """A list or a table, where one word was written."""
    if name == "schedule" and isinstance(given, str):
        kind = (_word(given, ["constant", "warmup-cosine", "warmup-linear"]) or '"warmup-cosine"').strip('"')
        return '{ kind = "constant" }' if kind == "constant" else f'{{ kind = "{kind}", warmup = 0.05, floor = 0.1 }}'
    if isinstance(given, str) and kind == "tuple_type":
        parts = [given] if name == "prompts" else re.split(r"[,\s]+", given.strip())
        words = ", ".join(f'"{word}"' for word in parts if word)
        return f"[{words}]" if words else None
    return None


def _seeds(given: Any) -> str | None:
    """Pairs of seeds, where one or several numbers were written."""
    if isinstance(given, str):
        given = [int(word) for word in re.findall(r"\d+", given)[:100]]
    given = [given] if isinstance(given, int) else given
    if isinstance(given, list) and given and all(isinstance(seed, int) for seed in given):
        return f"{{ init = {given} }}" + (f", or [{given}] for one pair" if len(given) == 2 else "")
    if isinstance(given, dict) and given.keys() <= {"init", "train"} and [] not in given.values():
        lists = {key: seeds if isinstance(seeds, list) else [seeds] for key, seeds in given.items()}
        return f"{{ {', '.join(f'{key} = {seeds}' for key, seeds in lists.items())} }}"
    return None


def source(given: str) -> str:
    """A hint at what to write instead of an invalid corpus source, or ''."""
    address = re.sub(r"^(https?://)?(www\.)?huggingface\.co/(datasets/)?", "", given).strip("/")
    if re.fullmatch(r"\w[\w-]*/\w[\w.-]*", address) or given.startswith("huggingface:"):
        return f'; write source = "hf:{address.removeprefix("huggingface:")}" for a dataset of Hugging Face'
    return f'; write source = "{Path(given).absolute()}"' if given.startswith(("./", "../")) else ""


def syntax(line: str) -> str:
    """A hint at what to write instead of a line that is not TOML, or ''."""
    if line.startswith("{"):
        return "this looks like JSON, and a study is TOML"
    if found := re.fullmatch(r"\[([\w.-]+(?: [\w.-]+)+)\]?", line):
        return f"write [{found[1].replace(' ', '-')}]"
    if "=" not in line:
        found = re.fullmatch(r"['\"]?([\w.-]+)['\"]?\s*:\s*(.*?),?", line)
        return "" if not found else f"TOML writes {found[1]} = {found[2]}" if found[2] else f"TOML writes [{found[1]}]"
    name, _, given = (part.strip() for part in line.partition("="))
    form = _toml(name, given.split("#")[0].rstrip(" ,;"))
    return f"write {name} = {form}" if form else ""


def _toml(name: str, given: str) -> str | None:
    """A value of Python, JSON or YAML as TOML spells it."""
    if _is_toml(given):
        return given
    if given.lower() in ("true", "false"):
        return given.lower()
    if given.lower() in (NONE, "null", "nil"):
        return f'"{NONE}"'
    if (number := _number(name, given)) is not None:
        return _spell(number, number.denominator == 1 and "e" not in given.lower())
    if re.fullmatch(r"\(.*\)|\[.*\]", given):
        inner = [_toml(name, part.strip()) for part in given[1:-1].split(",") if part.strip()]
        return f"[{', '.join(part or '...' for part in inner)}]"
    return f'"{given}"' if re.fullmatch(r"[A-Za-z/~.][\w./:~+-]*", given) else None


def _is_toml(given: str) -> bool:
    try:
        return bool(tomllib.loads(f"x = {given}"))
    except ValueError:
        return False
