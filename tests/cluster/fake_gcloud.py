"""Stands in for gcloud: a TPU is a line in a file, its two workers are folders of this machine, ssh is a local shell.

Everything that is asked of it is a line of `calls`. `FAKE_GCLOUD` names the folder that it keeps all of this in. A file
`fails.VERB` holds the numbers of the first and the last call of VERB that fail as they do without a network.
"""

import os
import subprocess
import sys
from pathlib import Path

FOLDER = Path(os.environ["FAKE_GCLOUD"])
STATE, WORKERS = FOLDER / "state", (FOLDER / "worker0", FOLDER / "worker1")
REQUEST, LABEL = FOLDER / "request", FOLDER / "label"


def value(name: str) -> str | None:
    """Of `--name=value` among the arguments."""
    return next((text.partition("=")[2] for text in sys.argv if text.startswith(f"--{name}=")), None)


def create() -> int:
    """A TPU with workers that nothing was ever copied to, with its request if asked; an error if the name is taken."""
    queued = "queued-resources" in sys.argv
    if STATE.exists() or (queued and REQUEST.exists()):
        print("ERROR: (gcloud.compute.tpus) ALREADY_EXISTS: Resource 'pod' already exists", file=sys.stderr)
        return 1
    for worker in WORKERS:
        subprocess.run(["rm", "-rf", str(worker)], check=True)
        worker.mkdir()
    label = (value("labels") or "").partition("transfer_run=")[2].partition(",")[0]
    if queued:
        REQUEST.write_text("ACTIVE")
    STATE.write_text("READY")
    LABEL.write_text(label)
    if (FOLDER / "loses_the_answer").exists():
        return 1
    return 0


def describe() -> int:
    """State and label, as gcloud prints them; an error where there is none."""
    found = REQUEST if "queued-resources" in sys.argv else STATE
    if not found.exists():
        print("ERROR: (gcloud.compute.tpus) NOT_FOUND: Resource 'pod' was not found", file=sys.stderr)
        return 1
    print(found.read_text().strip(), LABEL.read_text() if LABEL.exists() else "", sep="\t")
    return 0


def delete() -> int:
    """Its name is free again; of a request, the TPU goes with it."""
    if "queued-resources" in sys.argv:
        REQUEST.unlink()
        STATE.unlink(missing_ok=True)
    else:
        STATE.unlink()
    return 0


def copy() -> int:
    """The file into every worker's home."""
    source = Path(sys.argv[sys.argv.index("scp") + 1])
    for worker in WORKERS:
        (worker / source.name).write_bytes(source.read_bytes())
    return 0


def shell() -> int:
    """The command on every worker; like gcloud's, the first exit code that is not 0, 255 where the TPU is gone."""
    logs = value("output-directory")
    command = sys.argv[next(i for i, text in enumerate(sys.argv) if text.startswith("--command="))].partition("=")[2]
    running = []
    for index, worker in enumerate(WORKERS):
        output = open(f"{logs}/{index}.log", "w") if logs else None  # noqa: SIM115 (the process has it)
        environment = {**os.environ, "HOME": str(worker), "WORKER": str(index), "STATE": str(STATE)}
        # what runs on a worker does not end with the connection
        running.append(
            subprocess.Popen(
                ["bash", "-c", command],
                cwd=worker,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        )
    codes = [process.wait() for process in running]
    if not STATE.exists() or STATE.read_text() != "READY":
        return 255
    return next((code for code in codes if code), 0)


def fails() -> bool:
    """Whether this call is one of those that fail: `fails.VERB` holds the number of the first and of the last."""
    wanted = FOLDER / f"fails.{sys.argv[4]}"
    number = sum(line.split()[1] == sys.argv[4] for line in (FOLDER / "calls").read_text().splitlines())
    first, last = map(int, wanted.read_text().split()) if wanted.exists() else (0, 0)
    return first <= number <= last


def main() -> int:
    """One call."""
    with open(FOLDER / "calls", "a") as calls:
        calls.write(" ".join(sys.argv[3:5]) + "\n")
    if fails():
        print("ERROR: gcloud crashed (ConnectionError): the network is unreachable", file=sys.stderr)
        return 1
    verbs = {"create": create, "describe": describe, "delete": delete, "scp": copy, "ssh": shell}
    return verbs[sys.argv[4]]()


if __name__ == "__main__":
    sys.exit(main())
