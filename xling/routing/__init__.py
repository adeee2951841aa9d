"""Expert routing of mixture-of-experts models: which experts each language's tokens go to.

The table, its file and its metrics; how models are loaded and scored never stands here.
"""

from __future__ import annotations

from xling.routing.counting import (
    ROUTERS,
    RoutingCounter,
    describes_mixture,
    has_known_routers,
    is_mixture,
    recording_routing,
)
from xling.routing.table import (
    ROUTING_SCHEMA,
    check_routing,
    read_routing,
    routing_frame,
    routing_metrics,
    sum_routing,
    write_routing,
)

__all__ = [
    "ROUTERS",
    "ROUTING_SCHEMA",
    "RoutingCounter",
    "check_routing",
    "describes_mixture",
    "has_known_routers",
    "is_mixture",
    "read_routing",
    "recording_routing",
    "routing_frame",
    "routing_metrics",
    "sum_routing",
    "write_routing",
]
