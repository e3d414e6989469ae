from check_pass import check_pass, equations, parse

from rtc.passes.graph.eliminate_dead_code import EliminateDeadCode

STEP = EliminateDeadCode()


def test_dead_nodes_and_initialisers_go():
    unit = parse("""g (float[N,4] x) => (float[N,4] y)
    <float[4] w = {1,2,3,4}, float[4] unread = {1,2,3,4}, float[4] dead = {1,2,3,4}> {
        a = Add(x, dead)
        b = Neg(a)
        y = Mul(x, w)
    }""")
    result = check_pass(STEP, unit)
    assert equations(result.unit) == ["y = Mul(x, w)"]
    assert result.details == {"nodes": 2, "initialisers": 2}


def test_what_is_alive_stays_as_it_is():
    unit = parse("g (float[N,4] x) => (float[N,4] y) { y = Neg(x) }")
    result = STEP.apply(unit, None)
    assert result.unit is unit
    assert not result.modified


def test_an_unread_input_is_part_of_the_signature():
    unit = parse("g (float[N,4] x, float[N,4] unread) => (float[N,4] y) { y = Neg(x) }")
    assert STEP.apply(unit, None).unit is unit
