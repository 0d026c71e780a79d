"""Mixture settings beyond the list of files: types, braces, seeds, names."""

import json
from pathlib import Path

import pytest

from llava.data.mixture import Mixture, expand_braces

TURNS = [{"from": "human", "value": "<video>"}, {"from": "gpt", "value": "A"}]


def _write(folder: Path, name: str, count: int = 4, **fields: object) -> None:
    lines = [
        json.dumps({"id": f"{name}{i}", "conversations": TURNS, **fields}) for i in range(count)
    ]
    (folder / name).write_text("\n".join(lines))


def _mixture(folder: Path, text: str) -> Mixture:
    (folder / "mix.yaml").write_text(text)
    return Mixture(folder / "mix.yaml")


def _ids(mixture: Mixture) -> list[str]:
    return [mixture.read(index)[0]["id"] for index in range(len(mixture))]


def test_braces_name_several_files_in_their_order(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.jsonl"):
        _write(tmp_path, name, 2)
    mixture = Mixture(tmp_path / "{b, a}.jsonl")
    assert _ids(mixture) == ["b.jsonl0", "b.jsonl1", "a.jsonl0", "a.jsonl1"]
    assert mixture.names == ("b", "a") and mixture.sizes == (2, 2)
    assert [mixture.set_of(index) for index in range(4)] == [0, 0, 1, 1]
    assert mixture.set_range(1) == range(2, 4)


def test_braces_expand_twice_but_not_in_folders(tmp_path: Path) -> None:
    names = [path.name for path in expand_braces(tmp_path / "{a,b}_{1,2}.json")]
    assert names == ["a_1.json", "a_2.json", "b_1.json", "b_2.json"]
    with pytest.raises(ValueError, match="name of a file only"):
        expand_braces(Path("/x/{a,b}/c.json"))


def test_the_strategy_holds_for_each_file_of_the_braces(tmp_path: Path) -> None:
    _write(tmp_path, "a.jsonl")
    _write(tmp_path, "b.jsonl")
    text = "datasets:\n  - {json_path: '{a,b}.jsonl', sampling_strategy: 'end:1'}"
    assert _ids(_mixture(tmp_path, text)) == ["a.jsonl3", "b.jsonl3"]


def test_a_type_holds_for_entries_without_their_own(tmp_path: Path) -> None:
    _write(tmp_path, "a.jsonl", 1, image=["0.png"])
    _write(tmp_path, "b.jsonl", 1, type="image")
    mixture = _mixture(tmp_path, "datasets:\n  - {json_path: '{a,b}.jsonl', type: frames}")
    assert [mixture.read(index)[0]["type"] for index in (0, 1)] == ["frames", "image"]


def test_a_seed_of_its_own_changes_that_data_set_alone(tmp_path: Path) -> None:
    _write(tmp_path, "a.jsonl", 200)
    line = "  - {json_path: a.jsonl, sampling_strategy: 'random:50%'"
    common = _ids(_mixture(tmp_path, f"seed: 1\ndatasets:\n{line}}}\n{line}}}"))
    own = _ids(_mixture(tmp_path, f"seed: 1\ndatasets:\n{line}}}\n{line}, seed: 9}}"))
    assert common[:100] == own[:100] and common[100:] != own[100:]
    assert common[:100] != common[100:]


def test_names_are_given_or_made_distinct(tmp_path: Path) -> None:
    _write(tmp_path, "a.jsonl")
    line = "  - {json_path: a.jsonl"
    mixture = _mixture(tmp_path, f"datasets:\n{line}}}\n{line}}}\n{line}, name: clips}}")
    assert mixture.names == ("a", "a_2", "clips")


def test_the_fingerprint_follows_what_is_taken(tmp_path: Path) -> None:
    _write(tmp_path, "a.jsonl")
    whole = _mixture(tmp_path, "datasets: [{json_path: a.jsonl}]").fingerprint()
    assert whole == _mixture(tmp_path, "datasets: [{json_path: a.jsonl}]").fingerprint()
    part = "datasets: [{json_path: a.jsonl, sampling_strategy: 'first:2'}]"
    assert whole != _mixture(tmp_path, part).fingerprint()
    _write(tmp_path, "a.jsonl", 5)
    assert whole != _mixture(tmp_path, "datasets: [{json_path: a.jsonl}]").fingerprint()


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("{json_path: a.jsonl, type: movie}", "type must be one of codec, .* got 'movie'"),
        ("{json_path: a.jsonl, seed: -1}", "seed must be an integer >= 0, got -1"),
        ("{json_path: a.jsonl, seed: true}", "seed must be an integer >= 0, got True"),
        ("{json_path: '{a,lost}.jsonl'}", "lost.jsonl does not exist"),
    ],
)
def test_wrong_settings_are_refused(tmp_path: Path, entry: str, message: str) -> None:
    _write(tmp_path, "a.jsonl")
    with pytest.raises(ValueError, match=message):
        _mixture(tmp_path, f"datasets: [{entry}]")


def test_an_absolute_path_of_a_published_mixture_means_the_file_next_to_it(tmp_path: Path) -> None:
    _write(tmp_path, "blip_558k.jsonl", 2)
    entry = (
        '- json_path: /mnt/lab/data/blip_558k.jsonl # released\n    sampling_strategy: "first:50%"'
    )
    text = f"datasets:\n  {entry}\n"
    assert _ids(_mixture(tmp_path, text)) == ["blip_558k.jsonl0"]


def test_streams_are_refused_with_the_reason(tmp_path: Path) -> None:
    text = "datasets:\n  - {hf_path: lab/some-data, streaming: true}"
    with pytest.raises(
        ValueError,
        match="some-data: streaming is for --data_path of training.*leave streaming out",
    ):
        _mixture(tmp_path, text)
    with pytest.raises(ValueError, match="json_path or hf_path"):
        _mixture(tmp_path, "datasets:\n  - {hf_path: a, json_path: b.jsonl}")
