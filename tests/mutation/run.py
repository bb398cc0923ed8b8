"""Mutants of the package: all of them or a sample, and the share that the tests notice.

mutmut writes a copy of the package into ``mutants/`` that has every mutant of every function; an environment variable
chooses one. Here the tests are collected once, and for each mutant a fork runs those that call its function, until one
fails: the quickest first, those of its own test file before others that take half as long, and no more than take
``--seconds`` in all.

What mutmut does not mutate: code outside functions, and functions with a decorator. What no test should hold is not
counted: the wording of messages (any text with a space in it), what is printed, that text files are UTF-8 by name, and
on which device a tensor is made, since tests see the CPU alone.
"""

import argparse
import ast
import contextlib
import json
import os
import random
import select
import shutil
import signal
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from _pytest.runner import runtestprotocol
from mutmut import __main__ as mutmut
from mutmut.mutation import trampoline
from mutmut.state import state

MUTANTS = Path(__file__).resolve().parents[2] / "mutants"
CALLS, RESULTS = MUTANTS / "calls.json", MUTANTS / "results.json"
TESTS = [
    *("tests/heads", "tests/data/test_sampler.py", "tests/scoring/metrics", "tests/training"),
    *("tests/verification", "tests/cli/test_verify.py"),
]
# A fixture that takes seconds: mutants that it does not call share the one that is made before the forks.
SHARED, SHARED_SECONDS = "trained", 5
NOTICED = ("failed", "hung")  # of a mutant's tests
BROKEN = 3  # the status of a fork that could not run tests


class WithoutWording(ast.NodeTransformer):
    """Blanks what is not counted, so that two functions that differ only there are the same."""

    def visit_Constant(self, node: ast.Constant) -> ast.Constant:
        return ast.Constant("") if isinstance(node.value, str) and " " in node.value else node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        if isinstance(node.func, ast.Name) and node.func.id == "print":
            return ast.Constant(None)
        node.keywords = [keyword for keyword in node.keywords if keyword.arg not in ("encoding", "device")]
        return self.generic_visit(node)


def make_mutants() -> list[Path]:
    """Write ``mutants/`` anew where the package or the tests have changed; returns the files that have mutants."""
    os.environ["MUTANT_UNDER_TEST"] = "mutant_generation"
    MUTANTS.mkdir(exist_ok=True)
    for old in (MUTANTS / "spkver").rglob("*.py"):
        if not old.relative_to(MUTANTS).exists():
            old.unlink()
            old.with_name(f"{old.name}.meta").unlink(missing_ok=True)
    shutil.rmtree(MUTANTS / "tests", ignore_errors=True)
    mutmut.copy_src_dir()
    mutmut.copy_also_copy_files()
    mutmut.create_mutants(1)
    mutmut.setup_source_paths()
    del os.environ["MUTANT_UNDER_TEST"]
    return sorted(path for path in mutmut.walk_mutatable_files() if (MUTANTS / f"{path}.meta").exists())


def counted_mutants(source: Path) -> dict[str, int]:
    """The names of a file's mutants, less those that only change wording, each with the checksum of its code."""
    code = {
        node.name: ast.dump(node.args) + "".join(map(ast.dump, node.body))
        for node in ast.walk(WithoutWording().visit(ast.parse((MUTANTS / source).read_text(encoding="utf-8"))))
        if isinstance(node, ast.FunctionDef)
    }
    names = json.loads((MUTANTS / f"{source}.meta").read_text(encoding="utf-8"))["exit_code_by_key"]
    own = {name: code[name.rpartition(".")[2]] for name in names}
    return {
        name: zlib.crc32(own[name].encode())
        for name in names
        if own[name] != code[f"{function_of(name)}__mutmut_orig".rpartition(".")[2]]
    }


def function_of(mutant: str) -> str:
    return mutant.rpartition("__mutmut_")[0]


class MutantRuns:
    """A plugin of pytest that runs, instead of all tests once, some of them for each mutant.

    Args:
        mutants: their names.
        seconds: what the tests of a mutant that none of them notices may take.
    """

    def __init__(self, mutants: list[str], seconds: float):
        self.mutants, self.seconds = mutants, seconds
        self.results: dict[str, str] = {}

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        self.session, self.items = session, {item.nodeid: item for item in session.items}
        self.of_shared = self._make_shared()
        known = json.loads(CALLS.read_text()) if CALLS.exists() else {}
        files = {item.path: zlib.crc32(item.path.read_bytes()) for item in session.items}
        self.calls = {
            test: known[test]
            for test, item in self.items.items()
            if test in known and known[test]["file"] == files[item.path]
        }
        if self.items.keys() - self.calls.keys():
            if self._in_fork(self._note_calls, 7200) != 0:
                raise pytest.UsageError("a test fails without any mutant")
            self.calls = json.loads(CALLS.read_text())
        for mutant in self.mutants:
            self.results[mutant] = self._result(mutant)
            noticed = sum(result in NOTICED for result in self.results.values())
            say(f"{len(self.results)} of {len(self.mutants)}, {noticed} noticed; {self.results[mutant]}: {mutant}")
        return True

    def _make_shared(self) -> set[str]:
        """Make the shared fixture; returns the functions that it calls."""
        user = next(item for item in self.items.values() if SHARED in item.fixturenames)
        elsewhere = next(item for item in self.items.values() if item.path.parent != user.path.parent)
        trampoline._mutant_under_test = "stats"  # here only, not in processes that are started
        self.session._setupstate.setup(user)
        called = set(state()._stats)
        trampoline._mutant_under_test = None
        self.session._setupstate.teardown_exact(elsewhere)
        self.shared = user._fixtureinfo.name2fixturedefs[SHARED][-1]
        assert self.shared.cached_result is not None and called
        return called

    def _note_calls(self) -> int:
        """Write down which functions each test calls, and how long it takes."""
        trampoline._mutant_under_test = "stats"
        calls = dict(self.calls)
        new = [item for test, item in self.items.items() if test not in calls]
        for done, (item, following) in enumerate(zip(new, [*new[1:], None])):
            say(f"{done} of {len(new)} tests have told which functions they call")
            state()._stats.clear()
            began = time.perf_counter()
            for report in runtestprotocol(item, log=False, nextitem=following):
                if report.failed:
                    say(f"{item.nodeid} fails without any mutant:\n{report.longreprtext}")
                    return 1
            calls[item.nodeid] = {
                "calls": sorted(state()._stats),
                "seconds": time.perf_counter() - began,
                "file": zlib.crc32(item.path.read_bytes()),
            }
        CALLS.write_text(json.dumps(calls))
        return 0

    def _result(self, mutant: str) -> str:
        tests = self._tests_of(function_of(mutant))
        if not tests:
            return "no test"
        limit = 60 + 5 * sum(self.calls[test]["seconds"] for test in tests)
        status = self._in_fork(lambda: self._run_mutant(mutant, [self.items[test] for test in tests]), limit)
        if status == BROKEN:
            raise pytest.UsageError(f"{mutant}: its tests could not be run")
        return {0: "survived", None: "hung"}.get(status, "failed")

    def _tests_of(self, function: str) -> list[str]:
        """The tests to run, in their order."""
        own = f"/test_{function.split('.x')[0].rpartition('.')[2]}.py"
        by_shared = function in self.of_shared
        seconds = {
            test: self.calls[test]["seconds"]
            for test, item in self.items.items()
            if function in self.calls[test]["calls"] or (by_shared and SHARED in item.fixturenames)
        }

        def cost(test: str) -> float:
            of_shared = SHARED_SECONDS if by_shared and SHARED in self.items[test].fixturenames else 0
            return (seconds[test] + of_shared) * (1 if own in test else 2)

        tests, total = [], 0.0
        for test in sorted(seconds, key=cost):
            total += seconds[test]
            if total <= self.seconds or not tests:
                tests.append(test)
        return tests

    def _run_mutant(self, mutant: str, items: list[pytest.Item]) -> int:
        os.environ["MUTANT_UNDER_TEST"] = mutant
        os.dup2(1, 2)
        if function_of(mutant) in self.of_shared:  # made anew by the mutant when a test asks for it
            self.shared.cached_result = None
            self.shared._finalizers.clear()
        for item, following in zip(items, [*items[1:], None]):
            try:
                reports = runtestprotocol(item, log=False, nextitem=following)
            except BaseException:  # what pytest itself would be stopped by
                return 1
            if any(report.failed for report in reports):
                return 1
        return 0

    def _in_fork(self, work: Callable[[], int], limit: float) -> int | None:
        """Work in a process and a folder of its own; its status, or None if it took longer than ``limit`` seconds."""
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            process = os.fork()
            if process == 0:
                status = BROKEN
                try:
                    os.setpgid(0, 0)
                    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
                    self.session.config._tmp_path_factory._basetemp = Path(folder)
                    status = work()
                finally:
                    os._exit(status)
            in_time = select.select([os.pidfd_open(process)], [], [], limit)[0]
            # Whatever it has started ends with it.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process, signal.SIGKILL)
            status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        return status if in_time else None


def say(line: str) -> None:
    print(line, file=sys.__stderr__, flush=True)


def report(results: dict[Path, dict[str, str]], numbers: dict[Path, int]) -> None:
    """A line for each mutant that nothing noticed, and the shares by file and by room.

    Args:
        results: of each file's mutants that were tried.
        numbers: of mutants that each file has; of a sample, a room's share is that of its files in these proportions.
    """
    tried, noticed, estimated, has = Counter(), Counter(), Counter(), Counter()
    for source, by_name in results.items():
        for name, result in sorted(by_name.items()):
            if result not in NOTICED:
                print(f"{result}: {name}")
        n = sum(result in NOTICED for result in by_name.values())
        for place in {str(source), str(source if source.name == "sampler.py" else source.parent), "all"}:
            if by_name:
                tried[place] += len(by_name)
                noticed[place] += n
                has[place] += numbers[source]
                estimated[place] += numbers[source] * n / len(by_name)
    for place in sorted(tried):
        share = estimated[place] / has[place]
        print(f"{place:42} {has[place]:5} mutants {tried[place]:5} tried {noticed[place]:5} noticed {share:7.1%}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--sample", type=int)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--survivors", action="store_true")
    parser.add_argument("--control", action="store_true")
    parser.add_argument("places", nargs="*")
    options = parser.parse_args()

    os.chdir(MUTANTS.parent)
    counted = {source: counted_mutants(source) for source in make_mutants()}
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    keys = {name: f"{name} {code}" for mutants in counted.values() for name, code in mutants.items()}
    chosen = {}
    for source, mutants in counted.items():
        names = list(mutants)
        if options.sample is not None:
            # By the file's name, so that the sample of a file stays when another one changes.
            random.Random(str(source)).shuffle(names)
            names = names[: options.sample]
        if not options.places or any(source.is_relative_to(place) for place in options.places):
            chosen[source] = names
    todo = [name for names in chosen.values() for name in names]
    if options.survivors:
        todo = [name for name in todo if known.get(keys[name], "") not in NOTICED]

    if options.control:  # a mutant that is not there: the function as it is
        todo = sorted({f"{function_of(name)}__mutmut_0" for name in todo})

    os.chdir(MUTANTS)
    os.environ["PYTHONPATH"] = str(MUTANTS)
    runs = MutantRuns(todo, options.seconds)
    try:
        pytest.main(["-q", "-s", "--rootdir=.", "-p", "no:cacheprovider", *TESTS], plugins=[runs])
    finally:
        known |= {keys[name]: result for name, result in runs.results.items() if name in keys}
        RESULTS.write_text(json.dumps(known))
    if options.control:
        sys.exit(any(result in NOTICED for result in runs.results.values()))
    results = {
        source: {name: known[keys[name]] for name in names if keys[name] in known} for source, names in chosen.items()
    }
    report(results, {source: len(mutants) for source, mutants in counted.items()})


if __name__ == "__main__":
    main()
