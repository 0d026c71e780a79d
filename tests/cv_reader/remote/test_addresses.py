"""Which names are addresses, and which of them are refused by name."""

import importlib
from pathlib import Path
from typing import Any

import pytest

from cv_reader.errors import SettingsError
from cv_reader.remote.addresses import address_of, check_scheme, joined


@pytest.mark.parametrize(
    ("path", "address"),
    [
        ("s3://bucket/a b.mp4", "s3://bucket/a b.mp4"),
        (Path("s3://bucket/x") / "y.mp4", "s3://bucket/x/y.mp4"),
        ("GS://b/k", "gs://b/k"),
        ("file:///data/a.mp4", "file:///data/a.mp4"),
        (Path("file:///data/a.mp4"), "file:///data/a.mp4"),
        ("http://host:80/a.mp4?x=1", "http://host:80/a.mp4?x=1"),
        ("a/s3://b", None),
        ("/data/a.mp4", None),
        ("C:/videos/a.mp4", None),
        ("odd:name.mp4", None),
    ],
)
def test_addresses_survive_being_paths(path: str | Path, address: str | None) -> None:
    assert address_of(path) == address


def test_an_address_is_not_put_below_a_folder() -> None:
    assert joined(Path("/data"), "s3://b/a.mp4") == Path("s3://b/a.mp4")
    assert joined(Path("s3://b/videos"), "a.mp4") == Path("s3://b/videos/a.mp4")
    assert joined(Path("/data"), "a.mp4") == Path("/data/a.mp4")


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("ftp://host/a.mp4", "scheme must be one of s3://"),
        ("simplecache::s3://b/a", None),
        ("s3://b//a", "without // or ::"),
        ("s3://b/a::zip://x", "without // or ::"),
    ],
)
def test_addresses_that_cannot_be_read_are_refused(address: str, said: str | None) -> None:
    if said is None:
        assert address_of(address) is None
        return
    with pytest.raises(SettingsError, match=said):
        check_scheme(address)


def test_a_missing_package_is_named_with_the_line_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = importlib.import_module

    def without(name: str, *rest: Any) -> Any:
        if name == "gcsfs":
            raise ImportError(name)
        return found(name, *rest)

    monkeypatch.setattr(importlib, "import_module", without)
    with pytest.raises(
        SettingsError, match=r"needs the package gcsfs.*pip install -e '.\[remote\]'"
    ):
        check_scheme("gs://bucket/a.mp4")
