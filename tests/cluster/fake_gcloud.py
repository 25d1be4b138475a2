"""Stands in for gcloud: a TPU is a line in a file, its two workers are folders of this machine, ssh is a local shell.

Everything that is asked of it is a line of `calls`. `FAKE_GCLOUD` names the folder that it keeps all of this in. A file
`fails.VERB` holds the numbers of the first and the last call of VERB that fail, and a key of ERRORS. A file `becomes`
holds the states that a TPU, or a request for one, goes through after it was asked for, one a question.
"""

import os
import sys

FOLDER = os.environ.get("FAKE_GCLOUD", "")
STATE, REQUEST, LABEL = (f"{FOLDER}/{name}" for name in ("state", "request", "label"))
WORKERS = f"{FOLDER}/worker0", f"{FOLDER}/worker1"

# What gcloud 528 prints; "{call}" is `gcloud.compute.tpus.tpu-vm.create` and its like.
ACCOUNT = "This command is authenticated as me@example.com which is the active account specified by the [core/account]"
ERRORS = {
    "network": "ERROR: gcloud crashed (ConnectionError): HTTPSConnectionPool(host='tpu.googleapis.com', port=443): Max "
    "retries exceeded with url: /v2/projects/mine (Caused by NewConnectionError('Network is unreachable'))",
    "login_without_network": "ERROR: ({call}) There was a problem refreshing your current auth tokens: "
    "HTTPSConnectionPool(host='oauth2.googleapis.com', port=443): Max retries exceeded with url: /token (Caused by "
    "NameResolutionError('Failed to resolve'))\nPlease run:\n\n  $ gcloud auth login\n\nto obtain new credentials.",
    "no_login": "ERROR: ({call}) You do not currently have an active account selected.\nPlease run:\n\n"
    "  $ gcloud auth login\n\nto obtain new credentials.",
    "permission": "ERROR: ({call}) PERMISSION_DENIED: Permission denied on 'locations/us-west4-a' (or it may not "
    f"exist). {ACCOUNT} property.\n- '@type': type.googleapis.com/google.rpc.ErrorInfo\n"
    "  reason: LOCATION_POLICY_VIOLATED",
    "quota": "ERROR: ({call}) RESOURCE_EXHAUSTED: Quota limit 'TPUV5sPreemptibleLitepodPerProjectPerZoneForTPUAPI' has "
    f"been exceeded. Limit: 0 in zone us-west4-a. {ACCOUNT} property.",
    "rate": "ERROR: ({call}) RESOURCE_EXHAUSTED: Quota exceeded for quota metric 'Requests' and limit 'Requests per "
    f"minute' of service 'tpu.googleapis.com' for consumer 'project_number:1'. {ACCOUNT} property.",
    "full": "Create request issued for: [pod]\nWaiting for operation [projects/mine/locations/us-west4-a/operations/1] "
    'to complete...failed.\nERROR: ({call}) {\n  "code": 8,\n  "message": "There is no more capacity in the zone '
    '\\"us-west4-a\\"; you can try in another zone where Cloud TPU Nodes are offered (see '
    'https://cloud.google.com/tpu/docs/regions) [EID: 0x1bc8f9d790be9142]"\n}',
    "internal": 'ERROR: ({call}) {\n  "code": 13,\n  "message": "an internal error has occurred [EID: 0x1]"\n}',
    "taken": "ERROR: ({call}) ALREADY_EXISTS: Resource 'projects/mine/locations/us-west4-a/nodes/pod' already exists. "
    f"{ACCOUNT} property.",
    "absent": "ERROR: ({call}) NOT_FOUND: Resource 'projects/mine/locations/us-west4-a/nodes/pod' was not found. "
    f"{ACCOUNT} property.",
    "no_key": 'ERROR: ({call}) SSH Key is not present in the SSH agent. Please run "ssh-add '
    '~/.ssh/google_compute_engine" to add it, and try again.',
}


def text_of(path: str) -> str | None:
    """None where there is no such file."""
    if not os.path.exists(path):
        return None
    with open(path) as file:
        return file.read()


def write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


def fail(error: str) -> int:
    print(ERRORS[error].replace("{call}", "gcloud." + ".".join(sys.argv[1:5])), file=sys.stderr)
    return 1


def value(name: str) -> str | None:
    """Of `--name=value` among the arguments."""
    return next((text.partition("=")[2] for text in sys.argv if text.startswith(f"--{name}=")), None)


def create() -> int:
    """A TPU with workers that nothing was ever copied to, with its request if asked; an error if the name is taken."""
    queued = "queued-resources" in sys.argv
    if os.path.exists(STATE) or (queued and os.path.exists(REQUEST)):
        return fail("taken")
    for worker in WORKERS:
        if os.path.exists(worker):
            os.rename(worker, f"{worker}.{os.getpid()}")
        os.mkdir(worker)
    label = (value("labels") or "").partition("transfer_run=")[2].partition(",")[0]
    if queued:
        write(REQUEST, "ACTIVE")
    if not (queued and text_of(f"{FOLDER}/becomes")):
        write(STATE, "READY")
    write(LABEL, label)
    if os.path.exists(f"{FOLDER}/loses_the_answer"):
        return fail("network")
    return 0


def describe() -> int:
    """State and label, as gcloud prints them; an error where there is none."""
    asked = REQUEST if "queued-resources" in sys.argv else STATE
    coming = (text_of(f"{FOLDER}/becomes") or "").split()
    if coming and os.path.exists(asked):
        write(asked, coming[0])
        write(f"{FOLDER}/becomes", " ".join(coming[1:]))
        if coming == ["ACTIVE"]:
            write(STATE, "READY")
    state = text_of(asked)
    if state is None:
        return fail("absent")
    print(state.strip(), text_of(LABEL) or "", sep="\t")
    return 0


def delete() -> int:
    """Its name is free again; of a request, the TPU goes with it."""
    for path in (STATE, REQUEST) if "queued-resources" in sys.argv else (STATE,):
        if os.path.exists(path):
            os.unlink(path)
    return 0


def copy() -> int:
    """The file into every worker's home."""
    source = sys.argv[sys.argv.index("scp") + 1]
    for worker in WORKERS:
        copied = f"{worker}/{os.path.basename(source)}"
        if os.path.exists(copied):
            os.unlink(copied)
        os.link(source, copied)
    return 0


def shell() -> int:
    """The command on every worker; like gcloud's, the first exit code that is not 0, 255 where the TPU is gone."""
    import subprocess

    logs = value("output-directory")
    command = sys.argv[next(i for i, text in enumerate(sys.argv) if text.startswith("--command="))].partition("=")[2]
    running = []
    for index, worker in enumerate(WORKERS):
        output = open(f"{logs}/{index}.log", "w") if logs else None  # noqa: SIM115 (the process has it)
        environment = {**os.environ, "HOME": worker, "WORKER": str(index), "STATE": STATE}
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
    if text_of(STATE) != "READY":
        codes = [255, 255]
    for index, code in enumerate(codes):
        if code:
            print(
                f"##### Command execution on worker {index} failed with exit status {code}. Continuing.",
                file=sys.stderr,
            )
    return next((code for code in codes if code), 0)


def error() -> str | None:
    """The key of what this call fails with, if it is one of those of `fails.VERB`."""
    verb = sys.argv[4]
    first, last, key = (text_of(f"{FOLDER}/fails.{verb}") or "0 0 network").split()
    calls = text_of(f"{FOLDER}/calls") or ""
    number = sum(line.split()[1] == verb for line in calls.splitlines())
    return key if int(first) <= number <= int(last) else None


def main() -> int:
    """One call."""
    if sys.argv[1:3] == ["storage", "cat"]:
        status = text_of(f"{FOLDER}/status.json")
        if status is None:
            print(f"ERROR: (gcloud.storage.cat) The following URLs matched no objects or files:\n-{sys.argv[3]}")
            return 1
        print(status)
        return 0
    with open(f"{FOLDER}/calls", "a") as calls:
        calls.write(" ".join(sys.argv[3:5]) + "\n")
    if key := error():
        return fail(key)
    verbs = {"create": create, "describe": describe, "delete": delete, "scp": copy, "ssh": shell}
    return verbs[sys.argv[4]]()


if __name__ == "__main__":
    sys.exit(main())
