"""The end of every command's help: two or three lines to type. A `#` begins a remark, as in a shell."""

EXAMPLES = {
    "demo": ("farm demo", "farm demo --json > demo.json"),
    "init": (
        "farm init",
        "farm init my-study.toml --data tokens/ --machine 1xrtx3090",
        "farm init --force --yes --json",
    ),
    "up": ("farm up", "farm up --shared --host 10.8.0.1   # for other machines of one VPN, too"),
    "down": ("farm down", "farm down --keep-rented   # rented machines stay, and go on costing money"),
    "status": ("farm status", "farm status --json"),
    "serve": ("farm serve", "farm serve --attach 127.0.0.1:6379 --autoscaling-config cluster.yaml   # on Ray's head"),
    "connect": ("farm connect me@head", "farm connect me@head --home /data/farm   # not in ~/.farm there"),
    "join": (
        "farm join invitation.json   # of farm up --shared",
        "farm join 10.0.0.5:6379 --machine 1xrtx3090 --name attic",
    ),
    "drain": ("farm drain attic", "farm drain attic --undo"),
    "rent": (
        "farm rent 8xa100m40 --max-usd-per-hour 16 --usd 100 --setup vpn.sh",
        "farm rent 8xa100m40 --dry-run --engine skypilot   # what it costs there, and where it is offered",
        "farm rent --list",
    ),
    "machines": ("farm machines", "farm machines --probe my-study.toml   # measure what fits this machine"),
    "doctor": (
        "farm doctor",
        "farm doctor --notify   # send a test to everyone in [notify]",
        "farm doctor --cluster cluster.yaml",
    ),
    "reindex": ("farm reindex", "FARM_STORAGE=s3://bucket/farm farm reindex"),
    "plan": (
        "farm plan examples/interventions.toml",
        "farm plan my-study.toml --sd 0.012",
        "farm plan - < my-study.toml",
    ),
    "submit": ("farm submit my-study.toml --wait", "farm submit my-study.toml --dry-run", "farm submit - < study.toml"),
    "seeds": ("farm seeds add remove-dropout --to 5", "farm seeds add my-study remove-dropout --to 5 --dry-run"),
    "resolve": ("farm resolve my-study --usd 50", "farm resolve my-study --runs 12 --no-wait"),
    "cancel": ("farm cancel my-study", "farm cancel cpu-x1-baseline-s42.23-1f3a9c2e"),
    "retry": ("farm retry my-study", "farm retry my-study --cancelled", "farm retry cpu-x1-baseline-s42.23-1f3a9c2e"),
    "forget": (
        "farm forget my-study --arm remove-dropout",
        "farm forget cpu-x1-baseline-s42.23-1f3a9c2e -y",
        "farm forget my-study --files   # checkpoints, logs and results, too",
    ),
    "runs": ("farm runs", "farm runs my-study --arm remove-dropout"),
    "show": (
        "farm show cpu-x1-baseline-s42.23-1f3a9c2e",
        "farm show cpu-x1-base --json   # a unique start of its id",
        "farm show demo                 # a study: its runs in short, and where it was published",
    ),
    "logs": ("farm logs cpu-x1-baseline-s42", "farm logs cpu-x1-baseline-s42 --follow"),
    "watch": (
        "farm watch my-study",
        "farm watch   # on a terminal: everything that runs on the farm",
        "farm watch cpu-x1-baseline-s42 --json",
    ),
    "table": (
        "farm table my-study --scores all --format md",
        "farm table my-study --at hours=2   # or usd=10, tokens=1e9",
        "farm table my-study --target 3.7 --json",
    ),
    "noise": ("farm noise", "farm noise my-study --json"),
    "effects": ("farm effects", "farm effects my-study --json"),
    "report": (
        "farm report my-study -o to-a-colleague.html",
        "farm report 8xa100m40-remove-dropout-s42",
        "farm report my-study --format svg",
    ),
    "compare": (
        "farm compare cpu-x1-baseline-s42 cpu-x2-baseline-s42",
        "farm compare cpu-x1-baseline-s42 cpu-x1-baseline-s22 --json",
    ),
    "import": (
        "farm import losses.csv",
        "farm import losses.csv harness/runs --study published   # losses, and the recipes behind them",
    ),
    "eval": (
        "farm eval cpu-x1-baseline-s42.23-1f3a9c2e wiki",
        "farm eval my-study --stale   # also replace scores by an earlier form of an evaluation",
        "farm eval my-study --reference ~/models/gpt2 --name openai-small",
    ),
    "data": (
        "farm data prepare corpus/ tokens/",
        "farm data show tokens/",
        "farm data push tokens/ me/tokens --dry-run",
    ),
    "data prepare": (
        "farm data prepare fineweb/ tokens/ --validation 1%",
        "farm data prepare book.txt tokens/ --tokenizer bytes",
        "farm data prepare hf:me/texts tokens/ --text-field body --processes 8",
    ),
    "data show": ("farm data show tokens/", "farm data show hf:gpjt/fineweb-gpt2-tokens --json"),
    "data push": ("farm data push tokens/ me/tokens --dry-run", "farm data push tokens/ me/tokens --private"),
    "publish": (
        "farm publish cpu-x1-baseline-s42 me/baseline --dry-run",
        "farm publish remove-dropout me/no-dropout --study my-study --checkpoint 1000 --private",
        "farm publish my-study me/my-study",
    ),
    "sample": (
        "farm sample cpu-x1-baseline-s42",
        'farm sample cpu-x1-baseline-s42 --prompt "The cat" --tokens 50 --temperature 0.7',
        "farm sample cpu-x1-baseline-s42 --prompts prompts.txt --json",
    ),
    "track": (
        "farm track my-study --to tensorboard=runs --follow",
        "farm track my-study --to mlflow=http://127.0.0.1:5000",
        "WANDB_MODE=offline farm track cpu-x1-baseline-s42 --to wandb=gpt2",
    ),
    "export": ("farm export cpu-x1-baseline-s42 ./baseline", "farm export cpu-x1-baseline-s42 ./baseline --json"),
}


def epilogue(name: str) -> str:
    """The end of a command's help. click leaves a paragraph's lines as they are after a \\b."""
    lines = "".join(f"\n  {line}" for line in EXAMPLES.get(name, ()))
    return f"\b\nExamples:{lines}" if lines else ""
