#!/usr/bin/env python3
"""Creates a Cloud TPU, runs one command on all of its workers, brings the logs home and deletes the TPU.

  scripts/tpu_pod.py --name=NAME --zone=us-west4-a --type=v5litepod-64 --spot --queued -- \\
      python train.py --config=configs/cifar10_vgg16.py --workdir=gs://BUCKET/run

The repository around this script (what git tracks or would track) is copied to each worker and installed there.
Where the TPU is taken away, or the command ends with 75 (it was asked to stop and has saved) or 76 (it lost one of its
processes), the same command goes on, on another TPU where need be: give it a --workdir on gs://, since a worker's disk
goes with it. It does so for as long as status.json in that --workdir says that more is done each time, and --retries
times in a row where it does not.

The TPU is deleted at the end, after a failure and after Ctrl-C; one that was there before is used and left alone: what
this command creates carries the label transfer_run=ID, and nothing without its ID is ever deleted. One command a name
runs at a time; the next one takes over what a killed one (kill -9, a power cut) has left behind on this machine.
"""

# Runs where the operator is: Python 3.9 or newer, nothing but its standard library, gcloud.
from __future__ import annotations

import argparse
import json
import os
import re
import secrets
import shlex
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import NamedTuple

from tpu_commands import BUSY, PEER_LOST, PREEMPTED, RETRIED, Answer, Claim, Ended, Shown, Terminal, say, tell

EPILOG = """\
Needs gcloud, logged in, and its key in the agent: ssh-add ~/.ssh/google_compute_engine
Exit codes: the command's; 2 bad arguments; 75 or 76 stopped more often than --retries without progress; 130 Ctrl-C."""

# States of a TPU or its request that it does not come back from, that somebody chose, and in the queue; any other but
# READY passes.
READY = "READY"
TAKEN_AWAY = ("PREEMPTED", "TERMINATED", "FAILED", "SUSPENDING", "SUSPENDED")
CHOSEN = ("STOPPING", "STOPPED", "HIDING", "HIDDEN")
IN_QUEUE = ("ACCEPTED", "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE")
SETTLE_SECONDS, CAPACITY_SECONDS = 3600, 24 * 3600

ROOT = Path(__file__).resolve().parents[1]
# On a worker: the copy, the environment, the process to stop.
COPY, ENVIRONMENT, PID_FILE, UV = (f"$HOME/{name}" for name in ("transfer", "env", "transfer.pid", ".local/bin/uv"))
INSTALL = (
    f"python3 -m pip install --quiet --user uv && {UV} venv --quiet --allow-existing --python=3.12 {ENVIRONMENT} && "
    f'{UV} pip install --quiet --python={ENVIRONMENT}/bin/python -e "{COPY}[tpu]"'
)
# Asks what runs there to stop, and waits until it has saved; ends with BUSY where something runs.
STOP = (
    f"if [ -f {PID_FILE} ]; then pid=$(cat {PID_FILE}); kill -TERM $pid 2>/dev/null && "
    f"timeout 300 tail --pid=$pid -f /dev/null; rm -f {PID_FILE}; fi"
)
ASK = f"if [ -f {PID_FILE} ] && kill -0 $(cat {PID_FILE}) 2>/dev/null; then exit {BUSY}; fi"

# https://cloud.google.com/tpu/docs/runtimes
VERSIONS = {"v5litepod": "v2-alpha-tpuv5-lite", "v5p": "v2-alpha-tpuv5", "v6e": "v2-alpha-tpuv6e"}


class Lost(Exception):
    """The end of one try, which is followed by another; `code` where none is left."""

    def __init__(self, message: str, code: int = PREEMPTED) -> None:
        super().__init__(message)
        self.code = code


class Seen(NamedTuple):
    """The state of what has the name, and its label; both empty where there is nothing."""

    state: str = ""
    owner: str = ""


class Pod:
    """The TPU of one command, from nothing to nothing."""

    def __init__(self, options: argparse.Namespace, terminal: Terminal, claim: Claim | None) -> None:
        self.options, self.terminal, self.claim = options, terminal, claim
        self.name = options.name
        self.kind = "queued-resources" if options.queued else "tpu-vm"
        self.id = "ID" if claim is None else claim.left or time.strftime("%Y%m%d-%H%M%S-") + secrets.token_hex(3)
        # whether there may be a TPU with this ID; whether the command was started; how often gcloud is asked the same
        # before there is no answer: at night, in the queue, for an hour
        self.asked, self.started, self.questions = bool(claim and claim.left), False, 5
        # how much is done, by stage
        self.best: dict[str, float] = {}

    def run_until_done(self) -> None:
        """All tries; the last one that fails raises Ended."""
        if self.asked:
            say(f"an earlier command was killed: what it may have left as {self.name} is this one's now")
        stalled, number = 0, 1
        self.has_grown()
        while True:
            # the logs of earlier commands stay
            while not self.terminal.dry_run and os.path.exists(f"{self.options.logs}/{number}"):
                number += 1
            folder = f"{self.options.logs}/{number}"
            try:
                self.attempt(folder)
                break
            except Lost as lost:
                stalled = 0 if self.has_grown() else stalled + 1
                if stalled > self.options.retries:
                    raise Ended(
                        f"{lost}; {stalled} in a row without progress; the same command goes on where this one "
                        f"stopped; logs: {folder}",
                        lost.code,
                    ) from lost
                say(f"{lost}; another try follows ({stalled} of {self.options.retries} without progress)")
                # a TPU that is about to be taken away looks well for some seconds
                time.sleep(self.options.pause)
        if not self.terminal.dry_run:
            say(f"done; logs: {folder}")

    def attempt(self, folder: str) -> None:
        """Everything from nothing to the command's end, logs in a folder."""
        self.terminal.run("mkdir", "-p", folder)
        is_ours = self.obtain()
        # the copy of an earlier try whose connection broke may still run; what somebody else runs is not stopped
        self.on_workers(STOP if is_ours or self.started else ASK)
        self.copy()
        self.on_workers(self.options.install)
        self.execute(folder)

    def obtain(self) -> bool:
        """Whether the TPU, once it is READY, is this command's own."""
        began, before, was_made = time.monotonic(), "", False
        while True:
            seen = self.look()
            if seen.state == READY or self.terminal.dry_run and was_made:
                break
            if seen.state and seen.owner != self.id:
                raise Ended(
                    f"{self.name} is there ({seen.state}) and was not created by this command, so it is left alone; "
                    "delete it or take another --name"
                )
            if seen.state in CHOSEN:
                self.asked = False
                raise Ended(f"{self.name} is {seen.state}: somebody has stopped it, so it is left alone")
            if was_made and (not seen.state or seen.state in TAKEN_AWAY):
                raise Lost(f"{self.name} was not made ({seen.state or 'there is none'})")
            if not seen.state:
                was_made = self.create(began)
            elif seen.state in TAKEN_AWAY or self.has_hung(seen, began):
                # its name is still in use
                if self.delete().meaning not in ("done", "absent"):
                    raise Lost(f"{self.name} ({seen.state}) could not be deleted")
            elif seen.state != before:
                say(f"{self.name}: {seen.state}")
            if before in IN_QUEUE:
                began = time.monotonic()
            before = seen.state
            if seen.state:
                time.sleep(self.options.pause)
        if seen.owner != self.id and not self.terminal.dry_run:
            say(f"{self.name} is there and is used; it is not deleted at the end")
        return self.terminal.dry_run or seen.owner == self.id

    def has_hung(self, seen: Seen, began: float) -> bool:
        """Whether a state of the TPU that passes by itself has lasted for too long."""
        return seen.state not in IN_QUEUE and time.monotonic() - began > SETTLE_SECONDS

    def look(self) -> Seen:
        """What has the name: the TPU, or else the request for one."""
        seen = self.ask("tpu-vm", "value(state,labels.transfer_run)")
        if self.options.queued and not seen.state:
            seen = self.ask("queued-resources", "value(state.state,tpu.nodeSpec[0].node.labels.transfer_run)")
        return seen

    def ask(self, kind: str, fields: str) -> Seen:
        """Asks for the state of a kind of this name, again where no answer comes."""
        for left in range(self.questions - 1, -1, -1):
            answer = self.gcloud(kind, "describe", self.name, f"--format={fields}", is_shown=False)
            if answer.meaning in ("done", "absent"):
                return Seen(*answer.output.rstrip("\n").split("\t")[:2]) if answer.code == 0 else Seen()
            if answer.meaning == "refused":
                break
            if left:
                time.sleep(self.options.pause)
        tell(answer.errors)
        raise Ended(f"what there is of the name {self.name} could not be found out")

    def create(self, began: float) -> bool:
        """Asks for one; False where there is no room, and it has waited."""
        options = self.options
        flags = [f"--accelerator-type={options.type}", f"--labels={options.labels}transfer_run={self.id}"]
        flags += ["--spot"] * options.spot + options.create_flag
        self.asked, self.questions = True, 3600 // max(1, options.pause)
        if self.claim:
            self.claim.note(self.id)
        if options.queued:
            flags = [f"--node-id={self.name}", f"--runtime-version={options.version}", *flags]
        else:
            flags = [f"--version={options.version}", *flags]
        answer = self.gcloud(self.kind, "create", self.name, *flags)
        if answer.meaning == "refused":
            raise Ended("gcloud refuses it, for the reason above")
        if answer.meaning != "full":
            # done, or it looks whether it is
            return True
        if not (options.spot or self.started):
            raise Ended(f"{options.zone} has no room for {options.type}: --queued waits for it, --spot asks again")
        waited = time.monotonic() - began
        if waited > CAPACITY_SECONDS:
            raise Ended(f"{options.zone} has had no room for {options.type} for a day", PREEMPTED)
        seconds = min(max(options.pause, waited), 20 * options.pause)
        say(f"{options.zone} has no room for {options.type}; asked again in {seconds:.0f} s")
        time.sleep(seconds)
        return False

    def delete(self) -> Answer:
        """Deletes the TPU, with its request; only ever called where the label is this command's."""
        return self.gcloud(self.kind, "delete", self.name, *["--force"] * self.options.queued)

    def copy(self) -> None:
        archive, root = f"{self.options.logs}/transfer.tar.gz", shlex.quote(os.path.relpath(ROOT))
        # they may lie in the repository: tar fails where it finds the archive that it writes
        logs = shlex.quote(f"/{os.path.relpath(self.options.logs, ROOT)}")
        pack = (
            f"git -C {root} ls-files -z --cached --others --exclude-standard --exclude={logs} | "
            f"tar -C {root} --null -T - -czf {shlex.quote(archive)}"
        )
        if self.terminal.run("bash", "-o", "pipefail", "-c", pack).code:
            raise Ended(f"{ROOT} could not be packed, for the reason above")
        self.succeed(self.gcloud("tpu-vm", "scp", archive, f"{self.name}:", "--worker=all"))
        self.on_workers(f"mkdir -p {COPY} && tar -xzf transfer.tar.gz -C {COPY}")

    def on_workers(self, command: str, *flags: str) -> None:
        self.succeed(self.gcloud("tpu-vm", "ssh", self.name, "--worker=all", *flags, f"--command={command}"))

    def execute(self, folder: str) -> None:
        """The command: everybody's output into a folder, worker 0's here, too."""
        self.started = True
        # ssh does not pass a signal on, so a worker remembers whom to stop
        command = (
            f'cd {COPY} && export PATH="{ENVIRONMENT}/bin:$PATH" || exit; {shlex.join(self.options.command)} & '
            f"echo $! >{PID_FILE}; wait $!; code=$?; rm -f {PID_FILE}; exit $code"
        )
        flags = [f"--output-directory={folder}", "--ssh-flag=-oServerAliveInterval=30"]
        if self.terminal.dry_run:
            return self.on_workers(command, *flags)
        Path(folder, "0.log").touch()
        shown = Shown(f"{folder}/0.log")
        try:
            self.on_workers(command, *flags)
        finally:
            shown.end()

    def succeed(self, answer: Answer) -> None:
        """Raises Lost or Ended unless something that was done on the workers is done."""
        code = answer.code_of_workers()
        if code == 0:
            return
        if code == BUSY:
            raise Ended(f"a command of somebody else runs on {self.name}, so it is left alone; take another --name")
        if code in (PREEMPTED, PEER_LOST):
            raise Lost(f"the command {RETRIED[code]}", code)
        if code != 2:
            time.sleep(self.options.pause)
            if self.look().state != READY:
                raise Lost(f"{self.name} was taken away")
        if code in RETRIED:
            raise Lost(f"the command {RETRIED[code]}")
        raise Ended(f"failed with exit code {code}; logs: {self.options.logs}", code)

    def has_grown(self) -> bool:
        """Whether status.json of a --workdir on gs:// says that more is done than ever before."""
        # a flag and its value may be two words
        workdir = re.findall(r"(?:^|\0)--workdir[=\0](gs://[^\0]+)", "\0".join(self.options.command))
        if not workdir:
            return False
        answer = self.terminal.run("gcloud", "storage", "cat", f"{workdir[-1].rstrip('/')}/status.json", is_shown=False)
        try:
            status = json.loads(answer.output)
            stage, done = str(status["stage"]), float(status["done"])
        except (ValueError, KeyError, TypeError):
            return False
        has_grown = done > self.best.get(stage, -1)
        self.best[stage] = max(done, self.best.get(stage, -1))
        return has_grown

    def gcloud(self, kind: str, verb: str, *words: str, is_shown: bool = True) -> Answer:
        first = [words[0], f"--zone={self.options.zone}", "--quiet"]
        if verb == "scp":
            first[1:1] = words[1:2]
            words = words[1:]
        project = [f"--project={self.options.project}"] if self.options.project else []
        return self.terminal.run(
            "gcloud", "compute", "tpus", kind, verb, *first, *project, *words[1:], is_shown=is_shown
        )

    def finish(self, code: int) -> None:
        """Whatever ended the script: nothing of it runs on, and a TPU that it created is deleted."""
        self.terminal.end()
        # somebody waits for the end, and Ctrl-C does nothing any more
        self.questions = 2
        if self.asked and not self.options.keep:
            self.delete_ours(code)
        elif self.claim:
            if code > 128 and self.started:
                self.gcloud("tpu-vm", "ssh", self.name, "--worker=all", f"--command={STOP}")
            # a TPU that is kept is nobody's
            self.claim.note("")

    def delete_ours(self, code: int) -> None:
        """Deletes what carries this command's label, and says so where something may be left."""
        try:
            seen = Seen(READY, self.id) if self.terminal.dry_run else self.look()
            is_left = bool(seen.state) and seen.owner == self.id and self.delete().meaning not in ("done", "absent")
            # a request that was cut off: what it asked for may come yet
            is_left = is_left or (not seen.state and code > 128)
        except Ended as error:
            say(str(error))
            is_left = True
        if is_left:
            command = f"gcloud compute tpus {self.kind} delete {self.name} --zone={self.options.zone}"
            say(f"{self.name} may still be there and cost money: {command}")
        elif self.claim:
            self.claim.note("")


class Parser(argparse.ArgumentParser):
    """One line where something is wrong."""

    def error(self, message: str):  # type: ignore[no-untyped-def]
        print(f"error: {message}; see --help", file=sys.stderr)
        sys.exit(2)


def parse(arguments: list[str]) -> argparse.Namespace:
    """The options; what follows `--` is the command."""
    parser = Parser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("--name", required=True, help="of the TPU")
    add("--zone", required=True, help="that has the type: gcloud compute tpus accelerator-types list --zone=ZONE")
    add("--type", default="v5litepod-64", help="v5litepod-64 (default), v6e-256, v4-128 …; TPU7x: scripts/gke-tpu.yaml")
    add("--version", help="of the workers' software; default: the plain one for the type")
    add("--project", help="default: gcloud's")
    add(
        "--spot",
        action="store_true",
        help="cheaper, may be taken away at any time; asks for a day where there is no room",
    )
    add("--queued", action="store_true", help="waits in the queue for capacity instead of failing where there is none")
    add(
        "--create_flag",
        action="append",
        default=[],
        metavar="FLAG",
        help="for gcloud's create: --create_flag=--network=NAME",
    )
    add("--install", default=INSTALL, metavar="COMMAND", help="in place of installing this package under ~/env")
    add("--logs", help="a folder, default logs/NAME; in it a folder a try, a file a worker")
    add(
        "--retries",
        type=whole,
        default=5,
        help="tries in a row that may end without progress, after the first (default 5)",
    )
    add("--pause", type=whole, default=30, help="seconds between two looks at the TPU's state (default 30)")
    add("--keep", action="store_true", help="does not delete the TPU at the end")
    add("--dry_run", action="store_true", help="prints every command and runs none")
    cut = arguments.index("--") if "--" in arguments else len(arguments)
    options = parser.parse_args(arguments[:cut])
    options.command = arguments[cut + 1 :]
    family = options.type.partition("-")[0]
    generation = re.search(r"\d+", family)
    if "ironwood" in family or (generation and int(generation[0]) > 6):
        parser.error(
            f"--type={options.type}: the Cloud TPU API does not serve TPU7x and later, GKE does: scripts/gke-tpu.yaml"
        )
    if not options.command:
        parser.error("the command is missing: … -- python train.py --config=…")
    if not options.dry_run and shutil.which("gcloud") is None:
        parser.error("gcloud is not installed")
    # gcloud takes the last --labels alone
    labels = [flag.partition("=")[2] for flag in options.create_flag if flag.startswith("--labels=")]
    options.labels = "".join(f"{label}," for label in labels)
    options.create_flag = [flag for flag in options.create_flag if not flag.startswith("--labels=")]
    options.logs = options.logs or f"logs/{options.name}"
    options.version = options.version or VERSIONS.get(family, "tpu-ubuntu2204-base")
    return options


def whole(text: str) -> int:
    """A whole number of the command line, for argparse."""
    if not re.fullmatch(r"\d+", text):
        raise argparse.ArgumentTypeError(f"{text} is not a whole number")
    return int(text)


def stop(number: int, frame: object) -> None:
    """Ends the script by a signal, through what is left to do at its end."""
    sys.exit(130 if number == signal.SIGINT else 143)


def main() -> int:
    """The exit code of the script."""
    options = parse(sys.argv[1:])
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for number in signals:
        # under nohup it goes on without a terminal
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, stop)
    code, pod = 1, None
    try:
        path = Path.home() / ".local/state/transfer/tpu_pod" / f"{options.project or ''}.{options.zone}.{options.name}"
        claim = None if options.dry_run else Claim(path, options.name)
        pod = Pod(options, Terminal(options.dry_run), claim)
        pod.run_until_done()
        code = 0
    except Ended as error:
        say(str(error))
        code = error.code
    except OSError as error:
        say(f"{error.filename}: {error.strerror}")
    except SystemExit as stopped:
        code = int(stopped.code or 0)
    finally:
        for number in signals:
            signal.signal(number, signal.SIG_IGN)
        if pod is not None:
            pod.finish(code)
    return code


if __name__ == "__main__":
    sys.exit(main())
