"""What a unit asks of a Ray cluster."""

from dataclasses import dataclass
from pathlib import Path

from xling.execution.ray_cluster import Cluster
from xling.models import find_recipe
from xling.settings import ModelSettings
from xling.study import Cell

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
    """What a cell's unit asks for; on a cluster without GPUs it runs on cores.

    A unit that only asks a server needs none.

    Raises:
        ValueError: no machine of the cluster has as many GPUs, or none has a core.
    """
    model = cell.model
    loads = model.engine != "server" or cell.arm != "base"
    gpus = _gpus(model) if loads and cluster.gpus else 0
    fitting = [node for node in cluster.nodes if node.gpus >= gpus and node.cpus >= 1]
    if not fitting and gpus:
        raise ValueError(
            f"model {model.label} asks for {gpus} GPUs on one machine; the Ray cluster has: "
            f"{cluster}. Set `processes` of the model to fewer, leave it out with `models`, or "
            "start a cluster whose machines have them (all machines before the study)"
        )
    if not fitting:
        raise ValueError(f"no machine of the Ray cluster ({cluster}) has a core for tasks")
    cpus = min(node.cpus for node in fitting)
    most = max(node.memory for node in fitting)
    return Needs(
        gpus=gpus,
        cpus=min(cpus, MOST_CPUS) if loads and not gpus else min(cpus, max(gpus, 1)),
        # Weights are mapped, not copied: where they fill a machine, the unit has it alone.
        memory=min(_memory(model), most) if loads else 0,
    )


def _gpus(model: ModelSettings) -> int:
    return model.processes or find_recipe(model.id, revision=model.revision).gpus


def _memory(model: ModelSettings) -> int:
    """Bytes, where the weights lie in a folder; nothing is fetched to find out."""
    folder = Path(find_recipe(model.id, revision=model.revision).repository or "-")
    if not folder.is_dir():
        return 0
    return LIBRARY_BYTES + sum(path.stat().st_size for path in folder.glob("*.safetensors"))
