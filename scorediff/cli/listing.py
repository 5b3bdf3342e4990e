"""`scorediff solvers`."""

import dataclasses
import json
from typing import Annotated, Any

import typer

from scorediff._core import registry

__all__ = ["listed", "solvers"]


def solvers(
    as_json: Annotated[
        bool, typer.Option("--json", help="The same as JSON, with the default of every option.")
    ] = False,
) -> None:
    """List the solvers: their order, what a step costs, what they solve, and where they come from.

    'order' is that of the error at the end of a trajectory of the ODE, 'weak order' that of the distribution of
    the SDE's samples. Below them, the schedules, spacings and coordinates, with the options that they take.

    Examples:

        scorediff solvers
        scorediff solvers --json
    """
    found = listed()
    if as_json:
        print(json.dumps(found, indent=2))
        return
    print(_table(found.pop("solvers")))
    for kind, members in found.items():
        print(f"\n{kind}:")
        for member in members:
            print(f"  {_line(member)}")


def listed() -> dict[str, list[dict[str, Any]]]:
    """Every solver, schedule, spacing and coordinate system by name, with its options and their defaults."""
    from scorediff.coordinates import Coordinates
    from scorediff.problems import ProbabilityFlow, ReverseSDE
    from scorediff.schedules import Schedule
    from scorediff.solvers import Solver
    from scorediff.spacings import Spacing

    def members(base: Any) -> list[tuple[str, Any, dict[str, Any]]]:
        made = sorted(registry.names(base).items())
        return [(name, one, {k: v for k, v in registry.to_dict(one).items() if k != "type"}) for name, one in made]

    solvers = [
        {
            "name": name,
            "order": solver.order if ProbabilityFlow in solver.solves else None,
            "weak_order": solver.weak_order if ReverseSDE in solver.solves else None,
            "evaluations_per_step": solver.nfe,
            "solves": ["ODE" if kind is ProbabilityFlow else "SDE" for kind in solver.solves],
            "adaptive": solver.adaptive,
            "source": solver.source,
            "options": options,
        }
        for name, solver, options in members(Solver)
    ]
    kinds = {"schedules": Schedule, "spacings": Spacing, "coordinates": Coordinates}
    return {"solvers": solvers} | {
        kind: [{"name": name, "options": options | _by_name(one)} for name, one, options in members(base)]
        for kind, base in kinds.items()
    }


def _by_name(one: Any) -> dict[str, Any]:
    """Those options of an object that are objects themselves, as plain data with their names."""
    values = {field.name: getattr(one, field.name) for field in dataclasses.fields(one)}
    return {
        key: registry.to_dict(value) | {"name": registry.name_of(value)}
        for key, value in values.items()
        if dataclasses.is_dataclass(value)
    }


def _table(rows: list[dict[str, Any]]) -> str:
    from scorediff._core.tables import aligned

    header = ["name", "order", "weak order", "evals/step", "solves", "steps", "source"]
    numbers = ("order", "weak_order", "evaluations_per_step")
    lines = [
        [
            row["name"],
            *("-" if row[key] is None else str(row[key]) for key in numbers),
            " and ".join(row["solves"]),
            "adaptive" if row["adaptive"] else "fixed",
            row["source"],
        ]
        for row in rows
    ]
    return aligned(header, lines, flush_left=(0, 4, 5, 6))


def _line(member: dict[str, Any]) -> str:
    """A name with those of its options that can be given on the command line."""
    options = []
    for key, value in member["options"].items():
        if isinstance(value, dict):
            options.append(f"{key}={value['name']}")
        elif isinstance(value, (bool, int, float)):
            options.append(f"{key}={value}")
    return member["name"] + ":" * bool(options) + ",".join(options)
