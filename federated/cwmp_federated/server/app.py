"""The Flower ServerApp: FedAvg wrapped by CWMP's validating strategy, for the simulation and deployment engines.

Point a Flower project at it: `serverapp = "cwmp_federated.server.app:app"`. Beside the fields of `RunConfig` the run
configuration may hold `output-dir`, `resume` (go on from the checkpoint there), `min-nodes`,
`node-timeout` and `round-timeout` (seconds).
"""

from __future__ import annotations

import logging
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from cwmp_federated.client.setup import Setup, make_setup
from cwmp_federated.client.trial import trial_step
from cwmp_federated.data.partitions import save_partition
from cwmp_federated.errors import FederatedError
from cwmp_federated.records.checkpoint import PARTITION, PLAN, RunStore
from cwmp_federated.records.config import RunConfig
from cwmp_federated.server.planner import make_plan
from cwmp_federated.server.run import Row, Server, averaging, planned
from cwmp_federated.server.strategy import NODE_WAIT_S

app = ServerApp()
log = logging.getLogger("flwr")

DEFAULT_TIMEOUT_S = 3600.0


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the training that the run configuration describes."""
    settings = context.run_config
    config = RunConfig.from_run_config(settings)
    setup = make_setup(config)
    trial_step(setup)
    plan = make_plan(setup) if config.total_budget else None
    folder, resume = str(settings.get("output-dir", "")), bool(settings.get("resume", False))
    store = _store(Path(folder), setup, resume=resume) if folder else None
    if resume and store is None:
        raise FederatedError("resume needs the folder of the run; give output-dir too")
    min_nodes = int(settings.get("min-nodes", 0)) or None
    server = Server(
        setup,
        inner=averaging(planned(config, plan), min_nodes=min_nodes),
        store=store,
        resume=resume,
        on_row=_log_row,
        plan=plan,
        node_wait_s=float(settings.get("node-timeout", NODE_WAIT_S)),
    )
    if plan is not None:
        log.info("cwmp plan: %s", plan.to_json())
        if store is not None:
            store.write(PLAN, plan.to_json())
    result = server.run(grid, timeout_s=float(settings.get("round-timeout", DEFAULT_TIMEOUT_S)))
    if store is not None:
        store.write("result.json", result.summary())


def _store(folder: Path, setup: Setup, *, resume: bool) -> RunStore:
    """Return the folder of a new run, or of one to go on with, which may get more rounds and nothing else."""
    store, config = RunStore(folder), setup.config
    if resume:
        if store.config().with_changes(rounds=config.rounds) != config:
            raise FederatedError(
                f"{folder} holds another run; resume it with its own settings (only rounds may differ)"
            )
        store.extend(config, config.rounds)
        return store
    digest = setup.dataset.digest
    store.create(config, {"dataset_sha256": digest, "images": len(setup.dataset.train_y)})
    save_partition(store.folder / PARTITION, setup.parts, spec=config.partition, seed=config.seed, digest=digest)
    return store


def _log_row(row: Row) -> None:
    log.info(
        "cwmp round %d: accuracy %.4f, %d clients, %.4g J (updates %.4g J), %d bytes up, %d bytes down",
        row["round"],
        row["accuracy"],
        row["clients"],
        row["total_j"],
        row["update_j"],
        row["bytes_up"],
        row["bytes_down"],
    )
