"""A profile as the truth of a simulated device: its coefficients become physics, its `simulation` block the imperfections."""

from __future__ import annotations

from cwmp_costmodels.errors import ProfileError
from cwmp_costmodels.profile.schema import Profile, SimulationBlock
from cwmp_costmodels.simulation.radio import radio_physics
from cwmp_profiler.devices.simulated import Distortion, Physics

DEFAULT_TRUTH = "simulated-board"


def physics_of(profile: Profile, *, distortion: Distortion | None = None) -> Physics:
    """Return the physics of a simulated device whose truth is `profile`.

    Args:
        profile: Any profile with `static_power` and times; a fitted one works too.
        distortion: Physics beyond the linear model, for tests of misfit.

    Raises:
        ProfileError: If the profile lacks `static_power` or all times (most literature profiles do).
        RadioError: If its radio is not valid.
    """
    if "static_power" not in profile.coefficients:
        raise ProfileError(f"profile {profile.name} has no $.coefficients.static_power, which a simulated device needs")
    if not any(coefficient.value > 0 for coefficient in profile.times.values()):
        raise ProfileError(f"profile {profile.name} has no $.times, without which a simulated device cannot run")
    simulation = profile.simulation or SimulationBlock()
    return Physics(
        info=profile.device.info(),
        static_power_w=profile.coefficients["static_power"].value,
        energy={name: found.value for name, found in profile.coefficients.items() if name != "static_power"},
        time={name: found.value for name, found in profile.times.items()},
        factors={name: layer.factor.value for name, layer in profile.layers.items()},
        noise=simulation.noise,
        counter_unit_j=simulation.counter_unit_j,
        counter_bits=simulation.counter_bits,
        update_period_s=simulation.update_period_s,
        drift_per_hour=simulation.drift_per_hour,
        spike_rate_hz=simulation.spike_rate_hz,
        spike_w=simulation.spike_w,
        spike_s=simulation.spike_s,
        idle_power_w=simulation.idle_power_w,
        distortion=distortion,
        radio=radio_physics(profile),
    )
