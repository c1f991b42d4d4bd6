"""tsjax: prune time-series Transformers in JAX, and measure what it costs and what it buys.

Nothing is imported here: take the part you need (``from tsjax import pruning``), and only that
part's dependencies are loaded. ``docs/architecture.md`` in the repository shows the layers.
"""

__version__ = "0.1.0"
