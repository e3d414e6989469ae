"""The pipeline: one visible sequence from a recipe to a bundle for each target.

source → passes → export-onnx → graph passes   the float model, once for all targets
observe                                        one walk over the calibration set
── per target ──
assign-precision → insert-qdq → cast-precision → build → contract   every candidate
measure → gates → bundle                                            the one that ships
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from rtc.compiler.building.builder import Candidate
from rtc.compiler.bundle import bundles
from rtc.compiler.candidates.offer import Missing, candidates
from rtc.compiler.candidates.threads import paces
from rtc.compiler.core.data import Splits
from rtc.compiler.core.errors import BuilderError, IntegrityError, MachineError, RecipeError
from rtc.compiler.core.hashing import digest
from rtc.compiler.core.precision import Variant
from rtc.compiler.core.progress import Listener, Nobody
from rtc.compiler.core.results import Report
from rtc.compiler.core.target import Backend, DeviceProfile
from rtc.compiler.core.unit import Level, Unit
from rtc.compiler.execution.changes import differences, in_words, outline
from rtc.compiler.execution.stages import Stages, versions
from rtc.compiler.frontend.float_model import Front, factory_model, make_front, source_files
from rtc.compiler.frontend.samples import calibration_digest, splits_of
from rtc.compiler.lowering.job import Job
from rtc.compiler.measure.provenance import hardware, software
from rtc.compiler.publish.bundle_content import pack, report_of
from rtc.compiler.publish.report_content import assemble
from rtc.compiler.recipe.own_code import code_digest
from rtc.compiler.recipe.schema import Recipe, load_recipe
from rtc.compiler.recipe.source_code import code_behind, referenced_code
from rtc.compiler.select.choice import choose
from rtc.compiler.select.measuring import appraise
from rtc.compiler.storage import files as durable
from rtc.compiler.storage.store import Store

_LIBRARIES = (
    "numpy",
    "onnx",
    "onnx-graphsurgeon",
    "onnxruntime",  # the float model's reference, whatever runtime an engine is for
    "polygraphy",
)
_TORCH_LIBRARIES = ("torch", "onnxscript", "nvidia-modelopt", "accelerate")


@dataclass(frozen=True)
class CompileResult:
    """One target's outcome. `reused` says that the bundle was there already."""

    target: str
    bundle: Path
    report: Report
    passed: bool
    reused: bool


def compile(  # noqa: A001 - the verb of this tool; callers import it by name
    recipe: str | Path | Recipe,
    *,
    targets: str | Sequence[str] | None = None,
    out: str | Path = "build",
    store: Store | None = None,
    listener: Listener | None = None,
    fresh: bool = False,
    budget: float | None = None,
) -> tuple[CompileResult, ...]:
    """Compile a recipe for each target and publish a bundle for each.

    Args:
        recipe: a recipe's path, or a recipe that was loaded.
        targets: one device or several, by name or by profile file (`*.yaml`); the recipe's own
            when not given.
        out: the folder that bundles go under.
        store: where results of stages are kept; the user's cache when not given.
        listener: told of every stage.
        fresh: do every stage again; a bundle that is there stays, and the new one has a name of its
            own.
        budget: seconds to search the mix in for each target; the recipe's own when not given.

    Returns:
        A result for each target. Where a gate failed `passed` is False: the bundle is written,
        marked failed, and never becomes `latest`.

    Raises:
        RtcError: see `rtc.compiler.core.errors` for what each means. Where one target cannot be
            built, the bundles of the others are published before it is raised.
    """
    results, failed = compile_each(
        recipe,
        targets=targets,
        out=out,
        store=store,
        listener=listener,
        fresh=fresh,
        budget=budget,
    )
    for error in failed.values():
        raise error
    return results


def compile_each(
    recipe: str | Path | Recipe,
    *,
    targets: str | Sequence[str] | None,
    out: str | Path,
    store: Store | None,
    listener: Listener | None,
    fresh: bool,
    budget: float | None,
) -> tuple[tuple[CompileResult, ...], Mapping[str, BuilderError]]:
    """As `compile`; the results, and by name why targets could not be built beside them.

    Raises:
        RtcError: what concerns every target.
    """
    from rtc.targets import loader

    listener = listener or Nobody()
    recipe = recipe if isinstance(recipe, Recipe) else load_recipe(Path(recipe))
    if budget is not None:
        recipe = recipe.with_budget(budget)
    named = [targets] if isinstance(targets, str) else targets
    beside = Path() if named else recipe.path.parent  # of profiles that are named by their file
    profiles = [loader.profile(name, beside) for name in named or recipe.targets]
    for warning in _without_effect(recipe, [profile.name for profile in profiles], budget):
        listener.warned(warning)
    _check_threads(recipe, profiles)
    recipe.admit_code()  # a profile may name a backend that lies beside the recipe
    destinations = [(profile, loader.backends_for(profile)) for profile in profiles]
    recipe.observer_classes()  # they are used late, and a wrong one is told early
    _check_writable(Path(out))
    store = store or Store.default(warn=listener.warned)
    stages = Stages(store, listener, fresh, owner=str(recipe.path.resolve()))
    job = _Job(recipe, splits_of(recipe, stages.known), Path(out), stages)
    results: list[CompileResult] = []
    failed: dict[str, BuilderError] = {}
    for profile, backends in destinations:
        try:
            results.append(job.compile_for(profile, backends))
        except BuilderError as error:
            if job.front is None:  # it is none of this target's
                raise
            failed[profile.name] = error
    if failed and not results:
        raise next(iter(failed.values()))
    return tuple(results), failed


def _without_effect(recipe: Recipe, targets: Sequence[str], budget: float | None) -> Iterator[str]:
    """What was asked for and changes nothing."""
    options, plan = recipe.precision, recipe.plan()
    mix = Variant.MIX in options.offer
    if plan is not None and not mix:
        yield "precision.plan changes nothing: precision.offer has no mix"
    elif plan is not None and plan.target not in targets:
        named = ", ".join(targets)
        yield f"precision.plan changes nothing: it is for {plan.target}, not for {named}"
    searched = [target for target in targets if plan is None or plan.target != target]
    if budget is not None and not (options.search and mix and searched):
        why = "precision.offer has no mix" if not mix else "no mix is searched for"
        yield f"the budget changes nothing: {why}"


def _check_threads(recipe: Recipe, profiles: Sequence[DeviceProfile]) -> None:
    """Threads that wait for one another's cores would make a compile take hours.

    Raises:
        MachineError: more are asked for than this machine runs at once.
    """
    most = os.cpu_count() or 1
    if recipe.measure.threads > most and any(profile.kind == "cpu" for profile in profiles):
        raise MachineError(
            "more CPU threads are asked for than this machine runs at once",
            where="measure.threads",
            seen=str(recipe.measure.threads),
            expected=f"at most {most}",
            fix="0 takes as many as engines are fastest with",
            id="too-many-threads",
        )


def _of(backend: Backend, profile: DeviceProfile) -> dict[str, Any]:
    """What a bundle's content depends on of a runtime: its version, and code that is not rtc's."""
    return {
        "version": backend.available().version,
        "runs": backend.runnable(profile).ok,
        "code": code_behind([type(backend)]),
    }


def _check_writable(out: Path) -> None:
    """Find out before the work, not after it, that bundles cannot be written there.

    Raises:
        MachineError: read-only, no permission, not a folder.
    """
    with durable.explained(out, elsewhere="choose another folder with --out DIR"):
        existing = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
        with durable.drafting(existing):
            pass


@dataclass
class _Job:
    """One compile: the recipe, its data, and the front, which is made once for all targets."""

    recipe: Recipe
    data: Splits
    out: Path
    stages: Stages
    front: Front | None = None

    def compile_for(self, profile: DeviceProfile, backends: Sequence[Backend]) -> CompileResult:
        """The bundle of one target: the one that is there, or a new one."""
        identity = self._identity(profile, backends)
        home = self.out / self.recipe.name / profile.name
        first = f"{self.recipe.version}+{digest(identity).removeprefix('sha256:')[:12]}"
        fresh = self.stages.fresh
        version = bundles.afresh(home, first) if fresh else bundles.newest(home, first) or first
        self.stages.begin(profile.name, identity)
        existing = self._there(profile, version)
        if existing is not None:
            self.stages.end(profile.name, identity)
            report = report_of(existing)
            self._finished("bundle", "nothing changed: it is there already")
            path = home / existing.path.name
            return CompileResult(profile.name, path, report, report.passed, reused=True)
        if self.stages.cause:
            self.stages.listener.redone("bundle", self.stages.cause)
        made = self._make(profile, backends, version, identity)
        self.stages.end(profile.name, identity)
        return made

    def _there(self, profile: DeviceProfile, version: str) -> bundles.Verified | None:
        """A whole bundle of the same inputs, if there is one."""
        home = self.out / self.recipe.name / profile.name
        folders = [home / version, home / f"{version}.failed"]
        for folder in filter(Path.is_dir, folders):
            try:
                verified = bundles.verify(folder)
            except IntegrityError as error:
                self.stages.listener.warned(f"{error}; it is made again")
                continue
            bundles.make_latest(verified)  # a compile that was killed may not have come to it
            return verified
        return None

    def _make(
        self,
        profile: DeviceProfile,
        backends: Sequence[Backend],
        version: str,
        identity: dict[str, Any],
    ) -> CompileResult:
        if self.front is None:
            self.front = make_front(self.recipe, self.data, self.stages, self.made)
        built, missing = self._candidates(self.front, profile, backends)
        appraised = appraise(
            self.recipe, self.data, self.front, profile=profile, built=built, stages=self.stages
        )
        search = self.recipe.precision.search
        choice = choose(
            self.recipe.gates,
            built,
            missing,
            appraised=appraised,
            batch=self.recipe.batch,
            accurate=search is not None and search.objective == "accuracy",
        )
        own = [row for candidate in built for row in candidate.certificates]
        searched = [candidate.search for candidate in built]
        report = assemble(
            self.recipe,
            self.front,
            profile,
            version=version,
            choice=choice,
            appraised=appraised,
            certificates=(*self.front.certificates, *own),
            stages=self.stages.rows_of(profile.name),
            searches=[row for row in (*searched, *(m.search for m in missing)) if row],
            provenance={**identity, "software": software(backends)},
        )
        manifest, files = pack(
            self.recipe,
            self.front,
            choice,
            report=report,
            calibration=self.data.calibration,
            output=appraised.output,
            identity=identity,
        )
        self._refuse_changes(identity)
        path = bundles.publish(self.out, manifest, files, warn=self.stages.listener.warned)
        report = report_of(bundles.verify(path))  # another compile may have been there first
        self._finished("bundle", path.name)
        return CompileResult(profile.name, path, report, report.passed, reused=False)

    def _candidates(
        self, front: Front, profile: DeviceProfile, backends: Sequence[Backend]
    ) -> tuple[list[Candidate], list[Missing]]:
        job = Job.of(self.recipe, self.data, front, profile, self.stages)
        known, search = paces(job, backends), job.search
        fast = search is not None and search.objective == "latency"
        behind = {name: pace.behind for name, pace in known.items() if pace.behind and fast}
        job = replace(job, sharers=len(backends) - len(behind))
        results = [
            candidate
            for backend in backends
            for candidate in candidates(
                job, backend, known[backend.name].threads, unsearched=behind.get(backend.name, "")
            )
        ]
        built = [each for each in results if isinstance(each, Candidate)]
        missing = [each for each in results if isinstance(each, Missing)]
        if not built:
            raise BuilderError(
                "no candidate could be built",
                where=profile.name,
                seen=_reasons(missing),
                id="no-candidate",
            )
        return built, missing

    @cached_property
    def made(self) -> Unit | None:
        """What the recipe's factory makes, if it has one."""
        return factory_model(self.recipe, self.data)

    def _refuse_changes(self, identity: dict[str, Any]) -> None:
        """What is published is of the inputs that its name tells of, or is not published.

        Samples and a factory's model are in memory since they were named; files may have changed.

        Raises:
            RecipeError: a file that the recipe names was changed meanwhile.
        """
        after = self._files()
        before = {name: identity[name] for name in after}
        if after != before:
            raise RecipeError(
                "something that the recipe names changed while it was compiled",
                where=str(self.recipe.path),
                seen=in_words(differences(outline(before), outline(after))),
                fix="compile it again",
                id="changed-meanwhile",
            )

    def _files(self) -> dict[str, Any]:
        """The part of a bundle's identity that is read from files."""
        plan = self.recipe.plan()
        code = referenced_code(self.recipe.identity())
        code |= code_behind(self.recipe.observer_classes())
        return {
            "files": source_files(self.recipe),
            "calibration": calibration_digest(self.recipe, self.stages.known)
            if self.recipe.calibration
            else "",
            "plan": plan.to_dict() if plan else None,
            "code": {"rtc": code_digest(), **code},
        }

    def _identity(self, profile: DeviceProfile, backends: Sequence[Backend]) -> dict[str, Any]:
        """Everything that the bundle's content depends on, and that is known before any work."""
        torch = self.recipe.source.level is Level.TORCH
        return {
            "recipe": self.recipe.identity(),
            "data": self.data.digest,
            "model": self.made.digest if self.made else "",
            **self._files(),
            "target": asdict(profile),
            "backends": {backend.name: _of(backend, profile) for backend in backends},
            "versions": versions(_LIBRARIES + (_TORCH_LIBRARIES if torch else ())),
            "machine": hardware() if profile.kind == "cpu" else {},
        }

    def _finished(self, stage: str, found: str) -> None:
        self.stages.listener.finished(stage, 0.0, found, cached=False)


def _reasons(missing: Sequence[Missing]) -> str:
    """Why candidates are missing; a reason that several share is told once."""
    names: dict[str, list[str]] = {}
    for lack in missing:
        names.setdefault(lack.reason, []).append(lack.name)
    return "; ".join(f"{', '.join(alike)}: {reason}" for reason, alike in names.items())
