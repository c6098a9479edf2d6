"""Old and new sources -> a revision, or the reason why only a full rebuild is right.

What a statement defines is not guessed from its form: the old statements that are gone are evaluated once more in
a process that is thrown away, and the methods that this replaces, the names that it binds, imports and exports are
those that they had made. Whatever `@eval` loop or macro made them, the difference between these and
what the new statements make is what has to be taken back.

A name that is bound to something else (a constant, a type, a macro) is used by statements that did not change. Code
that is compiled holds the old value, so these are evaluated again too.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from . import signatures
from .annotations import Annotations
from .census import BUILDING, DOCUMENTING, DOCUMENTS_OTHERWISE, Census, Question, compared, documents_otherwise
from .difference import FileDifference, Replacement, compare, line_moves
from .errors import NeedsFullRebuild, UserCodeError
from .evaluator import Evaluator
from .includes import COMPILER, Includes, Parsed, SourceFile, evaluations, full_module
from .order import may_bind, needed
from .revision import (
    Definition,
    Delete,
    Evaluate,
    Exclude,
    Include,
    Move,
    Revision,
    Step,
    Unbind,
    Undocument,
    Unexport,
    Unlog,
)
from .signatures import names_in
from .sources import ChangeSet, Sources
from .syntax import (
    Statement,
    defined_function,
    describe,
    exported,
    included,
    limits_methods,
    logs,
    may_define,
    mentions,
    mentions_any,
    registers,
    specializing,
    statements,
)

OldMethod = tuple[str, Statement, dict[str, Any]]
"""A method of the base image: its source file, the statement that defined it, and what the host tells of it."""

Name = tuple[str, str]
"""A module's full name, and a name in it."""

NOTHING: dict[str, Any] = {"defined": [], "names": [], "effects": [], "errors": []}
"""What a trial of no steps tells."""

MOST_ROUNDS = 100
"""Of following the users of changed names; each round has more statements than the one before."""

MOST_STATEMENTS = 1000
"""Evaluating more of them takes about as long as a full rebuild."""


def revise(
    old: Sources,
    new: Sources,
    files: Mapping[str, SourceFile],
    evaluator: Evaluator,
    census: Census | None = None,
    parsed: Parsed | None = None,
    question: Question | None = None,
    check: Callable[[str, FileDifference], None] = lambda path, difference: None,
) -> Revision:
    """The revision from the sources of a base image to others.

    `files` are the files in the image by path, `parsed` has statements of the old ones. Without a `census` it is not
    asked whether what was computed while Julia was built would be the same. With a `question`, that may be
    left to be asked of the image that the caller makes: if it gives another answer, he must revise again. `check` gets
    the path and the difference of each changed file, and raises NeedsFullRebuild for what the engine does not chain.
    Raises UserCodeError when the new sources do not parse or fail to evaluate, NeedsFullRebuild with the reason when
    evaluating definitions would not give what a rebuild gives.
    """
    return _Reviser(old, new, files, evaluator, census, parsed, question, check).revision()


class _Reviser:
    def __init__(
        self,
        old: Sources,
        new: Sources,
        files: Mapping[str, SourceFile],
        evaluator: Evaluator,
        census: Census | None,
        kept: Parsed | None,
        question: Question | None,
        check: Callable[[str, FileDifference], None],
    ) -> None:
        self.check = check
        self.census = census
        self.question = question
        self.kept = kept
        self.old = old
        self.new = new
        self.files = dict(files)
        self.includes = Includes(old, new, self.files, kept)
        self.evaluator = evaluator
        self.parsed: dict[tuple[bool, str], list[Statement]] = {}
        self.differences: dict[str, FileDifference] = {}
        self.unbound: dict[Name, None] = {}
        """Names to unbind before anything is evaluated."""
        self.unbound_in_trial: dict[Name, None] = {}
        """Names that old statements can't bind again."""
        self.dropped: set[str] = set()
        """Files that are not included any more."""
        self.followed: set[Name] = set()
        """Changed names whose users were found."""
        self.using: list[tuple[Name, dict[str, Any]]] = []
        """Changed names, and methods of the base image that use them."""
        self.early: dict[str, Delete] = {}
        """Methods to delete before anything is evaluated, by signature."""
        self.steps_of_includes: list[Step] = []
        """Files that are included and were not, or the other way round."""
        self.before_evaluation: list[Step] = []
        """What old statements left in objects of the image, taken back."""
        self.annotations = {
            True: Annotations(new, partial(self.statements_of, new=True), lambda: self.includes.now),
            False: Annotations(old, partial(self.statements_of, new=False), lambda: self.includes.before),
        }
        """Of the new sources (True) and the old."""

    # ---- what differs ----

    def statements_of(self, path: str, *, new: bool) -> list[Statement]:
        self.parse([(new, path)])
        return self.parsed[new, path]

    def parse(self, wanted: Iterable[tuple[bool, str]]) -> None:
        """Parses old (False) and new (True) texts of files, together. Raises UserCodeError when one does not parse."""
        missing = [key for key in dict.fromkeys(wanted) if key not in self.parsed and not self._is_kept(*key)]
        for kind, sources in ((True, self.new), (False, self.old)):
            paths = [path for new, path in missing if new == kind]
            texts = [sources.contents[path] if path in sources.blobs else b"" for path in paths]
            answers = self.evaluator.parse_all(texts, check=kind) if texts else []
            for path, text, answer in zip(paths, texts, answers, strict=True):
                self.parsed[kind, path] = statements(answer, text, path)

    def _is_kept(self, new: bool, path: str) -> bool:
        """Takes the statements of a text of the base image from there."""
        if path not in self.old.blobs or (new and self.new.blobs.get(path) != self.old.blobs[path]):
            return False
        found = self.parsed.get((False, path)) or (self.kept.statements(path) if self.kept is not None else None)
        if found is not None:
            self.parsed[new, path] = self.parsed[False, path] = found
        return found is not None

    def statements_with(
        self, words: Iterable[str], *, new: bool, paths: Iterable[str] | None = None
    ) -> Iterator[tuple[str, SourceFile, Statement]]:
        """The statements of files, of all or of `paths` in their order, in whose text one of the words stands. Only
        such files are parsed."""
        sources, sought = self.new if new else self.old, [word.encode() for word in words]
        for path in list(self.files if paths is None else paths):
            if path in sources.blobs and any(word in sources.contents[path] for word in sought):
                for statement in self.statements_of(path, new=new):
                    yield path, self.files[path], statement

    def find_differences(self) -> None:
        changes = ChangeSet.between(self.old, self.new)
        order = {path: number for number, path in enumerate(self.files)}
        changed = sorted(
            (path for path in changes.paths if path.endswith(".jl")), key=lambda path: order.get(path, len(order))
        )
        # Before any reason, since errors come first.
        self.parse((new, path) for path in changed for new in (True, False) if new or path in self.files)
        for path in changes.paths:
            if path.endswith("Project.toml"):
                raise NeedsFullRebuild(f"{path} changed: it tells which packages a standard library may load")
        for path in changed:
            if path in self.files and path not in changes.deleted:
                self.difference(path)
        for path in changes.deleted:
            if path in self.files and path not in self.dropped:
                raise UserCodeError(f"{path} was deleted, and is included still: restore it, or take the include out")
        self._follow_registered()
        self._follow_limits()
        for path, difference in self.differences.items():
            self.check(path, difference)

    def difference(self, path: str) -> FileDifference:
        """The difference of a file of the image; unchanged files have one too when it is asked for."""
        if path not in self.differences:
            found = compare(path, self.statements_of(path, new=False), self.statements_of(path, new=True))
            self.differences[path] = found
            self._follow_annotations(path, found)
            self._follow_includes(path, found)
        return self.differences[path]

    def _follow_annotations(self, path: str, difference: FileDifference) -> None:
        """Takes statements for changed ones for whose methods a bare `@nospecialize` holds now, or no more."""
        if not any(annotations.in_file(path) for annotations in self.annotations.values()):
            return
        difference.removed = [one for one in difference.removed if specializing(one.tree) is None]
        difference.evaluated = [one for one in difference.evaluated if specializing(one.statement.tree) is None]
        for old, new in list(difference.unchanged):
            before, now = (
                self.annotations[kind].hold_at(path, one.inside, one.line) for kind, one in ((False, old), (True, new))
            )
            if before != now and specializing(old.tree) is None:
                if included(old.tree):
                    raise NeedsFullRebuild(f"@nospecialize changed for {included(old.tree)}, which {path} includes")
                difference.evaluate_again(path, old)

    def _follow_includes(self, path: str, difference: FileDifference) -> None:
        """Replaces changed `include` statements by the statements of the files that they name."""
        gone = {(one.inside, included(one.tree)): one for one in difference.removed if included(one.tree)}
        come = {
            (one.statement.inside, included(one.statement.tree)): one
            for one in difference.evaluated
            if included(one.statement.tree) and not one.only_documentation
        }
        for (inside, name), statement in gone.items():
            difference.removed.remove(statement)
            if (inside, name) in come:
                difference.evaluated.remove(come.pop((inside, name)))  # the same, elsewhere in the file
                continue
            target = self.includes.named(path, str(name))
            if target not in self.files or len(self.files[target].modules) != 1 or target in self.differences:
                raise NeedsFullRebuild(f"the include of {name} in {path}:{statement.line} is gone")
            old = self.statements_of(target, new=False)
            if any(one.is_module or included(one.tree) for one in old):
                raise NeedsFullRebuild(f"{target}, with modules or includes of its own, is not included any more")
            self.differences[target] = FileDifference(removed=list(old))
            self.dropped.add(target)
            self.steps_of_includes.append(Exclude(self.files[target].modules[0], self.files[target].name))
        for (inside, name), replacement in come.items():
            difference.evaluated.remove(replacement)
            target = self.includes.named(path, str(name))
            if target in self.files and not any(included(one.tree) == name for one in gone.values()):
                raise NeedsFullRebuild(f"{target} is included a second time")
            if target not in self.new.blobs:
                raise UserCodeError(f"{path}:{replacement.statement.line}: there is no {target} to include")
            including = self.files[path]
            self.files[target] = SourceFile(
                posixpath.normpath(posixpath.join(including.name, posixpath.relpath(target, path))),
                tuple(full_module(module, inside) for module in including.modules),
            )
            self.parsed[False, target] = []
            self.difference(target)

    def _follow_registered(self) -> None:
        """Takes all statements that register a handler of errors for changed ones if one is: their order counts."""
        changed = [one for difference in self.differences.values() for one in difference.removed]
        changed += (one.statement for difference in self.differences.values() for one in difference.evaluated)
        if not any(registers(one.tree) for one in changed):
            return
        for path, _, statement in self.statements_with(["register_error_hint"], new=False):
            if registers(statement.tree) and path in self.new.blobs:
                self.difference(path).evaluate_again(path, statement)
        self.before_evaluation.append(Evaluate("Base.Experimental", "experimental.jl", 1, "empty!(_hint_handlers)"))

    def _follow_limits(self) -> None:
        """Takes back how many methods of a function inference may look at; a statement may tell it again after that."""
        for path, difference in self.differences.items():
            for statement in difference.removed:
                if limits_methods(statement.tree):
                    default = f"{statement.text.partition('=')[0]}= UInt8(0)"
                    self.before_evaluation += evaluations(self.files[path], statement, default)

    # ---- what that means ----

    def revision(self) -> Revision:
        self.find_differences()
        self._check()
        for _ in range(MOST_ROUNDS):
            result = self._round()
            if result is not None:
                return result
        raise NeedsFullRebuild("what uses the changed names has no end")

    def _round(self) -> Revision | None:
        """Works out the revision; None when the users of another changed name have to be evaluated too."""
        gone = self._steps_of_removed()
        evaluated = self._steps_to_evaluate()
        before_trial = self._trial_of_removed(gone)
        before = self._old_methods(gone, before_trial)
        unbound = (Unbind(*name) for name in self.unbound)
        first: list[Step] = [*self.early.values(), *unbound, *self.before_evaluation]
        trial = self.evaluator.trial([*first, *(step for _, step in evaluated)]) if first or evaluated else NOTHING
        after = _without(len(first), dict(trial))
        if self._learn_from_errors(after, evaluated) or self._learn_from_names(before_trial, after):
            return None
        for method in after["defined"]:
            replaced = method["replaces"]
            if replaced and "#" not in method["name"] and replaced["signature"] not in before:
                raise DefinedTwice(replaced)
            known = before.get(method["signature"])
            if replaced is None and known and method["signature"] not in self.early:
                # The same words and another type: a type in the signature is a new one.
                self.early[method["signature"]] = Delete(known[2]["module"], known[2]["name"], method["signature"])
        if len(first) != len(self.unbound) + len(self.early) + len(self.before_evaluation):
            return None
        defined = {(method["replaces"] or method)["signature"] for method in after["defined"]}
        deleted = [methods for signature, methods in before.items() if signature not in defined]
        bound = _bound(after)
        early = {name[1] for name in self.unbound if name in bound or not self.evaluator.unbinds_last}
        if lost := [
            method
            for _, _, method in deleted
            if method["signature"] not in self.early and early & names_in(method["signature"])
        ]:
            # A signature is told in names, so it must be found before these are gone.
            for method in lost:
                self.early[method["signature"]] = Delete(method["module"], method["name"], method["signature"])
            return None
        if deleted:
            self._check_deleted(deleted)
        late: list[Step] = [
            Delete(method["module"], method["name"], method["signature"])
            for _, _, method in deleted
            if method["signature"] not in self.early
        ]
        self._check_users()
        self._check_order(evaluated)
        steps = (
            *self._undocumented(),
            *self._unlogged(),
            *self._moves(),
            *self.steps_of_includes,
            *self._newly_included(),
            *first,
            *self._unexported(before_trial, after),
            *(step for _, step in evaluated),
            *late,
        )
        if any(isinstance(step, Evaluate | Delete | Unbind) for step in steps):
            asked = (self.census.record, self.census.dependencies) if self.census else (None, None)
            final = self.evaluator.computed(steps, *asked)
            if self._learn_from_emptied(final["emptied"], after) or self._learn_from_computed(steps, final["computed"]):
                return None
            edited = {method["name"] for trial in (before_trial, after) for method in trial["defined"]}
            if self.census is not None and self._learn_from_generators(final["never_generated"], edited):
                return None
        definitions = (
            *self._definitions(evaluated, after, before, deleted),
            *self._names_gone(gone, evaluated),
            *self._exports(gone, evaluated, before_trial, after),
        )
        return Revision(steps, definitions)

    def _check(self) -> None:
        """Raises NeedsFullRebuild for differences that evaluating definitions can't make."""
        for path, difference in self.differences.items():
            modules = self.files[path].modules
            if not difference.removed and not difference.evaluated:
                continue
            if modules == ("Core",):
                raise NeedsFullRebuild(f"{path} is the Core module, with which everything begins")
            for statement in difference.removed:
                if statement.is_module:
                    raise NeedsFullRebuild(f"{describe(statement.tree)} in {path}:{statement.line} is gone")
                if not statement.is_understood and not registers(statement.tree):
                    raise NeedsFullRebuild(
                        f"{describe(statement.tree)} in {path}:{statement.line} was changed,"
                        " and what it did can't be taken back"
                    )

    def _steps_of_removed(self) -> list[tuple[str, Statement, Evaluate]]:
        return [
            (path, statement, step)
            for path, difference in self.differences.items()
            for statement in sorted(difference.removed, key=lambda one: one.line)
            for step in evaluations(self.files[path], statement, statement.text)
        ]

    def _steps_to_evaluate(self) -> list[tuple[Replacement, Evaluate]]:
        replacements = [one for difference in self.differences.values() for one in difference.evaluated]
        places = self.includes.places if len(self.differences) > 1 else dict.fromkeys(self.differences, ())
        replacements.sort(key=lambda one: (*places[one.path], one.statement.line))
        return [
            (replacement, self._as_annotated(replacement, step))
            for replacement in replacements
            for step in evaluations(self.files[replacement.path], replacement.statement, replacement.text)
            if not (replacement.only_documentation and step.module.startswith(COMPILER))
        ]

    def _as_annotated(self, replacement: Replacement, step: Evaluate) -> Evaluate:
        """The step with the `@nospecialize` around it that holds where the statement stands."""
        if replacement.only_documentation:
            return step
        statement = replacement.statement
        text, line = self.annotations[True].wrapped(replacement.path, statement.inside, step.line, step.text)
        if line < 1:
            raise NeedsFullRebuild(f"{replacement.path} has no line before the first, for a @nospecialize")
        return Evaluate(step.module, step.file, line, text)

    def _trial_of_removed(self, gone: list[tuple[str, Statement, Evaluate]]) -> dict[str, Any]:
        if not gone:
            return NOTHING
        first = [Unbind(*name) for name in self.unbound_in_trial]
        result = _without(len(first), self.evaluator.trial([*first, *(step for _, _, step in gone)]))
        known = len(self.unbound_in_trial)
        for error in result["errors"]:
            name = _name_in_the_way(error["message"])
            if name:  # another object of the same value, which is no error while Julia is built
                self.unbound_in_trial.setdefault((gone[error["step"]][2].module, name))
        if len(self.unbound_in_trial) > known:
            return self._trial_of_removed(gone)
        for error in result["errors"]:
            path, statement, _ = gone[error["step"]]
            said = error["message"].splitlines()[0].removeprefix("LoadError: ")
            raise NeedsFullRebuild(
                f"{describe(statement.tree)} in {path} can only be evaluated while Julia is built ({said})"
            )
        return result

    def _old_methods(self, gone: list[tuple[str, Statement, Evaluate]], trial: dict[str, Any]) -> dict[str, OldMethod]:
        """By signature: the methods of the base image that statements which are gone had defined."""
        methods = {}
        for method in trial["defined"]:
            path, statement, _ = gone[method["step"]]
            replaced = method["replaces"]
            if replaced is None or ("#" in method["name"] and not method["name"].endswith("##kw")):
                continue  # a name that the compiler made: the old one is not found again under it
            if (replaced["file"], replaced["line"]) != (method["file"], method["line"]):
                raise DefinedTwice(replaced)
            methods[replaced["signature"]] = (path, statement, replaced)
        return methods

    # ---- names that change, and who uses them ----

    def _learn_from_errors(self, after: dict[str, Any], evaluated: list[tuple[Replacement, Evaluate]]) -> bool:
        """Whether an error can be helped by unbinding a name first. Raises UserCodeError for other errors."""
        known = len(self.unbound)
        for error in after["errors"]:
            _, step = evaluated[error["step"]]
            name = _name_in_the_way(error["message"])
            if name and (step.module, name) not in self.unbound:
                self._changed((step.module, name))
        if len(self.unbound) > known or not after["errors"]:
            return len(self.unbound) > known  # other errors may follow from these
        error = after["errors"][0]
        replacement, _ = evaluated[error["step"]]
        statement = replacement.statement
        if self.early and error["message"].startswith("MethodError"):
            raise NeedsFullRebuild(
                f"{replacement.path}:{statement.line} can't be evaluated without methods that were taken back before"
            )
        raise UserCodeError(
            f"{replacement.path}:{statement.line}: {describe(statement.tree)} fails when it is evaluated",
            error["message"],
        )

    def _learn_from_names(self, before: dict[str, Any], after: dict[str, Any]) -> bool:
        """Whether names are bound to something else than before whose users are not followed yet."""
        known = len(self.followed)
        for entry in before["names"]:
            kept = entry["kind"] in ("constant", "global") and not entry["module"].startswith(COMPILER)
            if kept and not entry["new"] and not entry["alike"]:
                raise NeedsFullRebuild(f"{entry['module']}.{entry['name']} was filled after it was bound")
        old, now = _bound(before), _bound(after)
        for name, kinds in old.items():
            if name[0].startswith(COMPILER) and not self._removes(name[1]):
                continue  # inference counts in globals of its own, whenever it has something to infer
            if name not in now and kinds != {"function"}:
                if place := self._bound_elsewhere(name):
                    raise NeedsFullRebuild(f"{'.'.join(name)} is also bound in {place}")
                self._changed(name)
            elif name in now and kinds != now[name] and name not in self.unbound:
                self._changed(name)
        for entry in after["names"]:
            name = (entry["module"], entry["name"])
            if entry["kind"] == "module" and not entry["new"]:
                raise NeedsFullRebuild(f"the module {name[0]}.{name[1]} is another one")
            if name[0].startswith(COMPILER) and entry["kind"] == "global":
                continue
            if not entry["new"] and entry["kind"] in ("constant", "type", "function"):
                self._changed(name)
        for effect in before["effects"]:
            if effect["kind"] == "using" and not any(
                (one["kind"], one["module"], one["from"]) == ("using", effect["module"], effect["from"])
                for one in after["effects"]
            ):
                raise NeedsFullRebuild(f"{effect['module']} does not use {effect['from']} any more")
        for effect in after["effects"]:
            if effect.get("conflict"):
                raise NeedsFullRebuild(
                    f"{effect['name']} from {effect['from']} is in conflict with a name that {effect['module']} has"
                )
        for method in after["defined"]:
            if method["name"].startswith("@"):
                self._macro_changed((method["module"], method["name"]), before)
        return len(self.followed) != known

    def _removes(self, name: str) -> bool:
        """Whether a statement that is gone, or evaluated again, has a name in it."""
        return any(mentions(one.tree, name) for each in self.differences.values() for one in each.removed)

    def _learn_from_computed(self, steps: Sequence[Step], numbers: Sequence[int]) -> bool:
        """Whether unchanged statements give something else after the steps: what they ran is different then."""
        if self.census is None:
            return False
        removed = {
            (path, one.line, one.undocumented().text)
            for path, difference in self.differences.items()
            for one in difference.removed
        }
        affected = [
            entry
            for entry in (self.census.entries[number] for number in numbers)
            if not entry.fails
            and entry.path not in self.dropped
            and entry.path not in BUILDING
            and (entry.path, entry.line, entry.text) not in removed
        ]
        documents = any(entry.text == DOCUMENTING for entry in affected)
        if documents and documents_otherwise(self.evaluator, self.census, steps, self.files, self.differences):
            raise NeedsFullRebuild(DOCUMENTS_OTHERWISE)
        if self.question is not None:
            affected = list(self.question.leave(affected, self.files, self.differences))
        results = compared(self.evaluator, steps, affected, self.files)
        learnt = False
        for entry, (before, again, after) in results:
            if before == after or before != again or before.startswith("error: "):
                continue
            if entry.text == DOCUMENTING:
                raise NeedsFullRebuild(DOCUMENTS_OTHERWISE)
            for statement in self.statements_of(entry.path, new=False):
                if (statement.line, statement.undocumented().text) != (entry.line, entry.text):
                    continue
                what = f"{describe(statement.tree)} in {entry.path}:{statement.line}"
                if after.startswith("error: "):
                    raise NeedsFullRebuild(f"{what} can't be evaluated any more with what changed")
                if not statement.is_understood:
                    raise NeedsFullRebuild(f"{what} gives something else with what changed, and can't be taken back")
                learnt |= self.difference(entry.path).evaluate_again(entry.path, statement)
        return learnt

    def _learn_from_generators(self, methods: list[tuple[str, int]], edited: set[str]) -> bool:
        """Whether generators that were never called call what was edited, by its name, or may by way of functions
        of their file: they see what is defined before them, and so have to be defined again."""
        learnt = False
        paths = {file.name: path for path, file in self.files.items()}
        for name, line in methods:
            path = paths.get(name)
            if (
                path is None
                or path in self.dropped
                or not any(one.encode() in self.old.contents[path] for one in edited)
            ):
                continue
            own, reached = self.statements_of(path, new=False), set(edited)
            while True:
                callers = {defined_function(one.tree) for one in own if mentions_any(one.tree, reached)}
                more = {one for one in callers if one is not None} - reached
                if not more:
                    break
                reached |= more
            for statement in own:
                if statement.line <= line <= statement.last_line and mentions_any(statement.tree, reached):
                    learnt |= self.difference(path).evaluate_again(path, statement)
        return learnt

    def _learn_from_emptied(self, emptied: list[dict[str, Any]], after: dict[str, Any]) -> bool:
        """Whether functions lost their last method, and with it their name."""
        known = len(self.followed)
        bound = _bound(after)
        for entry in emptied:
            name = (entry["module"], entry["name"])
            if name in bound or name in self.unbound or "#" in name[1] or self._bound_elsewhere(name):
                continue
            self._changed(name)
        return len(self.followed) != known

    def _changed(self, name: Name) -> None:
        """Notes that a name is bound to something else, or to nothing: its users are evaluated again."""
        self.unbound[name] = None
        if name in self.followed:
            return
        self.followed.add(name)
        users = self.evaluator.users(*name)
        if users["objects"]:
            raise NeedsFullRebuild(f"{'.'.join(name)} is another type, and the base image has objects of the old one")
        self._follow(name, users)

    def _macro_changed(self, name: Name, before: dict[str, Any]) -> None:
        if name in self.followed or not any(
            (one["module"], one["name"]) == name and one["replaces"] for one in before["defined"]
        ):
            return
        self.followed.add(name)
        self._follow(name, self.evaluator.users(*name))

    def _follow(self, name: Name, users: dict[str, Any]) -> None:
        """Takes the statements that use a name for changed ones."""
        modules = frozenset(users["modules"])
        word = name[1].removeprefix("@")
        word = word.removesuffix("_str") if name[1].endswith("_str") else word
        for path, file, statement in self.statements_with([word], new=False):
            if path in self.new.blobs and _uses(statement, file, name, modules):
                self.difference(path).evaluate_again(path, statement)
        self._check()
        if sum(len(one.evaluated) for one in self.differences.values()) > MOST_STATEMENTS:
            raise NeedsFullRebuild(f"{'.'.join(name)} changed, and more than {MOST_STATEMENTS} statements use it")
        self.using += ((name, method) for method in users["methods"])

    def _check_users(self) -> None:
        """Raises NeedsFullRebuild when a method uses a changed name, and no statement that makes it was found."""
        places: dict[str, list[tuple[int, int]]] = {}
        for path, difference in self.differences.items():
            lines = ((one.line, one.last_line) for one in difference.removed)
            places.setdefault(self.files[path].name, []).extend(lines)
        for name, method in self.using:
            if not any(first <= method["line"] <= last for first, last in places.get(method["file"], ())):
                raise NeedsFullRebuild(
                    f"{'.'.join(name)} changed, and {method['module']}.{method['name']} uses it, which a macro made"
                )

    def _bound_elsewhere(self, name: Name) -> str | None:
        """Where a statement of the new sources may bind a name, if one may."""
        for path, file, statement in self.statements_with([name[1]], new=True):
            modules = [full_module(module, statement.inside) for module in file.modules]
            if name[0] in modules and may_define(statement.tree, name[1]):
                return f"{path}:{statement.line}"
        return None

    # ---- what has to be there before ----

    def _check_order(self, evaluated: list[tuple[Replacement, Evaluate]]) -> None:
        """Raises NeedsFullRebuild when a statement needs a name that is bound after it: no rebuild gets there."""
        for path in dict.fromkeys(replacement.path for replacement, _ in evaluated):
            if len(self.files[path].modules) != 1 or path in BUILDING:
                continue
            difference = self.differences[path]
            fresh = [one.statement for one in difference.evaluated if not one.only_documentation]
            before = [one.tree for one in difference.removed]
            needs = {id(one): frozenset() if one.tree in before else needed(one) for one in fresh}
            sought = frozenset[str]().union(*needs.values())
            last = max((one.line for one in fresh), default=0)
            found: set[str] = set()  # what unchanged statements above need
            for statement in self.statements_of(path, new=True):
                if statement.line > last:
                    break
                if id(statement) not in needs:
                    # a string's macro stands there without its end
                    if any(name.removeprefix("@").removesuffix("_str") in statement.text for name in sought - found):
                        found |= needed(statement)
                    continue
                for name in sorted(needs[id(statement)] - found):
                    if later := self._bound_later(name, path, statement.line):
                        raise NeedsFullRebuild(
                            f"{describe(statement.tree)} in {path}:{statement.line} needs {name},"
                            f" which comes only later, in {later}"
                        )

    def _bound_later(self, name: str, path: str, line: int) -> str | None:
        """Where a name is bound first, if that is in Base or the same package and behind a line of a file."""
        places = self.includes.places
        own = {places[path][0], places.get("base/Base.jl", places[path])[0]}
        in_order = sorted(self.files.keys() - BUILDING, key=lambda one: places[one])
        for other, file, statement in self.statements_with([name.removeprefix("@")], new=True, paths=in_order):
            core = file.modules == ("Core",)  # where names of the runtime are exported
            if not (mentions(statement.tree, name) if core else may_bind(statement.tree, name)):
                continue
            if (*places[other], statement.line) <= (*places[path], line):
                return None
            if places[other][0] in own:
                return f"{other}:{statement.line}"
        return None

    # ---- what is taken back ----

    def _check_deleted(self, deleted: list[OldMethod]) -> None:
        """Raises NeedsFullRebuild when another statement, that stays, defined a deleted method before: a rebuild has
        that."""
        gone: dict[str, list[Statement]] = {}
        for path, difference in self.differences.items():
            gone.setdefault(self.files[path].name, []).extend(difference.removed)
        for _, _, method in deleted:
            for other in method["also"]:
                if not any(one.line <= other["line"] <= one.last_line for one in gone.get(other["file"], ())):
                    raise DefinedTwice(other)

    def _undocumented(self) -> list[Undocument]:
        found = []
        for path, difference in self.differences.items():
            for statement in (*difference.removed, *difference.undocumented):
                if statement.documentation is None and not mentions(statement.tree, "@doc"):
                    continue
                text = statement.only_documentation() if statement.documentation is not None else statement.text
                for step in evaluations(self.files[path], statement, text):
                    if not step.module.startswith(COMPILER):
                        found.append(Undocument(step.module, step.file, statement.line, statement.last_line))
        return found

    def _unexported(self, before: dict[str, Any], after: dict[str, Any]) -> list[Unexport]:
        found = sorted(_exported(before).keys() - _exported(after).keys())
        if found and not self.evaluator.unexports:
            reason = "is exported or public no more, which is not followed on this Julia yet"
            raise NeedsFullRebuild(f"{'.'.join(found[0])} {reason}")
        for name in found:
            users = self.evaluator.users(*name)
            others = [module for module in users["modules"] if module != name[0]]
            if not others or name in self.unbound:
                continue
            for path, file, statement in self.statements_with([name[1]], new=True):
                inside = {full_module(module, statement.inside) for module in file.modules}
                if inside & set(others) and mentions(statement.tree, name[1]):
                    raise NeedsFullRebuild(
                        f"{'.'.join(name)} is not exported any more, and {path}:{statement.line} uses it"
                    )
        return [Unexport(*name) for name in found]

    def _unlogged(self) -> Iterator[Unlog]:
        for path, difference in self.differences.items():
            for statement in difference.removed:
                if logs(statement.tree):
                    yield Unlog(self.files[path].name, statement.definition_line, statement.last_line)

    def _newly_included(self) -> Iterator[Include]:
        """The new files, each behind the one that is included before it."""
        come = [path for path in self.files if path not in self.old.blobs and path in self.includes.now]
        places = self.includes.places if come else {}
        for path in sorted(come, key=lambda one: places[one]):
            file = self.files[path]
            above = (one for one in self.files if places[one] < places[path] and one not in self.dropped)
            before = max(above, key=lambda one: places[one])
            for module in file.modules:
                yield Include(module, file.name, self.files[before].name)

    def _moves(self) -> Iterator[Move]:
        for path, difference in self.differences.items():
            for first, last, by in line_moves(difference):
                yield Move(self.files[path].name, first, last, by)

    def _definitions(
        self,
        evaluated: list[tuple[Replacement, Evaluate]],
        after: dict[str, Any],
        before: Mapping[str, Any],
        deleted: list[OldMethod],
    ) -> Iterator[Definition]:
        with_methods = set()
        for method in after["defined"]:
            replacement, step = evaluated[method["step"]]
            with_methods.add(method["step"])
            if "#" in method["name"] or self._told_as_bases(replacement.path, step.module):
                continue  # a name of the compiler's making
            what = signatures.pretty(method["signature"])
            change = "modified" if (method["replaces"] or method)["signature"] in before else "added"
            yield Definition(what, replacement.path, method["line"], change)
        old = {describe(one.tree) for difference in self.differences.values() for one in difference.removed}
        for number, (replacement, step) in enumerate(evaluated):
            tree, line = replacement.statement.tree, replacement.statement.line
            if self._told_as_bases(replacement.path, step.module) or exported(tree) is not None:
                continue
            if replacement.only_documentation:
                what = f"{step.module}.{describe(tree).removeprefix('method ')}"
                yield Definition(what, replacement.path, line, "documented")
            elif number not in with_methods or tree[:1] in (("struct",), ("macro",)):
                change = "modified" if describe(tree) in old else "added"
                yield Definition(f"{describe(tree)} of {step.module}", replacement.path, line, change)
        for path, _, method in deleted:
            if "#" not in method["name"] and not self._told_as_bases(path, method["module"]):
                yield Definition(signatures.pretty(method["signature"]), path, method["line"], "deleted")

    def _names_gone(
        self, gone: list[tuple[str, Statement, Evaluate]], evaluated: list[tuple[Replacement, Evaluate]]
    ) -> Iterator[Definition]:
        """The types and constants that are bound no more."""
        now = {(step.module, describe(replacement.statement.tree)) for replacement, step in evaluated}
        for path, statement, step in gone:
            tree, name = statement.tree, describe(statement.tree)
            if not isinstance(tree, tuple) or tree[0] not in ("const", "struct", "abstract"):
                continue
            if (step.module, name) not in now and not self._told_as_bases(path, step.module):
                yield Definition(f"{name} of {step.module}", path, statement.line, "deleted")

    def _told_as_bases(self, path: str, module: str) -> bool:
        """Whether a file that Core.Compiler shares is told as Base's only."""
        return module.startswith(COMPILER) and len(self.files[path].modules) > 1

    def _exports(
        self,
        gone: list[tuple[str, Statement, Evaluate]],
        evaluated: list[tuple[Replacement, Evaluate]],
        before: dict[str, Any],
        after: dict[str, Any],
    ) -> Iterator[Definition]:
        """Which names changed statements export more than before, or less."""
        old = {name: (gone[step][0], gone[step][1].line) for name, step in _exported(before).items()}
        places = [(replacement.path, replacement.statement.line) for replacement, _ in evaluated]
        new = {name: places[step] for name, step in _exported(after).items()}
        for change, these, others in (("added", new, old), ("deleted", old, new)):
            for name in sorted(these.keys() - others.keys()):
                if not self._told_as_bases(these[name][0], name[0]):
                    yield Definition(f"export {name[1]} of {name[0]}", *these[name], change)


def _name_in_the_way(message: str) -> str | None:
    """The name that Julia says is bound already."""
    for pattern in (
        r"invalid redefinition of constant (\S+)",
        r"cannot declare (\S+) constant; it already has a value",
        r"cannot define function (\S+); it already has a value",
        r"invalid redefinition of type (\S+)",
        r"function \S+\.(\S+) must be explicitly imported to be extended",
        r"cannot assign a value to variable \S+\.(\S+) from module",
    ):
        if found := re.search(pattern, message):
            return found[1]
    return None


def _without(first: int, trial: dict[str, Any]) -> dict[str, Any]:
    """What the host tells of some steps, as if the first had not been among them."""
    for kind in ("defined", "effects", "errors"):
        trial[kind] = [{**one, "step": one["step"] - first} for one in trial[kind] if one["step"] >= first]
    return trial


def _bound(trial: dict[str, Any]) -> dict[Name, set[str]]:
    """The names that evaluated statements bound, with the kinds of binding."""
    found: dict[Name, set[str]] = {}
    for effect in trial["effects"]:
        kind = {"assigned": "value", "constant": "value", "function": "function"}.get(effect["kind"])
        if effect["kind"] in ("used", "imported"):
            kind = f"{effect['kind']} from {effect['from']}"
        if kind:
            found.setdefault((effect["module"], effect["name"]), set()).add(kind)
    for kinds in found.values():
        if "value" in kinds:
            kinds.discard("function")  # a type with constructors
    return found


def _exported(trial: dict[str, Any]) -> dict[Name, int]:
    """The names that evaluated statements exported, each with the number of the last step that did."""
    return {(one["module"], one["name"]): one["step"] for one in trial["effects"] if one["kind"] == "exported"}


def _uses(statement: Statement, file: SourceFile, name: Name, modules: frozenset[str]) -> bool:
    """Whether a statement uses a name of a module: plainly where it stands for that, or with its module before it."""
    if isinstance(statement.tree, tuple) and statement.tree[:1] in (("export",), ("import",), ("using",), ("module",)):
        return False
    if not mentions(statement.tree, name[1]):
        return False
    if any(full_module(module, statement.inside) in modules for module in file.modules):
        return True
    return mentions(statement.tree, name[0].rpartition(".")[2])


class DefinedTwice(NeedsFullRebuild):
    """A second definition of a method that stays, of which the host tells in `method`."""

    def __init__(self, method: Mapping[str, Any]) -> None:
        super().__init__(
            f"{signatures.pretty(method['signature'])} is defined a second time, in {method['file']}:{method['line']}: "
            "which of the two holds depends on their order"
        )
        self.method = method
