"""Several processes meet, or say who did not come; all agree where to stop; the environment says who they are."""

import signal
import socket

import pytest
from several import free_port

from transfer.errors import TransferError, UsageError
from transfer.runtime import cluster, distributed

# which processes are started, of how many each is told, and what each says at last; "{port}" is the coordinator's
NOT_ALL = {
    "two of four do not come": (4, [0, 2], None, ["processes 1 and 3 of 4 did not come within 2 s"] * 2),
    "process 0 does not come": (3, [1, 2], None, ["process 0 was not found at 127.0.0.1:{port} within 2 s"] * 2),
    "two are the same": (3, [0, 1, 1], None, ["two processes say that they are process 1 of 3"] * 3),
    "told different numbers": (
        3,
        [0, 1],
        [3, 2],
        ["process 1 ({who}) was started as one of 2, process 0 as one of 3"] * 2,
    ),
}


@pytest.mark.parametrize("count, started, told, errors", NOT_ALL.values(), ids=NOT_ALL)
def test_who_did_not_come_is_one_line_in_each_that_came(several, count, started, told, errors):
    port = free_port()
    ended = several.run(
        "nothing", {}, count, start=started, of=told, port=port, flags=["--connect_seconds=2", "--debug=false"]
    )
    for process, one, error in zip(started, ended, errors, strict=True):
        (line,) = one.err.splitlines()
        own = f"process {process} of {(told or [count] * 3)[started.index(process)]}: "
        wanted = error.format(port=port, who=line.partition("(")[2].partition(")")[0])
        assert one.code == (76 if "did not come" in error or "was not found" in error else 1)
        assert line.startswith(f"error: {own}{wanted}")


def test_a_port_in_use_is_one_line(several):
    with socket.create_server(("", 0)) as other:
        port = other.getsockname()[1]
        ended = several.run("nothing", {}, 2, port=port, flags=["--connect_seconds=1"])
    assert [one.code for one in ended] == [1, 76]
    assert f"error: process 0 of 2: port {port} of 127.0.0.1:{port} cannot be used" in ended[0].err
    assert "process 0 was not found" in ended[1].err and all(len(one.err.splitlines()) == 1 for one in ended)


def test_a_name_that_is_not_known_is_one_line(several):
    (ended,) = several.run(
        "nothing", {}, 2, start=[1], flags=["--coordinator=nowhere.invalid:1234", "--connect_seconds=1"]
    )
    assert ended.code == 76 and "the name nowhere.invalid is not known" in ended.err


def test_all_stop_at_the_same_step_and_so_does_orbax(several, tmp_path):
    """SIGTERM to one of three, twice, in a loop that they go through in step."""
    ended = several.run("steps", {"folder": str(tmp_path)}, 3, send=signal.SIGTERM, to=[1, 1], when=(str(tmp_path), 3))
    assert [one.code for one in ended] == [75] * 3
    # the signal's own line, then what the loop says, then the end
    said = [one.err.splitlines()[-2] for one in ended]
    assert len(set(said)) == 1 and "'stop': " in said[0] and "'jax': " in said[0] and "(True, False)" in said[0]
    assert [one.err.count("SIGTERM") for one in ended] == [0, 1, 0]
    assert all("stopped on request" in one.errors[0] for one in ended)


SAVED, NO_ROOM, KILLED, DONE = (["saved", 0], ["no room", 0.3], ["killed", 0.3], ["done", 0.3])
# what becomes of each process after SIGTERM, and the exit codes
FATES = {
    "all save": ([SAVED, ["saved", 0.3], SAVED], [75, 75, 75]),
    "the first cannot": ([NO_ROOM, SAVED, SAVED], [1, 76, 76]),
    "another cannot": ([SAVED, SAVED, NO_ROOM], [76, 76, 1]),
    "one is killed": ([SAVED, KILLED, SAVED], [76, -signal.SIGKILL, 76]),
    "the first is killed": ([KILLED, SAVED, SAVED], [-signal.SIGKILL, 76, 76]),
    "the others are done": ([SAVED, DONE, DONE], [75, 0, 0]),
}


@pytest.mark.parametrize("fates, codes", FATES.values(), ids=FATES)
def test_all_is_saved_where_all_have_saved(several, tmp_path, fates, codes):
    """Not before, and never beside one that could not; then each of the others names it."""
    settings = {"folder": str(tmp_path), "fates": fates}
    ended = several.run("save", settings, 3, send=signal.SIGTERM, to=[1], when=(str(tmp_path), 3))
    assert [one.code for one in ended] == codes, [one.err for one in ended]
    (failed,) = [process for process, (fate, _) in enumerate(fates) if fate in ("no room", "killed")] or [None]
    for process, one in enumerate(ended):
        if codes[process] == 75:
            assert "everything is saved" in one.errors[0]
        elif failed is not None and process != failed:
            assert f"process {failed} has " in one.errors[-1] and "saved" not in one.err


ASKED = "stopped on request, everything is saved; run the same command again to continue"
NOT_IN_TIME = (
    "stopped on request without what has not come to its end within 5 s; "
    "run the same command again to continue from what is saved"
)


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize(("asked", "code", "line"), [(True, 75, ASKED), (False, 76, NOT_IN_TIME)])
def test_the_end_comes_in_time_whatever_the_device_computes(several, tmp_path, asked, code, line, count):
    settings, when = {"folder": str(tmp_path), "asked": asked}, (str(tmp_path), count)
    ended = several.run("endless", settings, count, send=signal.SIGTERM, to=[0], when=when)
    assert [one.code for one in ended] == [code] * count, [one.err for one in ended]
    said = [one.errors[0].endswith(line) for one in ended]
    # who is a moment later may be told that the other has gone
    assert max(one.seconds for one in ended) < 10 and (all(said) if asked else any(said))


def test_a_preemption_that_jax_is_told_of_counts(several):
    ended = several.run("told_by_jax", {}, 2)
    assert [one.code for one in ended] == [75, 75], [one.err for one in ended]


def test_one_that_hangs_is_noticed(several, tmp_path):
    folder = str(tmp_path)
    ended = several.run(
        "wait", {"folder": folder}, 3, flags=["--lost_seconds=2"], send=signal.SIGSTOP, to=[1], when=(folder, 3)
    )
    for process in (0, 2):
        (line,) = ended[process].err.splitlines()
        assert ended[process].code == 76 and f"process {process} of 3: process 1 has not answered for 4 s" in line


def test_one_that_is_silent_as_the_others_agree_where_to_stop_is_noticed(several, tmp_path):
    """With JAX's own `reached_preemption_sync_point` they would hang until JAX aborts them, and name nobody."""
    folder = str(tmp_path)
    ended = several.run(
        "silent", {"folder": folder}, 3, flags=["--lost_seconds=2"], send=signal.SIGTERM, to=[2], when=(folder, 2)
    )
    for process in (0, 2):
        assert ended[process].code == 76 and "saved" not in ended[process].err
        assert f"process {process} of 3: process 1 has not answered for 4 s" in ended[process].err.splitlines()[-1]
        assert ended[process].seconds < 10


SLURM = {
    "SLURM_JOB_ID": "123",
    "SLURM_STEP_NODELIST": "node[007-010]",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "2",
    "SLURM_LOCALID": "0",
    "SLURM_STEP_TASKS_PER_NODE": "1(x4)",
}
MPI = {
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911",
    "OMPI_COMM_WORLD_SIZE": "8",
    "OMPI_COMM_WORLD_RANK": "5",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "4",
}
GIVEN = {"JAX_COORDINATOR_ADDRESS": "job-0.job:1234", "JAX_NUM_PROCESSES": "3"}
PLACES = {
    "nothing": ({}, None),
    "Slurm, a task a node": (SLURM, cluster.ProcessInfo("node007:61563", 4, 2)),
    "Slurm, a task a GPU": (
        {**SLURM, "SLURM_STEP_TASKS_PER_NODE": "2(x2)", "SLURM_LOCALID": "1"},
        cluster.ProcessInfo("node007:61563", 4, 2, [1]),
    ),
    "Slurm, each task sees its GPU alone": (
        {**SLURM, "SLURM_STEP_TASKS_PER_NODE": "2(x2)", "SLURM_LOCALID": "1", "CUDA_VISIBLE_DEVICES": "0"},
        cluster.ProcessInfo("node007:61563", 4, 2),
    ),
    "Slurm, one task": ({**SLURM, "SLURM_NTASKS": "1", "SLURM_PROCID": "0"}, None),
    "Open MPI": (MPI, cluster.ProcessInfo("10.96.0.1:62624", 8, 5, [1])),
    "Open MPI without its launcher's address": (
        {**{key: value for key, value in MPI.items() if "uri" not in key}, "JAX_COORDINATOR_ADDRESS": "a:1"},
        cluster.ProcessInfo("a:1", 8, 5, [1]),
    ),
    "variables": ({**GIVEN, "JAX_PROCESS_ID": "1"}, cluster.ProcessInfo("job-0.job:1234", 3, 1)),
    "Kubernetes, an indexed job": ({**GIVEN, "JOB_COMPLETION_INDEX": "2"}, cluster.ProcessInfo("job-0.job:1234", 3, 2)),
    "Kubernetes, an indexed job of one": ({"JOB_COMPLETION_INDEX": "0"}, None),
}


@pytest.fixture
def environment(monkeypatch):
    """Sets variables, in place of all that launchers may have set here."""

    def use(variables):
        for name in {*cluster.COUNTS, *cluster.INDICES, cluster.ADDRESS, "CUDA_VISIBLE_DEVICES", *SLURM, *MPI}:
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return use


@pytest.mark.parametrize("variables, place", PLACES.values(), ids=PLACES)
def test_the_environment_says_which_process_this_is(environment, variables, place):
    environment(variables)
    assert cluster.find(None, None, None, 1) == place
    assert cluster.find(None, 1, None, 1) is None  # whatever it says
    assert cluster.find("b:2", 2, 1, 1) == cluster.ProcessInfo("b:2", 2, 1)


HALVES = {
    "a flag": ((None, 2, None), {}, "go together; without --coordinator"),
    "two flags": (("a:1", 2, None), {}, "go together; without --process_id"),
    "an address": (("a", 2, 0), {}, "--coordinator=a is not HOST:PORT"),
    "no such process": (("a:1", 2, 2), {}, "--process_id=2 must be from 0 to 1"),
    "no processes": (("a:1", 0, 0), {}, "--num_processes=0 must be at least 1"),
    "variables": (
        (None, None, None),
        GIVEN,
        "JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID go together",
    ),
    "a number of processes alone": ((None, None, None), {"JAX_NUM_PROCESSES": "4"}, "go together"),
    "not a number": ((None, None, None), {**GIVEN, "JAX_PROCESS_ID": "first"}, "JAX_PROCESS_ID=first is not a number"),
}


@pytest.mark.parametrize("flags, variables, message", HALVES.values(), ids=HALVES)
def test_half_of_it_is_one_line(environment, flags, variables, message):
    environment(variables)
    with pytest.raises(UsageError, match=message):
        cluster.find(*flags, 1)


def test_what_the_launcher_says_wrongly_is_one_line(environment):
    environment({**SLURM, "SLURM_JOB_ID": "job"})
    with pytest.raises(TransferError, match="give --coordinator, --num_processes and --process_id"):
        cluster.find(None, None, None, 1)


CLUSTERS = {
    "Slurm": ({"SLURM_STEP_NODELIST": "n1"}, (), True),
    "Open MPI": ({"OMPI_MCA_orte_hnp_uri": "1"}, (), True),
    "a job of Kubernetes": ({"JOB_COMPLETION_INDEX": "0"}, ("kubernetes",), True),
    "a job of Kubernetes, without its package": ({"JOB_COMPLETION_INDEX": "0"}, (), False),
    "its package alone": ({}, ("kubernetes",), False),
    "a TPU": ({}, ("libtpu",), True),
    "a TPU's library by its path": ({"TPU_LIBRARY_PATH": "/lib"}, (), True),
    "a TPU that is not used": ({"JAX_PLATFORMS": "cpu"}, ("libtpu",), False),
    "nothing": ({}, (), False),
}


@pytest.mark.parametrize("variables, packages, may_be", CLUSTERS.values(), ids=CLUSTERS)
def test_jax_is_asked_for_a_cluster_where_there_may_be_one(monkeypatch, environment, variables, packages, may_be):
    for name in ("TPU_LIBRARY_PATH", "JAX_PLATFORMS"):
        monkeypatch.delenv(name, raising=False)
    environment(variables)
    monkeypatch.setattr(cluster.importlib.util, "find_spec", lambda name: object() if name in packages else None)
    assert cluster._may_be_cluster() is may_be


@pytest.mark.parametrize("count, label", [(1, ""), (2, "process 1 of 2: ")])
def test_messages_say_of_which_process_they_are_where_there_are_several(monkeypatch, count, label):
    monkeypatch.setattr(distributed, "process_count", lambda: count)
    monkeypatch.setattr(distributed, "process_index", lambda: 1)
    assert distributed.process_label() == label
