"""Where this farm is: FARM_* over ./farm.toml over ~/.config/farm/config.toml, and plain words when one is wrong."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from farm.errors import BadSetting
from farm.site.settings import FOUND, Settings, make_home, to_environment


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    return tmp_path / "config.toml", tmp_path / "farm.toml"


def test_without_a_word_the_farm_is_at_home(files: tuple[Path, Path]) -> None:
    here = Settings.load({}, files)
    assert here.home == Path("~/.farm").expanduser()
    assert here.storage == here.home / "storage"
    assert (here.redis_url, here.machines) == (None, {})


def test_the_environment_beats_the_folder_which_beats_the_user(files: tuple[Path, Path]) -> None:
    user, folder = files
    user.write_text('home = "/user"\nstorage = "/user-storage"\nredis_url = "redis://user"\n')
    folder.write_text('home = "/folder"\nredis_url = "redis://folder"\n')
    here = Settings.load({"FARM_HOME": "/environment"}, files)
    assert (str(here.home), here.redis_url, str(here.storage)) == ("/environment", "redis://folder", "/user-storage")


def test_a_bucket_is_a_storage(files: tuple[Path, Path]) -> None:
    assert Settings.load({"FARM_STORAGE": "s3://my-bucket/a/farm/"}, files).storage == "s3://my-bucket/a/farm"


def test_an_empty_variable_says_nothing(files: tuple[Path, Path]) -> None:
    assert Settings.load({"FARM_REDIS_URL": ""}, files).redis_url is None


def test_paths_are_made_absolute(files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/somewhere")
    assert Settings.load({"FARM_HOME": "here"}, files).home == tmp_path / "here"
    assert Settings.load({"FARM_HOME": "~/farm"}, files).home == Path("/somewhere/farm")


def test_machines_are_declared_over_the_built_in_ones(files: tuple[Path, Path]) -> None:
    files[1].write_text('[machines.8xa100m40]\nusd_per_hour = 9\n[machines.mine]\nmemory = "8GiB"\n')
    machines = Settings.load({}, files).machines
    assert (machines["8xa100m40"].accelerators, machines["8xa100m40"].usd_per_hour) == (8, 9.0)
    assert machines["mine"].memory == 2**33


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("home =", r"farm.toml: Invalid value .* Fix or remove it"),
        ("hom = '/x'", r"farm.toml: unknown key 'hom'\. Known: home, redis_url, redis_ca, storage, machines"),
        ("machines = 3", r"farm.toml: machines must be tables\. Write \[machines\.NAME\]"),
        (
            "[machines.x]\nacelerator = 'A100'",
            r"farm.toml: machines\.x\.acelerator: unknown key; did you mean 'accelerator'\?",
        ),
        ("[machines.'../x']\nmemory = 1", r"machines\.\.\./x: must be 1 to 64"),
        ("redis_url = 3", "redis_url: must be text, not 3"),
        ("storage = 3", r"farm.toml: storage: must be text, not 3\. Write storage ="),
        ("home = ['x']", "farm.toml: home: must be text"),
        ("notify = 'slack://secret'", r"farm.toml: notify must be a table\. Write \[notify\]"),
        ("[notify]\nurl = 'slack://secret'", r"farm.toml: notify: unknown key 'url'\. Write \[notify\]"),
        ("[notify]\nurls = 'slack://secret'", "farm.toml: notify.urls must be a list of texts"),
        ("[notify]\nurls = ['json://a', 'slack://secret x']", r"farm.toml: notify.urls\[1\] is empty or has a space"),
        ("a = " + "[" * 5000, "farm.toml: .*Fix or remove it"),
        ("a = " + "9" * 5000, "farm.toml: .*Fix or remove it"),
        ("storage = 'gs://bucket/x'", r"storage is a 'gs' URI that is not s3://bucket/prefix\. Set FARM_STORAGE"),
        ("storage = 's3://key:secret@bucket/x'", r"storage is a 's3' URI that .* go into AWS_\* variables\.$"),
        ("storage = 's3://a/b'", "not s3://bucket/prefix, where the name of a bucket is 3 to 63 of"),
        ("storage = 's3://bucket/../x'", "storage is a 's3' URI that is not"),
        ("home = 's3://bucket/x'", r"home = 's3://bucket/x' is a URL, not a folder\. .* FARM_HOME"),
        ("storage = '~nobody-here/x'", "no home folder of that user is known. Set FARM_STORAGE to a full path"),
    ],
)
def test_a_bad_file_is_refused_in_words(files: tuple[Path, Path], text: str, words: str) -> None:
    files[1].write_text(text)
    with pytest.raises(BadSetting, match=words) as caught:
        Settings.load({}, files)
    assert not text.count("slack://secret") or "secret" not in str(caught.value)


def test_whom_to_notify_is_in_a_file_or_the_environment_and_in_no_repr(files: tuple[Path, Path]) -> None:
    files[1].write_text('[notify]\nurls = ["slack://5ecret", "json://two"]\n')
    here = Settings.load({}, files)
    assert here.notify.urls == ("slack://5ecret", "json://two")
    assert "5ecret" not in repr(here)
    assert Settings.load({"FARM_NOTIFY_URLS": "ntfy://a  json://b"}, files).notify.urls == ("ntfy://a", "json://b")
    with pytest.raises(BadSetting, match="Did you mean FARM_NOTIFY_URLS"):
        Settings.load({"FARM_NOTIFY_URL": "x"}, files)


def test_a_file_that_is_no_text_is_refused(files: tuple[Path, Path]) -> None:
    files[1].write_bytes(b"\xff")
    with pytest.raises(BadSetting, match=r"farm.toml: .*utf-8"):
        Settings.load({}, files)


@pytest.mark.parametrize("which", [0, 1])
def test_the_mark_of_a_windows_editor_is_no_fault(files: tuple[Path, Path], which: int) -> None:
    files[which].write_text('\ufeff# Größe\nstorage = "/größe"\n', encoding="utf-8")
    assert Settings.load({}, files).storage == Path("/größe")


def test_a_user_without_a_home_folder_needs_none_once_the_farm_has_one(tmp_path: Path) -> None:
    """In a container with a user that passwd does not have, as `docker run --user` makes them."""
    program = "from farm.site.settings import Settings; print(Settings.load().home, Settings.load().storage)"
    command = ["unshare", "--user", "--map-user=54321", sys.executable, "-c", program]
    environment = {name: value for name, value in os.environ.items() if name != "HOME" and "FARM" not in name}
    environment["PYTHONPATH"] = str(Path(__file__).resolve().parents[3])

    def said(**more: str) -> str:
        done = subprocess.run(command, cwd=tmp_path, env=environment | more, capture_output=True, text=True)
        return done.stdout if done.returncode == 0 else done.stderr.splitlines()[-1]

    assert said(FARM_HOME="/farm") == "/farm /farm/storage\n"
    assert said().endswith("no home folder of this user is known. Set FARM_HOME to a full path.")


def test_an_empty_value_says_nothing(files: tuple[Path, Path]) -> None:
    files[1].write_text('storage = ""\n')
    here = Settings.load({}, files)
    assert here.storage == here.home / "storage"


@pytest.mark.parametrize(("typed", "meant"), [("FARM_HOM", "FARM_HOME"), ("FARM_REDIS_URI", "FARM_REDIS_URL")])
def test_a_misspelt_variable_is_refused(files: tuple[Path, Path], typed: str, meant: str) -> None:
    with pytest.raises(BadSetting, match=f"the variable {typed} is not a setting.*Did you mean {meant}"):
        Settings.load({typed: "x"}, files)
    assert Settings.load({"FARM_PYTHON": "/usr/bin/python3"}, files) == Settings.load({}, files)


def test_what_a_command_found_is_found_by_what_it_starts(files: tuple[Path, Path], tmp_path: Path) -> None:
    """Its own working folder has a farm.toml, too; and a tunnel that is opened later is none of its business."""
    files[1].write_text('storage = "/there"\n[machines.pair]\naccelerators = 2\nusd_per_hour = 0.5\n')
    here = Settings.load({"FARM_HOME": str(tmp_path / "home")}, files)
    files[1].write_text('redis_url = "redis://other"\n[machines.pair]\naccelerators = 9\n[machines.more]\n')
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "tunnel.json").write_text('{"head": "far", "url": "redis://far"}')
    assert Settings.load(to_environment(here), files) == here
    assert Settings.load(to_environment(here) | {"FARM_REDIS_URL": "redis://told"}, files).redis_url == "redis://told"


def test_a_bucket_and_a_shared_redis_are_passed_on(tmp_path: Path) -> None:
    told = {"FARM_HOME": str(tmp_path), "FARM_STORAGE": "s3://bucket/farm", "FARM_REDIS_URL": "redis://:pw@head/0"}
    here = Settings.load(told, ())
    assert Settings.load(to_environment(here), ()) == here
    assert "pw" not in to_environment(here)[FOUND]


def test_settings_that_were_not_passed_on_by_a_farm_are_refused() -> None:
    with pytest.raises(BadSetting, match=r"the variable FARM_SETTINGS was not set by farm\. Unset it"):
        Settings.load({FOUND: "yes"}, ())


def test_an_invitation_names_the_redis_and_a_storage_that_this_machine_may_call_otherwise(tmp_path: Path) -> None:
    told = {"FARM_HOME": str(tmp_path), "FARM_REDIS_URL": "redis://own"}
    redis = {"redis_url": "redis://invited"}
    here = Settings.load(told, (), under={"storage": "/theirs"}, over=redis)
    assert (here.redis_url, str(here.storage)) == ("redis://invited", "/theirs")
    mounted = told | {"FARM_STORAGE": "/mounted"}
    assert str(Settings.load(mounted, (), under={"storage": "/theirs"}, over=redis).storage) == "/mounted"


def test_a_home_that_cannot_be_written_in_is_a_bad_setting(tmp_path: Path) -> None:
    """/proc/self is there, and takes no file even from root, as a folder mounted read-only."""
    with pytest.raises(BadSetting, match=r"cannot write in /proc/self: .*FARM_HOME"):
        make_home(Path("/proc/self"))
    make_home(tmp_path / "home")
    assert not [*(tmp_path / "home").iterdir()], "it left nothing"
