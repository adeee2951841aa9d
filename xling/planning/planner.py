"""Puts one model's sizes and work together into its row of a plan."""

from __future__ import annotations

from dataclasses import dataclass, replace

from xling.planning.advice import commands, notes
from xling.planning.compute import (
    Utilisation,
    forward_flops,
    scoring_seconds,
    training_flops,
    training_seconds,
    writing_seconds,
)
from xling.planning.configurations import Configuration
from xling.planning.gpus import Gpu
from xling.planning.memory import (
    MEASURED_ERROR,
    Memory,
    Setting,
    max_positions,
    nf4_bytes,
    scoring_memory,
    training_memory,
    weight_bytes,
)
from xling.planning.memory_limits import pass_plans
from xling.planning.model_plan import Job, ModelPlan
from xling.planning.sizes import Sizes, four_bit_matrices, lora_matrices, lora_parameters
from xling.planning.workload import Workload
from xling.study import Study
from xling.study.settings import ModelSettings
from xling.training.batching import PASS_TOKENS, rows_at_once

# Bytes of a weight in the checkpoint, which an inference server loads as it is.
_CHECKPOINT_BYTES = {"float": 2.0, "mxfp4": 17 / 32, "fp8": 1.0}
_SERVER_SHARE = 0.9
"""Of a GPU's memory, that vLLM takes by default."""


@dataclass(frozen=True)
class Planner:
    """One model's sizes and work, put together.

    Attributes:
        gpu: kind of GPU, with as many in a node as the plan is made for.
    """

    study: Study
    model: ModelSettings
    found: Configuration
    sizes: Sizes
    work: Workload
    gpu: Gpu
    utilisation: Utilisation

    @property
    def setting(self) -> Setting:
        """How the model is held on a GPU."""
        return Setting(
            quantise=self.model.quantise,
            r=self.study.lora.r,
            dropout=self.study.lora.dropout,
            lora_modules=self.pattern,
        )

    @property
    def pattern(self) -> str:
        """The LoRA pattern of study or recipe; empty: by architecture."""
        return self.model.lora_modules or self.found.recipe.lora_modules

    def row(self) -> ModelPlan:
        """Put together the model's row."""
        sizes, setting = self.sizes, self.setting
        quantised = four_bit_matrices(sizes, quantise=setting.quantise)
        lora = lora_parameters(lora_matrices(sizes, pattern=self.pattern), setting.r)
        training = self.training() if self.work.adapters else None
        scoring = self.scoring()
        recipe = self.found.recipe
        return ModelPlan(
            model=self.model.label,
            repository=self.model.id,
            configuration=self.found.source,
            parameters=sizes.total,
            linear=sizes.linear,
            expert=sizes.expert,
            embedding=sizes.embedding + sizes.head,
            router=sizes.router,
            active=sizes.active,
            four_bit_bytes=sum(m.copies * nf4_bytes(m.inputs * m.outputs) for m in quantised),
            weight_bytes=weight_bytes(sizes, setting),
            lora_parameters=lora,
            lora_bytes=4 * lora,
            adapters=self.work.adapters,
            training=training,
            scoring=scoring,
            written_tokens=self.work.scoring.written,
            commands=commands(self.study, self.model, recipe, training, per_node=self.gpu.per_node),
            notes=notes(self.study, self.model, recipe, training, scoring),
        )

    def training(self) -> Job:
        """Plan all adapters, one after the other, on as few GPUs as hold the model."""
        passed = self.work.training
        processes, rows, memory, checkpointing = self._shared(passed.longest)
        flops = training_flops(
            self.sizes,
            tokens=passed.tokens,
            length=passed.length,
            examples=self.work.examples,
            r=self.study.lora.r,
            gradient_checkpointing=checkpointing,
            lora_modules=self.pattern,
        )
        gpus = processes
        if processes == 1 and not self._fits(memory):
            gpus, memory = self._spread(memory, self.gpu.per_node)
        fits = self._fits(memory)
        sharded = processes > 1 and self.model.parallel == "fsdp"
        seconds = training_seconds(
            self.sizes,
            flops=flops,
            passes=self.work.examples / (rows * processes),
            gradient_checkpointing=checkpointing,
            processes=processes,
            sharded_bytes=weight_bytes(self.sizes, self.setting) if sharded else 0,
            gpu=self.gpu,
            utilisation=self.utilisation,
        )
        return Job(
            tokens=passed.tokens,
            flops=flops,
            hours=seconds / 3600,
            gpus=gpus if fits else 0,
            processes=processes,
            micro_batch_size=rows,
            memory=memory,
            fits=self._place(gpus) if fits else "no",
        )

    def _shared(self, longest: int) -> tuple[int, int, Memory, bool]:
        """Find the fewest processes that hold a training, prompts of a pass, and memory of each.

        And whether gradients are checkpointed. Passes that the study leaves open are as
        `xling.planning.memory_limits.memory_use` would cut them on such a GPU. Each process holds
        the whole base before they share it: where a GPU cannot, it is one.
        """
        settings = self.study.training
        batch, asked = settings.batch_size, self.model.processes
        counts = [asked] if asked else [n for n in range(1, batch + 1) if batch % n == 0]
        if not asked and weight_bytes(self.sizes, self.setting) > self._room:
            counts = [1]
        chosen = settings.gradient_checkpointing
        fixed = settings.micro_batch_size
        for processes in counts:
            most = min(fixed or batch, max(1, batch // processes))
            while fixed and batch % (most * processes) and most > 1:
                most -= 1
            if not fixed:
                most = rows_at_once(most, longest, PASS_TOKENS["cuda"])
            for rows, checkpointing in pass_plans(most, chosen, fixed=bool(fixed)):
                memory = training_memory(
                    self.sizes,
                    self.setting,
                    rows=rows,
                    length=longest,
                    gradient_checkpointing=checkpointing,
                    processes=processes,
                    parallel=self.model.parallel,
                )
                if self._fits(memory):
                    return processes, rows, memory, checkpointing
        return processes, rows, memory, checkpointing

    def _spread(self, memory: Memory, most: int) -> tuple[int, Memory]:
        """Find over how many GPUs one process spreads the layers, and the memory on each."""
        for gpus in range(2, most + 1):
            share = self._on_each(memory, gpus)
            if self._fits(share):
                return gpus, share
        return most, self._on_each(memory, most)

    def scoring(self) -> Job:
        """Plan all cells: on one GPU, or over several where the weights need them."""
        passed = self.work.scoring
        flops = forward_flops(
            self.sizes,
            tokens=passed.tokens,
            length=passed.length,
            reads=passed.reads,
            r=self.study.lora.r if self.work.adapters else 0,
            lora_modules=self.pattern,
        )
        memory = self._scoring_memory()
        server = self.model.engine == "server"
        gpus = 1
        while gpus < 1024:
            share = self._on_each(memory, gpus)
            room = self.gpu.memory_gb * 1e9 * _SERVER_SHARE if server else self._room
            if share.total <= room:
                break
            gpus *= 2
        # A process that spreads a model's layers over GPUs uses one of them at a time.
        at_work = gpus if server else 1
        seconds = scoring_seconds(
            self.sizes,
            flops=flops,
            batches=passed.tokens / self.study.scoring.batch_tokens,
            gpu=self.gpu,
            gpus=at_work,
            utilisation=self.utilisation,
        )
        if passed.written:
            rows = max(1, self.study.scoring.batch_tokens // passed.longest)
            seconds += (
                writing_seconds(
                    self.sizes,
                    written=passed.written,
                    rows=rows,
                    length=passed.longest,
                    weight_bytes=memory.weights,
                    gpu=self.gpu,
                    utilisation=self.utilisation,
                )
                / at_work
            )
        return Job(
            tokens=passed.tokens,
            flops=flops,
            hours=seconds / 3600,
            gpus=gpus,
            processes=1,
            micro_batch_size=0,
            memory=share,
            fits=self._place(gpus),
        )

    def _scoring_memory(self) -> Memory:
        passed, batch = self.work.scoring, self.study.scoring.batch_tokens
        cached = round(self.work.cached_share * max(batch, passed.longest))
        reads = 0
        if self.work.read_at_once > 1:
            rows = max(1, batch // max(1, round(passed.length)))
            reads = min(max_positions(self.sizes), rows * self.work.read_at_once)
        memory = scoring_memory(
            self.sizes,
            self.setting,
            batch_tokens=batch,
            length=passed.longest,
            cached_tokens=cached,
            positions=reads,
        )
        if self.model.engine != "server":
            return memory
        stored = self.sizes.total * _CHECKPOINT_BYTES[self.found.recipe.precision]
        return replace(memory, weights=round(stored))

    @staticmethod
    def _on_each(memory: Memory, gpus: int) -> Memory:
        return replace(
            memory,
            weights=-(-memory.weights // gpus),
            adapter=-(-memory.adapter // gpus),
            activations=-(-memory.activations // gpus),
        )

    @property
    def _room(self) -> float:
        return self.gpu.usable_bytes / (1 + MEASURED_ERROR)

    def _fits(self, memory: Memory) -> bool:
        return memory.total <= self._room

    def _place(self, gpus: int) -> str:
        if gpus == 1:
            return "one GPU"
        nodes = -(-gpus // self.gpu.per_node)
        return "one node" if nodes == 1 else f"{nodes} nodes"
