"""pygame and pygame-ce share one module: either is accepted, an empty shell of one is refused in one sentence."""

import sys
from types import ModuleType

import pytest

from worldsim._pygame import import_pygame


class MissingModule:
    """As pygame puts in the place of a part whose library does not load: it is there, but false."""

    def __bool__(self) -> bool:
        return False


def test_an_intact_installation_is_returned():
    assert import_pygame() is sys.modules["pygame"]


def test_the_shell_that_uninstalling_one_of_two_leaves_is_refused_with_the_repair(monkeypatch):
    monkeypatch.setitem(sys.modules, "pygame", ModuleType("pygame"))
    with pytest.raises(ImportError, match=r"has no display, event, font.*pip install --force-reinstall.*pygame"):
        import_pygame()


def test_a_missing_pygame_is_refused_with_the_repair(monkeypatch):
    monkeypatch.setitem(sys.modules, "pygame", None)
    with pytest.raises(ImportError, match="pip install"):
        import_pygame()


def test_a_part_that_did_not_load_is_refused(monkeypatch):
    monkeypatch.setattr(import_pygame(), "font", MissingModule())
    with pytest.raises(ImportError, match="has no font;"):
        import_pygame()
