"""Both ways in which an ascent is computed, on the CPU."""

import pytest

from zsharp.optim.ascent import ascent


@pytest.fixture(params=["host", "device"])
def path(request, monkeypatch):
    """As on a host, and as on a device, whose operations run on the CPU too."""
    if request.param == "device":
        monkeypatch.setattr(ascent, "_is_host", lambda devices: False)
    return request.param
