"""Modules of the user's own: which are imported, and what is said about those that cannot be."""

import sys
from pathlib import Path

import pytest

from zsharp import user_code
from zsharp.user_code import (
    UserCodeError,
    accepted,
    code_checksum,
    load_callable,
    loaded_files,
    user_traceback,
)


@pytest.fixture
def folder(tmp_path):
    before, path = set(sys.modules), list(sys.path)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]
    sys.path[:] = path
    user_code._imported.clear()


BROKEN = {
    "no module": ("absent:f", {"near.py": ""}, "absent"),
    "no name": ("mod1:mixr", {"mod1.py": "def mixer(): pass"}, "did you mean mixer"),
    "not callable": ("mod2:x", {"mod2.py": "x = 3"}, "int"),
    "raises": ("mod3:f", {"mod3.py": "\n\nraise ValueError('my reason')"}, "my reason"),
    "and says where": ("mod4:f", {"mod4.py": "\n\n1 / 0"}, "mod4.py, line 3"),
    "syntax": ("mod5:f", {"mod5.py": "def f(:"}, "mod5.py, line 1"),
    "imports what is absent": ("mod6:f", {"mod6.py": "import not_there_at_all"}, "not_there_at_all"),
    "exits": ("mod7:f", {"mod7.py": "import sys; sys.exit(3)"}, "sys.exit(3)"),
    "shadows Python": ("json:f", {"json.py": "def f(): pass"}, "rename yours"),
    "shadows ours": ("zsharp:f", {"zsharp.py": "def f(): pass"}, "rename yours"),
    "shadows what is installed": ("optuna:f", {"optuna.py": "def f(): pass"}, "rename yours"),
    "is twice": ("mod8:f", {"a/mod8.py": "", "b/mod8.py": ""}, "rename one"),
    "no reference": ("mod9", {}, "module:function"),
    "no path": ("../x:f", {}, "module:function"),
}


@pytest.mark.parametrize(("reference", "files", "said"), BROKEN.values(), ids=BROKEN)
def test_what_cannot_be_loaded_is_named(reference, files, said, folder):
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    with pytest.raises(UserCodeError) as caught:
        load_callable(reference, [folder, folder / "a", folder / "b"])
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_import_that_hangs_is_given_up(folder, monkeypatch):
    monkeypatch.setattr(user_code, "IMPORT_LIMIT_S", 0.2)
    (folder / "slow.py").write_text("import time; time.sleep(30)")
    with pytest.raises(UserCodeError, match=r"importing slow: took longer than 0\.2 s"):
        load_callable("slow:f", [folder])


def test_what_an_import_prints_stays_off_the_output(folder, capsys):
    (folder / "loud.py").write_text("print('hello')\ndef f(): return 1")
    assert load_callable("loud:f", [folder])() == 1
    assert capsys.readouterr() == ("", "hello\n")


def test_a_changed_file_and_another_folders_are_imported_again(folder):
    for name in ("one", "two"):
        (folder / name).mkdir()
        (folder / name / "twin.py").write_text(f"def f(): return {name!r}")
    assert load_callable("twin:f", [folder / "one"])() == "one"
    assert load_callable("twin:f", [folder / "two"])() == "two"
    (folder / "two" / "twin.py").write_text("def f(): return 'changed'")
    assert load_callable("twin:f", [folder / "two"])() == "changed"
    assert load_callable("twin:f", [folder / "one"])() == "one"


def test_what_was_loaded_is_listed_with_what_it_imports(folder):
    (folder / "pack").mkdir()
    (folder / "pack" / "__init__.py").write_text("")
    (folder / "pack" / "nets.py").write_text("import helper_of_nets\ndef f(): pass")
    (folder / "helper_of_nets.py").write_text("")
    (folder / "unused.py").write_text("")
    load_callable("pack.nets:f", [folder])
    files = loaded_files([folder])
    assert list(files) == ["helper_of_nets.py", "pack/__init__.py", "pack/nets.py"]
    before = code_checksum(files)
    (folder / "helper_of_nets.py").write_text("# other")
    assert code_checksum(files) != before


def two(image_shape, num_classes, width=3):
    """Takes some."""


def all_of_them(**arguments):
    """Takes all."""


def by_position(shape, /):
    """Takes none by name."""


def more(image_shape, depth):
    """Needs what nobody gives."""


OFFERED = {"image_shape": (1, 2, 2), "num_classes": 3, "width": 5}


def test_arguments_that_a_signature_takes():
    assert accepted(two, OFFERED | {"depth": 1}, "two") == OFFERED
    assert accepted(all_of_them, OFFERED, "all") == OFFERED


@pytest.mark.parametrize(("function", "said"), [(by_position, "by position"), (more, "'depth'")])
def test_a_signature_that_cannot_be_served(function, said):
    with pytest.raises(UserCodeError, match=said):
        accepted(function, OFFERED, "theirs")


def test_a_traceback_is_cut_to_their_files(folder):
    (folder / "fails.py").write_text("import json\ndef f():\n    json.loads('{')")
    function = load_callable("fails:f", [folder])
    with pytest.raises(ValueError, match="Expecting") as caught:
        function()
    text = user_traceback(caught.value, [folder])
    assert text.count("File ") == 1
    assert 'fails.py", line 3' in text
    assert text.rstrip().splitlines()[-1].startswith("json.decoder.JSONDecodeError")
    assert user_traceback(caught.value, [Path("/nowhere")]).count("File ") > 1
