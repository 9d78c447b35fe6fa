"""Whether what a profile knows of operators holds for the software at hand: other versions and threads run other kernels."""

from __future__ import annotations

import sys

from cwmp_costmodels.profile.schema import Profile
from cwmp_profiler.devices import host
from cwmp_profiler.devices.software import Software, software


def validity_remark(profile: Profile, *, threads: int | None = None) -> str:
    """Return in one line what differs here from where the operators of a profile were timed; "" where nothing does.

    Nothing is said of a profile of another device, which is priced from afar, nor of one without operators.

    Args:
        profile: Any profile.
        threads: Threads that the work will take; None takes those that measuring would (`software`).
    """
    if profile.operators is None or not is_here(profile):
        return ""
    here, held = software(), profile.operators.validity
    apart = differences(held.torch, held.threads, held.libraries, here, here.threads if threads is None else threads)
    if not apart:
        return ""
    return (
        f"operators of profile {profile.name} were timed with {', '.join(apart)}: their times may not hold; measure them again "
        "('cwmp-profile measure --families') or use what they were timed with"
    )


def differences(torch: str, threads: int, libraries: dict[str, str], here: Software, threads_here: int) -> list[str]:
    """Return `what then (now here)` for everything that is known on both sides and differs."""
    pairs = [("torch", torch, here.torch), ("threads", str(threads), str(threads_here))]
    pairs += [(name, libraries.get(name, ""), here.libraries.get(name, "")) for name in sorted(libraries)]
    return [f"{name} {then} ({now} here)" for name, then, now in pairs if then and now and then != now]


def is_here(profile: Profile) -> bool:
    """Return whether a profile is of this machine, as far as its name tells; a simulated device never is."""
    device = profile.device
    place = str(device.details.get("torch_device", ""))
    if place == "cpu":
        return device.model == host.cpu_model()
    torch = sys.modules.get("torch")
    if not place.startswith("cuda") or torch is None or not torch.cuda.is_available():
        return False
    return device.model == str(torch.cuda.get_device_name(0))
