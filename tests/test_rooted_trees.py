"""The order conditions of every tableau of the package, and what a tableau is refused for when it is made."""

import pytest
from discovery import OURS

from scorediff.solvers.exponential.tableau import ExponentialTableau, Phi
from scorediff.solvers.runge_kutta import Tableau
from scorediff.verify import classical_order, exponential_order, stiff_order


def of_kind(kind):
    found = {s.name: (s, s.tableau) for s in OURS if isinstance(getattr(s, "tableau", None), kind)}
    return [pytest.param(*pair, id=name) for name, pair in found.items()]


STIFF = {
    "dpm++2s": 2, "dpm++3s": 3, "etd3rk": 2, "etd4rk": 2, "krogstad": 3, "strehmel-weiner": 3,
    "hochbruck-ostermann": 4, "exprk5s8": 5,
}  # fmt: skip
NODES = (0.0, 0.5, 0.5, 1.0)
KROGSTAD_A = ({}, {1: Phi.of(2, 0.5)}, {2: 2 * Phi.of(2)})
KROGSTAD_B = {1: 2 * Phi.of(2) - 4 * Phi.of(3), 2: 2 * Phi.of(2) - 4 * Phi.of(3), 3: -Phi.of(2) + 4 * Phi.of(3)}


@pytest.mark.parametrize(("solver", "tableau"), of_kind(Tableau))
def test_a_classical_tableau_fulfils_the_conditions_of_all_trees_up_to_its_order(solver, tableau):
    assert classical_order(tableau) == solver.order
    if tableau.error:
        embedded = [b - error for b, error in zip(tableau.b, tableau.error, strict=True)]
        assert classical_order(tableau, embedded) == tableau.local_order - 1


@pytest.mark.parametrize(("solver", "tableau"), of_kind(ExponentialTableau))
def test_an_exponential_tableau_fulfils_the_conditions_of_all_trees_in_l_and_n_up_to_its_order(solver, tableau):
    assert exponential_order(tableau) == tableau.order
    if tableau.lower is not None:
        assert exponential_order(tableau, tableau.embedded) == tableau.order - 1


@pytest.mark.parametrize(("name", "order"), STIFF.items())
def test_the_stiff_order_of_a_tableau_is_the_one_in_its_paper(name, order):
    assert stiff_order(next(s for s in OURS if s.name == name).tableau) == order


@pytest.mark.parametrize(
    ("a", "b", "order"),
    [
        (KROGSTAD_A, KROGSTAD_B, 4),
        (({}, {1: Phi.of(2)}, {2: 2 * Phi.of(2)}), KROGSTAD_B, 3),
        (({}, {1: Phi.of(2, 0.5)}, {2: Phi.of(2)}), KROGSTAD_B, 2),
        (KROGSTAD_A, {**KROGSTAD_B, 3: -Phi.of(2) + 2 * Phi.of(3)}, 1),
    ],
)
def test_a_slip_in_one_weight_of_krogstads_method_costs_it_order(a, b, order):
    assert exponential_order(ExponentialTableau(4, NODES, a, b)) == order


@pytest.mark.parametrize(
    ("c", "a", "b", "says"),
    [
        ((0.5, 1.0), ({},), {}, r"c = \(0.5, 1.0\): the first is 0"),
        ((0.0, 1.5), ({},), {}, r"c = \(0.0, 1.5\): .* all lie in \[0, 1\]"),
        ((0.0, 0.5), ({}, {}), {}, "2 stages want 1 rows of a, got 2"),
        ((0.0, 0.5), ({1: Phi.of(1)},), {}, r"weighs the stages \[1\], where those from 1 to 0"),
        ((0.0, 0.5), ({},), {2: Phi.of(1)}, r"weighs the stages \[2\], where those from 1 to 1"),
        ((0.0, 0.5), ({},), {0: Phi.of(1)}, "stage 0 takes the rest of the sum"),
    ],
)
def test_a_tableau_whose_nodes_or_rows_make_no_explicit_method_is_refused_when_it_is_made(c, a, b, says):
    with pytest.raises(ValueError, match=says):
        ExponentialTableau(2, c, a, b)


def test_rows_sum_to_what_the_linear_part_makes_of_a_constant_whatever_weights_are_given():
    tableau = ExponentialTableau(4, NODES, KROGSTAD_A, KROGSTAD_B)
    for row, c in zip(tableau.rows, (0.5, 0.5, 1.0, 1.0), strict=True):
        total = sum(row, Phi()) - c * Phi.of(1, c)
        assert all(abs(weight) < 1e-15 for weight in total.terms.values())
