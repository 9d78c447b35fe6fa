"""A stand-in for `pynvml` whose GPUs are dictionaries: a query answers its key's value, calls it, or fails with a `Code`."""

from __future__ import annotations

from types import SimpleNamespace

UNKNOWN_ERROR, LOST, NOT_SUPPORTED, NO_PERMISSION = 999, 15, 3, 4


class NVMLError(Exception):
    def __init__(self, value):
        super().__init__(str(value))
        self.value = value


class Code:
    """An NVML error in place of an answer."""

    def __init__(self, value):
        self.value = value


def _answer(found):
    if isinstance(found, Code):
        raise NVMLError(found.value)
    return found() if callable(found) else found


def gpu(bus, **more):
    """A GPU with a counter and power; keys: handle, uuid, name, energy, power, limits, enforced, fields, mig, migs, migmax, arch."""
    return {
        "bus": bus,
        "uuid": f"GPU-{bus:04x}",
        "name": "NVIDIA GeForce RTX 3090",
        "energy": 5000,
        "power": 90_000,
        **more,
    }


def field(milliwatts):
    """An NVML field value that answers."""
    return SimpleNamespace(nvmlReturn=0, valueType=1, value=SimpleNamespace(uiVal=milliwatts))


def fake_nvml(*gpus):
    """Return the module."""

    def handle(index):
        return _answer(gpus[index].get("handle", gpus[index]))

    def query(key, default):
        return lambda one, *_: _answer(one.get(key, default))

    def instance(one, index):
        if index >= len(one.get("migs", ())):
            raise NVMLError(6)
        return {"uuid": one["migs"][index], "bus": 0}

    silent = Code(NOT_SUPPORTED)
    absent = SimpleNamespace(nvmlReturn=NOT_SUPPORTED, valueType=1, value=None)

    def fields(one, keys):
        told = _answer(one.get("fields", silent))
        return [told.get(tuple(key), absent) for key in keys]

    return SimpleNamespace(
        NVMLError=NVMLError,
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetCount=lambda: len(gpus),
        nvmlDeviceGetHandleByIndex=handle,
        nvmlDeviceGetUUID=query("uuid", silent),
        nvmlDeviceGetName=query("name", silent),
        nvmlDeviceGetPciInfo=lambda one: _answer(one.get("pci", SimpleNamespace(domain=0, bus=one["bus"], device=0))),
        nvmlDeviceGetMigMode=query("mig", silent),
        nvmlDeviceGetMaxMigDeviceCount=query("migmax", 7),
        nvmlDeviceGetMigDeviceHandleByIndex=instance,
        nvmlDeviceGetTotalEnergyConsumption=query("energy", silent),
        nvmlDeviceGetPowerUsage=query("power", silent),
        nvmlDeviceGetFieldValues=fields,
        nvmlDeviceGetPowerManagementLimitConstraints=query("limits", [100_000, 350_000]),
        nvmlDeviceGetPowerManagementDefaultLimit=query("default_limit", silent),
        nvmlDeviceGetPowerManagementLimit=query("limit", silent),
        nvmlDeviceGetEnforcedPowerLimit=query("enforced", silent),
        nvmlDeviceGetArchitecture=query("arch", 7),
        nvmlDeviceGetTemperature=query("temperature", 50),
    )
