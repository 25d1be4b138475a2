"""A row of every kind of benchmark, key by key: what is measured is put in place of clocks and compilers."""

import contextlib
import importlib.metadata
import json
import subprocess
import types
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
import pytest
from bench.test_target import LOOP

from transfer.bench import head, input, machine, networks, target, target_compile
from transfer.bench.cases import Case
from transfer.bench.target import Target
from transfer.bench.target_compile import Lowered
from transfer.bench.worker import Skipped
from transfer.cli.verbs import parser_of
from transfer.extract.taps import Tap
from transfer.preprocess.recipe import Preprocessing

DURATIONS = [0.2, 0.1, 0.4]
SECONDS = {"compute": [0.5, 0.25, 0.4], "end to end": [1.0, 0.25, 0.5], "matmul": [0.01, 0.02, 0.01]}


def options(*arguments):
    return parser_of("bench")[0].parse_args(arguments)


@pytest.fixture
def small(small_network, monkeypatch):
    """The flags for a network that compiles in a moment; the yardstick is a product of small matrices."""
    monkeypatch.setattr(machine, "MATRIX", 8)
    yardstick = machine.Matmul(jax.local_devices()[:1], "float32")
    monkeypatch.setattr(machine, "matmul", lambda dtype: yardstick)
    return [f"--models={small_network}", "--batch=4", "--image_size=16"]


def test_a_row_of_a_network(small, monkeypatch):
    asked = []

    def rounds(contenders, count, warmup, seconds, on_round):
        asked.extend((list(contenders), count, warmup, seconds))
        contenders["compute"].durations += DURATIONS
        return SECONDS

    monkeypatch.setattr(networks, "interleaved", rounds)
    monkeypatch.setattr(machine, "machine", lambda: {"devices": 2, "device_kind": "cpu"})
    monkeypatch.setattr(networks, "errors_by_tap", lambda *which: asked.append(which[1:]) or {"a": 1e-5, "b": 3e-5})
    (row,) = networks.rows(options(*small, "--rounds=3", "--seconds=0"))
    assert asked == [list(SECONDS), 3, 1, 0, ("float32", "high", 4)]
    assert row.pop("compile_seconds") >= 0 and row.pop("peak_memory_bytes") > 0
    macs = 4 * (8 * 8 * 3 + 4 * 4 * 4 + 2 * 2 * 4) * 9
    speed = {"images_per_second": 20.0, "images_per_second_per_device": 10.0, "images_per_second_end_to_end": 8.0}
    tflops, peak = 20 * 2 * macs / 1e12, 2 * 8**3 / 1e12 / 0.01
    expected = {"kind": "extractor", "model": "small", "weights": "random", "tap": "pre_logits", "image_size": (16, 16)}
    expected |= {"batch": 4, "batch_asked": 4, "dtype": "float32", "precision": "high", "failed": None, "notes": []}
    expected |= {"parameters": 3 * 9 * 4 + 2 * 4 * 9 * 4 + 3 * (4 + 2 * 4), "seconds": SECONDS, "peers": {}, **speed}
    expected |= {
        "gflops_per_image": pytest.approx(2 * macs / 1e9),
        "peak_source": "matmul",
        "errors": {"a": 1e-5, "b": 3e-5},
    }
    expected |= {"step_ms": pytest.approx(200), "step_ms_p10": pytest.approx(120), "step_ms_p90": pytest.approx(360)}
    expected |= {
        "tflops": pytest.approx(tflops),
        "peak_tflops": pytest.approx(peak),
        "mfu": None,
        "times_matmul": pytest.approx(tflops / peak),
        "joules_per_image": None,
    }
    assert row == expected | {"error_tap": "b", "error": 3e-5}


@pytest.mark.parametrize(("flags", "source"), [([], None), (["--peak_tflops=0.25"], "given")])
def test_a_device_whose_peak_is_not_known(small, monkeypatch, flags, source):
    monkeypatch.setattr(jax, "default_backend", lambda: "another")  # which has no yardstick
    (row,) = networks.rows(options(*small, "--rounds=1", "--seconds=0", "--no_errors", *flags))
    assert row["peak_source"] == source and row["times_matmul"] is None and "matmul" not in row["seconds"]
    if source:
        assert row["peak_tflops"] == 0.25 * len(jax.local_devices()) and not row["notes"]
        assert row["mfu"] == row["tflops"] / row["peak_tflops"]
    else:
        unknown = "no MFU: the peak of a 'cpu' in float32 is not known here; --peak_tflops=… gives it"
        assert row["mfu"] is None and row["notes"] == [unknown]


def test_a_row_that_failed(monkeypatch):
    (row,) = networks.rows(options("--models=inception_v3", "--batch=1", "--image_size=48"))
    expected = {
        "kind": "extractor",
        "model": "inception_v3",
        "weights": "",
        "tap": "pre_logits",
        "image_size": (48, 48),
    }
    expected |= {"batch": 1, "batch_asked": 1, "dtype": "float32", "precision": "high", "notes": [], "peers": {}}
    assert "48" in row.pop("failed") and row == expected


def test_the_error_of_a_precision_is_that_against_the_exact_one(monkeypatch):
    def load(spec):
        def extractor(taps, batch_size, dtype, precision):
            assert (taps, batch_size) == (("a", "b"), 3)
            off = 0.0 if (dtype, precision) == ("float32", "highest") else 0.5
            return lambda images: {"a": images[:, 0, 0] + off, "b": np.full(images.shape, 2.0) - off}

        graph, recipe = types.SimpleNamespace(endpoints={"a": 0, "b": 1}), Preprocessing((8, 9))
        return types.SimpleNamespace(preprocessing=recipe, graph=lambda: graph, extractor=extractor)

    monkeypatch.setattr(networks, "load", load)
    measured = networks.errors_by_tap.__wrapped__
    assert measured("spec", "float32", "highest", 3) == {}
    for dtype, precision in (("float32", "high"), ("bfloat16", "highest")):
        errors = measured("spec", dtype, precision, 3)
        assert list(errors) == ["a", "b"] and errors["b"] == 0.25 and 0 < errors["a"] < 0.01


@pytest.mark.parametrize(("about", "count"), [(0, 3), (3, 3), (3.1, 4), (64, 64), (64.1, 64), (500, 64)])
def test_a_pass_end_to_end_has_a_few_batches(about, count):
    taken = []
    extractor = types.SimpleNamespace(stream=lambda batches, resized: taken.extend(batches) or ())
    images = np.arange(24, dtype=np.uint8).reshape(2, 2, 2, 3)
    whole = networks.end_to_end(extractor, images, about)
    whole()
    assert whole.count == count == len(taken)
    assert [(batch.start, batch.size) for batch in taken] == [(2 * i, 2) for i in range(count)]
    assert all((batch.images == images).all() for batch in taken) and taken[0].images is not taken[1].images


def test_a_row_of_a_head(monkeypatch):
    class Worker:
        def __init__(self, builder, case):
            self.name, self.failed = builder.removeprefix("transfer.bench.head:"), ""
            if self.name == "refuses":
                raise Skipped("no")
            self.report = {"ours": 0.91236, "theirs": 0.5, "breaks": 0.25}[self.name]

        def close(self):
            pass

        def __call__(self):
            self.failed = "broke" if self.name == "breaks" else ""

        def timed(self, seconds):
            assert seconds == 0.1
            return {"ours": 2.0, "theirs": 3.0, "breaks": float("nan")}[self.name]

    monkeypatch.setattr(head, "Worker", Worker)
    case = head.HeadCase("toy", 30, 4, 5, batch=7, classes=3, validation_rows=20, seed=9)
    trainers = {
        "we": ("ours",),
        "they": ("theirs",),
        "x": ("refuses",),
        "y": ("breaks",),
        "z": ("any", "no_such_package"),
    }
    absent = "not installed: no_such_package; the extra [peers] has all of them"
    assert head.measure(case, trainers, rounds=2, seconds=0.1) == {
        "kind": "head",
        "case": "toy",
        **{"rows": 30, "features": 4, "epochs": 5, "batch": 7, "classes": 3, "validation_rows": 20, "validates": True},
        "seed": 9,
        "ours": "we",
        "seconds": {"we": [2.0, 2.0], "they": [3.0, 3.0]},
        "accuracy": {"we": 0.9124, "they": 0.5, "y": 0.25},
        "ratio": {"we": 1.0, "they": 1.5},
        "skipped": {"x": "no", "z": absent, "y": "broke"},
    }


def test_rows_of_loading_and_of_a_pass_end_to_end(small, monkeypatch):
    def timed(title, contenders, options):
        # what was prepared before a sample is no part of it
        assert all(call.skip > input.PREFETCH for name, call in contenders.items() if name.startswith("ours"))
        return {name: [0.1 * (1 + i), 0.2] for i, name in enumerate(contenders)}

    monkeypatch.setattr(input, "_timed", timed)
    monkeypatch.setattr(input, "FILES", 3)
    monkeypatch.setattr(input, "FOLDERS", {"same": [(20, 24)], "mixed": [(20, 24), (40, 48)]})
    loading, passes = [], []
    for row in input.rows(options("--input", *small, "--seconds=0")):
        (loading if row["kind"] == "loading" else passes).append(row)
    ways = ["Pillow draft + decode", "Pillow decode + resize", "ours", "ours, device resizes", "ours, draft"]
    for row, case, names in zip(loading, ("same", "mixed"), (ways[:3], ways), strict=True):
        seconds = {name: [0.1 * (1 + i), 0.2] for i, name in enumerate(names)}
        ratio = {name: pytest.approx((1 / (1 + i) + 1) / 2) for i, name in enumerate(names)}
        taken = {"threads": input.default_workers(), "seconds": seconds, "ratio": ratio}
        assert row == {"kind": "loading", "case": case, "image_size": [16, 16], **taken}
    of_all = {
        "model": "small",
        "batch": 4,
        "dtype": "float32",
        "kind": "end to end",
        "image_size": [16, 16],
        "images": 24,
    }
    taken = {"seconds": {"compute": [0.1, 0.2], "end to end": [0.2, 0.2]}, "ratio": pytest.approx(0.75)}
    taken |= {"idle_share": pytest.approx(0.25)}
    assert passes == [{**of_all, **taken, "case": case} for case in ("same", "mixed", "32x32 in memory")]


def test_pillow_loads_each_file_once_with_all_threads(monkeypatch):
    loaded, container = [], types.SimpleNamespace(read=lambda locator: bytes([locator]))
    source = types.SimpleNamespace(files=[types.SimpleNamespace(locator=i) for i in range(100)], container=container)
    monkeypatch.setattr(input, "default_workers", lambda: 3)
    with ThreadPoolExecutor(3) as pool:
        recipe = Preprocessing((7, 9))
        call = input._pillow(pool, source, recipe, lambda file, size: loaded.append((file.read()[0], size)))
        call()
    assert call.count == 96 and sorted(loaded) == [(i, (9, 7)) for i in range(96)]


FIGURES = {"gflops_per_example": 8.0, "compiler_gflops_per_example": 10.0, "cores_per_chip": 2, "failed": None}
FIGURES |= {"compiler_mb_per_example": 50.0, "main_memory_mb_per_example": 40.0, "cycles_per_example": 250_000.0}


@pytest.mark.parametrize(
    ("program", "changes", "arithmetic", "memory"),
    [
        # 197 TFLOP/s in three passes over what the compiler counts, and 819 GB/s
        ("extractor", {}, 197e3 / 3 / 10, 819e9 / 50e6),
        (
            "process",
            {"compiler_gflops_per_example": None, "compiler_mb_per_example": None},
            197e3 / 3 / 8,
            819e9 / 40e6,
        ),
        # loops are not counted, and a head is in full precision
        ("head", {}, 197e3 / 6 / 8, 819e9 / 40e6),
        ("head", {"gflops_per_example": 0, "main_memory_mb_per_example": 0.0, "cycles_per_example": None}, None, None),
    ],
)
def test_a_row_of_a_target(monkeypatch, program, changes, arithmetic, memory):
    figures, asked = FIGURES | changes, {}

    def compiler(command, input, env, **how):
        asked.update(json.loads(input), platform=env["JAX_PLATFORMS"])
        assert command[1:] == ["-m", "transfer.bench.target_compile"]
        return subprocess.CompletedProcess(command, 0, f"a line of C++\n{json.dumps(figures)}\n", "")

    monkeypatch.setattr(subprocess, "run", compiler)
    flags = options("--target=tpu:v5e:2x2", "--image_size=32", "--seed=3")
    row = target._row(flags, Target("tpu", "v5e", "2x2"), program, Case("vgg16", 8, "float32"), 4)
    network = {"model": "vgg16", "weights": "random", "tap": "pre_logits", "image_size": 32, "seed": 3}
    assert asked == {
        **{"program": program, "target": ["tpu", "v5e", "2x2"], "network": network, "dtype": "float32"},
        **{"precision": "high", "batch_per_chip": 8, "classes_over": 4, "platform": "cpu"},
    }
    expected = {"kind": "target", "target": "tpu:v5e:2x2", "program": program, "model": "vgg16", "tap": "pre_logits"}
    expected |= {"dtype": "float32", "precision": "highest" if program == "head" else "high", "batch_per_chip": 8}
    estimate = 2 * 1.5e9 / 250_000 if figures["cycles_per_example"] else None
    bounds = {"arithmetic_bound": arithmetic, "memory_bound": memory, "estimate": estimate}
    assert row == expected | figures | {key: value and pytest.approx(value) for key, value in bounds.items()}


def test_a_compiler_that_ends_is_the_rows_failure(monkeypatch):
    ended = subprocess.CompletedProcess([], -6, "", "one\nAborted\n")
    monkeypatch.setattr(subprocess, "run", lambda *command, **how: ended)
    row = target._row(options(), Target("gpu", "h100", ""), "head", Case("vgg16", 0, "float32"), 1)
    assert row["failed"] == "the compiler ended with exit code -6: Aborted" and row["batch_per_chip"] is None


class Compiled:
    """A program as a compiler leaves it; `costs` are its own."""

    def __init__(self, costs):
        self.costs = costs

    def compile(self):
        return self

    def memory_analysis(self):
        sizes = namedtuple("Sizes", "argument_size_in_bytes output_size_in_bytes temp_size_in_bytes")
        return sizes(100, 20, 3)

    def cost_analysis(self):
        return self.costs

    def as_text(self):
        return LOOP.replace("  ROOT %fusion", "  %s = f32[4,2]{1,0} all-reduce(%a), to_apply=%add\n  ROOT %fusion")


@pytest.mark.parametrize(
    "costs", [None, {"flops": 6e9, "bytes accessed": 3e6}, [{"flops": 6e9, "bytes accessed": 3e6}]]
)
def test_what_a_compiler_says(monkeypatch, costs):
    devices = range(8)
    lowered = Lowered(Compiled(costs), 4, 12, 1.5, {"batch": 12})
    monkeypatch.setattr(target_compile, "describe_devices", lambda target: devices)
    monkeypatch.setattr(target_compile, "_extractor", lambda job, target, devices: lowered)
    row = target_compile.figures({"target": ["tpu", "v4", "2x2x1"], "program": "process"})
    seconds = row.pop("compile_seconds")
    moved = 5 * 2048 + (12 + 32) + (32 + 32) + (32 + 32)
    assert 0 <= seconds < 1 and row == {
        **{"batch": 12, "devices_compiled_for": 4, "cores_per_chip": 2, "chips": 4, "gflops_per_example": 1.5},
        **{"argument_bytes": 200, "output_bytes": 40, "temporary_bytes": 6, "memory_bytes": 246},
        "capacity_bytes": 32 * 2**30,
        "compiler_gflops_per_example": 2.0 if costs else None,
        "compiler_mb_per_example": 1.0 if costs else None,
        "kernels": {"copy": 5, "__cudnn$convBiasActivationForward": 1, "all-reduce": 1, "transpose fusion": 1},
        "kernel_transposes": 1,
        "main_memory_mb_per_example": pytest.approx(moved / 3 / 1e6),
        "collectives": {"all-reduce": 1},
        "cycles_per_example": pytest.approx(350 / 3),
        "collectives_a_step": {},
    }


def job(program, over=1):
    network = {"model": "m", "weights": "random", "tap": "a,a:avg", "image_size": None, "seed": 0}
    made = {"program": program, "network": network, "dtype": "float32", "precision": "high"}
    return made | {"batch_per_chip": 6, "classes_over": over}


@pytest.mark.parametrize(("program", "devices", "batch", "on"), [("extractor", 8, 24, 8), ("process", 8, 3, 1)])
def test_the_extractors_batch_on_the_devices_of_a_target(monkeypatch, program, devices, batch, on):
    def extractor(tap, **settings):
        assert settings == {"batch_size": batch, "dtype": "float32", "precision": "high"}
        taps = tuple(map(Tap.parse, tap.split(",")))
        return types.SimpleNamespace(
            program_on=lambda mesh: types.SimpleNamespace(taps=taps, lower=lambda s: (s, *mesh))
        )

    graph = types.SimpleNamespace(parameters=7, macs=2e9)
    network = types.SimpleNamespace(extractor=extractor, preprocessing=Preprocessing((24, 32)), weights="w")
    network.graph = lambda taps: graph if taps == ("a",) else None
    monkeypatch.setattr(target_compile, "load", lambda spec: network)
    monkeypatch.setattr(target_compile, "Mesh", lambda devices, axes: (len(devices), axes))
    lowered = target_compile._extractor(job(program), Target("tpu", "v4", "2x2x1"), list(range(devices)))
    facts = {"batch": batch, "image_size": (24, 32), "weights": "w", "parameters": 7}
    assert lowered == Lowered(((batch, 24, 32, 3), on, ("batch",)), on, batch, 4.0, facts)


HEAD = {"features": 20, "classes": 10, "batch": 256}
POD = {"rows": 1_281_167, "features": 20, "classes": 1000, "batch": 4096, "features_dtype": "bfloat16"}


@pytest.mark.parametrize(
    ("program", "devices", "over", "facts", "shape"),
    [
        ("head", 1, 1, HEAD | {"rows": 4096}, None),
        ("head", 2, 1, HEAD | {"rows": 8192}, (4096, 20, 10, 32, "float32")),
        ("pod head", 8, 1, POD | {"rows_over": 8, "classes_over": 1}, (160_146, 20, 1000, 313, "bfloat16")),
        ("pod head", 8, 4, POD | {"rows_over": 2, "classes_over": 4}, (640_584, 20, 1000, 313, "bfloat16")),
    ],
)
def test_the_heads_rows_on_the_devices_of_a_target(monkeypatch, program, devices, over, facts, shape):
    network = types.SimpleNamespace(extractor=lambda tap: types.SimpleNamespace(shapes={"a": (2, 2, 4), "b": (4,)}))
    monkeypatch.setattr(target_compile, "load", lambda spec: network)
    monkeypatch.setattr(target_compile, "Mesh", lambda devices, axes: (devices.shape, axes))
    monkeypatch.setattr(target_compile, "_on_one_device", lambda device, rows, features: (device, rows, features))
    step = types.SimpleNamespace(DATA="data", MODEL="model", abstract_arguments=lambda *arguments: arguments)
    step.train = types.SimpleNamespace(lower=lambda *arguments, **settings: (arguments, settings))
    monkeypatch.setattr(target_compile, "step", step)
    chips = Target("tpu", "v5e", f"{devices}x1")
    lowered = target_compile._head(job(program, over), chips, list(range(devices)))
    gflops = 4 * 20 * facts["classes"] / 1e9
    assert lowered[1:] == (devices, facts["rows"], gflops, facts)
    if shape is None:
        assert lowered.program == (0, 4096, 20)
        return
    (mesh, rows_per_device, width, *rest), settings = lowered.program
    assert mesh == ((devices // over, over), ("data", "model"))
    assert (rows_per_device, rest) == (shape[0], list(shape[1:]))
    assert settings == {"mesh": mesh, "num_steps": shape[3]} and 0 < width <= min(facts["batch"], rows_per_device)


@pytest.mark.parametrize(
    ("chips", "asked"),
    [
        (Target("tpu", "v5e", "2x4"), (("v5e:2x4", "tpu"), {})),
        (
            Target("gpu", "h100", ""),
            ((), {"platform": "cuda", "topology": "1x1x1", "target_config": "gpu_device_info"}),
        ),
    ],
    ids=str,
)
def test_devices_are_asked_for_as_jax_names_them(monkeypatch, chips, asked):
    def describe(*names, **settings):
        if "target_config" in settings:
            settings["target_config"] = settings["target_config"].split()[0]
        return types.SimpleNamespace(devices=(names, settings))

    monkeypatch.setattr(target_compile.topologies, "get_topology_desc", describe)
    assert target_compile.describe_devices(chips) == asked


def test_what_every_row_says_of_the_machine(monkeypatch):
    Package = namedtuple("Package", "name version")
    theirs = ("torch", "torchvision", "onnxruntime", "openvino", "keras", "scikit-learn")
    ours = ("numpy", "flax", "optax", "orbax-checkpoint")
    there = [Package(name, f"1.{i}") for i, name in enumerate((*theirs, *ours, "onnxscript", "jaxlib"))]
    jax.local_devices()  # which looks for plugins among what is installed, the first time
    monkeypatch.setattr(importlib.metadata, "distributions", lambda: there)
    facts = machine.machine.__wrapped__()
    assert facts["packages"] == {name: f"1.{i}" for i, name in enumerate((*theirs, *ours))}
    assert (facts["platform"], facts["devices"], facts["hosts"]) == ("cpu", len(jax.local_devices()), 1)
    known = {"device_kind", "platform", "processor", "devices", "hosts", "cores", "python", "jax", "jaxlib"}
    known |= {"transfer", "platform_version", "cpu_flags", "host_memory_bytes"}
    assert facts.keys() == known | {"xla_flags", "commit", "packages"} and facts["jaxlib"] == "1.11"


@pytest.mark.parametrize(
    ("before", "after", "peak"),
    [([10, 20], [10, 30], 30), ([10, 20], [15, 20], 15), ([10, 20], [10, 20], None), ([0], [7], 7)],
)
def test_a_devices_peak_counts_where_it_has_risen(monkeypatch, before, after, peak):
    monkeypatch.setattr(machine, "_devices_peak", lambda: before)
    started = machine.Peak()
    monkeypatch.setattr(machine, "_devices_peak", lambda: after)
    assert started.bytes() == peak


def test_a_peer_that_fails_between_its_rounds_is_left_out(monkeypatch):
    class Contender:
        def __init__(self, failed=""):
            self.failed = failed

        def __call__(self):
            pass

    workers = {"works": Contender(), "breaks": Contender("out of memory")}
    peers = types.SimpleNamespace(errors=dict.fromkeys(workers, 1e-6), skipped={"absent": "no"}, workers=workers)
    monkeypatch.setattr(networks, "start_peers", lambda *_: contextlib.nullcontext(peers))
    monkeypatch.setattr(machine, "matmul", lambda dtype: Contender())
    monkeypatch.setattr(networks, "interleaved", lambda contenders, *_, **__: dict.fromkeys(contenders, [0.5, 0.25]))
    case = Case("small", 4, "float32")
    chosen = types.SimpleNamespace(seed=0, rounds=2, seconds=0.0)
    names = ["works", "breaks", "absent"]
    row = networks._run_rounds({networks.OURS: Contender()}, None, case, chosen, names, lambda _: None)
    assert row["seconds"].keys() == {networks.OURS, "works", networks.MATMUL}
    assert row["peers"] == {
        "works": {"error": 1e-6, "ratio": 1.0, "images_per_second": 4 / 0.375},
        "breaks": {"skipped": "out of memory"},
        "absent": {"skipped": "no"},
    }
