"""A farm in an unkind shell: the `farm` fixture's working folder, variables and TMPDIR are meant to mislead it."""

from pathlib import Path

from farm.site import serving


def test_a_folder_full_of_other_peoples_modules_trains(farm, walked):
    assert (farm.home / "model.py").exists()
    for run_id in walked.ids:
        log = (farm.store.folder(run_id) / "1" / "log.txt").read_text()
        assert "Finished: test loss" in log
        assert "of the working folder" not in log


def test_nobody_calls_the_cluster_or_the_proxy_that_the_shell_names(farm, stranger):
    found = {row["check"]: row for row in farm.json("doctor", "--json")}
    assert found["dashboard"]["verdict"] == "ok", found["dashboard"]
    assert stranger.callers == []


def test_rays_folder_is_short_where_that_for_temporary_files_is_long(farm):
    facts = serving.facts(farm.settings)
    assert facts is not None
    targets = (farm.home / "prometheus-targets.json").readlink()
    assert targets.is_relative_to("/tmp")
    assert not targets.is_relative_to(Path(farm.environment["TMPDIR"]))
