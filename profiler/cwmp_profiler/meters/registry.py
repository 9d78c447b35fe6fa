"""Which meters there are: built-in ones, imported only when asked for, and third-party ones from the entry point group `cwmp.meters`.

Discovery must work on any machine, whatever is missing or broken on it: a meter whose module cannot be imported is kept as a
meter that is unavailable, with the reason, and never stops the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points

from cwmp_profiler.errors import MeterError
from cwmp_profiler.meters.base import Availability, Meter, MeterContext, MeterFactory, MeterUnavailableError

ENTRY_POINT_GROUP = "cwmp.meters"

BUILT_IN: Mapping[str, str] = {
    name: f"cwmp_profiler.meters.{module}:Factory"
    for name, module in {
        "powercap": "powercap",
        "perf": "perf",
        "pyrapl": "pyrapl",
        "nvml": "nvidia.nvml",
        "amdsmi": "amd.amdsmi",
        "ina3221": "jetson.ina3221",
        "rpi5": "raspberry.rpi5",
        "hwmon": "hwmon",
        "battery": "battery",
        "joulescope": "joulescope",
        "tdp": "tdp",
        "simulated": "simulated",
        "replay": "replay",
    }.items()
}
"""Built-in meters, `name -> module:class`, in the order in which they are shown."""


def factories() -> dict[str, MeterFactory]:
    """Return every known meter by name, built-in ones first. Never raises: what cannot be loaded says so when it is opened."""
    found: dict[str, MeterFactory] = {name: _built_in(name, target) for name, target in BUILT_IN.items()}
    for point in sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda point: (point.name, point.value)):
        factory = _third_party(point, found)
        found[factory.name] = factory
    return found


def discover(context: MeterContext) -> list[Availability]:
    """Say of every known meter whether it is available, or why not and what to do. Never raises."""
    return [_probe(factory, context) for factory in factories().values()]


def open_meter(name: str | None, context: MeterContext, *, device: str = "cpu") -> Meter:
    """Open a meter.

    Args:
        name: Registry name; None or `auto` takes the best available one for `device`. `name:argument` hands an argument to
            meters that take one (`replay:FILE`, `hwmon:CHIP`), as option `<name>.argument`.
        context: Where meters look.
        device: What is to be measured (`cpu`, `cuda`, `cuda:1`, `jetson`, ...). `auto` chooses by it; a meter that is named
            finds it in its options as `device`, and may read only that one of several GPUs.

    Raises:
        MeterUnavailableError: If it is not available. For `auto`: every meter that was tried and why it was not taken.
        MeterError: If there is no meter of that name.
    """
    if name is not None and name != "auto":
        name, colon, argument = name.partition(":")
        if colon:
            context = replace(context, options={**context.options, f"{name}.argument": argument})
        return _open(_named(name), replace(context, options={**context.options, "device": device}), None)
    known = factories()
    kind = device.partition(":")[0]
    candidates = sorted(
        (factory for factory in known.values() if factory.rank is not None and kind in factory.devices),
        key=lambda factory: factory.rank or 0,
    )
    tried: list[str] = []
    for factory in candidates:
        try:
            return _open(factory, context, device)
        except MeterError as error:
            reason = error.reason if isinstance(error, MeterUnavailableError) else _one_line(error)
            tried.append(f"{factory.name}: {reason}")
    raise MeterUnavailableError(
        f"no meter can measure {device!r} on this machine ({' | '.join(tried) or 'none serves this device'})",
        "see 'cwmp-profile devices' for each meter's cure",
    )


def _named(name: str) -> MeterFactory:
    if name in BUILT_IN:
        # No other meter can have its name, and none of the others need be loaded.
        return _built_in(name, BUILT_IN[name])
    known = factories()
    if name not in known:
        raise MeterError(f"no meter is called {name!r}; known meters: {', '.join(known)}")
    return known[name]


class _BrokenFactory(MeterFactory):
    """Stands for a meter that could not be loaded: shown as unavailable, with the reason."""

    devices = ()

    def __init__(self, name: str, reason: str, cure: str) -> None:
        self.name = name
        self.summary = "could not be loaded"
        self._error = MeterUnavailableError(reason, cure)

    def open(self, context: MeterContext) -> Meter:
        """Raise the reason."""
        del context
        raise self._error


def _built_in(name: str, target: str) -> MeterFactory:
    module_name, _, class_name = target.partition(":")
    try:
        factory = getattr(import_module(module_name), class_name)()
    except Exception as error:  # noqa: BLE001 - one broken library must not hide the other meters
        return _BrokenFactory(name, f"its code cannot be loaded ({_one_line(error)})", _import_cure(error))
    if not isinstance(factory, MeterFactory):
        return _BrokenFactory(name, f"{target} is no MeterFactory", "")
    return factory


def _third_party(point: EntryPoint, taken: Mapping[str, MeterFactory]) -> MeterFactory:
    distribution = point.dist.name if point.dist else "an unknown distribution"
    where = f"entry point {point.name} = {point.value} of {distribution}"
    cure = f"update or uninstall {distribution}"
    if point.name in taken:
        return _BrokenFactory(f"{point.name} ({distribution})", f"{where} takes the name of another meter", cure)
    try:
        loaded = point.load()
        factory = loaded() if callable(loaded) else loaded
    except Exception as error:  # noqa: BLE001 - third-party code may fail in any way
        return _BrokenFactory(point.name, f"{where} cannot be loaded ({_one_line(error)})", cure)
    if not isinstance(factory, MeterFactory):
        return _BrokenFactory(point.name, f"{where} gives a {type(factory).__name__}, not a MeterFactory", cure)
    if getattr(factory, "name", None) != point.name:
        return _BrokenFactory(point.name, f"{where} gives a meter that calls itself {factory.name!r}", cure)
    return factory


def _open(factory: MeterFactory, context: MeterContext, device: str | None) -> Meter:
    try:
        return factory.open(context) if device is None else factory.open_for(context, device)
    except MeterError:
        raise
    except Exception as error:
        raise MeterUnavailableError(
            f"meter {factory.name} failed with {_one_line(error)}", "run again with --debug and report it to its author"
        ) from error


def _probe(factory: MeterFactory, context: MeterContext) -> Availability:
    try:
        return factory.probe(context)
    except Exception as error:  # noqa: BLE001 - discovery never fails, whatever a meter does
        return Availability(
            meter=factory.name,
            available=False,
            reason=f"its probe failed with {_one_line(error)}",
            cure="run again with --debug and report it to its author",
            provenance=factory.provenance,
        )


def _import_cure(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name and not error.name.startswith("cwmp_"):
        return f"install the package {error.name}"
    return ""


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, MeterError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
