"""A stand-in for the module `pyjoulescope_driver`: the calls, topics and message shapes of its version 2.

Shapes follow the driver's own commands `statistics` and `measure`.
"""


class FakeLibrary:
    """A library with instruments at `paths`; `pass_time` sends statistics as the instrument would."""

    def __init__(self, paths=("u/js220/000415",), hz=20.0):
        self.paths, self.hz = list(paths), hz
        self.energy_j = 0.0
        self.silent = self.garbled = False
        self.refuse = None
        self.published = {}
        self.opened, self.finalized = [], 0
        self.subscribers = {}
        self._since = 0.0

    def Driver(self):
        if self.refuse == "driver":
            raise RuntimeError("jsdrv_initialize failed 1")
        return self

    def device_paths(self, timeout=None):
        return list(self.paths)

    def open(self, device, mode=None, timeout=None):
        if self.refuse == "open":
            raise RuntimeError(f"open {device} failed 4: IN_USE")
        self.opened.append(device)

    def close(self, device, timeout=None):
        self.opened.remove(device)

    def finalize(self, timeout=None):
        self.finalized += 1

    def publish(self, topic, value, timeout=None):
        self.published[topic] = value

    def subscribe(self, topic, flags, fn, timeout=None):
        assert flags == "pub"
        self.subscribers[topic] = fn

    def unsubscribe(self, topic, fn, timeout=None):
        assert self.subscribers.pop(topic) is fn

    def pass_time(self, passed_s, power_w):
        """Let the device behind the instrument draw `power_w`; send what statistics fall due."""
        self.energy_j += passed_s * power_w
        self._since += passed_s
        if self._since + 1e-9 >= 1 / self.hz and not self.silent:
            self._since = 0.0
            energy = "not here" if self.garbled else {"value": self.energy_j, "units": "J"}
            value = {
                "time": {"samples": {"value": [0, 50_000]}},
                "signals": {"power": {"avg": {"value": power_w, "units": "W"}}},
                "accumulators": {"charge": {"value": self.energy_j / 5, "units": "C"}, "energy": energy},
            }
            for topic, fn in list(self.subscribers.items()):
                fn(topic, value)
