"""Sessions of the simulated device: through the real session, meter and file, in virtual time."""

import pytest

from cwmp_costmodels.profile.files import load_profile
from cwmp_costmodels.simulation.truth import physics_of
from cwmp_profiler.devices.simulated import SimulatedDevice
from cwmp_profiler.sessions.plan import make_plan
from cwmp_profiler.sessions.session import Session


@pytest.fixture(scope="session")
def truth():
    """Return the truth of a device whose power at rest is its static power, so that every coefficient can be found."""

    def load(name="simulated-board", **simulation):
        profile = load_profile(name)
        block = profile.simulation.model_copy(update={"idle_power_w": None, "update_period_s": 0.001, **simulation})
        return profile.model_copy(update={"simulation": block})

    return load


@pytest.fixture(scope="session")
def measure_simulated(tmp_path_factory):
    """Return a function that measures a truth and gives the file's content."""
    folder = tmp_path_factory.mktemp("sessions")

    def measure(truth, *, seed=0, preset="standard", repeats=None, families=None, distortion=None, name=None):
        device = SimulatedDevice(physics_of(truth, distortion=distortion), seed=seed)
        plan = make_plan(device.info, device.meter, preset=preset, repeats=repeats, seed=seed, families=families)
        path = folder / (name or f"{truth.name}-{seed}.jsonl")
        return Session(device, device.meter, plan).measure(path, overwrite=True)

    return measure
