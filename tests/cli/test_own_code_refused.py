"""What users bring and cannot be used: one line and exit code 2, before anything is started or written."""

import pytest
from command_line import assert_refused
from own_code_cases import CASES, answer


@pytest.mark.parametrize(("job", "files", "said"), CASES.values(), ids=CASES)
def test_what_cannot_be_used_is_refused_in_a_line(job, files, said, tmp_path):
    told = answer(job, files, tmp_path)
    assert_refused(told)
    assert said in told[2]
    assert not (tmp_path / "out").exists()
