import pytest
from check_pass import check_pass, equations, parse

from rtc.passes.graph.eliminate_identity import EliminateIdentity

STEP = EliminateIdentity()


def test_identity_in_the_middle_goes():
    unit = parse("""g (float[N,4] x) => (float[N,4] y) {
        a = Relu(x)
        b = Identity(a)
        y = Neg(b)
    }""")
    result = check_pass(STEP, unit)
    assert equations(result.unit) == ["a = Relu(x)", "y = Neg(a)"]
    assert result.details["removed"] == {"Identity": 1}


def test_identity_at_the_output_gives_its_name_to_the_node_before():
    unit = parse("""g (float[N,4] x) => (float[N,4] y, float[N,4] z) {
        a = Relu(x)
        y = Identity(a)
        z = Neg(a)
    }""")
    assert equations(check_pass(STEP, unit).unit) == ["y = Relu(x)", "z = Neg(y)"]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("y = Identity(x)", "it connects a graph input or a constant to a graph output"),
        ("y = Transpose(x)", "it reverses the axes"),
        ("y = Transpose<perm = [1, 0]>(x)", "it moves the axes: [1, 0]"),
        ("y = Concat<axis = 0>(x, x)", "it joins 2 tensors"),
    ],
)
def test_what_must_stay_says_why(body, reason):
    unit = parse(f"g (float[4,4] x) => (float[A,B] y) {{ {body} }}")
    result = STEP.apply(unit, None)
    assert not result.modified
    assert result.unit is unit
    assert list(result.details["left"].values()) == [reason]


def test_two_outputs_of_one_value_stay():
    unit = parse("""g (float[N,4] x) => (float[N,4] y, float[N,4] z) {
        y = Relu(x)
        z = Identity(y)
    }""")
    result = check_pass(STEP, unit)
    assert list(result.details["left"].values()) == [
        "its input and its output are both graph outputs"
    ]


def test_dropout_goes_in_inference():
    unit = parse("""g (float[N,4] x) => (float[N,4] y) <float ratio = {0.5}, bool train = {0}> {
        a, unread = Dropout(x, ratio, train)
        y = Neg(a)
    }""")
    assert equations(check_pass(STEP, unit).unit) == ["y = Neg(x)"]


def test_dropout_stays_in_training_and_where_its_mask_is_read():
    trains = parse("""g (float[N,4] x) => (float[N,4] y) <float ratio = {0.5}, bool train = {1}> {
        a = Dropout(x, ratio, train)
        y = Neg(a)
    }""")
    result = STEP.apply(trains, None)
    assert list(result.details["left"].values()) == ["it may run in training mode"]
    masked = parse("""g (float[N,4] x) => (float[N,4] y, bool[N,4] mask) {
        a, mask = Dropout(x)
        y = Neg(a)
    }""")
    assert list(STEP.apply(masked, None).details["left"].values()) == ["its mask is read"]


def test_cast_to_its_own_type_goes_and_a_lossy_pair_stays():
    unit = parse("""g (float[N,4] x) => (float[N,4] y) {
        a = Cast<to = 1>(x)
        b = Cast<to = 10>(a)
        y = Cast<to = 1>(b)
    }""")
    result = check_pass(STEP, unit)
    assert equations(result.unit) == ["b = Cast(x)", "y = Cast(b)"]
    assert "it casts float32 to float16" in result.details["left"].values()


def test_padding_by_nothing_goes():
    unit = parse("""g (float[N,1,4,4] x) => (float[N,1,2,2] y)
    <int64[8] none = {0,0,0,0,0,0,0,0}> {
        a = Pad(x, none)
        y = MaxPool<kernel_shape = [2,2], strides = [2,2]>(a)
    }""")
    assert equations(check_pass(STEP, unit).unit) == ["y = MaxPool(x)"]


def test_reshape_to_its_own_shape_goes():
    unit = parse("""g (float[N,4] x) => (float[N,4] y) <int64[2] same = {-1, 4}> {
        a = Relu(x)
        b = Reshape(a, same)
        c = Flatten(b)
        y = Neg(c)
    }""")
    assert equations(check_pass(STEP, unit).unit) == ["a = Relu(x)", "y = Neg(a)"]


def test_transposes_that_undo_each_other_go():
    unit = parse("""g (float[N,2,3,4] x) => (float[N,2,3,4] y) {
        a = Transpose<perm = [0,2,3,1]>(x)
        b = Transpose<perm = [0,3,1,2]>(a)
        y = Neg(b)
    }""")
    assert equations(check_pass(STEP, unit).unit) == ["y = Neg(x)"]


def test_the_first_transpose_stays_for_its_other_reader():
    unit = parse("""g (float[N,2,3,4] x) => (float[N,2,3,4] y, float[N,3,4,2] z) {
        a = Transpose<perm = [0,2,3,1]>(x)
        b = Transpose<perm = [0,3,1,2]>(a)
        y = Neg(b)
        z = Neg(a)
    }""")
    assert equations(check_pass(STEP, unit).unit) == [
        "a = Transpose(x)",
        "y = Neg(x)",
        "z = Neg(a)",
    ]
