"""Sends signals to runs of one to four processes, and lets the same command complete them.

    python -m tests.campaigns.processes --runs=100 --output=benchmarks/reliability/processes.json

One *run* is a command in a folder of its own, as so many processes over loopback as --processes allows, of which one,
or for SIGTERM all, gets a signal at a moment drawn evenly from the time that an undisturbed run takes. Then the same
command is run to its end. It held if

- all processes ended within LIMIT seconds of the signal, without a traceback, each with a code that fits the signal and
  the others' codes (`fitting`): 75 where all have saved, 76 where another is gone, 130 after Ctrl-C, 0 where the end
  came first, or where the process was only stopped for a while;
- none said that all is saved beside one that has not;
- what is there in the end is, bit for bit, what an undisturbed run of as many processes leaves: all files of the
  stores, or metrics.jsonl, the trained weights, the predictions, and result.json but its seconds.

Cut off, the same command goes on with the next run. Everything follows from --seed but the speed of the machine.
"""

import json
import os
import random
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.campaigns import children
from tests.campaigns.figures import Figures
from tests.campaigns.runs import arguments, workplace
from tests.campaigns.works import CONFIG, of_stores, sha256, whole_files

# The notice that spot machines and Kubernetes give.
LIMIT = 30.0
MOST_PROCESSES = 4
STOPPED_SECONDS = 1.0
SAID = "everything is saved"
# A process that has left before the others were there has saved nothing, and had nothing to save.
BEFORE = ("before the first step", "before it began")


class Part(NamedTuple):
    """A command, from how many processes on it may be disturbed, and what it leaves in its folder."""

    command: tuple[str, ...]
    results: Callable[[Path], dict[str, str]]
    least: int = 2
    most: int = MOST_PROCESSES


def of_training(folder: Path) -> dict[str, str]:
    """What a finished run has learned, and says of it."""
    result = json.loads((folder / "run" / "result.json").read_text())
    for name in ("seconds_train", "seconds_extract", "dataset"):
        result.pop(name, None)
    files = whole_files(folder, "run/*.safetensors", "run/metrics.jsonl", "run/predictions.npz")
    return files | {"result.json": sha256(json.dumps(result, sort_keys=True).encode())}


RUN = (CONFIG, "--workdir=run", "--config.report=False", "--config.checkpoint_seconds=1", "--connect_seconds=20")
TRAIN = ("train.py", *RUN, "--config.features=features", "--config.head.epochs=5")
FINETUNE = ("train.py", *RUN, "--config.train=finetune", "--config.tap=pre_logits", "--config.batch_size=64") + (
    *("--config.finetune.epochs=4", "--config.finetune.warmup_epochs=1", "--config.finetune.batch_size=20"),
    *("--config.data.train_per_class=20", "--config.data.validation_per_class=4"),
)
PARTS = {
    "extraction": Part(("extract.py", *RUN, "--config.batch_size=8"), of_stores, 1),
    "head": Part(TRAIN, of_training),
    "head_streamed": Part(
        (*TRAIN, "--config.stream=True", "--config.head.order=chunks", "--config.head.window=320"), of_training
    ),
    "finetune": Part(FINETUNE, of_training, 1, 1),
}
SIGNALS = ("SIGTERM", "SIGTERM to all", "SIGKILL", "SIGINT", "SIGSTOP and SIGCONT")


def fitting(signal_name: str, codes: Sequence[int], to: Sequence[int], said: Sequence[str]) -> bool:
    """Whether the processes' exit codes fit the signal that those of `to` got, and each other."""
    others = {code for process, code in enumerate(codes) if process not in to}
    mine = {code for process, code in enumerate(codes) if process in to}
    if set(codes) == {0}:
        return True
    if signal_name.startswith("SIGTERM"):
        early = any(line in text for line in BEFORE for text in said)
        return set(codes) <= {0, 75} or set(codes) == {76} or (early and set(codes) <= {75, 76})
    if signal_name == "SIGSTOP and SIGCONT":
        return False
    return mine == {-signal.SIGKILL if signal_name == "SIGKILL" else 130} and others <= {0, 76}


class Campaign:
    """Run after run, each in a folder of its own below `base`."""

    def __init__(self, base: Path, seed: int, most: int) -> None:
        self.base, self.seed, self.most = base, seed, most
        self.references: dict[tuple[str, int], tuple[float, dict[str, str]]] = {}
        self.environment = {"JAX_COMPILATION_CACHE_DIR": str(base / "compiled"), "JAX_PLATFORMS": "cpu"}

    def run(self, step: int) -> tuple[str, float, str | None]:
        """Disturbs a run and completes it: its part and signal, the seconds to its end, what did not hold."""
        numbers = random.Random(f"{self.seed} {step}")
        name, signal_name = list(PARTS)[step % len(PARTS)], SIGNALS[step // len(PARTS) % len(SIGNALS)]
        part = PARTS[name]
        count = numbers.randint(part.least, max(part.least, min(part.most, self.most)))
        to = list(range(count)) if signal_name == "SIGTERM to all" else [numbers.randrange(count)]
        seconds, results = self._reference(name, count)
        moment = numbers.random() * seconds
        folder = self._fresh(f"{name}_disturbed")
        processes = self._begin(folder, part, count)
        self._sleep(processes, moment)
        sent = [process for process in to if processes[process].running()]
        for process in sent:
            os.kill(processes[process].pid, getattr(signal, signal_name.split()[0]))
        start = time.monotonic()
        if signal_name == "SIGSTOP and SIGCONT":
            time.sleep(STOPPED_SECONDS)
            for process in sent:
                os.kill(processes[process].pid, signal.SIGCONT)
        limit = children.LIMIT_SECONDS if "SIGCONT" in signal_name else LIMIT
        codes, ended = self._end(processes, start + limit)
        said = [process.output() for process in processes]
        if not fitting(signal_name, codes, to, said):
            wrong = "exit codes do not fit"
        elif any(SAID in text for text in said) and not set(codes) <= {0, 75}:
            wrong = "all is said to be saved"
        elif any("Traceback" in text for text in said):
            wrong = "a traceback"
        else:
            wrong = self._complete(folder, name, count, results)
        when = f"to {to} of {count} at {moment:.2f} of {seconds:.2f} s, seed {self.seed}, step {step}"
        tails = " | ".join(text[-300:] for text in said)
        wrong = wrong and f"{name}, {signal_name} {when}: {wrong}; exit codes {codes}; {tails}"
        return f"{name}: {signal_name}", ended - start, wrong

    def _complete(self, folder: Path, name: str, count: int, results: dict[str, str]) -> str | None:
        """Runs the same command to its end; what is not as in an undisturbed run."""
        processes = self._begin(folder, PARTS[name], count)
        codes, _ = self._end(processes, time.monotonic() + children.LIMIT_SECONDS)
        if set(codes) != {0}:
            return f"the same command ends with {codes}: {' | '.join(each.output()[-500:] for each in processes)}"
        differing = sorted({key for key, _ in PARTS[name].results(folder).items() ^ results.items()})
        return f"not as undisturbed: {', '.join(differing[:5])}" if differing else None

    def _reference(self, name: str, count: int) -> tuple[float, dict[str, str]]:
        """Seconds and results of an undisturbed run, of which the first compiles; stores are the same for any count."""
        if (name, count) not in self.references:
            if name.startswith("head"):
                self._reference("extraction", 1)
            for again in range(2):
                folder = self._fresh(name if again == 0 else f"{name}_again")
                processes = self._begin(folder, PARTS[name], count)
                start = time.monotonic()
                codes, ended = self._end(processes, start + children.LIMIT_SECONDS)
                if set(codes) != {0}:
                    said = "\n".join(process.output() for process in processes)
                    raise SystemExit(f"{name} by {count} does not work, undisturbed: {codes} {said}")
            results = PARTS[name].results(folder)
            print(f"{name} by {count}: {ended - start:.2f} s, {len(results)} results", flush=True)
            self.references[name, count] = ended - start, results
        return self.references[name, count]

    def _fresh(self, name: str) -> Path:
        """An empty folder, with the link to features."""
        folder = self.base / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        (folder / "features").symlink_to(self.base / "extraction" / "run" / "features")
        return folder

    def _begin(self, folder: Path, part: Part, count: int) -> list[children.Child]:
        """Starts the processes, and waits until all have taken SIGTERM over."""
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        started = []
        for process in range(count):
            own = (f"--coordinator=127.0.0.1:{port}", f"--num_processes={count}", f"--process_id={process}")
            command = (*part.command, *(own if count > 1 else ("--num_processes=1",)))
            log = folder.with_name(f"{folder.name}.{process}.log")
            started.append(children.start(command, log, folder, **self.environment))
        while not all(_has_taken_over(each) for each in started):
            time.sleep(0.005)
        return started

    def _sleep(self, processes: Sequence[children.Child], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and any(process.running() for process in processes):
            time.sleep(0.002)

    def _end(self, processes: Sequence[children.Child], deadline: float) -> tuple[list[int], float]:
        """The exit codes, and when the last process ended; what runs on until the deadline is killed."""
        while any(process.running() for process in processes):
            if time.monotonic() > deadline:
                for process in processes:
                    process.kill()
                return [process.wait() for process in processes], float("inf")
            time.sleep(0.005)
        return [process.wait() for process in processes], time.monotonic()


def _has_taken_over(child: children.Child) -> bool:
    """Whether the process handles SIGTERM, or has ended."""
    if not child.running():
        return True
    status = Path(f"/proc/{child.pid}/status").read_text()
    return bool(int(status.partition("SigCgt:")[2].split()[0], 16) >> (signal.SIGTERM - 1) & 1)


def main() -> int:
    options = arguments(__doc__, "runs", 100, processes=MOST_PROCESSES)
    figures = Figures(options.output, "processes", options.goal, options.seed)
    deadline = time.monotonic() + options.seconds
    children.prepare()
    with workplace(options.folder) as base:
        campaign = Campaign(base, options.seed, options.processes)
        while figures.done < options.goal and time.monotonic() < deadline:
            part, seconds, wrong = campaign.run(figures.steps)
            figures.add(part, 1, int(not wrong), wrong)
            print(f"{figures.held} of {figures.done} runs held ({part}: {seconds:.1f} s){wrong or ''}", flush=True)
            row = figures.content["parts"][part]
            row["slowest"] = round(max(row.get("slowest", 0.0), seconds), 1)
            figures.write()
    return int(figures.held < figures.done)


if __name__ == "__main__":
    sys.exit(main())
