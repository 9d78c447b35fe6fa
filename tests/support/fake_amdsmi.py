"""A stand-in for the module `amdsmi`: names, dictionary keys, units and error codes of its Python interface (version 7)."""


class AmdSmiException(Exception):
    pass


class AmdSmiLibraryException(AmdSmiException):
    def __init__(self, code):
        super().__init__(code)
        self.err_code = code

    def __str__(self):
        return f"Error code:\n\t{self.err_code} | AMDSMI_STATUS_{self.err_code}"


class FakeGpu:
    """One GPU. `resolution_uj` None: no accumulator; `power_key` None: no power."""

    def __init__(self, resolution_uj=15.259, power_key="current_socket_power", power_w=500, name="AMD Instinct MI300X"):
        self.resolution_uj, self.power_key, self.power_w, self.name = resolution_uj, power_key, power_w, name
        self.energy_j = 1000.0
        self.fail = None
        self.garbled = False
        self.serial = self.cap = None
        self.describe_fail = None


class FakeAmdSmi:
    AmdSmiException = AmdSmiException
    AmdSmiLibraryException = AmdSmiLibraryException

    def __init__(self, *gpus):
        self.gpus = list(gpus)
        self.init_code = None
        self.opened = 0

    def amdsmi_init(self):
        if self.init_code is not None:
            raise AmdSmiLibraryException(self.init_code)
        self.opened += 1

    def amdsmi_shut_down(self):
        self.opened -= 1

    def amdsmi_get_processor_handles(self):
        return self.gpus

    def amdsmi_get_gpu_asic_info(self, gpu):
        if gpu.describe_fail is not None:
            raise AmdSmiLibraryException(gpu.describe_fail)
        return {"market_name": gpu.name, "asic_serial": gpu.serial or "N/A"}

    def amdsmi_get_power_cap_info(self, gpu):
        if gpu.cap is None or gpu.describe_fail is not None:
            raise AmdSmiLibraryException(gpu.describe_fail or 2)
        return {"max_power_cap": gpu.cap}

    def amdsmi_get_energy_count(self, gpu):
        if gpu.fail is not None:
            raise AmdSmiLibraryException(gpu.fail)
        if gpu.resolution_uj is None:
            raise AmdSmiLibraryException(2)
        ticks = "N/A" if gpu.garbled else round(gpu.energy_j * 1e6 / gpu.resolution_uj)
        return {"energy_accumulator": ticks, "counter_resolution": gpu.resolution_uj, "timestamp": 1}

    def amdsmi_get_power_info(self, gpu):
        if gpu.fail is not None:
            raise AmdSmiLibraryException(gpu.fail)
        info = {"socket_power": 0xFFFFFFFF, "current_socket_power": "N/A", "average_socket_power": 0xFFFF}
        if gpu.power_key and not gpu.garbled:
            info[gpu.power_key] = gpu.power_w
        return {**info, "gfx_voltage": 900, "power_limit": 750}
