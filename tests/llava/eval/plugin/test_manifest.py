"""Counters of several ranks as one, and the file they end in."""

import json
from pathlib import Path

from llava.eval.plugin.manifest import (
    RunRecord,
    build_manifest,
    describe_model,
    merge,
    write_manifest,
)
from llava.eval.settings import EvalSettings


def _record(hits: int, missing: list[str]) -> RunRecord:
    record = RunRecord()
    record.samples["toy"] = hits
    record.visuals["hits"] = hits
    record.missing_keys = missing
    record.visual_tokens = [10] * hits
    record.nanoseconds["model"] = 500_000_000
    return record


def test_ranks_add_up() -> None:
    total = merge([_record(2, ["b", "a"]), _record(3, ["a"]), RunRecord()])
    assert (total.samples["toy"], total.visuals["hits"]) == (5, 5)
    assert total.missing_keys == ["a", "b"]
    assert total.visual_tokens == [10] * 5
    assert total.nanoseconds["model"] == 1_000_000_000


def test_stages_add_up() -> None:
    record = RunRecord()
    for _ in range(2):
        with record.stage("model"):
            pass
    assert record.nanoseconds["model"] > 0


def test_the_model_is_known_by_config_and_weights(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"12")
    first = describe_model(tmp_path)
    assert first["config_sha256"].startswith("44136fa355b3678a")  # sha256 of "{}"
    (tmp_path / "model.safetensors").write_bytes(b"13")
    second = describe_model(tmp_path)
    assert second["weights_sha256"] != first["weights_sha256"]
    assert second["weight_files"] == 1


def test_an_earlier_manifest_is_kept(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    path = tmp_path / "out" / "manifest.json"
    for hits, ended in ((1, "2020-01-01T00-00-00Z"), (2, "2020-01-02T00-00-00Z")):
        manifest = build_manifest(
            merge([_record(hits, [])]),
            EvalSettings(pretrained=str(tmp_path)),
            tmp_path,
            model_dtype="torch.float32",
            device="cpu",
            world_size=1,
        )
        write_manifest({**manifest, "finished_at": ended}, path)
    assert json.loads(path.read_text())["hits"] == 2
    earlier = json.loads(path.with_name("2020-01-01T00-00-00Z_manifest.json").read_text())
    assert earlier["hits"] == 1
    assert earlier["tokens_per_sample"]["visual"] == {"mean": 10, "max": 10}
    assert sorted(item.name for item in path.parent.iterdir()) == [
        "2020-01-01T00-00-00Z_manifest.json",
        "manifest.json",
    ]
