"""Our samplers pass the cases by which Optuna tests its own: `optuna.testing.pytest_samplers`.

`make test` runs them on what is ours, TPE told a part of the trials; `make test-slow` on every sampler a job can name.
"""

from functools import partial

import pytest
from optuna.testing import pytest_samplers as cases

from tune_jobs.job.load import load_job
from tune_jobs.search.large_studies import PartialTPESampler
from tune_jobs.search.samplers import sampler_of

# Of three trials one is random, so that the cases, which take up to ten, meet the model too.
JOB = ("architectures=[resnet8]", "methods=[zsharp]", "search.num_trials=3")
GRID = ("search.sampler=grid", "space={lr: {choice: [0.01, 0.03, 0.1]}, rho: 0.1}", "search.first_points=[]")

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


def of_job(*sets):
    job = load_job("digits", [*JOB, *sets])
    return partial(sampler_of, job, job.studies()[0], 0)


SAMPLERS = {
    "part": lambda: PartialTPESampler({}, most=4, seed=0, n_startup_trials=1),
    "tpe": of_job(),
    "gp": of_job("search.sampler=gp"),
    "random": of_job("search.sampler=random"),
    "grid": of_job(*GRID),
}


def params(names):
    """All but what is ours alone are slow."""
    return [name if name == "part" else pytest.param(name, marks=pytest.mark.slow) for name in names]


class TestBasic(cases.BasicSamplerTestCase):
    """Values are of the right type and inside, in changing and conditional spaces, beside NaN and fixed values."""

    @pytest.fixture(params=params(SAMPLERS))
    def sampler(self, request):
        return SAMPLERS[request.param]


class TestRelative(cases.RelativeSamplerTestCase):
    """Suggestions for all parameters together, by those that make them."""

    @pytest.fixture(params=params(("part", "tpe", "gp")))
    def sampler(self, request):
        return SAMPLERS[request.param]


class TestSingleOnly(cases.SingleOnlySamplerTestCase):
    """Several objectives are refused."""

    @pytest.fixture
    def sampler(self):
        return SAMPLERS["part"]
