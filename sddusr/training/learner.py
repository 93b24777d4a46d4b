"""The network and all that changes it: one optimizer step at a time."""

import os
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sddusr.checkpoint import Checkpoint
from sddusr.config import Config
from sddusr.model.ordered import ordered_gradients
from sddusr.model.precision import (
    Precision,
    common_precision,
    multiplying_in,
    native_precision,
)
from sddusr.model.sddusr import SDDuSR
from sddusr.model.tuning import place_on
from sddusr.model.written_tokens import Tokens
from sddusr.training import distributed
from sddusr.training.adversarial import AdversarialLoss
from sddusr.training.ema import WeightAverage
from sddusr.training.losses import PerceptualLoss, pixel_terms, total_loss
from sddusr.training.micro_batches import fastest_parts, micro_batches
from sddusr.training.optim import learning_rate, make_optimizer, set_learning_rate
from sddusr.training.step_errors import (
    NonFiniteError,
    StepMemoryError,
    check_finite,
    explain_memory,
)
from sddusr.training.step_graph import StepGraph, check_graph
from sddusr.types import Batch, Output

__all__ = ["Learner", "NonFiniteError", "StepMemoryError"]


class Learner:
    """No generator's state is kept: the order of samples, crops, augmentation and the mask's noise
    are functions of (seed, step, position), and nothing else in a step is drawn."""

    def __init__(self, config: Config, device: torch.device) -> None:
        if config.train.deterministic:  # without which cuBLAS refuses under torch's switch
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.manual_seed(config.train.seed)
        self.config = config
        self.device = device
        self.precision: Precision = _precision(config, device)
        self.model = SDDuSR(config.model).to(device).to(memory_format=torch.channels_last)
        alignment, optim = self.model.alignment, config.optim
        slower = [
            (alignment.spynet.parameters(), optim.flow_lr_scale),
            (alignment.offset_parameters(), optim.offset_lr_scale),
        ]
        self.optimizer = make_optimizer(self.model.parameters(), optim, slower)
        self.perceptual, self.adversary = None, None
        if config.losses.stage == "full":
            self.perceptual = place_on(PerceptualLoss(config.losses.vgg_weights), device)
            self.adversary = AdversarialLoss(
                config.losses, config.optim, device, not config.train.deterministic
            )
        self.average = None
        if config.train.cuda_graph:
            check_graph(config, device, distributed.world_size())
        self._place_replica()

    def start_average(self) -> None:
        """Average from the weights as they are now, where the config asks for it."""
        if self.config.train.ema_decay:
            self.average = WeightAverage(self.model, self.config)

    @property
    def published(self) -> SDDuSR:
        """The network that is validated and that a checkpoint gives: the average, if any."""
        return self.average.model if self.average else self.model

    def step(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """One optimizer step on this rank's share of global batch `step`; the loss terms.

        Raises:
            NonFiniteError: before anything is changed.
            StepMemoryError: the GPU's memory does not hold the step.
        """
        # Only forward passes run under autocast, each with casts of its own.
        with (
            ordered_gradients(self.config.train.deterministic),
            multiplying_in(self.precision, self.device),
        ):
            try:
                return self._step(batch, step)
            except torch.OutOfMemoryError as error:
                raise StepMemoryError(explain_memory(batch, str(error))) from error

    def _step(self, batch: Batch, step: int) -> dict[str, Tensor]:
        self._set_rate(step)
        self._set_frozen(step)
        self._replica.train()
        seen = self._graph(batch) if self._graph is not None else self._all_gradients(batch)
        if self._graph is not None:
            distributed.average_gradients(self.model)
        seen["gradient_norm"] = self._clipped_norm(self.model)
        if self.adversary is not None:
            seen["discriminator_norm"] = self._clipped_norm(self.adversary.discriminator)
        check_finite(seen, batch.ids, step)
        self.optimizer.step()
        # A fused step changes weights and not their versions, by which `cast_weights` knows them.
        torch.autograd.graph.increment_version([*self.model.parameters()])
        if isinstance(self.model.dictionary, Tokens):
            seen |= self.model.dictionary.write(distributed.summed)
        if self.adversary is not None:
            self.adversary.optimizer.step()
        if self.average is not None:
            self.average.update(self.model, step)
        return seen

    def _place_replica(self) -> None:
        """Settle how a step runs, again when other parameters learn."""
        train = self.config.train
        self._replica: nn.Module = self.model
        if not train.cuda_graph:  # which averages gradients over the ranks after its end
            self._replica = distributed.data_parallel(self.model, not train.deterministic)
        self._forward = self._compiled() if train.compile else self._replica
        self._graph = None
        if train.cuda_graph:
            parts = [self.model, *([self.adversary.discriminator] if self.adversary else [])]
            parameters = [parameter for part in parts for parameter in part.parameters()]
            self._graph = StepGraph(self._all_gradients, parameters, self.device)

    def _compiled(self) -> nn.Module:
        matching: Any = self.model.matching
        # Blocks of a search and a backward pass of its own: little to fuse, and the compiler's
        # time for re-assembling the patches grows out of all bounds.
        matching.forward = torch.compiler.disable(matching.forward)
        return cast(nn.Module, torch.compile(self._replica))

    def _all_gradients(self, batch: Batch) -> dict[str, Tensor]:
        """The gradients of the network and the discriminator, from none; the terms' values."""
        self.optimizer.zero_grad(set_to_none=True)
        seen, sr = self._gradients(batch)
        if self.adversary is not None:
            seen["discriminator"] = self.adversary.learn(sr, batch.hr, self._weight(batch))
        return seen

    def _gradients(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """Add up the network's gradients over the micro-batches; the terms' values, and SR."""
        train = self.config.train
        largest = -(-train.batch_size // distributed.world_size())
        num = train.accumulate or fastest_parts(self.config, self.device, batch, largest)
        parts = micro_batches(batch, num)
        adv_loss: Tensor | None = None
        sr_grads: list[Tensor | None] = [None] * len(parts)
        # Decided by the largest share: ranks of other shares must meet in the same order.
        if self.adversary is not None and min(num, largest) > 1:
            adv_loss, sr_grads = self._adversarial_loss_on_batch(parts, batch)
        terms_of_parts, sr_chunks = [], []
        for number, (part, pull) in enumerate(zip(parts, sr_grads, strict=True), start=1):
            with distributed.sync_gradients(self._replica, now=number == len(parts)):
                terms, sr = self._terms(part, pull)
                (self._weight(part) * total_loss(terms, self.config.losses)).backward()
            share = len(part.ids) / len(batch.ids)
            terms_of_parts.append({name: share * term.detach() for name, term in terms.items()})
            sr_chunks.append(sr.detach())
            del terms, sr  # what they hold of their graph
        seen = {
            name: torch.stack([terms[name] for terms in terms_of_parts]).sum()
            for name in terms_of_parts[0]
        }
        if adv_loss is not None:
            seen["adversarial"] = adv_loss
        return seen | {"total": total_loss(seen, self.config.losses)}, torch.cat(sr_chunks)

    def _terms(
        self, batch: Batch, pull: Float[Tensor, "b 3 h w"] | None
    ) -> tuple[dict[str, Tensor], Tensor]:
        """The loss terms of a micro-batch, in float32 whatever the networks' format, and SR."""
        output = self._output(self._forward, batch)
        terms = pixel_terms(output, batch, self.config.losses)
        if self.perceptual is not None and self.adversary is not None:
            with self._autocast():
                terms["perceptual"] = self.perceptual(output.sr, batch.hr)
            if pull is None:
                terms["adversarial"] = self.adversary.generator_loss(output.sr, batch.hr)
            else:  # a term with that gradient
                terms["adversarial"] = (pull * output.sr).sum()
        return terms, output.sr

    def _weight(self, part: Batch) -> float:
        return distributed.rank_loss_weight(len(part.ids), self.config.train.batch_size)

    def _adversarial_loss_on_batch(
        self, parts: list[Batch], batch: Batch
    ) -> tuple[Tensor, list[Tensor | None]]:
        """The adversarial loss, and its gradient by each micro-batch's pictures.

        It compares with means over the global batch, of which a micro-batch is only a part; so all
        pictures are made once more, without a graph, and judged together.
        """
        assert self.adversary is not None
        with torch.no_grad():
            sr = torch.cat([self._output(self.model, part).sr for part in parts])
        sr.requires_grad_()
        adv_loss = self.adversary.generator_loss(sr, batch.hr)
        (pull,) = torch.autograd.grad(self._weight(batch) * adv_loss, sr)
        sr_grads = pull.split([len(part.ids) for part in parts])
        # A part's loss is weighted once more.
        return adv_loss.detach(), [
            pull / self._weight(part) for pull, part in zip(sr_grads, parts, strict=True)
        ]

    def _output(self, network: Any, batch: Batch) -> Output:
        with self._autocast():
            return network(
                batch.lr,
                batch.lr_center,
                batch.ref,
                batch.seeds,
                batch.center_offset,
                batch.has_ref,
                batch.gumbel,
            )

    def _autocast(self) -> torch.autocast:
        return torch.autocast(
            self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"
        )

    def _set_rate(self, step: int) -> None:
        rate = learning_rate(step, self.config.train.num_steps, self.config.optim)
        set_learning_rate(self.optimizer, rate, step)
        if self.adversary is not None:
            set_learning_rate(self.adversary.optimizer, rate, step)

    def _set_frozen(self, step: int) -> None:
        """Spare the gradients of flow and offsets while they do not learn, a sixth of a step."""
        alignment = self.model.alignment
        learns = step >= self.config.optim.align_from_step
        held = [*alignment.spynet.parameters(), *alignment.offset_parameters()]
        if held[0].requires_grad == learns:
            return
        for parameter in held:
            parameter.requires_grad_(learns)
            parameter.grad = None
        self._place_replica()

    def _clipped_norm(self, network: nn.Module) -> Float[Tensor, ""]:
        """The gradients' norm before they are clipped; the same on every rank."""
        parameters = list(network.parameters())
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        if self.config.optim.max_grad_norm > 0:
            torch.nn.utils.clip_grads_with_norm_(parameters, self.config.optim.max_grad_norm, norm)
        return norm

    def train_state(self) -> dict[str, Any]:
        """What a step changes beside the published network: tensors and numbers."""
        state: dict[str, Any] = {"optimizer": self.optimizer.state_dict()}
        if self.average is not None:
            state["network"] = self.model.state_dict()
        return state | (self.adversary.state_dict() if self.adversary else {})

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on where a checkpoint stood.

        Raises:
            ValueError: it holds a network alone.
        """
        state = checkpoint.train_state
        if state is None:
            raise ValueError(
                f"{checkpoint.place}: a network without optimizer states, no run goes on from it; "
                f"a new one starts from it with --train.init-from"
            )
        self.model.load_state_dict(state.get("network", checkpoint.model_state))
        self.start_average()
        if self.average is not None:
            self.average.model.load_state_dict(checkpoint.model_state)
        self.optimizer.load_state_dict(state["optimizer"])
        if self.adversary is not None:
            self.adversary.load_state_dict(state)


def _precision(config: Config, device: torch.device) -> Precision:
    """The format that all ranks take."""
    if config.train.precision != "auto":
        return config.train.precision
    return common_precision(distributed.gather(native_precision(device)))
