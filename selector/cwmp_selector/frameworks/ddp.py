"""PyTorch DDP: a communication hook that sends the most valuable entries of a step's gradients instead of all of them.

    backward    bucket 0 ...... bucket 1 ...... bucket 2 (last)
    hook        look            look            look, agree, select, exchange, write all buckets
    overlap     look, send      look, send      look, send, then what is left of the budget

DDP hands out one bucket of gradients at a time and wants one tensor of the bucket's size back, as a future. One budget has to be
shared by all buckets, and what is worth sending is known when all are there. So the hook selects at the last bucket, jointly; with
`overlap` it sends during backward what the last step's price already tells, and spends the rest at the end. Residuals are
keyed by parameter, since DDP rebuilds its buckets. Payloads are the bytes of `SparseUpdate.to_bytes`, gathered with one length
exchange first; they are never empty, which gloo could not carry.
"""

# No postponed annotations here: DDP compares the hook's annotations with its own classes.
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import GradBucket

from cwmp_profiler.errors import CwmpError
from cwmp_profiler.kernels.places import memory_of, overlaps
from cwmp_selector.candidates.gradients import refuse_foreign
from cwmp_selector.costs import TieredCosts, find
from cwmp_selector.errors import SelectionError
from cwmp_selector.feedback import CorrectedGradients, ErrorFeedback
from cwmp_selector.selector import Selector
from cwmp_selector.update import SparseUpdate

MARGIN = 1.25
"""During backward an entry is sent if it is worth this many times the last step's price: prices move from step to step."""

VOID, FAILED, SENT = b"\0", b"\1", b"\2"
"""First byte of what ranks exchange: the step is void, this rank cannot select (its reason follows), a payload follows."""


@dataclass
class _Step:
    """What is known of the step in progress."""

    buckets: list[tuple[torch.Tensor, torch.futures.Future[torch.Tensor]]] = field(default_factory=list)
    gradients: dict[str, torch.Tensor] = field(default_factory=dict)
    waiting: set[str] = field(default_factory=set)
    updates: list[SparseUpdate] = field(default_factory=list)
    sent_bytes: int = 0
    void: bool = False


class DDPHook:
    """Communication hook for `DistributedDataParallel`.

        hook = DDPHook(model, Selector(costs, budget_j=0.1))
        model.register_comm_hook(hook, DDPHook.communicate)

    A NaN or an infinity on any rank voids the step on all: every rank sees NaN in every bucket, so that a gradient scaler skips
    it, and residuals are as if the step had not been (with `overlap`, what was sent of it goes back into them).

    Args:
        model: The DDP model (or its module): names of the parameters.
        selector: What chooses the entries of each step and rank; any rule, budget and costs.
        feedback: Error feedback; None makes one.
        group: Process group; None takes the default one.
        overlap: Send during backward what is worth more than the last step's price, bucket by bucket, and the rest at the end:
            communication hides behind backward, at the price of a second selection. Rules "cwmp" and "cwmp-l1" with a budget in
            joules and costs per layer or entry.
        scaler: The gradient scaler, if there is one: residuals follow its scale when it changes.

    Attributes:
        updates: What this rank sent in the last whole step: one update, or several with `overlap`.
        energy_j: Joules of this rank's payloads in the last whole step.
        payload_bytes: Bytes of this rank's payloads in the last whole step.
        budget_j: Joules that bound a step; None where the selector counts entries, and for a fraction before the first step.
        lambda_: Value per joule at which the last step's budget was spent; None before the first step.

    Raises:
        SelectionError: If the model is sharded or has no memory, the selector has no budget, or cannot overlap.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        selector: Selector,
        *,
        feedback: ErrorFeedback | None = None,
        group: dist.ProcessGroup | None = None,
        overlap: bool = False,
        scaler: torch.amp.GradScaler | None = None,
    ) -> None:
        if selector.budget_j is None and selector.budget_fraction is None and selector.k is None:
            raise SelectionError("the hook needs a budget: give the selector budget_j, budget_fraction or k")
        if overlap and (
            selector.rule not in ("cwmp", "cwmp-l1")
            or selector.k is not None
            or isinstance(selector.costs, TieredCosts)
        ):
            raise SelectionError(
                "the hook overlaps with rule cwmp or cwmp-l1, a budget in joules and costs per layer or entry only: "
                "leave overlap off"
            )
        module = model.module if isinstance(model, torch.nn.parallel.DistributedDataParallel) else model
        parameters = dict(module.named_parameters())
        refuse_foreign(parameters)
        self._names: dict[int, str] = {id(p): name for name, p in parameters.items()}
        # Where a parameter may take no part in a step, DDP ignores what the hook returns for it if no rank used it.
        self._may_be_unused = bool(
            getattr(model, "find_unused_parameters", True) or getattr(model, "static_graph", False)
        )
        self.selector, self.group, self.overlap = selector, group, overlap
        self.feedback = feedback or ErrorFeedback()
        self.budget_j = selector.budget_j
        self.lambda_: float | None = None
        self.updates: tuple[SparseUpdate, ...] = ()
        self.energy_j, self.payload_bytes = 0.0, 0
        self._spent_j: dict[str, float] = {}
        self._step = _Step()
        self._scaler = scaler
        self._scale = scaler.get_scale() if scaler is not None else 1.0

    @staticmethod
    def communicate(hook: "DDPHook", bucket: GradBucket) -> torch.futures.Future[torch.Tensor]:
        """Hand a bucket to `reduce`: what `register_comm_hook` calls."""
        return hook.reduce(bucket)

    @torch.no_grad()
    def reduce(self, bucket: GradBucket) -> torch.futures.Future[torch.Tensor]:
        """Return a future of the mean of all ranks' sparse updates of a bucket; it is there when the last bucket was handed in."""
        if bucket.index() == 0:
            self._step = _Step()
            self._follow_scale()
        step, buffer = self._step, bucket.buffer()
        future: torch.futures.Future[torch.Tensor] = torch.futures.Future(
            devices=[buffer.device] if buffer.device.type != "cpu" else None
        )
        gradients = {
            self._name_of(parameter): _in_layout_of(parameter, gradient)
            for parameter, gradient in zip(bucket.parameters(), bucket.gradients(), strict=True)
        }
        step.buckets.append((buffer, future))
        step.gradients.update(gradients)
        finite = bool(torch.isfinite(buffer).all())
        early = self.overlap and self.lambda_ is not None
        if early and not step.void:
            self._send_early(gradients, buffer, finite=finite)
        elif not early:
            step.void |= not finite
        if bucket.is_last():
            self._finish(early=early)
        return future

    def _follow_scale(self) -> None:
        scale = self._scaler.get_scale() if self._scaler is not None else 1.0
        if scale != self._scale:
            self.feedback.scale_by(scale / self._scale)
            # The price is in squares of gradients, or in their magnitudes.
            if self.lambda_ is not None:
                self.lambda_ *= (scale / self._scale) ** (1 if self.selector.rule == "cwmp-l1" else 2)
            self._scale = scale

    def _name_of(self, parameter: torch.Tensor) -> str:
        if id(parameter) not in self._names:
            raise SelectionError(
                f"a bucket holds a parameter of shape {tuple(parameter.shape)} that the hook's model lacks: "
                "make the hook with the model that it is registered on"
            )
        return self._names[id(parameter)]

    def _send_early(self, gradients: dict[str, torch.Tensor], buffer: torch.Tensor, *, finite: bool) -> None:
        """Send what is worth the last step's price and a margin, within what these parameters took in the last step."""
        price = MARGIN * (self.lambda_ or 0.0)
        cap_j = math.fsum(self._spent_j.get(name, 0.0) for name in gradients)

        def select() -> SparseUpdate:
            return self.selector.select(self._corrected(gradients), budget_j=cap_j, lambda_=price)

        received = self._exchange(select if finite else None, buffer.device)
        self._write(received, [buffer], gradients)

    def _finish(self, *, early: bool) -> None:
        """Select from everything, or from what is left, exchange, and give DDP every bucket."""
        step, device = self._step, self._step.buckets[0][0].device
        buffers = [buffer for buffer, _ in step.buckets]
        if not early:
            # Agreed upon before residuals change: a void step leaves no trace.
            flag = torch.tensor([int(step.void)], dtype=torch.int32, device=device)
            dist.all_reduce(flag, op=dist.ReduceOp.MAX, group=self.group)
            step.void = bool(flag)
        if not step.void:
            received = self._exchange(self._select_rest if early else self._select_all, device)
            self._write(received, [] if early else buffers, step.gradients)
            self._note()
        else:
            for update in step.updates:
                self.feedback.give_back(update)
        for buffer, future in step.buckets:
            if step.void:
                buffer.fill_(math.nan)
            future.set_result(buffer)

    def _select_all(self) -> SparseUpdate:
        return self.selector.select(self._corrected(self._step.gradients))

    def _select_rest(self) -> SparseUpdate:
        step = self._step
        left_j = max((self.budget_j or 0.0) - math.fsum(update.energy_j for update in step.updates), 0.0)
        rest = self.feedback.rest({name: g.dtype for name, g in step.gradients.items() if name not in step.waiting})
        return self.selector.select(self._offered(rest, step.gradients), budget_j=left_j)

    def _corrected(self, gradients: Mapping[str, torch.Tensor]) -> CorrectedGradients:
        """Return gradients with their residuals; a parameter that took no part keeps its own and offers nothing."""
        waiting = {name for name, g in gradients.items() if self._may_be_unused and not bool(g.any())}
        self._step.waiting |= waiting
        return self._offered(
            self.feedback.add({name: g for name, g in gradients.items() if name not in waiting}), gradients
        )

    def _offered(self, corrected: CorrectedGradients, gradients: Mapping[str, torch.Tensor]) -> CorrectedGradients:
        """Return every gradient in DDP's order, zeros where one took no part: ranks agree on what is decoded."""
        offered = {name: corrected.get(name, g.new_zeros(()).expand(g.shape)) for name, g in gradients.items()}
        return CorrectedGradients(self.feedback, offered, {name: g.dtype for name, g in gradients.items()})

    def _exchange(self, select: Callable[[], SparseUpdate] | None, device: torch.device) -> list[bytes]:
        """Return every rank's payload of what `select` (None: the step is void here) chose; empty if the step is void.

        Raises:
            SelectionError: On every rank, if one of them cannot select.
        """
        step = self._step
        if select is None:
            message = VOID
        else:
            try:
                update = select()
                message = SENT + update.to_bytes()
                step.updates.append(update)
                step.sent_bytes += len(message) - 1
            except CwmpError as error:
                # Told to the others first: they wait for this rank.
                message = FAILED + str(error).encode()
        messages = exchange(message, device, self.group)
        for rank, other in enumerate(messages):
            if other[:1] == FAILED:
                self._step = _Step()
                raise SelectionError(f"rank {rank} cannot select: {other[1:].decode()}")
        step.void |= VOID in messages
        return [] if step.void else [other[1:] for other in messages]

    @staticmethod
    def _write(payloads: list[bytes], anew: list[torch.Tensor], gradients: dict[str, torch.Tensor]) -> None:
        """Add the mean of the payloads to the gradients, whose buffers are cleared first where they hold what came in."""
        if not payloads:
            return
        shapes = {name: tuple(gradient.shape) for name, gradient in gradients.items()}
        for buffer in anew:
            buffer.zero_()
        for payload in payloads:
            # The gradients are views of the buckets, so this fills the buckets in place.
            SparseUpdate.from_bytes(payload, like=shapes).apply_to(gradients, scale=1.0 / len(payloads))

    def _note(self) -> None:
        step, last = self._step, self._step.updates[-1]
        self.updates = tuple(step.updates)
        self.energy_j = math.fsum(update.energy_j for update in step.updates)
        self.payload_bytes = step.sent_bytes
        if last.budget_j is not None and len(step.updates) == 1:
            self.budget_j = last.budget_j
        if last.lambda_ > 0:
            self.lambda_ = last.lambda_
        if self.overlap and not isinstance(self.selector.costs, TieredCosts):
            self._spent_j = dict.fromkeys(step.gradients, 0.0)
            for update in step.updates:
                for name, index in update.indices.items():
                    cost = find(self.selector.costs, name)
                    joules = (
                        float(cost.view(-1)[index.to(cost.device)].sum())
                        if isinstance(cost, torch.Tensor)
                        else cost * index.numel()
                    )
                    self._spent_j[name] += joules


def _in_layout_of(parameter: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """Return a bucket's view of a gradient with the strides that DDP gave it: the parameter's own where that is dense."""
    dense = memory_of(parameter).numel() == parameter.numel() and not overlaps(parameter)
    if parameter.is_contiguous() or not dense:
        return gradient
    return gradient.as_strided(parameter.shape, parameter.stride(), gradient.storage_offset())


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
