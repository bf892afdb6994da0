"""The file that lets a machine join a shared farm: who may read it, and what is said of one that will not do."""

import io
from pathlib import Path

import pytest

from farm.errors import BadSetting, NotFound, Refused
from farm.site import invitation
from farm.site.invitation import Invitation

THERE = Invitation(
    head="a100", ray="10.8.0.1:6379", token="t" * 64, redis="redis://:pw@10.8.0.1:7000/0", storage="s3://bucket/farm"
)


def test_only_its_owner_may_read_it_and_it_says_all_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / invitation.FILE
    for _ in range(2):
        invitation.write(path, THERE)
        assert path.stat().st_mode & 0o777 == 0o600
        assert invitation.read(str(path)) == THERE
    assert [file.name for file in tmp_path.iterdir()] == [invitation.FILE]
    monkeypatch.setattr("sys.stdin", io.StringIO(path.read_text()))
    assert invitation.read("-") == THERE


def test_a_copy_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / invitation.FILE
    invitation.write(path, THERE)
    path.chmod(0o640)
    with pytest.raises(Refused, match=rf"its mode 0640 lets others read it\. chmod 600 {path}"):
        invitation.read(str(path))


def test_what_is_no_invitation_is_said_to_be_none_and_not_repeated(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch(0o600)
    for content in (b"", b"{}", b"[]", b"redis://:secret@head", b"\xff\xfe"):
        path.write_bytes(content)
        with pytest.raises(BadSetting, match=r"is not an invitation to a farm\. Copy it again") as caught:
            invitation.read(str(path))
        assert "secret" not in str(caught.value)
    with pytest.raises(NotFound, match="cannot be read: No such file"):
        invitation.read(str(tmp_path / "none"))
    with pytest.raises(NotFound, match="cannot be read: Is a directory"):
        invitation.read(str(tmp_path))


@pytest.mark.parametrize(("word", "is_one"), [("-", True), ("a.json", True), ("./a", True), ("head:6379", False)])
def test_a_head_is_told_from_an_invitation(word: str, is_one: bool) -> None:
    assert invitation.is_one(word) is is_one
