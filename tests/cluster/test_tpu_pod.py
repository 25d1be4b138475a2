"""`scripts/tpu_pod.py`: the commands that it prints, and what becomes of a run on a TPU that is taken away."""

import ast
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cluster.fake_gcloud import ERRORS
from transfer.errors import Unfinished
from transfer.runtime import preemption

REPOSITORY = Path(__file__).parents[2]
SCRIPT = REPOSITORY / "scripts" / "tpu_pod.py"
COMMANDS, SBATCH = (SCRIPT.with_name(name) for name in ("tpu_commands.py", "slurm.sbatch"))
DRY_RUN = Path(__file__).parent / "tpu_pod_dry_run.txt"
ARGUMENTS = ["--name=pod", "--zone=us-west4-a", "--logs=logs"]
TRAIN = ["--", "python", "train.py", "--config=configs/quickstart.py", "--workdir=gs://bucket/it's here"]


def dry_run(*arguments: str) -> str:
    done = subprocess.run(
        ["scripts/tpu_pod.py", *ARGUMENTS, *arguments, "--dry_run", *TRAIN],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_a_dry_run_prints_every_command_and_runs_none():
    assert dry_run("--spot", "--queued", "--project=mine") == DRY_RUN.read_text()
    assert not (REPOSITORY / "logs").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--zone=z", *TRAIN], "the following arguments are required: --name"),
        (["--name=n", *TRAIN], "the following arguments are required: --zone"),
        (["--name=n", "--zone=z"], "the command is missing"),
        (["--name=n", "--zone=z", "--types=v4-8", *TRAIN], "unrecognized arguments: --types=v4-8"),
        (["--name=n", "--zone=z", "--retries=many", *TRAIN], "many is not a whole number"),
        (
            ["--name=n", "--zone=z", "--type=tpu7x-64", *TRAIN],
            "tpu7x-64: the Cloud TPU API does not serve TPU7x and later",
        ),
    ],
)
def test_wrong_arguments_are_one_line(arguments, said):
    done = subprocess.run([SCRIPT, *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and said in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize("path", [SCRIPT, COMMANDS], ids=lambda path: path.name)
def test_it_runs_where_the_operator_is(path):
    """With the Python of gcloud or of a Mac, and no other package."""
    tree = ast.parse(path.read_text(), feature_version=(3, 9))
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    imported |= {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    assert imported - {"tpu_commands"} <= sys.stdlib_module_names


@pytest.fixture(scope="module")
def scripts():
    """The folder of scripts, from where they import each other."""
    sys.path.insert(0, str(SCRIPT.parent))
    yield importlib.import_module("tpu_pod"), importlib.import_module("tpu_commands")
    sys.path.remove(str(SCRIPT.parent))


MEANINGS = {
    "network": "passing",
    # asks to log in, where there is no network
    "login_without_network": "passing",
    "no_login": "refused",
    "permission": "refused",
    # the project's own quota; too many questions a minute
    "quota": "refused",
    "rate": "passing",
    "full": "full",
    "internal": "passing",
    "taken": "taken",
    "absent": "absent",
    "no_key": "passing",
}


@pytest.mark.parametrize("error", ERRORS)
def test_what_errors_of_gcloud_mean(scripts, error):
    text = ERRORS[error].replace("{call}", "gcloud.compute.tpus.tpu-vm.create")
    assert scripts[1].Answer(1, "", text).meaning == MEANINGS[error]


@pytest.mark.parametrize(
    ("codes", "expected"),
    [([1, 76], 1), ([76, 1], 1), ([76, 2], 2), ([75, 75], 75), ([75, 76], 76), ([76, 255], 76), ([255, 255], 255)],
)
def test_a_worker_that_failed_by_itself_is_what_counts(scripts, codes, expected):
    lines = [
        f"##### Command execution on worker {i} failed with exit status {c}. Continuing.\n" for i, c in enumerate(codes)
    ]
    assert scripts[1].Answer(codes[0], "", "".join(lines)).code_of_workers() == expected


@pytest.mark.parametrize(
    ("kind", "is_served"),
    [("v2-8", True), ("v4-128", True), ("v5litepod-64", True), ("v5p-8", True), ("v6e-256", True)]
    + [("tpu7x-16", False), ("v7x-8", False), ("7x-8", False), ("ironwood-8", False), ("v8-8", False)],
)
def test_types_that_only_gke_serves_are_refused(scripts, capsys, kind, is_served):
    arguments = ["--name=n", "--zone=z", f"--type={kind}", "--dry_run", "--", "true"]
    if is_served:
        assert scripts[0].parse(arguments).type == kind
        return
    with pytest.raises(SystemExit, match="2"):
        scripts[0].parse(arguments)
    said = capsys.readouterr().err
    assert (
        said.count("\n") == 1 and "scripts/gke-tpu.yaml" in said and (REPOSITORY / "scripts" / "gke-tpu.yaml").exists()
    )


def test_its_codes_are_the_programs(scripts):
    assert (preemption.EXIT_PREEMPTED, Unfinished.exit_code) == (scripts[1].PREEMPTED, scripts[1].PEER_LOST)
    assert f"PREEMPTED={scripts[1].PREEMPTED} PEER_LOST={scripts[1].PEER_LOST} " in SBATCH.read_text()


def test_a_shared_connection_of_ssh_does_not_hold_it_up(scripts):
    """Its master stays behind with the errors' end of the pipe."""
    began = time.monotonic()
    answer = scripts[1].Terminal(False).run("bash", "-c", "echo said >&2; sleep 30 & echo $! >&2; exit 3")
    said, master = answer.errors.split()
    os.kill(int(master), signal.SIGKILL)
    assert (answer.code, said) == (3, "said") and time.monotonic() - began < 20


class Cloud:
    """A repository with the script and a job in it, and a gcloud that is none."""

    def __init__(self, folder: Path, job: str) -> None:
        self.folder, self.fake, self.repository = folder, folder / "fake", folder / "repository"
        self.fake.mkdir()
        (self.repository / "scripts").mkdir(parents=True)
        for script in (SCRIPT, COMMANDS):
            shutil.copy(script, self.repository / "scripts")
        (self.repository / "job.sh").write_text(job)
        subprocess.run(["git", "init", "--quiet", self.repository], check=True)
        gcloud = folder / "bin" / "gcloud"
        gcloud.parent.mkdir()
        gcloud.write_text(f'#!/bin/sh\nexec {sys.executable} -S -E {Path(__file__).parent / "fake_gcloud.py"} "$@"\n')
        gcloud.chmod(0o755)
        path = f"{gcloud.parent}:{os.environ['PATH']}"
        self.environment = {**os.environ, "PATH": path, "FAKE_GCLOUD": str(self.fake), "HOME": str(folder / "home")}

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        script = self.repository / "scripts" / "tpu_pod.py"
        return subprocess.Popen(
            # a start without the libraries that are installed here
            [sys.executable, "-S", "-E", script, *ARGUMENTS, "--pause=0", *arguments]
            + ["--", "bash", "job.sh", "two words", "--workdir=gs://bucket/run"],
            cwd=self.folder,
            env={**self.environment, "FOLDER": str(self.folder)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # a test run in the background ignores Ctrl-C and the end of a terminal, and so would its children
            preexec_fn=lambda: [signal.signal(each, signal.SIG_DFL) for each in (signal.SIGINT, signal.SIGHUP)],
        )

    def run(self, *arguments: str) -> tuple[int, str, str]:
        process = self.start("--install=touch installed", *arguments)
        output, errors = process.communicate(timeout=60)
        return process.returncode, output, errors

    def calls(self, *verbs: str) -> list[str]:
        """Those asked for, in order."""
        lines = (self.fake / "calls").read_text().splitlines()
        return [line.split()[1] for line in lines if line.split()[1] in verbs]

    def fails(self, verb: str, first: int, last: int, error: str = "network") -> None:
        (self.fake / f"fails.{verb}").write_text(f"{first} {last} {error}")

    def claim(self) -> str:
        """The ID of what may be left, as it is kept on this machine."""
        return (self.folder / "home/.local/state/transfer/tpu_pod/.us-west4-a.pod").read_text()

    def log(self, attempt: int, worker: int) -> str:
        return (self.folder / "logs" / str(attempt) / f"{worker}.log").read_text()


def test_a_command_runs_on_all_workers_and_its_logs_come_home(tmp_path):
    cloud = Cloud(tmp_path, 'test -e "$HOME/installed" && echo "worker $WORKER got $1 in $PWD"')
    code, output, errors = cloud.run()
    assert code == 0, errors
    assert cloud.log(1, 1) == f"worker 1 got two words in {cloud.fake}/worker1/transfer\n"
    # worker 0's is shown as it comes
    assert output == cloud.log(1, 0)
    assert cloud.calls("create", "scp", "delete") == ["create", "scp", "delete"]
    assert not (cloud.fake / "state").exists()


TAKEN_AWAY_TWICE = """
echo once >>"$FOLDER/runs$WORKER"
if [ "$(wc -l <"$FOLDER/runs$WORKER")" -lt 3 ]; then sleep 0.2; echo PREEMPTED >"$STATE"; exit 1; fi
"""


@pytest.mark.parametrize("way", ["--spot", "--queued"])
def test_a_tpu_that_is_taken_away_is_replaced(tmp_path, way):
    cloud = Cloud(tmp_path, TAKEN_AWAY_TWICE)
    code, _, errors = cloud.run(way)
    assert code == 0, errors
    assert errors.count("pod was taken away; another try follows") == 2
    assert cloud.calls("create", "delete") == ["create", "delete"] * 3


def test_a_tpu_is_replaced_no_more_often_than_asked(tmp_path):
    cloud = Cloud(tmp_path, TAKEN_AWAY_TWICE)
    code, _, errors = cloud.run("--retries=0")
    assert code == 75 and "; 1 in a row without progress" in errors
    assert cloud.calls("create", "delete") == ["create", "delete"]


ENDS_ONCE = """
echo once >>"$FOLDER/runs$WORKER"
test "$(wc -l <"$FOLDER/runs$WORKER")" -ge 2 || exit CODE
"""


@pytest.mark.parametrize(("code", "said"), [(75, "was asked to stop and has saved"), (76, "lost one of its processes")])
def test_what_has_saved_or_lost_a_peer_goes_on_with_the_tpu_that_is_still_there(tmp_path, code, said):
    cloud = Cloud(tmp_path, ENDS_ONCE.replace("CODE", str(code)))
    ended, _, errors = cloud.run()
    assert ended == 0, errors
    assert f"the command {said}; another try follows (1 of 5 without progress)" in errors
    assert cloud.calls("create", "delete") == ["create", "delete"]
    assert not (cloud.folder / "logs" / "3").exists()


def test_another_try_copies_the_repository_without_the_logs_in_it(tmp_path):
    cloud = Cloud(tmp_path, ENDS_ONCE.replace("CODE", "75"))
    code, _, errors = cloud.run("--logs=repository/mine")
    assert code == 0, errors
    assert (cloud.repository / "mine" / "2" / "0.log").exists()
    copy = cloud.fake / "worker0" / "transfer"
    assert (copy / "job.sh").exists() and not (copy / "mine").exists()


def test_a_tpu_that_vanishes_is_replaced(tmp_path):
    """As somebody's delete leaves it, and a machine that is gone: gcloud does not know it any more."""
    cloud = Cloud(tmp_path, TAKEN_AWAY_TWICE.replace('echo PREEMPTED >"$STATE"', 'rm -f "$STATE"'))
    code, _, errors = cloud.run("--retries=2")
    assert code == 0, errors
    assert cloud.calls("create", "delete") == ["create"] * 3 + ["delete"]


# Says as much as is done, as a run does; what it says after each start is in `done`.
PROGRESS = """
echo once >>"$FOLDER/runs$WORKER"
starts=$(wc -l <"$FOLDER/runs$WORKER")
test "$WORKER" = 1 || sed -n "${starts}p" "$FOLDER/done" >"$FAKE_GCLOUD/status.json"
exit 76
"""


@pytest.mark.parametrize("workdir", [["--workdir=gs://bucket/run/"], ["--workdir", "gs://bucket/run"]], ids=len)
def test_where_progress_is_looked_for(scripts, workdir):
    pod, commands = scripts
    asked = []

    class Terminal:
        dry_run = False

        def run(self, *words, is_shown):
            asked.append(words)
            return commands.Answer(0, '{"stage": "head", "done": 1}')

    options = pod.parse(["--name=n", "--zone=z", "--dry_run", "--", "python", "train.py", *workdir, "--epochs=3"])
    looked = pod.Pod(options, Terminal(), None)
    assert (looked.has_grown(), looked.has_grown()) == (True, False)
    assert asked == [("gcloud", "storage", "cat", "gs://bucket/run/status.json")] * 2


def test_the_count_of_tries_starts_again_with_progress(tmp_path):
    cloud = Cloud(tmp_path, PROGRESS)
    says = [("extract", 10), ("extract", 8), ("head", 1), ("extract", 10), ("head", 0)]
    lines = [json.dumps({"stage": stage, "done": done, "heartbeat": i}) for i, (stage, done) in enumerate(says)]
    (tmp_path / "done").write_text("\n".join(lines) + "\n")
    code, _, errors = cloud.run("--retries=1")
    assert code == 76 and "; 2 in a row without progress" in errors
    assert [line.partition("(")[2][0] for line in errors.splitlines() if "another try" in line] == list("0101")


def test_a_failure_is_a_failure_where_worker_0_has_lost_its_peer(tmp_path):
    cloud = Cloud(tmp_path, 'test "$WORKER" = 0 && exit 76; exit 3')
    code, _, errors = cloud.run()
    assert code == 3 and "failed with exit code 3" in errors
    assert cloud.calls("create", "delete") == ["create", "delete"]


def test_a_failure_is_not_tried_again(tmp_path):
    cloud = Cloud(tmp_path, 'test "$WORKER" = 0 || exit 3')
    code, _, errors = cloud.run()
    assert code == 3 and "failed with exit code 3; logs: logs" in errors
    assert cloud.calls("create", "delete") == ["create", "delete"]


def existing(cloud: Cloud, state: str, *files: str) -> None:
    """Somebody else's TPU, or request for one, in this state."""
    for worker in ("worker0", "worker1"):
        (cloud.fake / worker).mkdir()
    for name in files:
        (cloud.fake / name).write_text(state)
    (cloud.fake / "label").write_text("somebody_elses")


@pytest.mark.parametrize("label", ["somebody_elses", ""])
def test_a_tpu_that_is_there_is_used_and_not_deleted(tmp_path, label):
    cloud = Cloud(tmp_path, "true")
    existing(cloud, "READY", "state")
    (cloud.fake / "label").write_text(label)
    code, _, errors = cloud.run()
    assert code == 0, errors
    assert cloud.calls("create", "delete") == [] and (cloud.fake / "state").exists()


@pytest.mark.parametrize(
    ("state", "way", "files"),
    [(state, [], ["state"]) for state in ("CREATING", "STOPPED", "PREEMPTED", "REPAIRING", "DELETING", "HIDDEN")]
    + [("CREATING", ["--queued"], ["state"]), ("SUSPENDED", ["--queued"], ["request"])],
)
def test_what_somebody_else_has_in_another_state_is_left_alone(tmp_path, state, way, files):
    cloud = Cloud(tmp_path, "true")
    existing(cloud, state, *files)
    code, _, errors = cloud.run(*way)
    assert code == 1 and f"pod is there ({state}) and was not created by this command" in errors
    assert cloud.calls("create", "delete", "ssh") == [] and (cloud.fake / files[0]).exists()


def test_a_request_of_somebody_else_is_left_alone_by_a_tpu_without_one(tmp_path):
    cloud = Cloud(tmp_path, "true")
    existing(cloud, "WAITING_FOR_RESOURCES", "request")
    assert cloud.run()[0] == 0
    assert (cloud.fake / "request").exists()


@pytest.mark.parametrize("way", ["--spot", "--queued"])
def test_where_gcloud_cannot_say_what_is_there_nothing_is_touched(tmp_path, way):
    cloud = Cloud(tmp_path, "true")
    existing(cloud, "READY", "state", "request")
    cloud.fails("describe", 1, 1000)
    code, _, errors = cloud.run(way)
    assert code == 1 and "Network is unreachable" in errors and "could not be found out" in errors
    assert cloud.calls("create", "delete") == [] and (cloud.fake / "state").exists()


@pytest.mark.parametrize("error", ["permission", "no_login"])
def test_what_gcloud_refuses_is_asked_once(tmp_path, error):
    """It does not mean that there is no TPU, either."""
    cloud = Cloud(tmp_path, "true")
    cloud.fails("describe", 1, 1000, error)
    code, _, errors = cloud.run()
    assert code == 1 and ERRORS[error].splitlines()[-1].replace("{call}", "") in errors
    assert cloud.calls("describe", "create", "delete") == ["describe"]


@pytest.mark.parametrize(("way", "error"), [("--spot", "quota"), ("--queued", "permission")])
def test_a_request_that_gcloud_refuses_is_the_end(tmp_path, way, error):
    cloud = Cloud(tmp_path, "true")
    cloud.fails("create", 1, 1000, error)
    code, _, errors = cloud.run(way)
    assert code == 1 and "gcloud refuses it, for the reason above" in errors
    assert cloud.calls("create", "delete") == ["create"]


def test_spot_without_a_queue_asks_until_there_is_room(tmp_path):
    cloud = Cloud(tmp_path, "true")
    cloud.fails("create", 1, 3, "full")
    code, _, errors = cloud.run("--spot", "--retries=0")
    assert code == 0 and errors.count("us-west4-a has no room for v5litepod-64; asked again in") == 3
    assert cloud.calls("create", "delete") == ["create"] * 4 + ["delete"]


def test_without_spot_and_queue_no_room_is_the_end(tmp_path):
    cloud = Cloud(tmp_path, "true")
    cloud.fails("create", 1, 1, "full")
    code, _, errors = cloud.run()
    assert code == 1 and "us-west4-a has no room for v5litepod-64: --queued waits for it, --spot asks again" in errors


def test_an_internal_error_is_a_try(tmp_path):
    cloud = Cloud(tmp_path, "true")
    cloud.fails("create", 1, 1, "internal")
    code, _, errors = cloud.run("--retries=1")
    assert code == 0 and "pod was not made (there is none); another try follows" in errors


def test_a_tpu_of_somebody_else_that_is_taken_away_is_left_to_them(tmp_path):
    cloud = Cloud(tmp_path, TAKEN_AWAY_TWICE)
    existing(cloud, "READY", "state")
    code, _, errors = cloud.run()
    assert code == 1 and "was not created by this command" in errors
    assert cloud.calls("create", "delete") == [] and (cloud.fake / "state").exists()


@pytest.mark.parametrize("way", ["--spot", "--queued"])
def test_a_name_that_somebody_else_took_meanwhile_is_left_to_them(tmp_path, way):
    """Between the look and the request: the request fails, and what has the name is not this command's."""
    cloud = Cloud(tmp_path, "true")
    gcloud = tmp_path / "bin" / "gcloud"
    taken = "".join(f"printf 'READY\\telse' >{cloud.fake}/{name}; " for name in ("state", "request"))
    gcloud.write_text(gcloud.read_text().replace("exec", f'if [ "$4" = create ]; then {taken}fi\nexec'))
    code, _, errors = cloud.run(way)
    assert code == 1 and "ALREADY_EXISTS" in errors
    assert cloud.calls("delete") == [] and (cloud.fake / "state").exists()


@pytest.mark.parametrize("way", ["--spot", "--queued"])
def test_a_tpu_whose_answer_was_lost_is_this_commands_own(tmp_path, way):
    cloud = Cloud(tmp_path, "true")
    (cloud.fake / "loses_the_answer").touch()
    code, _, _ = cloud.run(way, "--create_flag=--labels=team=vision")
    assert code == 0
    assert cloud.calls("create", "delete") == ["create", "delete"] and not (cloud.fake / "state").exists()


def test_a_request_goes_through_the_queue_and_its_tpu_through_a_repair(tmp_path):
    cloud = Cloud(
        tmp_path, ENDS_ONCE.replace("exit CODE", '{ echo "REPAIRING READY" >"$FAKE_GCLOUD/becomes"; exit 75; }')
    )
    (cloud.fake / "becomes").write_text("ACCEPTED WAITING_FOR_RESOURCES WAITING_FOR_RESOURCES PROVISIONING ACTIVE")
    cloud.fails("describe", 6, 9, "login_without_network")
    code, _, errors = cloud.run("--queued", "--spot")
    assert code == 0, errors
    said = [line.partition("pod: ")[2] for line in errors.splitlines() if "tpu_pod: pod: " in line]
    assert said == [
        f"pod: {state}" for state in ("ACCEPTED", "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE", "REPAIRING")
    ]
    assert cloud.calls("create", "delete") == ["create", "delete"]


def test_a_request_that_is_given_up_is_a_try(tmp_path):
    cloud = Cloud(tmp_path, "true")
    (cloud.fake / "becomes").write_text("WAITING_FOR_RESOURCES SUSPENDED")
    code, _, errors = cloud.run("--queued")
    assert code == 0 and "pod was not made (SUSPENDED); another try follows" in errors
    assert cloud.calls("create", "delete") == ["create", "delete"] * 2


def test_a_tpu_that_somebody_has_stopped_is_left_alone(tmp_path):
    """Though this command has made it: whoever did so meant it."""
    cloud = Cloud(tmp_path, 'echo STOPPED >"$STATE"; exit 1')
    code, _, errors = cloud.run()
    assert code == 1 and "pod is STOPPED: somebody has stopped it, so it is left alone" in errors
    assert cloud.calls("create", "delete") == ["create"]


def test_a_question_without_an_answer_is_asked_again(tmp_path):
    cloud = Cloud(tmp_path, "true")
    cloud.fails("describe", 1, 3)
    code, _, errors = cloud.run("--queued")
    assert code == 0, errors
    assert cloud.calls("create", "delete") == ["create", "delete"]


def test_a_tpu_that_may_be_left_is_named_at_the_end(tmp_path):
    cloud = Cloud(tmp_path, "true")
    cloud.fails("describe", 3, 1000)
    code, _, errors = cloud.run()
    assert code == 0 and "pod may still be there and cost money" in errors
    assert cloud.calls("delete") == []
    # the next command with this name sees to it
    assert cloud.claim() == (cloud.fake / "label").read_text()
    (cloud.fake / "fails.describe").unlink()
    code, _, errors = cloud.run()
    assert code == 0 and "an earlier command was killed: what it may have left as pod is this one's now" in errors
    assert cloud.calls("create", "delete") == ["create", "delete"] and cloud.claim() == ""


SAVES = """
trap 'echo saved >"$FOLDER/saved$WORKER"; exit 75' TERM
touch "$FOLDER/started$WORKER"
while :; do sleep 0.05; done
"""


@pytest.mark.parametrize(
    ("sent", "expected"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 143)],
    ids=lambda value: str(value),
)
def test_an_interrupted_run_leaves_no_tpu(tmp_path, sent, expected):
    cloud = Cloud(tmp_path, SAVES)
    process = started(cloud)
    if sent == signal.SIGHUP:  # the terminal goes, and what is printed fails
        process.stdout.close()
        process.stderr.close()
    process.send_signal(sent)
    assert process.wait(timeout=60) == expected
    assert cloud.calls("create", "delete") == ["create", "delete"] and cloud.claim() == ""
    stop_workers(cloud)


def test_an_interrupted_run_stops_on_a_tpu_that_is_kept(tmp_path):
    cloud = Cloud(tmp_path, SAVES)
    process = started(cloud, "--keep")
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60) and process.returncode == 130
    assert cloud.calls("delete") == [] and cloud.claim() == ""
    assert (tmp_path / "saved0").exists() and (tmp_path / "saved1").exists()


def test_a_name_has_one_command_at_a_time_and_the_next_one_takes_over_from_a_killed_one(tmp_path):
    cloud = Cloud(tmp_path, SAVES)
    process = started(cloud)
    code, _, errors = cloud.run()
    assert code == 1 and "another tpu_pod.py runs with pod; wait for it, or take another --name" in errors
    process.kill()
    process.wait(timeout=60)
    (cloud.repository / "job.sh").write_text("echo goes on")
    code, output, errors = cloud.run()
    assert (code, output) == (0, "goes on\n"), errors
    # what still ran there has saved first, and both have made and deleted one TPU
    assert (tmp_path / "saved0").exists() and (tmp_path / "saved1").exists()
    assert cloud.calls("create", "delete") == ["create", "delete"] and cloud.claim() == ""


def test_what_somebody_else_runs_there_goes_on(tmp_path):
    """From another machine, say: the TPU carries another label, and a worker says that something runs."""
    cloud = Cloud(tmp_path, "true")
    existing(cloud, "READY", "state")
    with subprocess.Popen(["sleep", "60"]) as running:
        (cloud.fake / "worker1" / "transfer.pid").write_text(str(running.pid))
        code, _, errors = cloud.run()
        assert running.poll() is None
        running.kill()
    assert code == 1 and "a command of somebody else runs on pod, so it is left alone" in errors
    assert cloud.calls("scp", "delete") == []


def started(cloud: Cloud, *arguments: str) -> subprocess.Popen[str]:
    """A run whose command has begun on all workers."""
    process = cloud.start("--install=true", *arguments)
    deadline = time.monotonic() + 30
    while not all((cloud.folder / f"started{worker}").exists() for worker in (0, 1)):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.02)
    return process


def stop_workers(cloud: Cloud) -> None:
    """What the end of a real TPU ends."""
    for worker in ("worker0", "worker1"):
        os.kill(int((cloud.fake / worker / "transfer.pid").read_text()), signal.SIGTERM)
