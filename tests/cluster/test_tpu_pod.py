"""`scripts/tpu_pod.sh`: the commands that it prints, and what becomes of a run on a TPU that is taken away."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
SCRIPT = REPOSITORY / "scripts" / "tpu_pod.sh"
DRY_RUN = Path(__file__).parent / "tpu_pod_dry_run.txt"
ARGUMENTS = ["--name=pod", "--zone=us-west4-a", "--logs=logs"]
TRAIN = ["--", "python", "train.py", "--config=configs/quickstart.py", "--workdir=gs://bucket/it's here"]


def dry_run(*arguments: str) -> str:
    done = subprocess.run(
        ["scripts/tpu_pod.sh", *ARGUMENTS, *arguments, "--dry_run", *TRAIN],
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


@pytest.mark.skipif(shutil.which("gcloud") is None, reason="gcloud is not installed")
def test_gcloud_knows_these_commands(tmp_path):
    lines = [line for way in ([], ["--queued", "--spot"]) for line in dry_run(*way).splitlines()]
    commands = [{"command_string": line} for line in dict.fromkeys(lines) if line.startswith("gcloud")]
    (tmp_path / "commands.json").write_text(json.dumps(commands))
    done = subprocess.run(
        ["gcloud", "meta", "lint-gcloud-commands", f"--commands-file={tmp_path / 'commands.json'}"],
        env={**os.environ, "CLOUDSDK_CONFIG": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    verdicts = json.loads(done.stdout)
    assert len(verdicts) == len(commands) > 8
    assert {one["command_string"]: one["error_message"] for one in verdicts if not one["success"]} == {}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--zone=z", *TRAIN], "--name=NAME is missing"),
        (["--name=n", *TRAIN], "--zone=ZONE is missing"),
        (["--name=n", "--zone=z"], "the command is missing"),
        (["--name=n", "--zone=z", "--type", "v4-8", *TRAIN], "unknown argument --type"),
        (["--name=n", "--zone=z", "--retries=many", *TRAIN], "whole numbers, not many"),
    ],
)
def test_wrong_arguments_are_one_line(arguments, said):
    done = subprocess.run([SCRIPT, *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and said in done.stderr and done.stderr.count("\n") == 1


class Cloud:
    """A repository with the script and a job in it, and a gcloud that is none."""

    def __init__(self, folder: Path, job: str) -> None:
        self.folder, self.fake, self.repository = folder, folder / "fake", folder / "repository"
        self.fake.mkdir()
        (self.repository / "scripts").mkdir(parents=True)
        shutil.copy(SCRIPT, self.repository / "scripts")
        (self.repository / "job.sh").write_text(job)
        subprocess.run(["git", "init", "--quiet", self.repository], check=True)
        gcloud = folder / "bin" / "gcloud"
        gcloud.parent.mkdir()
        gcloud.write_text(f'#!/bin/sh\nexec {sys.executable} {Path(__file__).parent / "fake_gcloud.py"} "$@"\n')
        gcloud.chmod(0o755)
        path = f"{gcloud.parent}:{os.environ['PATH']}"
        self.environment = {**os.environ, "PATH": path, "FAKE_GCLOUD": str(self.fake)}

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [self.repository / "scripts" / "tpu_pod.sh", *ARGUMENTS, "--pause=0", *arguments]
            + ["--", "bash", "job.sh", "two words"],
            cwd=self.folder,
            env={**self.environment, "FOLDER": str(self.folder)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # a test run in the background ignores Ctrl-C, and so would its children
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def run(self, *arguments: str) -> tuple[int, str, str]:
        process = self.start("--install=touch installed", *arguments)
        output, errors = process.communicate(timeout=60)
        return process.returncode, output, errors

    def calls(self, *verbs: str) -> list[str]:
        """Those asked for, in order."""
        lines = (self.fake / "calls").read_text().splitlines()
        return [line.split()[1] for line in lines if line.split()[1] in verbs]

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
    assert errors.count("stopped; try") == 2
    assert cloud.calls("create", "delete") == ["create", "delete"] * 3


def test_a_tpu_is_replaced_no_more_often_than_asked(tmp_path):
    cloud = Cloud(tmp_path, TAKEN_AWAY_TWICE)
    code, _, errors = cloud.run("--retries=1")
    assert code == 75 and "stopped 2 times" in errors
    assert cloud.calls("create", "delete") == ["create", "delete"] * 2


STOPS_ONCE = """
echo once >>"$FOLDER/runs$WORKER"
test "$(wc -l <"$FOLDER/runs$WORKER")" -ge 2 || exit 75
"""


def test_what_was_asked_to_stop_goes_on_with_the_tpu_that_is_still_there(tmp_path):
    cloud = Cloud(
        tmp_path, 'echo once >>"$FOLDER/runs$WORKER"; test "$(wc -l <"$FOLDER/runs$WORKER")" -ge 2 || exit 75'
    )
    code, _, errors = cloud.run()
    assert code == 0, errors
    assert cloud.calls("create", "delete") == ["create", "delete"]


def test_a_failure_is_not_tried_again(tmp_path):
    cloud = Cloud(tmp_path, 'test "$WORKER" = 0 || exit 3')
    code, _, errors = cloud.run()
    assert code == 3 and "failed with exit code 3; logs: logs/1" in errors
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


@pytest.mark.parametrize("state", ["CREATING", "STOPPED", "PREEMPTED", "REPAIRING", "DELETING", "HIDDEN"])
@pytest.mark.parametrize(("way", "files"), [([], ["state"]), (["--queued"], ["state"]), (["--queued"], ["request"])])
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
    (cloud.fake / "fails.describe").write_text("1 1000")
    code, _, errors = cloud.run(way)
    assert code == 1 and "the network is unreachable" in errors and "could not be found out" in errors
    assert cloud.calls("create", "delete") == [] and (cloud.fake / "state").exists()


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
    assert code == 1
    assert cloud.calls("create", "delete") == ["create", "delete"] and not (cloud.fake / "state").exists()


def test_a_question_without_an_answer_is_asked_again(tmp_path):
    """In the queue, which may have taken hours, and at the start."""
    cloud = Cloud(tmp_path, "true")
    (cloud.fake / "fails.describe").write_text("1 8")
    code, _, errors = cloud.run("--queued")
    assert code == 0, errors
    assert cloud.calls("create", "delete") == ["create", "delete"]


def test_a_tpu_that_may_be_left_is_named_at_the_end(tmp_path):
    cloud = Cloud(tmp_path, "true")
    (cloud.fake / "fails.describe").write_text("2 1000")
    code, _, errors = cloud.run()
    assert code == 0 and "pod may still be there and cost money" in errors
    assert cloud.calls("delete") == []


SAVES = """
trap 'echo saved >"$FOLDER/saved$WORKER"; exit 75' TERM
touch "$FOLDER/started$WORKER"
while :; do sleep 0.05; done
"""


@pytest.mark.parametrize(("sent", "expected"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_leaves_no_tpu(tmp_path, sent, expected):
    cloud = Cloud(tmp_path, SAVES)
    code, _ = interrupted(cloud, sent)
    assert code == expected
    assert cloud.calls("create", "delete") == ["create", "delete"]
    stop_workers(cloud)


def test_an_interrupted_run_stops_on_a_tpu_that_is_kept(tmp_path):
    cloud = Cloud(tmp_path, SAVES)
    code, errors = interrupted(cloud, signal.SIGINT, "--keep")
    assert code == 130, errors
    assert cloud.calls("delete") == []
    assert (tmp_path / "saved0").exists() and (tmp_path / "saved1").exists()


def interrupted(cloud: Cloud, sent: int, *arguments: str) -> tuple[int, str]:
    """Exit code and errors of a run that gets a signal while its command runs."""
    process = cloud.start("--install=true", *arguments)
    deadline = time.monotonic() + 30
    while not all((cloud.folder / f"started{worker}").exists() for worker in (0, 1)):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.02)
    process.send_signal(sent)
    _, errors = process.communicate(timeout=60)
    return process.returncode, errors


def stop_workers(cloud: Cloud) -> None:
    """What the end of a real TPU ends."""
    for worker in ("worker0", "worker1"):
        os.kill(int((cloud.fake / worker / "transfer.pid").read_text()), signal.SIGTERM)
