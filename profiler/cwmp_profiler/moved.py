"""Old addresses of modules that moved into rooms still answer, with a warning that names the new one; faces of rooms hand on names.

Scripts that were written before the rooms go on working. Nothing inside the project uses an old address (a test holds that).
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from importlib.abc import Loader
else:
    # Every command imports this module, and `importlib.abc` takes a tenth of `--help` for a base class that nothing asks for.
    Loader = object

_TABLE = {
    "cwmp_cli": """
        calibrate verbs.calibrate
        check verbs.check
        compare verbs.compare
        console options.console
        cost_tables tables.costs
        costs verbs.costs
        demo verbs.demo
        devices verbs.devices
        fit verbs.fit
        measure verbs.measure
        measure_host options.measure_host
        pareto verbs.pareto
        profile_tables tables.profile
        radio_sink verbs.radio_sink
        radios verbs.radios
        report verbs.report
        run verbs.run
        schema verbs.schema
        show verbs.show
        targets options.targets
        train verbs.train
        training_options options.training
        validate verbs.validate
    """,
    "cwmp_costmodels": """
        advice fit.advice
        bootstrap fit.bootstrap
        calibrated profile.calibrated
        compare_files compare.files
        compare_sessions compare.sessions
        diagnostics fit.diagnostics
        distributions =cwmp_selector.gain.distributions
        estimator fit.estimator
        exported networks.exported
        factors profile.factors
        fit_block fit.statistics
        gain =cwmp_selector.gain.expected
        gather fit.gather
        gradient_flops networks.gradient_flops
        held_out fit.held_out
        inspect_model networks.inspect
        layer_cost costs.tensor
        layer_fit fit.layers
        layers costs.layers
        migrate profile.migrate
        model_source networks.source
        models networks.builtin
        plausibility profile.plausibility
        plots report.plots
        prices profile.prices
        radio.simulated_radio simulation.radio
        residuals fit.residuals
        samples fit.samples
        scenario costs.scenario
        schema profile.schema
        static_power fit.static_power
        truth simulation.truth
        two_class profile.two_class
        validation_plot validation.plot
        validation_work validation.work
    """,
    "cwmp_federated": """
        admission server.admission
        budgets records.budgets
        checkpoint records.checkpoint
        cifar data.cifar
        client_app client.app
        client.meter server.meter
        config records.config
        datasets data.datasets
        downlink wire.downlink
        energy client.energy
        frontier sweep.frontier
        idx data.idx
        learning client.learning
        ledger records.ledger
        meter server.meter
        mod client.mod
        partitions data.partitions
        plots sweep.plots
        report sweep.report
        selection client.selection
        server_app server.app
        setup client.setup
        shared_budget server.shared_budget
        strategy server.strategy
        threshold wire.keys
        wire.threshold wire.keys
    """,
    "cwmp_profiler": """
        boards meters.boards
        calibration_csv calibration.instrument_csv
        calibration_file calibration.loads_file
        calibration_lag calibration.lag
        check_agreement check.agreement
        check_drift check.drift
        check_finding check.finding
        check_meter check.meter
        check_spread check.spread
        check_state check.state
        command_energy joules.command
        edges joules.edges
        environment_nvml meters.nvidia.environment
        measurements sessions.measurements
        meter_probe joules.probe
        meters.amdsmi meters.amd.amdsmi
        meters.amdsmi_gpus meters.amd.gpus
        meters.ina3221 meters.jetson.ina3221
        meters.jetson_rails meters.jetson.rails
        meters.nvidia.window joules.counter_and_power
        meters.nvml meters.nvidia.nvml
        meters.nvml_library meters.nvidia.library
        meters.nvml_rails meters.nvidia.rails
        meters.nvml_sensors meters.nvidia.sensors
        meters.nvml_visible meters.nvidia.visible
        meters.nvml_window joules.counter_and_power
        meters.rpi5 meters.raspberry.rpi5
        meters.rpi5_firmware meters.raspberry.firmware
        op_counter operators.op_counter
        plan sessions.plan
        prefixes si_prefixes
        radio_link radio.link
        radio_sink radio.sink
        radio_wire radio.wire
        remote_board remote.board
        remote_protocol remote.protocol
        session sessions.session
        signal_relay joules.signals
        tracker joules.tracker
        workloads.op_counter operators.op_counter
    """,
    "cwmp_selector": """
        ddp frameworks.ddp
        fast candidates.compiled
        fast_rice payload.rice
        floats candidates.floats
        grace frameworks.grace
        gradients candidates.gradients
        payload_decode payload.decode
        positions payload.positions
        quantize payload.quantize
        rules greedy.rules
        search hierarchy.search
        sparse_step frameworks.sparse_step
    """,
}

MOVED: Mapping[str, str] = {
    f"{package}.{old}": new.removeprefix("=") if new.startswith("=") else f"{package}.{new}"
    for package, lines in _TABLE.items()
    for old, new in (line.split() for line in lines.strip().splitlines())
}
"""Old address -> new address; a new address in another package is written whole, after `=`."""


class _Alias(Loader):
    """Gives the module at the new address under the old one."""

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        new = MOVED[spec.name]
        warnings.warn(f"{spec.name} is now {new}", DeprecationWarning, stacklevel=2)
        return import_module(new)

    def exec_module(self, module: ModuleType) -> None:
        """Leave the module as it is: it ran at its new address."""


class _Finder:
    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        del path, target
        return ModuleSpec(fullname, _Alias()) if fullname in MOVED else None


def install() -> None:
    """Let old addresses answer; once for the process."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())


def hand_on(package: str, homes: Mapping[str, str], name: str) -> Any:
    """Return a public name of a room from the module that holds it, imported when it is first asked for.

    Raises:
        AttributeError: If the room does not hand it on.
    """
    if name not in homes:
        raise AttributeError(f"module {package!r} has no attribute {name!r}")
    return getattr(import_module(f"{package}.{homes[name]}"), name)
