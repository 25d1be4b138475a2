"""`scripts/*.yaml`: what Kubernetes' schemas say; that processes find each other; what is started again."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from transfer.errors import Unfinished, UsageError
from transfer.runtime import cluster, preemption
from transfer.runtime.distributed import CONNECT_SECONDS

REPOSITORY = Path(__file__).parents[2]
MANIFESTS = {
    name: list(yaml.safe_load_all((REPOSITORY / "scripts" / f"{name}.yaml").read_text()))
    for name in ("kubernetes-job", "kubernetes-jobset", "gke-tpu")
}
# podFailurePolicy is stable since
KUBERNETES = "1.31"
CLAIM = "persistentVolumeClaim"
every_manifest = pytest.mark.parametrize("name", MANIFESTS)

# What a JobSet is beside the jobs in it: the fields of jobset.x-k8s.io/v1alpha2 (api/jobset/v1alpha2/jobset_types.go of
# kubernetes-sigs/jobset), none but those.
TEXT, WHOLE, FLAG = {"type": "string"}, {"type": "integer", "minimum": 0}, {"type": "boolean"}


def record(required: list[str] = (), **fields: dict) -> dict:  # type: ignore[assignment]
    return {"type": "object", "properties": fields, "required": list(required), "additionalProperties": False}


def list_of(items: dict) -> dict:
    return {"type": "array", "items": items, "minItems": 1}


JOBSET = record(
    ["apiVersion", "kind", "metadata", "spec"],
    apiVersion={"const": "jobset.x-k8s.io/v1alpha2"},
    kind={"const": "JobSet"},
    metadata=record(
        ["name"],
        name=TEXT,
        labels={"additionalProperties": TEXT},
        annotations={"additionalProperties": TEXT},
    ),
    spec=record(
        ["replicatedJobs"],
        network=record(enableDNSHostnames=FLAG, subdomain=TEXT, publishNotReadyAddresses=FLAG),
        failurePolicy=record(
            maxRestarts=WHOLE,
            restartStrategy={"enum": ["Recreate", "BlockingRecreate", "InPlaceRestart"]},
            rules=list_of(
                record(
                    ["name", "action"],
                    name={"type": "string", "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$"},
                    action={"enum": ["FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts"]},
                    onJobFailureReasons=list_of(
                        {"enum": ["BackoffLimitExceeded", "DeadlineExceeded", "PodFailurePolicy"]},
                    ),
                    targetReplicatedJobs=list_of(TEXT),
                )
            ),
        ),
        ttlSecondsAfterFinished=WHOLE,
        suspend=FLAG,
        replicatedJobs=list_of(record(["name", "replicas", "template"], name=TEXT, replicas=WHOLE, template={})),
    ),
)


def only(name: str, kind: str) -> dict:
    (document,) = [document for document in MANIFESTS[name] if document["kind"] == kind]
    return document


def job_of(name: str) -> dict:
    """The specification of the job, of a JobSet the one in it."""
    if name == "kubernetes-job":
        return only(name, "Job")["spec"]
    (replicated,) = only(name, "JobSet")["spec"]["replicatedJobs"]
    return replicated["template"]["spec"]


def pod_of(name: str) -> tuple[dict, dict]:
    """The specification of its pods and of their one container."""
    pod = job_of(name)["template"]["spec"]
    (container,) = pod["containers"]
    return pod, container


def environment_of(name: str) -> dict[str, str]:
    return {variable["name"]: variable["value"] for variable in pod_of(name)[1]["env"]}


@every_manifest
def test_the_manifest_is_what_kubernetes_takes(name):
    validate = pytest.importorskip("kubernetes_validate")
    jsonschema = pytest.importorskip("jsonschema")
    for document in MANIFESTS[name]:
        if document["kind"] == "JobSet":
            jsonschema.validate(document, JOBSET)
            # what the controller makes of it
            document = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "job"}, "spec": job_of(name)}
        validate.validate(document, KUBERNETES, strict=True)


@pytest.mark.parametrize("name", ["kubernetes-job", "kubernetes-jobset"])
def test_every_process_finds_process_0(monkeypatch, name):
    job, (pod, container) = job_of(name), pod_of(name)
    assert job["completionMode"] == "Indexed" and job["completions"] == job["parallelism"]
    if name == "kubernetes-job":
        service = only(name, "Service")
        # a pod of an indexed job is called JOB-INDEX, in the domain of the service that its subdomain names
        first = f"{only(name, 'Job')['metadata']['name']}-0.{pod['subdomain']}"
        assert pod["subdomain"] == service["metadata"]["name"]
        assert service["spec"]["selector"] == {"job-name": only(name, "Job")["metadata"]["name"]}
        assert service["spec"]["clusterIP"] == "None" and service["spec"]["publishNotReadyAddresses"]
    else:
        jobset = only(name, "JobSet")
        # JOBSET-JOB-INDEX OF THE JOB-INDEX OF THE POD, in a domain with the JobSet's name
        first = "{0}-{1}-0-0.{0}".format(jobset["metadata"]["name"], jobset["spec"]["replicatedJobs"][0]["name"])
        assert jobset["spec"]["network"] == {"enableDNSHostnames": True, "publishNotReadyAddresses": True}
    for variable, value in environment_of(name).items():
        monkeypatch.setenv(variable, value)
    for index in range(job["completions"]):
        monkeypatch.setenv("JOB_COMPLETION_INDEX", str(index))
        place = cluster.find(None, None, None, seconds=1)
        assert place is not None and (place.process_id, place.num_processes) == (index, job["completions"])
        assert (place.host, place.port) == (first, container["ports"][0]["containerPort"])


@pytest.mark.parametrize("slices", [1, 2])
def test_on_tpus_gke_tells_every_process_who_it_is(monkeypatch, slices):
    """By the variables that it gives to pods that ask for google.com/tpu, as `jax.distributed` reads them."""
    from jax._src.clusters import cloud_tpu_cluster

    job, (_, container) = job_of("gke-tpu"), pod_of("gke-tpu")
    hosts, ports = job["completions"], [port["containerPort"] for port in container["ports"]]
    monkeypatch.setattr(cloud_tpu_cluster, "running_in_cloud_tpu_vm", True)
    monkeypatch.setattr(cloud_tpu_cluster.socket, "gethostbyname", lambda host: "10.0.0.1")
    monkeypatch.setattr(cloud_tpu_cluster, "get_tpu_env_value_from_metadata", lambda key: None)
    monkeypatch.setenv("TPU_LIBRARY_PATH", "/lib/libtpu.so")
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    for variable in environment_of("gke-tpu").items():
        monkeypatch.setenv(*variable)
    for process in range(hosts * slices):
        part, index = divmod(process, hosts)
        names = [f"transfer-slice-{part}-{host}.transfer" for host in range(hosts)]
        variables = {"TPU_WORKER_ID": str(index), "TPU_WORKER_HOSTNAMES": ",".join(names)}
        if slices > 1:
            variables["MEGASCALE_COORDINATOR_ADDRESS"] = "transfer-slice-0-0.transfer"
            variables |= {"MEGASCALE_NUM_SLICES": str(slices), "MEGASCALE_SLICE_ID": str(part)}
        for variable in {**variables, "JOB_COMPLETION_INDEX": str(index)}.items():
            monkeypatch.setenv(*variable)
        place = cluster.find(None, None, None, seconds=1)
        assert place == cluster.ProcessInfo(f"transfer-slice-0-0.transfer:{ports[0]}", hosts * slices, process)


def test_a_slice_has_as_many_hosts_as_its_chips_need():
    job, (pod, container) = job_of("gke-tpu"), pod_of("gke-tpu")
    rows, columns = map(int, pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x"))
    chips = container["resources"]["limits"]["google.com/tpu"]
    assert container["resources"]["requests"]["google.com/tpu"] == chips
    assert job["completions"] * chips == job["parallelism"] * chips == rows * columns


@every_manifest
def test_what_stopped_on_request_or_lost_a_peer_is_started_again(name):
    job, (pod, container) = job_of(name), pod_of(name)
    rules = [rule for rule in job["podFailurePolicy"]["rules"] if "onExitCodes" in rule]
    by_code = {code: rule["action"] for rule in rules for code in rule["onExitCodes"]["values"]}
    expected = {preemption.EXIT_PREEMPTED: "Ignore", Unfinished.exit_code: "Ignore", UsageError.exit_code: "FailJob"}
    assert by_code == expected
    assert {rule["onExitCodes"]["containerName"] for rule in rules} == {container["name"]}
    # required of a job with such a policy
    assert pod["restartPolicy"] == "Never"
    assert pod["terminationGracePeriodSeconds"] >= 30
    # what counts for nothing ends by the clock; its pods are there for a while to be read
    assert job["activeDeadlineSeconds"] >= 24 * 3600
    whole = only(name, "Job" if name == "kubernetes-job" else "JobSet")["spec"]
    assert whole["ttlSecondsAfterFinished"] >= 24 * 3600
    if name == "kubernetes-job":
        assert 1 <= job["backoffLimit"] <= 10
    else:
        assert job["backoffLimit"] == 0 and 1 <= whole["failurePolicy"]["maxRestarts"] <= 10
        # wrong arguments do not become right with another set of pods
        (rule,) = whole["failurePolicy"]["rules"]
        assert rule["action"] == "FailJobSet"
        assert rule["onJobFailureReasons"] == ["PodFailurePolicy", "DeadlineExceeded"]


def test_the_jobset_waits_in_a_queue():
    assert only("kubernetes-jobset", "JobSet")["metadata"]["labels"] == {"kueue.x-k8s.io/queue-name": "user-queue"}


def test_the_jobset_is_the_job_in_a_queue():
    """Two files that say the same; what differs is the name of process 0."""
    (pod, container), (other, contained) = pod_of("kubernetes-job"), pod_of("kubernetes-jobset")
    address = contained["env"][0].pop("value"), container["env"][0].pop("value")
    try:
        assert {key: value for key, value in pod.items() if key != "subdomain"} == other
        assert job_of("kubernetes-job")["podFailurePolicy"] == job_of("kubernetes-jobset")["podFailurePolicy"]
    finally:
        contained["env"][0]["value"], container["env"][0]["value"] = address


@every_manifest
def test_pods_may_do_no_more_than_they_need(name):
    pod, container = pod_of(name)
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    # a workdir of a million files is not gone through at each start
    if "fsGroup" in pod["securityContext"]:
        assert pod["securityContext"]["fsGroupChangePolicy"] == "OnRootMismatch"
    if name != "gke-tpu":  # a TPU's devices are root's
        assert pod["securityContext"]["runAsNonRoot"] and container["securityContext"]["capabilities"] == {
            "drop": ["ALL"]
        }
    for volume in pod["volumes"]:
        assert "emptyDir" not in volume or re.fullmatch(r"\d+Gi", volume["emptyDir"]["sizeLimit"])


@every_manifest
def test_the_error_is_what_kubernetes_shows(name):
    assert pod_of(name)[1]["terminationMessagePolicy"] == "FallbackToLogsOnError"


@every_manifest
def test_what_it_mounts_is_there(name):
    pod, container = pod_of(name)
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    claims = {volume[CLAIM]["claimName"] for volume in pod["volumes"] if CLAIM in volume}
    assert claims <= {only("kubernetes-job", "PersistentVolumeClaim")["metadata"]["name"]}
    places = [mount["mountPath"] for mount in container["volumeMounts"]]
    workdir = next(text for text in container["args"] if text.startswith("--workdir=")).partition("=")[2]
    caches = [environment_of(name)[variable] for variable in ("TRANSFER_CACHE", "HF_HOME")]
    for path in (workdir, *caches):
        assert path.startswith("gs://") or any(path == place or path.startswith(f"{place}/") for place in places)


@every_manifest
def test_its_arguments_are_flags_of_the_script(name):
    script, *arguments = pod_of(name)[1]["args"]
    for argument in arguments:
        flag, _, value = argument.partition("=")
        assert re.search(rf"^\s+{re.escape(flag)}\b", flags_of(script), re.MULTILINE), flag
        assert not value.startswith("configs/") or (REPOSITORY / value).is_file()
    # the nodes of an autoscaled pool come minutes apart
    seconds = int(next(text for text in arguments if text.startswith("--connect_seconds=")).partition("=")[2])
    assert seconds >= 3 * CONNECT_SECONDS


SHOWN: dict[str, str] = {}


def flags_of(script: str) -> str:
    """What `--helpfull` of it prints; asked once."""
    if script not in SHOWN:
        command = [sys.executable, script, "--helpfull"]
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
        SHOWN[script] = done.stdout
    return SHOWN[script]
