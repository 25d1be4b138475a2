"""Which devices a batch and a head are spread over, and how much memory is said to be there."""

import itertools
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest

from transfer.errors import UsageError
from transfer.runtime import devices, memory


def fake(count, platform="gpu", process=0, limit=None):
    """Devices of a process, that are only looked at."""
    return [
        SimpleNamespace(id=i, platform=platform, process_index=process, memory_stats=lambda: limit)
        for i in range(count)
    ]


@pytest.fixture
def meshes(monkeypatch):
    """Meshes of things that are no devices: the array and the names of its axes."""

    def mesh(array, names):
        local = [device for device in array.flat if device.process_index == 0]
        return SimpleNamespace(devices=array, size=array.size, shape=dict(zip(names, array.shape, strict=True)),
                               local_devices=local)  # fmt: skip

    monkeypatch.setattr(devices, "Mesh", mesh)


@pytest.mark.parametrize(
    ("batch", "count", "used"),
    [(8, 1, 1), (8, 4, 4), (8, 3, 2), (9, 8, 3), (10, 8, 5), (7, 4, 1), (7, 7, 7), (3, 8, 3), (1, 8, 1), (14, 7, 7)],
)
def test_a_batch_is_on_as_many_as_divide_it(meshes, batch, count, used):
    available = fake(count)
    mesh = devices.mesh_for(batch, available)
    assert mesh.devices.tolist() == available[:used] and mesh.shape == {"batch": used}


def test_by_default_those_of_this_process():
    mesh = devices.mesh_for(len(jax.local_devices()))
    assert mesh.devices.tolist() == jax.local_devices() and mesh.axis_names == ("batch",)


@pytest.mark.parametrize(
    ("count", "platform", "options"),
    [(2, "cpu", {"xla_cpu_multi_thread_eigen": False}), (1, "cpu", {}), (2, "gpu", {}), (1, "gpu", {})],
)
def test_each_of_several_cores_works_alone(meshes, count, platform, options):
    assert devices.compiler_options(devices.mesh_for(count, fake(count, platform))) == options


@pytest.mark.parametrize(
    ("variables", "before", "asked"),
    [
        ({}, -1, [3]),
        ({}, 0, [3]),
        ({}, 1, []),
        ({"XLA_FLAGS": "--xla_dump_to=x"}, -1, [3]),
        ({"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}, -1, []),
        ({"JAX_NUM_CPU_DEVICES": "2"}, -1, []),
    ],
)
def test_each_core_is_a_device_unless_the_user_says_otherwise(monkeypatch, variables, before, asked):
    for name in ("XLA_FLAGS", "JAX_NUM_CPU_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    updates = []
    config = SimpleNamespace(jax_num_cpu_devices=before, update=lambda name, value: updates.append((name, value)))
    monkeypatch.setattr(devices, "jax", SimpleNamespace(config=config))
    monkeypatch.setattr(devices.os, "sched_getaffinity", lambda pid: {4, 5, 7} if pid == 0 else set(), raising=False)
    devices.use_cores()
    assert updates == [("jax_num_cpu_devices", count) for count in asked]


# devices of each process, their platform, data, model -> devices of each process in the mesh, its shape; None: refused
HEADS = [
    ((4,), "gpu", None, 1, (4,), (4, 1)),
    ((4,), "gpu", None, 2, (4,), (2, 2)),
    ((4,), "gpu", 2, 1, (2,), (2, 1)),
    ((4,), "gpu", 1, 3, (3,), (1, 3)),
    ((4,), "gpu", None, 3, None, None),
    ((4,), "gpu", 5, 1, None, None),
    ((4,), "gpu", 4, 1, (4,), (4, 1)),
    ((4,), "cpu", None, 1, (1,), (1, 1)),
    ((4,), "cpu", 4, 1, (4,), (4, 1)),
    ((3, 4), "gpu", None, 1, (3, 3), (6, 1)),
    ((3, 4), "gpu", None, 2, (3, 3), (3, 2)),
    ((3, 4), "gpu", 2, 2, (2, 2), (2, 2)),
    ((3, 4), "gpu", 3, 1, None, None),
    ((3, 4), "gpu", 8, 1, None, None),
    ((2, 2), "cpu", None, 1, (1, 1), (2, 1)),
    ((2, 2), "cpu", None, 2, (1, 1), (1, 2)),
]


@pytest.mark.parametrize(("counts", "platform", "data", "model", "used", "shape"), HEADS)
def test_a_head_is_on_equally_many_of_every_process(meshes, monkeypatch, counts, platform, data, model, used, shape):
    own = [fake(count, platform, process) for process, count in enumerate(counts)]
    monkeypatch.setattr(jax, "devices", lambda: list(itertools.chain(*own)))
    if shape is None:
        there = "4" if len(counts) == 1 else "2 processes with 3 devices each"
        with pytest.raises(UsageError, match=rf"^config.mesh.data={data}, config.mesh.model={model}: .* {there}$"):
            devices.head_mesh(data, model)
        return
    assert model > 1 or devices.head_mesh(data).shape == devices.head_mesh(data, 1).shape
    mesh = devices.head_mesh(data, model)
    assert mesh.shape == dict(zip(("data", "model"), shape, strict=True))
    assert list(mesh.devices.flat) == [device for some, n in zip(own, used, strict=True) for device in some[:n]]


def test_all_devices_along_data_hold_together(meshes, monkeypatch):
    monkeypatch.setattr(devices, "host_memory", lambda: 1000)
    for own, limit in (
        ([fake(4, limit={"bytes_limit": 50})], 100),
        ([fake(4, limit=None)], None),
        ([fake(4, limit={})], None),
        ([fake(4, "cpu")], 1000),
        ([fake(2, "cpu"), fake(2, "cpu", 1)], 2000),
    ):
        monkeypatch.setattr(jax, "devices", lambda own=own: list(itertools.chain(*own)))
        assert devices.memory_limit(devices.head_mesh(2, 2)) == limit


# files of a container -> what there is of 1000 KiB, and of 300 KiB free
CONTAINERS = [
    ({}, 1 << 20, 300 << 10),
    ({"memory.max": "max", "memory.current": "9"}, 1 << 20, 300 << 10),
    ({"memory.max": "5000", "memory.current": "3000"}, 5000, 2000),
    ({"memory.max": "5000", "memory.current": "6000"}, 5000, 0),
    ({"memory/memory.limit_in_bytes": "7000", "memory/memory.usage_in_bytes": "1"}, 7000, 6999),
    ({"memory/memory.limit_in_bytes": str(1 << 62), "memory/memory.usage_in_bytes": "1"}, 1 << 20, 300 << 10),
]


@pytest.mark.parametrize(("files", "total", "free"), CONTAINERS)
def test_memory_is_the_machines_or_its_containers(tmp_path, monkeypatch, files, total, free):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"{text}\n")
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    monkeypatch.setattr(memory.os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 256}.__getitem__)
    monkeypatch.setattr(Path, "read_text", read_text_of(Path.read_text, "MemTotal: 1 kB\nMemAvailable:   300 kB\n"))
    assert memory.host_memory() == total and memory.available_memory() == free


def read_text_of(read_text, meminfo):
    return lambda path: meminfo if path == Path("/proc/meminfo") else read_text(path)
