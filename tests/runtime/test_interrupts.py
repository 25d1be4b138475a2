"""Ctrl-C ends a command in one line and exit code 130, wherever in it the signal comes."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from transfer.runtime import interrupts

REPOSITORY = Path(__file__).parents[2]
LINE = f"error: {interrupts.MESSAGE}\n"

BEGIN = """
from transfer.runtime import interrupts
interrupts.install()
import gc, os, signal, sys, time
from transfer.cli import main
main.prepare_logging()
press = lambda: os.kill(os.getpid(), signal.SIGINT)

def wait():
    for _ in range(500):
        time.sleep(0.01)
"""
END = """
code = main.guarded(action, False)
interrupts.set_exit_code(code)
sys.exit(code)
"""

# What is done where Ctrl-C comes; `wait` is longer than it may take to end.
MOMENTS = {
    "nowhere special": """
        def action():
            press()
            wait()
    """,
    "in a callback of the garbage collector": """
        def once(phase, info):
            gc.callbacks.remove(once)
            press()
        def action():
            gc.callbacks.append(once)
            gc.collect()
            wait()
    """,
    "in __del__": """
        class Dying:
            def __del__(self):
                press()
        def action():
            Dying()
            wait()
    """,
    "in a callback of a weak reference": """
        import weakref
        class Thing: pass
        def action():
            thing = Thing()
            found = weakref.ref(thing, lambda _: press())
            del thing
            wait()
    """,
    "where all is caught": """
        def action():
            try:
                press()
                wait()
            except:
                pass
            wait()
    """,
    "where another error is made of it": """
        def action():
            try:
                press()
                wait()
            except KeyboardInterrupt:
                raise ImportError("numpy._core.multiarray failed to import") from None
    """,
    "lost, just before the end": """
        def action():
            try:
                press()
                wait()
            except KeyboardInterrupt:
                pass
    """,
    "and it leaves": """
        def action():
            try:
                press()
                wait()
            finally:
                raise SystemExit(3)
    """,
    "while another error is handled": """
        class Dying:
            def __del__(self):
                press()
        def action():
            try:
                1 / 0
            except ZeroDivisionError:
                Dying()
                wait()
    """,
    "before the work": """
        press()
        wait()
    """,
    "twice": """
        def action():
            press()
            press()
            wait()
    """,
    "after the work": """
        def action():
            return 0
        code = main.guarded(action, False)
        press()
        wait()
    """,
    "at the exit": """
        import atexit
        def action():
            atexit.register(press)
    """,
    "after an error": """
        import atexit
        from transfer.errors import TransferError
        def action():
            atexit.register(press)
            raise KeyboardInterrupt
    """,
}


def run(body: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    lines = body.strip("\n").splitlines()
    indent = len(lines[0]) - len(lines[0].lstrip()) if lines else 0
    text = BEGIN + "\n".join(line[indent:] for line in lines) + END
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(
        [sys.executable, "-c", text, *arguments], env=environment, capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize("moment", MOMENTS)
def test_one_line_and_130(moment):
    done = run(MOMENTS[moment])
    assert (done.returncode, done.stderr, done.stdout) == (130, LINE, "")


def test_saving_takes_as_long_as_it_takes():
    """Ten times as long as a lost Ctrl-C takes to come again, in nested calls, generators and loops of events."""
    done = run("""
        import asyncio
        from contextlib import contextmanager
        async def save():
            await asyncio.sleep(0.3)
            print("written")
        def parts():
            for part in range(3):
                time.sleep(0.1)
                yield part
        @contextmanager
        def held():
            try:
                yield
            finally:
                time.sleep(0.3)
                print("let go")
        def action():
            with held():
                try:
                    press()
                    wait()
                except KeyboardInterrupt:
                    print(list(parts()))
                    asyncio.run(save())
                    raise
    """)
    assert (done.returncode, done.stderr, done.stdout) == (130, LINE, "[0, 1, 2]\nwritten\nlet go\n")


def test_what_could_not_be_saved_is_said():
    done = run("""
        def action():
            try:
                press()
                wait()
            except KeyboardInterrupt:
                raise OSError(28, "No space left on device", "run/checkpoints") from None
    """)
    assert done.returncode == 1 and done.stderr.startswith("error: run/checkpoints: No space left on device")


@pytest.mark.parametrize("presses, said", [(1, "whole\n"), (2, "")])
def test_a_function_that_is_kept_whole(presses, said):
    """Pressed a second time, it ends at once all the same."""
    done = run(f"""
        @interrupts.uninterruptible
        def save():
            for _ in range({presses}):
                press()
                time.sleep(0.3)
            print("whole")
        def action():
            save()
            wait()
    """)
    assert (done.returncode, done.stderr, done.stdout) == (130, LINE, said)


@pytest.mark.parametrize("where", ["Run.add", "Metrics.write"])
def test_a_checkpoint_and_the_curve_hold_the_same_epochs(tmp_path, where):
    """Pressed as an epoch is taken in: in the run, or in `metrics.jsonl`, which a checkpoint after it goes with."""
    done = run(
        f"""
        import jax.numpy as jnp
        from etils import epath
        from transfer.training.loop import run_epochs, whole_epochs
        from transfer.training.metrics import Metrics
        from transfer.training.run import Run
        taken_in, epochs = {where}, []
        def pressed(self, *given):
            epochs.append(1)
            if len(epochs) == 2:
                press()
                time.sleep(0.3)
            return taken_in(self, *given)
        {where} = pressed
        def epoch(state, index):
            return {{"params": state["params"] + 1}}, {{"loss": jnp.float32(index), "accuracy": jnp.float32(index)}}
        def action():
            run_epochs(whole_epochs(epoch), {{"params": jnp.zeros(())}}, 2, epath.Path(sys.argv[1]))
        """,
        str(tmp_path),
    )
    assert done.returncode == 130 and done.stderr.endswith(LINE), done.stderr
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["2"]
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2


def test_an_extension_module_is_not_interrupted_as_it_begins():
    """Some crash, for they expect no error there."""
    done = run("""
        from importlib.machinery import ExtensionFileLoader, ModuleSpec
        class Spec(ModuleSpec):
            @property
            def name(self):
                if not interrupts._came:
                    press()
                    time.sleep(0.2)
                    print("begun")
                return "_none"
            @name.setter
            def name(self, value): pass
        loader = ExtensionFileLoader("_none", "/none.so")
        def action():
            try:
                loader.create_module(Spec("_none", loader, origin="/none.so"))
            except ImportError:
                print("not there")
            wait()
    """)
    assert (done.returncode, done.stderr, done.stdout) == (130, LINE, "begun\nnot there\n")


def test_an_action_that_ends_in_its_own_way_says_so():
    done = run("""
        from transfer.errors import TransferError
        def action():
            try:
                press()
                wait()
            except KeyboardInterrupt:
                interrupts.acknowledge()
            time.sleep(0.3)
            print("the rows so far")
            raise TransferError("2 rows are kept")
    """)
    assert (done.returncode, done.stderr, done.stdout) == (1, "error: 2 rows are kept\n", "the rows so far\n")


def test_nothing_is_changed_where_a_command_is_called_from_python():
    handler, ends = signal.getsignal(signal.SIGINT), []
    from transfer.__main__ import main

    ends.append(main(["models"]))
    assert signal.getsignal(signal.SIGINT) is handler and ends == [0]


@pytest.mark.parametrize(
    "command", [["train.py"], ["extract.py"], ["-m", "transfer", "train"], ["-m", "transfer", "models"]]
)
@pytest.mark.parametrize("module", ["absl", "absl.flags", "ml_collections", "jax"])
def test_while_modules_are_imported(command, module, tmp_path):
    """A module of the same name, first on the path, in which Ctrl-C is pressed."""
    *packages, last = module.split(".")
    if packages:
        pytest.importorskip(module)
    folder = tmp_path.joinpath(*packages)
    folder.mkdir(exist_ok=True)
    for package in packages:
        found = "__path__ = __import__('pkgutil').extend_path(__path__, __name__)\n"  # its other modules
        (tmp_path / package / "__init__.py").write_text(found)
    (folder / f"{last}.py").write_text("import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(9)\n")
    config = [f"--config={REPOSITORY / 'configs' / 'quickstart.py'}"] if command[-1] != "models" else []
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{REPOSITORY}"}
    start = [str(REPOSITORY / command[0])] if command[0] != "-m" else command
    done = subprocess.run(
        [sys.executable, *start, *config], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
    )
    if command[-1] == "models" and done.returncode == 0:
        pytest.skip(f"models imports no {module}")
    assert (done.returncode, done.stderr) == (130, LINE)


def test_a_command_leaves_before_python_takes_its_handlers_away():
    """What comes in that moment would end it by the signal, with everything done."""
    code = "from transfer.runtime import interrupts; interrupts.install(); interrupts.set_exit_code(7)"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, timeout=60).returncode == 7
