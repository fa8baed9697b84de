"""Reports without images, whose drawing takes seconds."""

import pytest


@pytest.fixture(scope="module")
def no_images():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tune_jobs.report.write.write_images", lambda pictures, folder: "not drawn")
        yield
