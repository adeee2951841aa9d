"""What a unit asks of a Ray cluster."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from xling.execution.ray.cluster import Cluster
from xling.models import find_recipe
from xling.models.catalog import Recipe
from xling.study import Cell
from xling.study.settings import ModelSettings

# Without GPUs: more cores than these help one model little, and the others wait.
MOST_CPUS = 8
# What Python and its libraries take besides the weights.
LIBRARY_BYTES = 2**30


@dataclass(frozen=True)
class Needs:
    """Resources of one unit.

    Attributes:
        gpus: on one machine.
        cpus: cores.
        memory: bytes of main memory; 0: not known.
    """

    gpus: int
    cpus: int
    memory: int


def check_needs(cell: Cell, cluster: Cluster) -> Needs:
    """Decide what a cell's unit asks for; a unit without GPUs runs on cores.

    A unit that only asks a server needs none.

    Raises:
        ValueError: no machine of the cluster has as many GPUs, or none has a core.
    """
    model = cell.model
    loads = model.engine != "server" or cell.arm != "base" or model.primed is not None
    recipe = find_recipe(model.id, revision=model.revision)
    gpus = _gpus(model, recipe) if loads and cluster.gpus else 0
    fitting = [node for node in cluster.nodes if node.gpus >= gpus and node.cpus >= 1]
    if not fitting and gpus:
        raise ValueError(
            f"model {model.label} asks for {gpus} GPUs on one machine; the Ray cluster has: "
            f"{cluster}. {_fewer(model, recipe, cluster)} it out with `models`, or start a cluster "
            "whose machines have them (all machines before the study)"
        )
    if not fitting:
        raise ValueError(f"no machine of the Ray cluster ({cluster}) has a core for tasks")
    cpus = min(node.cpus for node in fitting)
    most = max(node.memory for node in fitting)
    return Needs(
        gpus=gpus,
        cpus=min(cpus, MOST_CPUS) if loads and not gpus else min(cpus, max(gpus, 1)),
        # Weights are mapped, not copied: where they fill a machine, the unit has it alone.
        memory=min(_memory(recipe), most) if loads else 0,
    )


def _gpus(model: ModelSettings, recipe: Recipe) -> int:
    """Count one for each of several processes; a lone one spreads the layers over all it needs."""
    if model.processes > 1:
        return model.processes
    return max(model.processes, recipe.gpus)


def _fewer(model: ModelSettings, recipe: Recipe, cluster: Cluster) -> str:
    """Name the remedy of fewer processes, where it is one: the model must do with fewer GPUs."""
    most = max(node.gpus for node in cluster.nodes)
    if model.processes > 1 and recipe.gpus <= most:
        return f"Set `processes` of the model to {most} or fewer, leave"
    return "Leave"


def _memory(recipe: Recipe) -> int:
    """Count bytes, where the weights are in a folder; nothing is fetched to find out."""
    folder = Path(recipe.repository or "-")
    if not folder.is_dir():
        return 0
    return LIBRARY_BYTES + sum(path.stat().st_size for path in folder.glob("*.safetensors"))
