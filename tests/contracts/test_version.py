"""The version is the installed one, and asking for it costs next to nothing."""

import subprocess
import sys
from importlib.metadata import version

import pytest

import zsharp


def test_version_is_that_of_the_distribution():
    assert zsharp.__version__ == version("zsharp-tune")
    with pytest.raises(AttributeError, match="no attribute 'verison'"):
        _ = zsharp.verison


def test_asking_for_the_version_imports_nothing_large():
    code = "import sys, zsharp; zsharp.__version__; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
