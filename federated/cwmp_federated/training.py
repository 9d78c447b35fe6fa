"""A whole run inside this process, on Flower's ClientApp and strategies: both sides of every round."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from cwmp_federated.client.app import app
from cwmp_federated.client.setup import make_setup
from cwmp_federated.client.trial import trial_step
from cwmp_federated.data.partitions import save_partition
from cwmp_federated.grid import LocalGrid
from cwmp_federated.records.checkpoint import PARTITION, PLAN, RunStore
from cwmp_federated.records.config import RunConfig
from cwmp_federated.server.meter import RoundMeter
from cwmp_federated.server.planner import Plan, make_plan
from cwmp_federated.server.run import OnRow, RunResult, Server, averaging, planned
from cwmp_profiler.kernels.compiled import load


def run_training(
    config: RunConfig,
    out_dir: Path | None = None,
    *,
    resume: bool = False,
    on_row: OnRow | None = None,
    meter: RoundMeter | None = None,
    on_plan: Callable[[Plan], None] | None = None,
) -> RunResult:
    """Run a whole training inside this process, on Flower's ClientApp and strategies.

    Args:
        config: The run.
        out_dir: Folder for checkpoints, ledger, split and history; None keeps nothing.
        resume: Go on from the folder's checkpoint.
        on_row: Called after each round with its row of the history.
        meter: Live meter that reads along.
        on_plan: Called with the plan of a total budget before the first round.

    Returns:
        History, ledger and model. A resumed run returns what an unbroken one would have.

    Raises:
        CwmpError: If data, profile or folder cannot be used, or no client could train.
    """
    logging.getLogger("flwr").setLevel(logging.ERROR)
    load()
    setup = make_setup(config)
    trial_step(setup)
    for profile in dict.fromkeys(setup.profiles):
        setup.energy(profile)
        setup.budget(profile)
    store = RunStore(out_dir) if out_dir is not None else None
    if store is not None and not resume:
        digest = setup.dataset.digest
        store.create(config, {"dataset_sha256": digest, "images": len(setup.dataset.train_y)})
        save_partition(store.folder / PARTITION, setup.parts, spec=config.partition, seed=config.seed, digest=digest)
    grid = LocalGrid(app, config.clients, config.to_run_config())
    plan = make_plan(setup) if config.total_budget else None
    if plan is not None:
        if on_plan is not None:
            on_plan(plan)
        if store is not None:
            store.write(PLAN, plan.to_json())
    inner = averaging(planned(config, plan))
    server = Server(setup, inner=inner, store=store, resume=resume, grid=grid, on_row=on_row, meter=meter, plan=plan)
    return server.run(grid)
