"""Every way the farm says no: one line, a remedy, an exit code, and safe to send through Ray."""

import pickle

import pytest

from farm import errors
from farm.errors import BadCorpus, DoesNotFit, FarmError, StorageFull, last_line, nearest, reason

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, FarmError)]


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_survives_pickling(kind: type[FarmError]) -> None:
    error = kind("what happened.", remedy="Do this.", page="docs/study.md", field="model.context", bytes=7)
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert copy.page == "docs/study.md"
    assert (str(copy), copy.message, copy.remedy, copy.fields) == (
        "what happened. Do this.",
        "what happened.",
        "Do this.",
        {"field": "model.context", "bytes": 7},
    )


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_says_its_docstring_when_nobody_knows_better(kind: type[FarmError]) -> None:
    assert str(kind()) == (kind.__doc__ or "").splitlines()[0]
    assert "\n" not in str(kind())


def test_an_error_may_have_another_page_than_its_class_or_none() -> None:
    assert (BadCorpus().page, DoesNotFit().page) == ("docs/data.md#sources", None)
    assert BadCorpus(page="docs/data.md#order").page == "docs/data.md#order"
    without = pickle.loads(pickle.dumps(BadCorpus(page="")))
    assert without.page is None
    assert "docs" not in str(BadCorpus()), "only where a command ends is it shown"


def test_the_exit_codes_are_those_of_the_design() -> None:
    codes = {kind.__name__: kind.exit_code for kind in KINDS if kind.exit_code != 1}
    assert codes == {
        "BadStudy": 2,
        "BadSetting": 2,
        "DoesNotFit": 2,
        "BadCorpus": 2,
        "BadImport": 2,
        "NotFound": 3,
        "Refused": 4,
        "Unreachable": 5,
        "StorageUnusable": 5,
        "Changed": 6,
        "Conflict": 6,
        "Guard": 7,
    }


def test_only_what_may_go_better_next_time_is_retried() -> None:
    retried = {"Unreachable", "StorageFull", "StorageUnusable", "WorkerDied", "MachineDied", "Hung"}
    retried |= {"OutOfMemory", "NoAccelerator"}
    assert {kind.__name__ for kind in KINDS if kind.retryable} == retried


def test_the_cause_is_the_name_in_kebab_case() -> None:
    assert (DoesNotFit().cause, StorageFull().cause) == ("does-not-fit", "storage-full")


@pytest.mark.parametrize(
    ("word", "known", "unlisted", "listed"),
    [
        ("tinny", ["big", "tiny"], "; did you mean 'tiny'?", "; did you mean 'tiny'?"),
        ("zebra", ["tiny", "big"], ".", "; known: big, tiny."),
        ("zebra", [], ".", "."),
    ],
)
def test_a_sentence_about_an_unknown_name_ends_with_help(
    word: str, known: list[str], unlisted: str, listed: str
) -> None:
    assert (nearest(word, known), nearest(word, known, listed=True)) == (unlisted, listed)


def test_what_a_process_said_last_is_quoted_without_its_colours() -> None:
    said = "INFO -- starting\n\x1b[37mLocal node IP\x1b[39m: \x1b[1m10.0.0.6\x1b[22m\a\n\x1b[0m\n"
    assert last_line(said) == "Local node IP: 10.0.0.6"
    assert last_line(" \n") == "it said nothing"


DYNAMO = """Traceback (most recent call last):
  File "/farm/model/train.py", line 153, in compute
    loss_sum = self.reducer.forward(batch.x_BT, batch.y_BT, scale)
               ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
  File "/venv/torch/_inductor/cpp_builder.py", line 108, in cpp_compiler_search
    raise exc.InvalidCxxCompiler
torch._inductor.exc.InductorError: InvalidCxxCompiler: No working C++ compiler found in cpp.cxx: (None, 'g++')

Set TORCHDYNAMO_VERBOSE=1 for the internal stack trace (please do this especially if you're reporting a bug to PyTorch).
For even more developer context, set TORCH_LOGS="+dynamo"
"""
NO_COMPILER = next(line for line in DYNAMO.splitlines() if "InductorError" in line)
USER_CODE = DYNAMO.replace(
    "\n\nSet",
    """

from user code:
   File "/farm/model/gpt.py", line 61, in hidden
    x_BTC = block(x_BTC)

Set""",
)
CUDA = """Traceback (most recent call last):
  File "/farm/model/train.py", line 155, in compute
    (loss_sum * scale).backward()
torch.AcceleratorError: CUDA error: device-side assert triggered
CUDA kernel errors might be asynchronously reported at some other API call, so the stacktrace below might be incorrect.
For debugging consider passing CUDA_LAUNCH_BLOCKING=1
Compile with `TORCH_USE_CUDA_DSA` to enable device-side assertions.
"""
CHAIN = """Traceback (most recent call last):
  File "a.py", line 1, in read
    open(path)
FileNotFoundError: [Errno 2] No such file or directory: 'x'
with a note
"""
AFTER = """Traceback (most recent call last):
  File "a.py", line 3, in load
    raise RuntimeError("cannot load")
RuntimeError: cannot load
"""
DIRECT = "\nThe above exception was the direct cause of the following exception:\n\n"
MEANWHILE = "\nDuring handling of the above exception, another exception occurred:\n\n"
COMPILER = """Traceback (most recent call last):
  File "/venv/torch/_inductor/cpp_builder.py", line 600, in _run_compile_cmd
    raise exc.CppCompileError(cmd, output) from e
torch._inductor.exc.CppCompileError: C++ compile error

Command:
g++ /tmp/x/main.cpp -shared -o main.so

Output:
/tmp/x/main.cpp:3:10: fatal error: omp.h: No such file or directory
compilation terminated.
"""
ANNOUNCED = """Traceback (most recent call last):
  File "a.py", line 1, in f
    g()
torch._dynamo.exc.BackendCompilerFailed: backend='inductor' raised:
RuntimeError: Failed to find C compiler. Please specify via CC environment variable.

Set TORCHDYNAMO_VERBOSE=1 for the internal stack trace
"""
MISSING = "FileNotFoundError: [Errno 2] No such file or directory: 'x'"
IN_RAY = "\x1b[36mray::run()\x1b[39m (pid=7, ip=10.0.0.5)\n" + AFTER.partition("\n")[2]


@pytest.mark.parametrize(
    ("said", "is_told"),
    [
        (USER_CODE, NO_COMPILER),
        (DYNAMO, NO_COMPILER),
        (CUDA, "torch.AcceleratorError: CUDA error: device-side assert triggered"),
        (CHAIN, MISSING),
        (CHAIN + DIRECT + AFTER, MISSING),
        (CHAIN + DIRECT + AFTER + DIRECT + AFTER, MISSING),
        (CHAIN + MEANWHILE + AFTER, "RuntimeError: cannot load"),
        (CHAIN + MEANWHILE + AFTER + DIRECT + CUDA, "RuntimeError: cannot load"),
        ("step 4 loss 2.1\n" + AFTER, "RuntimeError: cannot load"),
        (IN_RAY, "RuntimeError: cannot load"),
        (AFTER.replace(": cannot load", ""), "RuntimeError"),
        (AFTER + "\n", "RuntimeError: cannot load"),
        (
            COMPILER,
            "torch._inductor.exc.CppCompileError: C++ compile error: /tmp/x/main.cpp:3:10: fatal error: omp.h: No such"
            " file or directory",
        ),
        (
            ANNOUNCED,
            "torch._dynamo.exc.BackendCompilerFailed: backend='inductor' raised: RuntimeError: Failed to find C"
            " compiler. Please specify via CC environment variable.",
        ),
        ("The actor died.\n  It was killed: no memory.", "It was killed: no memory."),
        ("", "it said nothing"),
    ],
)
def test_the_reason_is_the_line_of_the_error_and_not_the_last(said: str, is_told: str) -> None:
    assert reason(said) == is_told
