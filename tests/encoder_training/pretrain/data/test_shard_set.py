"""Shard sets: every sample once on any number of ranks, exact resume, bad samples by name."""

import io
import shutil
import tarfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from encoder_training.pretrain.data import shard_set
from encoder_training.pretrain.data.images import ImageView
from encoder_training.pretrain.data.made import write_made_set
from encoder_training.pretrain.data.samples import BadSampleError
from encoder_training.pretrain.data.set_info import read_set
from encoder_training.pretrain.data.shard_set import SampleReader, ShardSet, open_set
from encoder_training.pretrain.data.tar_shards import Member, npy_bytes

VIEW = ImageView(size_px=28)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sets") / "images"
    write_made_set(folder, "image", num_samples=23, size_px=32, samples_per_shard=5)
    return folder


def keys(images: ShardSet, count: int | None = None) -> list[list[str]]:
    batches = images.batches()
    if count is None:
        return [batch.keys for batch in batches]
    return [next(batches).keys for _ in range(count)]


def opened(path: Path, **settings: Any) -> ShardSet:
    return open_set(path, view=VIEW, **{"batch_size": 2, "num_epochs": 1} | settings)


@pytest.mark.parametrize("world_size", [1, 2, 3, 30])
def test_every_sample_is_read_once(made: Path, world_size: int) -> None:
    found = [
        key
        for rank in range(world_size)
        for batch in keys(opened(made, rank=rank, world_size=world_size))
        for key in batch
    ]
    assert sorted(found) == [f"{number:06d}" for number in range(23)]


def test_the_order_is_shuffled_and_differs_by_epoch_and_seed(made: Path) -> None:
    two = [key for batch in keys(opened(made, num_epochs=2)) for key in batch]
    assert two[:23] != sorted(two[:23]) and two[:23] != two[23:]
    assert sorted(two[23:]) == sorted(two[:23])
    assert [key for batch in keys(opened(made, seed=1)) for key in batch] != two[:23]
    plain = [key for batch in keys(opened(made, shuffle=False)) for key in batch]
    assert plain == sorted(plain)


def test_a_run_continues_on_another_number_of_ranks(made: Path) -> None:
    whole = [key for batch in keys(opened(made, num_epochs=None), 30) for key in batch]
    first = [opened(made, num_epochs=None, rank=rank, world_size=4) for rank in range(4)]
    before = [keys(one, 3) for one in first]
    assert {one.state_dict()["position"] for one in first} == {24}
    after = []
    for rank in range(2):
        one = opened(made, num_epochs=None, rank=rank, world_size=2)
        one.load_state_dict(first[rank].state_dict())
        after.append(keys(one, 9))
    steps = [[key for rank in before for key in rank[step]] for step in range(3)]
    steps += [[key for rank in after for key in rank[step]] for step in range(9)]
    assert [sorted(step) for step in steps[:3]] == [sorted(whole[i : i + 8]) for i in (0, 8, 16)]
    rest = [whole[i : i + 4] for i in range(24, 60, 4)]
    assert [sorted(step) for step in steps[3:]] == [sorted(part) for part in rest]


def test_pixels_depend_on_seed_and_position_alone(made: Path) -> None:
    everything = list(opened(made).batches())
    continued = opened(made)
    continued.load_state_dict({"position": 8})
    again = next(continued.batches())
    assert again.keys == everything[4].keys
    assert again.patches.equal(everything[4].patches)
    assert not next(opened(made, seed=5).batches()).patches.equal(everything[0].patches)


def test_workers_read_the_same(made: Path) -> None:
    alone, helped = opened(made), opened(made, num_workers=2)
    for ours, theirs in zip(alone.batches(), helped.batches(), strict=True):
        assert ours.keys == theirs.keys and ours.patches.equal(theirs.patches)
    assert helped.state_dict() == alone.state_dict()
    assert helped.wait_seconds > 0


def test_a_rank_reads_the_bytes_of_its_own_samples_alone(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = shard_set.read_member
    found: list[int] = []

    def counted(path: Path, member: Member, place: str) -> bytes:
        found.append(len(data := read(path, member, place)))
        return data

    monkeypatch.setattr(shard_set, "read_member", counted)
    totals = []
    for world_size in (1, 4):
        found.clear()
        keys(opened(made, world_size=world_size))
        totals.append(sum(found))
    assert totals[1] < 0.3 * totals[0]  # 6 of 23 samples


def test_a_slow_reader_shows_as_time_without_data(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = SampleReader.read
    monkeypatch.setattr(
        SampleReader, "read", lambda *arguments: (time.sleep(0.01), read(*arguments))[1]
    )
    images = opened(made)
    keys(images, 3)
    assert images.wait_seconds >= 6 * 0.01


def test_a_batch_holds_tokens_positions_and_labels(made: Path) -> None:
    batch = next(opened(made, shuffle=False).batches())
    assert batch.patches.shape == (8, 588) and batch.cu_seqlens.tolist() == [0, 4, 8]
    assert batch.positions.tolist() == [[0, h, w] for h in (0, 1) for w in (0, 1)] * 2
    assert batch.labels[1].tolist() == list(range(1, 11))
    assert batch.kind == "image" and batch.modes == ["image", "image"]


def test_the_webdataset_package_reads_the_shards(made: Path) -> None:
    wds = pytest.importorskip("webdataset")
    urls = [str(path) for path in sorted(made.glob("*.tar"))]
    decoded = wds.WebDataset(urls, shardshuffle=False).decode("pil")
    rows = list(decoded.to_tuple("jpg", "labels.npy"))
    assert len(rows) == 23
    assert rows[7][1].tolist() == list(range(7, 17)) and rows[7][0].size == (32, 32)


def broken(made: Path, tmp_path: Path, change: dict[str, bytes | None]) -> Path:
    """Copy the set with members of its last shard changed (None removes one)."""
    folder = tmp_path / "broken"
    shutil.copytree(made, folder)
    path = folder / "shard-000004.tar"
    members: dict[str, bytes] = {}
    with tarfile.open(path) as tar:
        for member in tar:
            file = tar.extractfile(member)
            assert file is not None
            members[member.name] = file.read()
    with tarfile.open(path, "w") as tar:
        for name, content in {**members, **change}.items():
            if content is not None:
                header = tarfile.TarInfo(name)
                header.size = len(content)
                tar.addfile(header, io.BytesIO(content))
    described = folder / "set.json"
    text = described.read_text().replace(
        f'"num_bytes": {(made / path.name).stat().st_size},\n      "sha256": "{_sha(made)}',
        f'"num_bytes": {path.stat().st_size},\n      "sha256": "{_sha(made)}',
    )
    described.write_text(text)
    return folder


def _sha(made: Path) -> str:
    return read_set(made).shards[4].sha256


def labels(*values: int) -> bytes:
    return npy_bytes(np.array(values, np.int32))


@pytest.mark.parametrize(
    ("member", "content", "rule"),
    [
        ("000021.labels.npy", labels(*range(231, 241)), "label outside the bank"),
        ("000021.labels.npy", labels(1, 2, 3), "wrong number of labels"),
        ("000021.labels.npy", b"nothing", "broken labels"),
        ("000021.labels.npy", npy_bytes(np.zeros((1, 10), np.int32)), "broken labels"),
        ("000021.labels.npy", npy_bytes(np.zeros(10, np.float32)), "broken labels"),
        ("000021.labels.npy", labels(*range(10))[:-8], "broken labels"),
        # A header that promises a terabyte must not be believed.
        ("000021.labels.npy", labels(1).replace(b"(1,)", b"(999999999999,)"), "broken labels"),
        ("000021.labels.npy", None, "no labels"),
        ("000021.jpg", b"\xff\xd8\xff\xe0 no picture", "broken image"),
        ("000021.jpg", None, "no image"),
    ],
)
def test_bad_samples_are_named_or_counted(
    made: Path, tmp_path: Path, member: str, content: bytes | None, rule: str
) -> None:
    folder = broken(made, tmp_path, {member: content})
    with pytest.raises(BadSampleError, match=f"shard-000004.tar, key 000021: .*{rule}") as caught:
        keys(opened(folder))
    assert caught.value.rule == rule
    lenient = opened(folder, on_bad="skip")
    found = [key for batch in keys(lenient) for key in batch]
    assert len(found) == 22 and "000021" not in found
    assert lenient.skipped == {rule: 1}


def test_ranks_keep_step_where_one_skips_all_its_samples(made: Path, tmp_path: Path) -> None:
    folder = broken(made, tmp_path, {"000021.jpg": None, "000022.jpg": None})
    ranks = [
        keys(opened(folder, rank=rank, world_size=2, batch_size=1, on_bad="skip"))
        for rank in range(2)
    ]
    assert [len(batches) for batches in ranks] == [12, 12]
    assert sum(not batch for batches in ranks for batch in batches) == 3
    reader = opened(folder, batch_size=1, on_bad="skip", shuffle=False)
    empty = list(reader.batches())[21]
    assert empty.patches.shape == (0, 3 * 14 * 14) and empty.labels.shape == (0, 10)
    assert empty.cu_seqlens.tolist() == [0] and reader.state_dict() == {"position": 23}


def test_a_cut_picture_is_bad(made: Path, tmp_path: Path) -> None:
    with tarfile.open(made / "shard-000004.tar") as tar:
        file = tar.extractfile("000021.jpg")
        assert file is not None
        data = file.read()
    folder = broken(made, tmp_path, {"000021.jpg": data[: len(data) // 2]})
    with pytest.raises(BadSampleError, match="key 000021: .*broken image"):
        keys(opened(folder))


def test_a_cut_shard_is_refused_by_name(made: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cut"
    shutil.copytree(made, folder)
    path = folder / "shard-000002.tar"
    path.write_bytes(path.read_bytes()[:4000])
    with pytest.raises(BadSampleError, match="shard-000002.tar, after key 0000.*broken shard"):
        keys(opened(folder))
    lenient = opened(folder, on_bad="skip")
    assert len([key for batch in keys(lenient) for key in batch]) == 18
    assert lenient.skipped == {"broken shard": 5}


def test_a_shard_that_changed_is_refused(made: Path, tmp_path: Path) -> None:
    folder = tmp_path / "changed"
    shutil.copytree(made, folder)
    shutil.copy(folder / "shard-000004.tar", folder / "shard-000000.tar")
    with pytest.raises(BadSampleError, match="shard-000000.tar: set.json has 5 samples"):
        keys(opened(folder))


def test_sets_of_other_banks_do_not_mix(made: Path, tmp_path: Path) -> None:
    write_made_set(tmp_path / "same", "image", num_samples=3, size_px=32)
    both = open_set([made, tmp_path / "same"], view=VIEW, batch_size=4, num_epochs=1)
    assert both.info.num_samples == 26 and sum(len(b.keys) for b in both.batches()) == 26
    write_made_set(tmp_path / "other", "image", num_samples=3, size_px=32, seed=1)
    with pytest.raises(ValueError, match="same version.*\n.*made-1.*\n.*made-0"):
        open_set([made, tmp_path / "other"], view=VIEW, batch_size=4)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"version": 1', '"version": 2', "version must be 1, got 2"),
        ('"kind": "image"', '"kind": "sound"', "kind must be one of"),
        ('"num_centres": 240', '"num_centres": 0', "num_centres must be at least 1, got 0"),
        ('"num_centres": 240', '"num_centres": "240"', "num_centres must be int"),
        ("shard-000001.tar", "../shard-000001.tar", "a shard must be a .tar file of this folder"),
        ("{", "[", "must describe a shard set"),
    ],
)
def test_a_wrong_description_is_refused(
    made: Path, tmp_path: Path, old: str, new: str, message: str
) -> None:
    text = (made / "set.json").read_text().replace(old, new, 1)
    (tmp_path / "set.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_set(tmp_path)
    with pytest.raises(ValueError, match="must be a shard set with set.json"):
        read_set(tmp_path / "nothing")


def test_the_same_samples_give_the_same_bytes(made: Path, tmp_path: Path) -> None:
    again = write_made_set(tmp_path / "b", "image", num_samples=23, size_px=32, samples_per_shard=5)
    assert again == read_set(made) == read_set(tmp_path / "b")
    with pytest.raises(ValueError, match="already holds a shard set"):
        write_made_set(made, "image", num_samples=1)
