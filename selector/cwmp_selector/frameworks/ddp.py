"""PyTorch DDP: a communication hook that sends each bucket's most valuable entries instead of all of them.

DDP hands out one bucket of gradients at a time, rebuilds its buckets after the first step, and wants one tensor of the
bucket's size back. So residuals are keyed by parameter, never by bucket, and a budget for the whole step is kept by one
lambda that carries over from step to step: the first step gives each bucket its share, later buckets keep what is worth
lambda, within what the step has left. Payloads are the bytes of `SparseUpdate.to_bytes`, gathered from all ranks with one
length exchange first; they are never empty, which gloo could not carry.
"""

# No postponed annotations here: DDP compares the hook's annotations with its own classes.
import math
from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import GradBucket

from cwmp_selector.candidates.gradients import flatten
from cwmp_selector.costs import TieredCosts, look_up
from cwmp_selector.errors import SelectionError
from cwmp_selector.feedback import ErrorFeedback
from cwmp_selector.selector import Selector
from cwmp_selector.update import SparseUpdate

GAIN = 0.2
"""Correction of log(lambda) per unit of log(spent / budget) after each step."""


class DDPHook:
    """Communication hook for `DistributedDataParallel`.

        hook = DDPHook(model, Selector(costs, budget_j=0.1))
        model.register_comm_hook(hook, DDPHook.communicate)

    Args:
        model: The DDP model (or its module): names of the parameters.
        selector: Rule "cwmp" or "cwmp-l1" with a budget per step and rank, in joules or as a fraction. Costs are per layer or
            per entry: a bucket at a time cannot share fixed or density-dependent costs between buckets.
        feedback: Error feedback; None makes one.
        group: Process group; None takes the default one.

    Attributes:
        energy_j: Joules of this rank's payloads in the last whole step.
        payload_bytes: Bytes of this rank's payloads in the last whole step.
        lambda_: Value per joule in force; None during the first step.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        selector: Selector,
        *,
        feedback: ErrorFeedback | None = None,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        if selector.rule not in ("cwmp", "cwmp-l1") or selector.k is not None:
            raise SelectionError(
                "the hook needs rule cwmp or cwmp-l1 with budget_j or budget_fraction: buckets share a lambda"
            )
        if isinstance(selector.costs, TieredCosts):
            raise SelectionError(
                "the hook takes costs per layer or entry: pass {name: costs.entry_j(name, density) for name in costs.names()}"
            )
        module = model.module if isinstance(model, torch.nn.parallel.DistributedDataParallel) else model
        self._names = {id(p): name for name, p in module.named_parameters()}
        gradients = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self._dense_j = _dense_j(selector, gradients)
        fraction = selector.budget_fraction
        budget_j = selector.budget_j if fraction is None else fraction * self._dense_j
        if budget_j is None:
            raise SelectionError("the hook needs a budget: give the selector budget_j or budget_fraction")
        self.selector, self.budget_j, self.group = selector, budget_j, group
        self.feedback = feedback or ErrorFeedback()
        self.lambda_: float | None = None
        self.energy_j, self.payload_bytes = 0.0, 0
        self._spent_j, self._sent_bytes, self._opening = 0.0, 0, list[float]()

    @staticmethod
    def communicate(hook: "DDPHook", bucket: GradBucket) -> torch.futures.Future[torch.Tensor]:
        """Hand a bucket to `reduce`: what `register_comm_hook` calls."""
        return hook.reduce(bucket)

    def reduce(self, bucket: GradBucket) -> torch.futures.Future[torch.Tensor]:
        """Return the mean of all ranks' sparse updates of a bucket."""
        names = [self._names[id(parameter)] for parameter in bucket.parameters()]
        gradients = dict(zip(names, bucket.gradients(), strict=True))
        update = self._choose(gradients)
        payloads = exchange(update.to_bytes(), bucket.buffer().device, self.group)
        mean = bucket.buffer()
        mean.zero_()
        for payload in payloads:
            decoded = SparseUpdate.from_bytes(payload, like=gradients)
            # The gradients are views of the bucket, so this fills the bucket in place.
            decoded.apply_to(gradients, scale=1.0 / len(payloads))
        if bucket.is_last():
            self._finish_step()
        future: torch.futures.Future[torch.Tensor] = torch.futures.Future()
        future.set_result(mean)
        return future

    def _choose(self, gradients: Mapping[str, torch.Tensor]) -> SparseUpdate:
        corrected = self.feedback.add(gradients)
        left = max(self.budget_j - self._spent_j, 0.0)
        if self.lambda_ is None:
            share = self.budget_j * _dense_j(self.selector, gradients) / self._dense_j
            update = self.selector.select(corrected, budget_j=min(share, left))
            if update.lambda_ > 0:
                self._opening.append(math.log(update.lambda_))
        else:
            update = self.selector.select(corrected, budget_j=left, lambda_=self.lambda_)
        self._spent_j += update.energy_j
        self._sent_bytes += update.payload_bits // 8
        return update

    def _finish_step(self) -> None:
        if self.lambda_ is None and self._opening:
            self.lambda_ = math.exp(sum(self._opening) / len(self._opening))
        elif self.lambda_ is not None and self.budget_j > 0:
            # A step that hit its budget would have spent more: lean towards a higher threshold.
            ratio = 1.05 * self._spent_j / self.budget_j
            self.lambda_ *= math.exp(GAIN * math.log(min(max(ratio, 0.1), 10.0)))
        self.energy_j, self.payload_bytes = self._spent_j, self._sent_bytes
        self._spent_j, self._sent_bytes = 0.0, 0


def exchange(payload: bytes, device: torch.device, group: dist.ProcessGroup | None) -> list[bytes]:
    """Return every rank's payload, in the order of ranks.

    Args:
        payload: Bytes of this rank, at least one.
        device: Where the group's backend wants its tensors: the CPU for gloo, the GPU for NCCL.
        group: Process group; None takes the default one.
    """
    ranks = dist.get_world_size(group)
    length = torch.tensor([len(payload)], dtype=torch.int64, device=device)
    lengths = [torch.empty_like(length) for _ in range(ranks)]
    dist.all_gather(lengths, length, group=group)
    sizes = [int(n) for n in lengths]
    padded = torch.zeros(max(sizes), dtype=torch.uint8, device=device)
    padded[: len(payload)] = torch.frombuffer(bytearray(payload), dtype=torch.uint8).to(device)
    gathered = [torch.empty_like(padded) for _ in range(ranks)]
    dist.all_gather(gathered, padded, group=group)
    return [tensor[:size].cpu().numpy().tobytes() for tensor, size in zip(gathered, sizes, strict=True)]


def _dense_j(selector: Selector, gradients: Mapping[str, torch.Tensor]) -> float:
    costs = selector.costs
    if isinstance(costs, TieredCosts):
        raise SelectionError("the hook takes costs per layer or entry")
    layers = flatten({name: g.detach() for name, g in gradients.items()})
    parts: Sequence[float] = [
        float(c.sum()) if isinstance(c, torch.Tensor) else c * layer.numel
        for c, layer in zip(look_up(costs, layers), layers, strict=True)
    ]
    return math.fsum(parts)
