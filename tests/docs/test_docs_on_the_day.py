"""What `docs/clusters.md` tells an operator to type is tried word for word, by stand-ins and gcloud's own linter."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.cluster.test_slurm import JOB, SRUN

REPOSITORY = Path(__file__).parents[2]
PAGE = (REPOSITORY / "docs" / "clusters.md").read_text()
BLOCKS = re.findall(r"^```\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
LINES = [line for block in BLOCKS for line in block.replace("\\\n", " ").splitlines()]


def commands(*programs: str) -> list[list[str]]:
    """Of the page, split into words, those of these programs."""
    return [words for words in map(shlex.split, LINES) if words and words[0] in programs]


MANIFESTS = {path.name: list(yaml.safe_load_all(path.read_text())) for path in (REPOSITORY / "scripts").glob("*.yaml")}
# What a label of pods says whose they are, by who sets it.
OWNERS = {"job-name": "Job", "jobset.sigs.k8s.io/jobset-name": "JobSet"}


def test_every_command_is_tried():
    """Here, or (`python`, `mpirun`) in test_docs_clusters.py; others only look."""
    tried = {"gcloud", "kubectl", "docker", "sbatch", "scripts/tpu_pod.py", "for", "[[", "done", "python", "mpirun"}
    looking = {"ssh-add", "tmux", "tail", "cat", "mkdir", "git", "squeue", "scancel"}
    assert {words[0].partition("=")[0] for words in map(shlex.split, LINES)} == tried | looking | {"ACCOUNTS"}
    assert len(commands("kubectl")) > 15 and len(commands("gcloud")) > 15


@pytest.mark.skipif(shutil.which("gcloud") is None, reason="gcloud is not installed")
def test_gcloud_knows_its_commands(tmp_path):
    """And those that `scripts/tpu_pod.py` runs."""
    dry = ["scripts/tpu_pod.py", "--name=pod", "--zone=us-west4-a", "--dry_run"]
    ways = [[*dry, "--", "true"], [*dry, "--queued", "--spot", "--", "true", "--workdir=gs://bucket/run"]]
    ran = [subprocess.run(way, cwd=REPOSITORY, capture_output=True, text=True, timeout=60).stdout for way in ways]
    lines = sorted({line for line in [*LINES, *"".join(ran).splitlines()] if line.startswith("gcloud ")})
    (tmp_path / "commands.json").write_text(json.dumps([{"command_string": " ".join(line.split())} for line in lines]))
    done = subprocess.run(
        ["gcloud", "meta", "lint-gcloud-commands", f"--commands-file={tmp_path / 'commands.json'}"],
        env={**os.environ, "CLOUDSDK_CONFIG": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    verdicts = json.loads(done.stdout)
    assert len(verdicts) == len(lines) > 30
    assert {one["command_string"]: one["error_message"] for one in verdicts if not one["success"]} == {}


def test_the_pods_command_is_one():
    for words in commands("scripts/tpu_pod.py"):
        dry = [*words[: words.index("--")], "--dry_run", *words[words.index("--") :]]
        done = subprocess.run([sys.executable, *dry], cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        assert shlex.join(words[words.index("--") + 1 :]) in done.stdout
        # the folder of the logs that it tells to look at
        assert "tail -f logs/pod/1/3.log" in LINES and "mkdir -p logs/pod/1" in done.stdout


@pytest.mark.parametrize("words", commands("kubectl"), ids=shlex.join)
def test_what_kubectl_is_asked_for_is_in_the_manifests(words):
    verb, *rest = words[1:]
    documents = [document for manifest in MANIFESTS.values() for document in manifest]
    names = {(document["kind"].lower(), document["metadata"]["name"]) for document in documents}
    for flag in (word for word in rest if word.startswith("--selector=")):
        label, _, name = flag.removeprefix("--selector=").partition("=")
        assert (OWNERS[label].lower(), name) in names
    plain = [word for word in rest if not word.startswith("-")]
    if verb == "apply":
        (path,) = plain
        assert path.startswith("https://github.com/kubernetes-sigs/jobset/releases/") or (REPOSITORY / path).is_file()
    elif verb == "create":
        assert plain[0] == "serviceaccount"
        accounts = re.findall(r"serviceAccountName: (\S+)", (REPOSITORY / "scripts" / "gke-tpu.yaml").read_text())
        assert accounts == [plain[1]]
    elif verb == "exec":
        assert plain == ["transfer-0-SUFFIX", "cat", "/workdir/run/status.json"] and ("job", "transfer") in names
    elif "/" in (plain or [""])[0]:
        assert tuple(plain[0].split("/")) in names
    else:
        assert verb in ("get", "logs", "describe") and set(plain) <= {"pods", "workloads"}


@pytest.mark.parametrize("words", commands("docker"), ids=shlex.join)
def test_the_image_is_the_manifests(words):
    images = {image for manifest in MANIFESTS.values() for image in re.findall(r"'image': '([^']+)'", str(manifest))}
    assert images == {"REGISTRY/transfer"} and "REGISTRY/transfer" in words
    if words[1] == "build":
        platform = words[words.index("--build-arg") + 1].partition("=")[2]
        assert re.search(rf"\b{platform}\b.*\)", (REPOSITORY / "Dockerfile").read_text())


@pytest.fixture
def machine(tmp_path):
    """Runs lines of the page in a shell, where `sbatch`, `srun` and `python` are stand-ins; says what was started."""
    (tmp_path / "bin").mkdir()
    sbatch = f'#!/bin/bash\nwhile [[ $1 == --* ]]; do shift; done\ncd {REPOSITORY} && exec bash "$@"\n'
    python = '#!/bin/bash\necho "python $*" >>"$CALLS"\nexit $(sed -n "$(grep -c ^python "$CALLS")p" "$CODES")\n'
    for name, text in {"sbatch": sbatch, "srun": SRUN, "python": python, "scontrol": "#!/bin/sh\n"}.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)

    def run(text: str, *codes: int) -> tuple[int, list[str]]:
        (tmp_path / "codes").write_text("".join(f"{code}\n" for code in codes))
        more = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "SLURM_JOB_ID": JOB, "PYTHON": "python"}
        more |= {"CALLS": str(tmp_path / "calls"), "CODES": str(tmp_path / "codes")}
        done = subprocess.run(["bash", "-c", text], env={**os.environ, **more}, timeout=60)
        return done.returncode, (tmp_path / "calls").read_text().splitlines()

    return run


def test_the_job_of_slurm_runs_its_command(machine):
    (words,) = commands("sbatch")
    code, calls = machine(shlex.join(words), 0, 0)
    started = [line for line in calls if line.startswith("python train.py")]
    assert code == 0 and started == [f"python {shlex.join(words[words.index('train.py') :])}"] * 2
    # sbatch's own options, and the log that the page says to look at
    assert {word.partition("=")[0] for word in words[1 : words.index("scripts/slurm.sbatch")]} == {
        "--nodes",
        "--gpus-per-node",
        "--time",
    }
    assert "tail -f transfer-JOB.log" in LINES
    assert "--output=%x-%j.log" in (REPOSITORY / "scripts" / "slurm.sbatch").read_text()


@pytest.mark.parametrize(
    ("codes", "starts"), [((0,), 1), ((75, 76, 0), 3), ((76, 1), 2), ((2,), 1), ((76,) * 9, 5)], ids=str
)
def test_the_loop_of_plain_machines_goes_on_after_75_and_76(machine, codes, starts):
    (loop,) = [block for block in BLOCKS if block.startswith("for ")]
    _, calls = machine(loop, *codes)
    assert len(calls) == starts
    assert calls[0].startswith("python train.py --config=configs/quickstart.py --workdir=/shared/run")
