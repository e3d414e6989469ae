"""What a pass promises besides numbers (`rtc.compiler.core.passes`), checked whenever one runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rtc.compiler.core.errors import InternalError, RecipeError, RtcError, first_line
from rtc.compiler.core.passes import Pass, PassContext, PassResult
from rtc.compiler.core.unit import Level, TensorSpec, Unit
from rtc.compiler.recipe.pass_list import own_references

if TYPE_CHECKING:
    from onnx import ValueInfoProto


def check_requirements(step: Pass, ctx: PassContext) -> None:
    """Whether there is what a pass requires.

    Raises:
        RecipeError: it is not: the recipe names the pass where there is none yet.
    """
    missing = sorted(need.value for need in step.requires if not ctx.has(need))
    if missing:
        raise RecipeError(
            f"the pass {step.name} needs {' and '.join(missing)}",
            where=" ".join([step.name, *own_references([step])]),
            seen="a recipe's passes run once for all targets, before either is there",
            fix="take it out of passes; what it needs to know may be an option of its own",
            id="pass-requires",
        )


def check_structure(step: Pass, unit: Unit, result: object) -> None:
    """Hold what a pass gave to what it declares.

    - It is a result, and its unit is of the level that the pass gives.
    - `modified` says whether the model changed, where the level stays.
    - From ONNX to ONNX, inputs and outputs stay as they are.
    - A changed ONNX model passes the checker with its shapes inferred, each of its nodes has a name
      of its own, and its inputs and outputs are those that the unit tells of: names, types, sizes.

    Raises:
        RecipeError: a user's own pass breaks one of these; for rtc's own, InternalError.
    """
    if not isinstance(result, PassResult):
        raise _broken(step, type(result).__name__, "a PassResult", "mend what its apply returns")
    after = result.unit
    if after.level is not step.gives:
        fix = "mend its apply, or what it declares in gives"
        raise _broken(step, f"a unit at the level {after.level}", f"the level {step.gives}", fix)
    if step.takes is not step.gives:
        _check_graph(step, after)
        return
    changed = after.digest != unit.digest
    if changed != result.modified:
        seen = f"modified={result.modified}, and the model {'changed' if changed else 'did not'}"
        raise _broken(step, seen, f"modified={changed}", "mend what its apply returns")
    if after.signature != unit.signature:
        seen, expected = (str(each.signature.to_dict()) for each in (after, unit))
        raise _broken(step, seen, expected, "keep the model's inputs and outputs")
    if changed:
        _check_graph(step, after)


def _check_graph(step: Pass, unit: Unit) -> None:
    import onnx

    if unit.level is not Level.ONNX:
        return
    model = onnx.load_model_from_string(unit.onnx.proto)
    try:
        onnx.checker.check_model(unit.onnx.proto, full_check=True)  # a ModelProto it writes again
    except Exception as cause:
        seen, expected = first_line(cause), "a model that ONNX's checker takes"
        raise _broken(step, seen, expected, "mend the graph that its apply writes") from cause
    names = [node.name for node in model.graph.node]
    if len(set(names)) < len(names) or "" in names:
        twice = next((name for name in names if name and names.count(name) > 1), "")
        seen = f"two nodes {twice}" if twice else "a node without a name"
        raise _broken(step, seen, "a name of its own for every node", "name the nodes it adds")
    constants = {tensor.name for tensor in model.graph.initializer}
    for side, specs in (("input", unit.signature.inputs), ("output", unit.signature.outputs)):
        values = [each for each in getattr(model.graph, side) if each.name not in constants]
        given = [_spec(each) for each in values]
        if len(given) != len(specs) or not all(map(_agree, given, specs)):
            seen, expected = (f"{side}s {', '.join(map(_told, each))}" for each in (given, specs))
            raise _broken(step, seen, expected, "keep them, or tell of others in the signature")


def _spec(value: ValueInfoProto) -> TensorSpec:
    """What a graph says of its input or output; "" where it leaves a type or a size open."""
    import onnx

    kind = value.type.tensor_type
    dtype = str(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)) if kind.elem_type else ""
    sizes = (
        dim.dim_value if dim.HasField("dim_value") else dim.dim_param for dim in kind.shape.dim
    )
    return TensorSpec(value.name, dtype, tuple(sizes))


def _agree(graph: TensorSpec, told: TensorSpec) -> bool:
    """Whether nothing that a graph says contradicts its signature; names of sizes are free."""
    if graph.name != told.name or (graph.dtype and graph.dtype != told.dtype):
        return False
    if not graph.shape:  # left open
        return True
    return len(graph.shape) == len(told.shape) and all(
        one == other or isinstance(one, str) or isinstance(other, str)
        for one, other in zip(graph.shape, told.shape, strict=True)
    )


def _told(spec: TensorSpec) -> str:
    sizes = ", ".join(str(size) or "?" for size in spec.shape)
    return f"{spec.name} {spec.dtype}({sizes})"


def _broken(step: Pass, seen: str, expected: str, fix: str) -> RtcError:
    """The error that a pass breaks its contract: a user's own is the user's to mend."""
    own = own_references([step])
    if not own:
        return InternalError(
            "a pass broke its contract", where=step.name, seen=seen, expected=expected
        )
    return RecipeError(
        "the pass gave something else than it declares",
        where=" ".join([step.name, *own]),
        seen=seen,
        expected=expected,
        fix=fix,
        id="user-code",
    )
