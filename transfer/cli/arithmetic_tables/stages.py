"""Where a network keeps its parameters and spends its multiply-adds."""

from collections.abc import Mapping, Sequence

from transfer.cli.arithmetic_tables.section import Section, count, millions
from transfer.models.graph.trace import Graph
from transfer.weights.named_graph import network

NOTHING = "-"


def section(names: Sequence[str]) -> Section:
    """Parameters and multiply-adds of every stage of the networks, side by side."""
    graphs = {name: network(name) for name in names}
    stages = dict.fromkeys(stage for graph, _ in graphs.values() for stage in graph.stages)
    stages = dict.fromkeys((*(s for s in stages if s != "logits"), "logits"))
    rows = []
    for stage in stages:
        cells = [stage]
        for graph, _ in graphs.values():
            total = graph.stages.get(stage)
            cells += [NOTHING] * 2 if total is None else [count(total.parameters), millions(total.macs)]
        rows.append(tuple(cells))
    totals = [cell for graph, _ in graphs.values() for cell in (count(graph.parameters), millions(graph.macs))]
    sizes = ", ".join(f"{name} at {height}×{width}" for name, (_, (height, width, _)) in graphs.items())
    return Section(
        "Parameters and multiply-adds by stage",
        f"{_reading(graphs)} Image sizes: {sizes}; a thousand M multiply-adds are what is published as 1 GFLOP.",
        ("stage", *(heading for name in names for heading in (f"{name} parameters", "M multiply-adds"))),
        (*rows, ("all", *totals)),
    )


def _reading(graphs: Mapping[str, tuple[Graph, object]]) -> str:
    """For each network the stage with the most parameters and the one with the most multiply-adds."""
    sentences = []
    for name, (graph, _) in graphs.items():
        largest = max(graph.stages, key=lambda stage: graph.stages[stage].parameters)
        busiest = max(graph.stages, key=lambda stage: graph.stages[stage].macs)
        parameters = graph.stages[largest].parameters / graph.parameters
        macs = graph.stages[busiest].macs / graph.macs
        sentences.append(
            f"{name}: {largest} holds {parameters:.0%} of the parameters, {busiest} does {macs:.0%} of the work"
        )
    return "; ".join(sentences) + "."
