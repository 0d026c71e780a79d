"""Former paths of modules give what the modules of today hold."""

from importlib import import_module

import pytest

from cv_reader.former import MOVED


@pytest.mark.parametrize("name", sorted(MOVED))
def test_a_former_path_gives_the_names_of_the_module_of_today(name: str) -> None:
    today = import_module(f"cv_reader.{MOVED[name]}")
    former = import_module(f"cv_reader.{name}")
    public = [n for n in vars(today) if not n.startswith("__")]
    assert public
    assert all(getattr(former, n) is getattr(today, n) for n in public)


def test_other_names_are_not_found() -> None:
    with pytest.raises(ModuleNotFoundError):
        import_module("cv_reader.never_was")
