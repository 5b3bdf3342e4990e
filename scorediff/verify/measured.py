"""What the measurement of an order returns, and when it agrees with what was declared."""

from dataclasses import dataclass

from scorediff.verify.slope import ConvergencePoint, Slope

__all__ = ["Measurement", "OrderReport"]

_BELOW, _ABOVE = 0.15, 0.35
_EXACT = "it is exact here to rounding, give another target"
_WIDE = 2.0  # an interval that says nothing
_FLAT = 0.3  # errors that fall more slowly do not fall
_HIGH = 5  # from this order on the interval decides


@dataclass(frozen=True)
class Measurement:
    """What was measured of a solver on one problem.

    `problem`: in words. `slope`: of its errors against its steps, None where there is none. `per_step`: evaluations
    that one more step takes, as counted; None where that varies. `skipped`: why it has no slope, though nothing speaks
    against the solver. `failed`: what happened where it failed.
    """

    problem: str
    slope: Slope | None
    per_step: float | None = None
    skipped: str = ""
    failed: str = ""

    @property
    def order(self) -> float | None:
        return None if self.slope is None else self.slope.order

    def fault(self, declared: float) -> str:
        """What speaks against the declared order, or nothing."""
        if self.failed:
            return f"it fails {self.failed},"
        if self.slope is None or self.slope.exact:
            return ""
        order, interval, floor = self.slope.order, self.slope.interval, self.slope.floor
        if floor is not None:
            fell = "" if order is None else f" after falling at order {order:.2f}"
            return (
                f"errors stop falling at {floor:.1e}{fell}, so it converges to something else than the true solution,"
            )
        if order is not None and order < _FLAT:
            last = self.slope.fitted[-1]
            return (
                f"errors do not fall ({last.error:.1e} at {last.steps:g} steps), so it does not converge to the truth,"
            )
        if order is None or interval is None:
            left, count = len(self.slope.fitted), len(self.slope.points)
            return f"only {left} points are left to fit, of {count} (give a longer ladder of steps)"
        if declared < _HIGH and interval[1] - interval[0] > _WIDE:
            return f"measured {order:.2f}, but anything from {interval[0]:.2f} to {interval[1]:.2f} would fit"
        # as printed, to two decimals
        reach = min(interval[1], order + _ABOVE) if declared >= _HIGH else 0.0
        if round(max(order + _BELOW, reach), 2) < declared:
            return f"measured {order:.2f} ({interval[0]:.2f} to {interval[1]:.2f}), declared {declared}"
        return ""


@dataclass(frozen=True)
class OrderReport:
    """What `verify.order` found: a measurement per problem, and whether the declared order holds.

    `solver`: its name. `kind`: "order" (of the error at the end of a trajectory), "weak order" (of the distribution of
    the output) or "strong order" (of the error along one Brownian path). `declared`: the order that it must have, None
    where none is declared. `nfe`: evaluations per step, as declared. `measurements`: one for each problem.
    """

    solver: str
    kind: str
    declared: float | None
    nfe: int | None
    measurements: tuple[Measurement, ...]

    @property
    def worst(self) -> Measurement | None:
        """The measurement of the lowest order, if there is one."""
        found = [m for m in self.measurements if m.order is not None]
        return min(found, key=lambda m: m.order or 0.0, default=None)

    @property
    def order(self) -> float | None:
        """The lowest measured order."""
        return None if self.worst is None else self.worst.order

    @property
    def interval(self) -> tuple[float, float] | None:
        """Its 95 % interval."""
        return None if self.worst is None or self.worst.slope is None else self.worst.slope.interval

    @property
    def points(self) -> tuple[ConvergencePoint, ...]:
        """The points of that measurement."""
        return () if self.worst is None or self.worst.slope is None else self.worst.slope.points

    @property
    def per_step(self) -> float | None:
        """Evaluations per step, counted: where they differ from the declared ones, there."""
        found = [m.per_step for m in self.measurements if m.per_step is not None]
        return max(found, key=lambda n: abs(n - (self.nfe or found[0])), default=None)

    @property
    def floor(self) -> float | None:
        """The largest floor of all, if there is one."""
        found = [m.slope.floor for m in self.measurements if m.slope is not None and m.slope.floor is not None]
        return max(found, default=None)

    @property
    def faults(self) -> tuple[str, ...]:
        """All that speaks against what was declared, the lowest order first."""
        if self.declared is None:
            return ("no order is declared: give declared=, or an `order` to the class",)
        by_order = sorted(self.measurements, key=lambda m: (m.slope is None or m.slope.floor is None, m.order or 0.0))
        found = [f"{fault} on {m.problem}" for m in by_order if (fault := m.fault(self.declared))]
        orders = [m.order for m in self.measurements if m.order is not None]
        if not orders and not found:
            found.append(
                "no order could be measured: " + "; ".join({m.skipped or _EXACT: 0 for m in self.measurements})
            )
        # from order 5 on all intervals must lie above it
        lows = [m.slope.interval[0] for m in self.measurements if m.slope is not None and m.slope.interval is not None]
        least = min((lows if self.declared >= _HIGH else orders), default=0.0)
        if orders and round(least, 2) > self.declared + _ABOVE:
            found.append(f"measured {min(orders):.2f} or more on all targets, declared {self.declared}: it has more")
        if self.nfe is not None and self.per_step is not None and abs(self.per_step - self.nfe) > 1e-9:
            found.append(f"{self.per_step:g} evaluations per step were counted, declared {self.nfe}")
        return tuple(found)

    @property
    def ok(self) -> bool:
        """Whether the measured order is the declared one, on every problem."""
        return not self.faults

    @property
    def verdict(self) -> str:
        """In words: OK, or the worst that is wrong."""
        if self.ok:
            # what could not be measured is said, beside what was
            left = [m.skipped for m in self.measurements if m.skipped]
            return f"OK ({len(left)} of {len(self.measurements)} problems skipped: {left[0]})" if left else "OK"
        first, *others = self.faults
        return f"{first} (and {len(others)} more)" if others else first

    def __str__(self) -> str:
        measured = "nothing"
        if self.order is not None and self.interval is not None:
            measured = f"{self.order:.2f} ({self.interval[0]:.2f} to {self.interval[1]:.2f})"
        return f"{self.solver}: {self.kind} measured {measured}, declared {self.declared}: {self.verdict}"

    def table(self) -> str:
        """Every problem, then the points of each, as text."""
        from scorediff._core.tables import aligned

        rows = []
        for m in self.measurements:
            for p in m.slope.points if m.slope is not None else ():
                rows.append([m.problem, f"{p.steps:.4g}", f"{p.evaluations:.4g}", f"{p.error:.3e}", p.use.value])
            rows.append([m.problem, "", "", "" if m.order is None else f"order {m.order:.2f}", m.skipped or m.failed])
        return f"{self}\n\n" + aligned(["problem", "steps", "evaluations", "error", ""], rows, flush_left=(0, 4))
