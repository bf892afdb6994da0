"""What is known of a machine class, from several who know of it, and whose price a price is."""

from datetime import date

import pytest

from farm.errors import BadSetting, BadStudy
from farm.site.settings import Settings
from farm.study.machine import BUILT_IN, Machine, Price, last_day, layer
from farm.study.study import Study
from farm.verdict.forecast import plans

HEAD = '[study]\nname = "priced"\nmachines = ["8xa100m40"]\n'
DECLARED = Machine(name="8xa100m40", usd_per_hour=21.96, price_source="farm.toml", price_date="2026-11-20")


def test_the_last_who_knows_a_class_is_believed_but_a_price_that_it_leaves_open_is_not_lost():
    """A node that registers has found its GPUs and not what they cost."""
    declared = Machine(name="rented", accelerator="A100", memory=1, usd_per_hour=2.5, threads=4)
    found = Machine(name="rented", accelerator="H100", memory=2, threads=8)
    (known,) = layer({"rented": declared}, {"rented": found}).values()
    assert known == found.model_copy(update={"usd_per_hour": 2.5})


def test_what_is_known_once_is_known():
    one, other = Machine(name="one"), Machine(name="other", usd_per_hour=0.0)
    assert layer({"one": one}, {"other": other}) == {"one": one, "other": other}
    assert layer() == {}


def test_a_size_is_the_bytes_that_were_written() -> None:
    tenths = [f"{gigabytes}.{tenth}" for gigabytes in range(100) for tenth in range(10)][1:]
    sizes = [Machine(name="x", memory=f"{size}GB").memory for size in tenths]  # type: ignore[arg-type]
    assert sizes == [n * 10**8 for n in range(1, 1000)]


def test_every_built_in_price_says_whose_it_is_and_what_is_rented_from_when():
    for machine in BUILT_IN.values():
        (price,) = machine.prices
        assert price.source
        assert price.usd_per_hour == 0 or price.date, machine.name


def test_a_price_never_has_the_source_or_the_date_of_another():
    """A declaration without them covers those of the built-in price, too."""
    bare = Machine(name="8xa100m40", usd_per_hour=9.0)
    assert layer(BUILT_IN, {"8xa100m40": bare})["8xa100m40"].prices == (Price(usd_per_hour=9.0),)
    silent = Machine(name="8xa100m40")
    told = layer(BUILT_IN, {"8xa100m40": DECLARED}, {"8xa100m40": silent})["8xa100m40"]
    assert [str(price) for price in told.prices] == ["by farm.toml of 2026-11-20"]


def test_a_price_alone_is_added_to_what_is_known_of_the_hardware():
    """In whichever table it stands: a class must not become a CPU because a person wrote what it costs."""
    found = Machine(name="1xh200m144", accelerator="NVIDIA H200", memory=2**37, tokens_per_second=5)
    priced = Machine(name="1xh200m144", usd_per_hour=3.99, price_source="farm.toml")
    for tables in ((found, priced), (priced, found)):
        (known,) = layer(*({table.name: table} for table in tables)).values()
        assert (known.accelerator, known.memory, known.tokens_per_second) == ("NVIDIA H200", 2**37, 5)
        assert known.prices == priced.prices
    told = DECLARED.model_copy(update={"accelerator": "A100-SXM4-40GB"})
    faster = Machine(name="8xa100m40", tokens_per_second=6)
    assert layer({"8xa100m40": told}, {"8xa100m40": faster})["8xa100m40"].prices == DECLARED.prices
    study = Study.parse(HEAD.replace("8xa100m40", "1xh200m144") + "[machines.1xh200m144]\nusd_per_hour = 5.0\n")
    assert study.machine("1xh200m144", {"1xh200m144": found}).accelerator == "NVIDIA H200"
    assert study.machine("1xh200m144", {"1xh200m144": found}).usd_per_hour == 5


@pytest.mark.parametrize("table", ["usd_per_hour = 3.99", "tokens_per_second = 1e6"])
def test_a_class_of_which_nothing_but_the_price_is_known_is_no_cpu(table: str):
    study = Study.parse(HEAD.replace("8xa100m40", "1xh100m80") + f"[machines.1xh100m80]\n{table}\n")
    with pytest.raises(BadStudy, match=r"the hardware of '1xh100m80' is unknown.*\[machines.1xh100m80\]"):
        plans(study, {})
    assert study.machine("1xh100m80", {}).prices == study.machines["1xh100m80"].prices, "a budget counts with it"


def test_what_a_declaration_leaves_out_is_the_price_of_whoever_knows_one():
    """A study that says how much memory a class has must not bring the built-in price back with it."""
    study = Study.parse(HEAD + '[machines.8xa100m40]\nmemory = "38GiB"\n')
    assert study.machine("8xa100m40", {"8xa100m40": DECLARED}).prices == DECLARED.prices
    assert study.machine("8xa100m40", {}).prices == BUILT_IN["8xa100m40"].prices
    assert study.machine("8xa100m40", {}).tokens_per_second == BUILT_IN["8xa100m40"].tokens_per_second


def test_a_declared_price_is_by_whoever_declares_it_and_keeps_its_date(tmp_path):
    study = Study.parse(HEAD + "[machines.8xa100m40]\nusd_per_hour = 9.0\nprice_date = 2026-11-20\n")
    assert [str(price) for price in study.machine("8xa100m40", {}).prices] == ["by the study of 2026-11-20"]
    again = Study.model_validate_json(study.model_dump_json())
    assert again.machine("8xa100m40", {}).prices == study.machine("8xa100m40", {}).prices
    file = tmp_path / "farm.toml"
    file.write_text(
        '[machines.8xa100m40]\nusd_per_hour = 8.0\nprice_source = "our contract"\n[machines.cpu]\nusd_per_hour = 1\n'
    )
    machines = Settings.load({"FARM_HOME": str(tmp_path)}, (file,)).machines
    assert [str(price) for price in machines["8xa100m40"].prices] == ["by our contract"]
    assert [str(price) for price in machines["cpu"].prices] == ["by farm.toml"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("price_date = 2026-11-20", "belong to a usd_per_hour in the same table"),
        ('usd_per_hour = 1.0\nprice_date = "last week"', "must be a date such as 2026-11-20"),
        ('usd_per_hour = 1.0\nprice_date = "2026-13"', "is not a day of the calendar"),
        ('usd_per_hour = 1.0\nprice_source = ""', "price_source"),
    ],
)
def test_a_date_without_its_price_or_that_is_none_is_refused(tmp_path, line, words):
    text = f"[machines.8xa100m40]\n{line}\n"
    with pytest.raises(BadStudy, match=words):
        Study.parse(HEAD + text)
    (tmp_path / "farm.toml").write_text(text)
    with pytest.raises(BadSetting, match=words):
        Settings.load({"FARM_HOME": str(tmp_path)}, (tmp_path / "farm.toml",))


def test_a_price_is_as_old_as_the_last_day_that_its_date_allows():
    assert [last_day(text) for text in ("2025", "2024-02", "2026-11-20")] == [
        date(2025, 12, 31),
        date(2024, 2, 29),
        date(2026, 11, 20),
    ]
    assert Price(usd_per_hour=1.0, date="2026-04").age_days(date(2026, 5, 10)) == 10
    assert Price(usd_per_hour=1.0).age_days(date(2026, 5, 10)) is None
