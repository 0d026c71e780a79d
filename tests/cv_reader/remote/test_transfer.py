"""Transfers: what is tried again, what is not, and what the errors say."""

from typing import Any

import pytest

from cv_reader.errors import SettingsError
from cv_reader.remote import transfer
from cv_reader.remote.choice import check_reachable
from cv_reader.remote.transfer import TransferError, traffic, with_retries


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses between tries, which take no time here."""
    found: list[float] = []
    monkeypatch.setattr(transfer.time, "sleep", found.append)
    return found


class _Failing:
    def __init__(self, *errors: Exception) -> None:
        self.errors, self.calls = list(errors), 0

    def __call__(self) -> str:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return "done"


class _Answer(OSError):
    def __init__(self, status: int) -> None:
        super().__init__(f"status {status}")
        self.status = status


def test_failures_that_may_pass_are_tried_again_after_longer_and_longer_pauses(
    waits: list[float],
) -> None:
    before = traffic.copy()
    call = _Failing(ConnectionResetError("cut"), TimeoutError("slow"), _Answer(503), _Answer(429))
    assert with_retries("s3://b/a", call) == "done"
    assert call.calls == 5
    assert traffic.retries - before.retries == 4
    limits = [0.5, 1.0, 2.0, 4.0]
    assert all(limit / 2 <= wait <= limit for wait, limit in zip(waits, limits, strict=True))


def test_tries_are_bounded_and_the_error_says_what_was_tried() -> None:
    call = _Failing(*[OSError("Internal Server Error")] * 9)
    with pytest.raises(TransferError, match="s3://b/a: failed 5 times, the last: Internal Server"):
        with_retries("s3://b/a", call)
    assert call.calls == 5


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (FileNotFoundError("key"), FileNotFoundError),
        (PermissionError("Access Denied"), PermissionError),
        (_Answer(403), PermissionError),
        (_Answer(410), TransferError),
    ],
)
def test_failures_that_stay_are_not_tried_again(error: Exception, kind: type[Exception]) -> None:
    call = _Failing(error)
    with pytest.raises(kind, match="s3://b/a"):
        with_retries("s3://b/a", call)
    assert call.calls == 1


def test_faults_of_the_program_pass_through() -> None:
    with pytest.raises(KeyError):
        with_retries("s3://b/a", _Failing(KeyError("name")))


def test_a_short_body_is_fetched_again(monkeypatch: pytest.MonkeyPatch) -> None:
    bodies = [b"12", b"123456"]

    class System:
        def cat_file(self, _path: str, start: int, end: int) -> bytes:
            return bodies.pop(0)[start:end]

    def system(_address: str) -> tuple[Any, str]:
        return System(), "a"

    monkeypatch.setattr(transfer, "file_system", system)
    file = transfer.RemoteFile("s3://b/a", 6, 0, "")
    assert transfer.fetch_span(file, 0, 6) == b"123456"


def test_places_that_cannot_be_used_are_refused() -> None:
    with pytest.raises(SettingsError, match="cannot be written to"):
        check_reachable("http://127.0.0.1/out", writes=True)
    with pytest.raises(SettingsError, match="memory://none: no such object, folder or bucket"):
        check_reachable("memory://none", writes=False)


def test_errors_of_a_library_of_the_hub_count_as_failures_of_the_transfer() -> None:
    error = type("ConnectError", (Exception,), {"__module__": "httpx2"})("Name or service")
    with pytest.raises(TransferError, match="failed 5 times, the last: Name or service"):
        with_retries("hf://datasets/a/b/c", _Failing(*[error] * 9))
