"""Sessions on simulated devices for tests: the whole real chain in virtual time."""

from pathlib import Path

from cwmp_costmodels.profile.files import load_profile
from cwmp_costmodels.simulation.truth import physics_of
from cwmp_profiler.devices.simulated import SimulatedDevice
from cwmp_profiler.sessions.measurements import Measurements
from cwmp_profiler.sessions.plan import make_plan
from cwmp_profiler.sessions.session import Session


def simulated_session(
    truth="simulated-board", *, seed=0, device_seed=None, preset="quick", distortion=None, **options
) -> Session:
    """Return a session of a simulated device; `options` go to `make_plan`."""
    physics = physics_of(load_profile(truth) if isinstance(truth, str) else truth, distortion=distortion)
    device = SimulatedDevice(physics, seed=seed if device_seed is None else device_seed)
    plan = make_plan(device.info, device.meter, preset=preset, seed=seed, **options)
    return Session(device, device.meter, plan, tool="test")


def simulated_file(path: Path, truth="simulated-board", **options) -> Measurements:
    """Measure a simulated device into `path`."""
    return simulated_session(truth, **options).measure(path)
