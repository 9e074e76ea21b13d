"""Who may use a profile on a shared volume, and who may not."""

from __future__ import annotations

import asyncio
import os
import stat
from pathlib import Path

import pytest

from session_worker.contract import SessionKey
from session_worker.profiles import Profile, ProfileStore, ProfileTakenError, ProfileUnusableError

ANA = SessionKey("team", "ana")


@pytest.fixture
def store(tmp_path: Path) -> ProfileStore:
    """A volume."""
    return ProfileStore(tmp_path)


async def take(store: ProfileStore, epoch: int = 1, *, uid: str = "u", worker: str = "w1", wait: float = 0) -> Profile:
    return await store.open(ANA, epoch=epoch, uid=uid, worker=worker, wait=wait)


async def test_a_new_profile_is_empty_and_nobody_elses_to_read(store: ProfileStore, tmp_path: Path) -> None:
    with await take(store) as profile:
        assert profile.directory == tmp_path / "team" / "ana" / "chromium"
        assert profile.is_new
        assert list(profile.directory.iterdir()) == []
        assert stat.S_IMODE(profile.directory.stat().st_mode) == 0o700


async def test_what_a_browser_has_written_is_there_for_the_next_owner(store: ProfileStore) -> None:
    with await take(store, 1) as profile:
        (profile.directory / "Default").mkdir()
        (profile.directory / "Default" / "login").write_text("keys")
    with await take(store, 2, worker="w2") as profile:
        assert not profile.is_new
        assert (profile.directory / "Default" / "login").read_text() == "keys"


async def test_two_owners_cannot_have_it_at_once(store: ProfileStore) -> None:
    with await take(store, 1, worker="w1"):
        with pytest.raises(ProfileTakenError, match="in use by worker w1"):
            await take(store, 2, worker="w2")
        # Other sessions are no concern of it.
        (await store.open(SessionKey("team", "bob"), epoch=1, uid="u", worker="w2", wait=0)).close()
    (await take(store, 2, worker="w2")).close()


async def test_an_owner_waits_for_the_one_before_to_let_go(store: ProfileStore) -> None:
    first = await take(store, 1)
    second = asyncio.create_task(take(store, 2, worker="w2", wait=30))
    done, _ = await asyncio.wait({second}, timeout=0.3)
    assert not done
    first.close()
    (await second).close()


async def test_the_lock_lasts_as_long_as_a_browser_that_inherited_it(store: ProfileStore) -> None:
    """A worker that dies may leave its browser for a moment; only then the profile is free."""
    profile = await take(store, 1)
    browser = await asyncio.create_subprocess_exec("sleep", "60", pass_fds=(profile.fileno(),))
    profile.close()
    with pytest.raises(ProfileTakenError):
        await take(store, 2)
    browser.kill()
    await browser.wait()
    (await take(store, 2)).close()


async def test_no_other_process_inherits_the_lock(store: ProfileStore) -> None:
    profile = await take(store, 1)
    stranger = await asyncio.create_subprocess_exec("sleep", "60", close_fds=False)
    profile.close()
    (await take(store, 2)).close()
    stranger.kill()
    await stranger.wait()


async def test_an_owner_from_before_comes_too_late(store: ProfileStore) -> None:
    (await take(store, 5, worker="w5")).close()
    with pytest.raises(ProfileTakenError, match="epoch 4 is over: worker w5 had the profile with epoch 5"):
        await take(store, 4)
    # The refused one leaves no lock behind, and no trace in the record.
    (await take(store, 5, worker="w5")).close()
    (await take(store, 6)).close()


async def test_a_session_made_anew_under_the_same_name_counts_its_epochs_anew(store: ProfileStore) -> None:
    (await take(store, 5, uid="old")).close()
    (await take(store, 1, uid="new")).close()
    with pytest.raises(ProfileTakenError):
        await take(store, 0, uid="new")


@pytest.mark.parametrize("text", ["", "no JSON", '{"epoch": 9, "uid"'])
async def test_a_broken_record_locks_nobody_out(store: ProfileStore, tmp_path: Path, text: str) -> None:
    (await take(store, 5)).close()
    (tmp_path / "team" / "ana" / "owner.json").write_text(text)
    (await take(store, 1)).close()


async def test_a_wiped_profile_is_new_and_still_held(store: ProfileStore) -> None:
    with await take(store, 1) as profile:
        (profile.directory / "Default").mkdir()
        profile.wipe()
        assert profile.is_new
        with pytest.raises(ProfileTakenError):
            await take(store, 2)
    with pytest.raises(ProfileTakenError, match="is over"):
        await take(store, 0)


async def test_what_was_told_is_kept_beside_the_login_and_a_broken_note_is_none(
    store: ProfileStore, tmp_path: Path
) -> None:
    with await take(store, 1) as profile:
        assert profile.told_since is None
        profile.note_told_since(1234.5)
    note = tmp_path / "team" / "ana" / "told.json"
    with await take(store, 2, worker="w2") as profile:
        assert profile.told_since == 1234.5
        for text in ("", "[]", "{}", '{"since": null}', '{"since": "soon"}'):
            note.write_text(text)
            assert profile.told_since is None
        note.unlink()
        note.with_name("told.json.new").mkdir()
        with pytest.raises(ProfileUnusableError, match=r"told\.json: Is a directory"):
            profile.note_told_since(1)


async def test_a_removed_profile_leaves_nothing_not_even_its_epoch(store: ProfileStore, tmp_path: Path) -> None:
    with await take(store, 5) as profile:
        (profile.directory / "Default").mkdir()
        profile.remove()
    assert list((tmp_path / "team").iterdir()) == []
    with await take(store, 1) as profile:
        assert profile.is_new


async def test_the_lock_of_a_removed_profile_locks_nothing(store: ProfileStore) -> None:
    """Somebody who waited for it must not take the lock of a file that no longer has a name."""
    first = await take(store, 1)
    second = asyncio.create_task(take(store, 2, wait=30))
    await asyncio.wait({second}, timeout=0.3)
    first.remove()
    first.close()
    with await second, pytest.raises(ProfileTakenError):
        await take(store, 3)


async def test_giving_back_twice_is_no_error_and_takes_no_file_from_others(store: ProfileStore) -> None:
    profile = await take(store, 1)
    profile.close()
    with (store_file := os.fdopen(os.open(os.devnull, os.O_RDONLY))):
        profile.close()
        assert store_file.read() == ""


async def test_a_volume_that_can_be_written_passes_the_check_without_a_trace(tmp_path: Path) -> None:
    root = tmp_path / "not" / "there" / "yet"
    ProfileStore(root).check()
    assert list(root.iterdir()) == []


async def test_a_directory_that_cannot_be_written_is_named_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    store = ProfileStore(tmp_path / "file" / "profiles")
    with pytest.raises(ProfileUnusableError, match=r"PROFILE_DIR .*/file/profiles cannot be written: Not a directory"):
        store.check()
    with pytest.raises(ProfileUnusableError, match=r"profile .*/file/profiles/team/ana: Not a directory"):
        await take(store)


async def test_a_profile_that_cannot_be_prepared_is_given_back(store: ProfileStore, tmp_path: Path) -> None:
    home = tmp_path / "team" / "ana"
    home.mkdir(parents=True)
    (home / "chromium").write_text("in the way")
    with pytest.raises(ProfileUnusableError, match=r"profile .*/team/ana: File exists"):
        await take(store)
    (home / "chromium").unlink()
    (await take(store)).close()
