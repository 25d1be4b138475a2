"""`bench --target`: names of targets, programs as a compiler leaves them, both roads where compilers are installed."""

import importlib.util
import json

import pytest

from transfer import __main__ as program
from transfer.bench import target
from transfer.bench.peaks import published_peak
from transfer.bench.target import Target, parse
from transfer.bench.target_hlo import array_bytes, kernels, loop_collectives, read
from transfer.cli.verbs import parser_of
from transfer.errors import TransferError, UsageError

LOOP = """HloModule jit_f, is_scheduled=true

%body (p: (s32[], bf16[8,128])) -> (s32[], bf16[8,128]) {
  %p = (s32[], bf16[8,128]{1,0:T(8,128)(2,1)S(1)}) parameter(0)
  %x = bf16[8,128]{1,0:T(8,128)(2,1)S(1)} get-tuple-element(%p), index=1
  ROOT %c = bf16[8,128]{1,0:T(8,128)(2,1)} copy(%x), backend_config={"estimated_cycles":"70"}
}

%condition (q: (s32[], bf16[8,128])) -> pred[] {
  %bound = s32[]{:T(128)} constant(5)
  ROOT %less = pred[] compare(%i, %bound), direction=LT
}

%turned (w: f32[4,2]) -> f32[2,4] {
  ROOT %t = f32[2,4]{1,0} transpose(%w), dimensions={1,0}
}

ENTRY %main (a: f32[4,2]) -> f32[2,4] {
  %a = f32[4,2]{1,0} parameter(0)
  %w = (s32[], bf16[8,128]{1,0}) while(%tuple), condition=%condition, body=%body
  %conv = (bf16[2,3]{1,0}, u8[0]{0}) custom-call(%a), custom_call_target="__cudnn$convBiasActivationForward"
  ROOT %fusion = f32[2,4]{1,0} fusion(%a), kind=kLoop, calls=%turned
}
"""


def test_a_chip_by_itself():
    (alone,) = parse("tpu:v5e:1x1")
    assert alone.chips == 1


def test_a_target_without_a_platform_has_that_of_the_one_before():
    targets = parse("tpu:v5e:4x4,v4:4x4x4,gpu:h100")
    assert targets == [Target("tpu", "v5e", "4x4"), Target("tpu", "v4", "4x4x4"), Target("gpu", "h100", "")]
    assert [target.chips for target in targets] == [16, 64, 1]
    assert str(targets[1]) == "tpu:v4:4x4x4" and str(targets[2]) == "gpu:h100"


# Chip -> its matrix units, and rows and columns of each, by the makers' pages.
UNITS = {"v4": (8, 128), "v5e": (4, 128), "v5p": (8, 128), "v6e": (4, 256)}


@pytest.mark.parametrize("kind", target.CHIPS["tpu"])
def test_a_chips_clock_is_its_peak_over_what_its_units_multiply_in_a_cycle(kind):
    units, side = UNITS[kind]
    chip = target.CHIPS["tpu"][kind]
    peak = published_peak(chip.device_kind, "bfloat16", "default")
    assert chip.clock == pytest.approx(peak * 1e12 / (2 * units * side**2), rel=0.005)
    assert chip.sides in target.TOPOLOGIES and chip.device_kind.lower().split()[-1] in (
        kind,
        kind.replace("e", " lite"),
    )


@pytest.mark.parametrize(
    ("text", "known"),
    [
        ("v5e:2x2", "tpu: or gpu:"),
        ("tpu:v9:2x2", "v4, v5e, v5p, v6e"),
        ("gpu:v100", "h100, h200, a100, b200"),
        ("gpu:h100:2x2", "without a topology"),
        ("tpu:v5e", "2x2, 2x4"),
        ("tpu:v5e:3x3", "1x1, 2x2, 2x4"),
        ("tpu:v5e:1x2", "1x1, 2x2, 2x4"),
        ("tpu:v4:2x2", "2x2x1, 2x2x2"),
        ("tpu:v4:0x2x2", "2x2x1, 2x2x2"),
        ("tpu:v5e:2x2,", "separated by commas"),
    ],
)
def test_an_unknown_target_is_one_line_with_the_known_ones(text, known):
    with pytest.raises(UsageError) as error:
        parse(text)
    assert known in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("chips", "programs"),
    [
        ("tpu:v5e:2x2", ["extractor 1 vgg16 256", "extractor 1 resnet18 256", "head 1 vgg16 0", "head 1 resnet18 0"]),
        (
            "tpu:v5e:2x4",
            [
                *("extractor 1 vgg16 256", "process 1 vgg16 256", "extractor 1 resnet18 256", "process 1 resnet18 256"),
                *("head 1 vgg16 0", "pod head 1 vgg16 0", "pod head 4 vgg16 0"),
                *("head 1 resnet18 0", "pod head 1 resnet18 0", "pod head 4 resnet18 0"),
            ],
        ),
    ],
)
def test_the_programs_of_chips_of_one_host_and_of_several(monkeypatch, chips, programs):
    def row(options, chips, program, case, over):
        assert case.dtype == "float32" if "head" in program else case.dtype == "bfloat16"
        return f"{program} {over} {case.model} {case.batch}"

    monkeypatch.setattr(target, "_row", row)
    monkeypatch.setattr(target, "check_installed", lambda platform: None)
    flags = [f"--target={chips}", "--models=vgg16,resnet18", "--dtype=bfloat16"]
    assert list(target.rows(parser_of("bench")[0].parse_args(flags))) == programs


def test_a_missing_compiler_names_its_extra(monkeypatch):
    monkeypatch.setitem(target.EXTRAS, "tpu", ("no_such_compiler", "tpu"))
    with pytest.raises(TransferError, match=r"in a clone: pip install -e '\.\[tpu\]'"):
        target.check_installed("tpu")


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ("f32[4,2]{1,0}", 32),
        ("bf16[8,128]{1,0:T(8,128)(2,1)}", 2048),
        ("bf16[8,128]{1,0:T(8,128)(2,1)S(0)}", 2048),
        ("bf16[8,128]{1,0:T(8,128)(2,1)S(1)}", 0),
        ("(bf16[2,3]{1,0}, u8[0]{0}, s32[])", 16),
        ("pred[7]", 7),
        ("f32[16]{0:S(5)}", 0),
    ],
)
def test_bytes_of_a_shape_in_main_memory(shape, size):
    assert array_bytes(shape) == size


def test_kernels_are_read_with_their_calls_bytes_and_cycles():
    copy, convolution, transpose = kernels(read(LOOP))
    assert (copy.kind, copy.calls, copy.bytes, copy.cycles) == ("copy", 5, 2048, 70)
    assert convolution.kind == "__cudnn$convBiasActivationForward" and convolution.bytes == 12 + 32
    assert (transpose.kind, transpose.calls, transpose.bytes) == ("transpose fusion", 1, 64)
    assert transpose.only_weights


def test_collectives_of_a_round_are_counted_with_those_that_take_part():
    groups = {
        "replica_groups={{0,4,8},{1,5,9}}": 3,
        "replica_groups=[64,4]<=[256]": 4,
        "replica_groups=mesh['axis_0'=64,'axis_1'=4] {'axis_0'}": 64,
        "channel_id=1": "all",
    }
    for text, size in groups.items():
        line = f"  %sum = f32[4,2]{{1,0}} all-reduce-start(%x), {text}, to_apply=%add\n"
        body = LOOP.replace("  ROOT %c = bf16", f"{line}  ROOT %c = bf16")
        assert loop_collectives(read(body)) == {f"all-reduce over {size}": 1}
        # those outside of loops are not of a round
        outside = LOOP.replace("  %w = (s32[]", f"{line}  %w = (s32[]")
        assert loop_collectives(read(outside)) == {}


def compiled(tmp_path, *arguments, model="resnet50"):
    """Rows of one command on a small network."""
    path = tmp_path / "target.json"
    command = ["bench", *arguments, f"--models={model}", "--dtype=bfloat16", f"--output={path}"]
    assert program.main(command) == 0
    return json.loads(path.read_text())["rows"]


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed (extra tpu)")
def test_the_programs_compile_for_a_tpu(tmp_path, capsys):
    extractor, head = compiled(tmp_path, "--target=tpu:v5e:2x2", "--batch=16", "--image_size=32")
    assert extractor["failed"] is None and head["failed"] is None
    assert (extractor["chips"], extractor["batch"], extractor["collectives"]) == (4, 64, {})
    assert 0 < extractor["memory_bytes"] < extractor["capacity_bytes"]
    assert extractor["compiler_gflops_per_example"] > 0 and extractor["estimate"] > 0
    # XLA has fused some of a unit's convolutions, and the projections are joined with what they are added to
    assert extractor["kernels"]["convolution fusion"] < 49
    # gradients are summed over the chips
    assert head["collectives"]["all-reduce"] > 0
    assert head["collectives_a_step"] == {"all-reduce over 4": 1}
    assert "tpu:v5e:2x2" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed (extra tpu)")
def test_the_programs_of_a_chip_by_itself(tmp_path):
    extractor, head = compiled(tmp_path, "--target=tpu:v5e:1x1", "--batch=16", "--image_size=32", model="resnet18")
    assert extractor["failed"] is None and head["failed"] is None
    assert (extractor["chips"], extractor["devices_compiled_for"], extractor["batch"]) == (1, 1, 16)
    assert extractor["collectives"] == head["collectives"] == {}


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed (extra tpu)")
@pytest.mark.parametrize(("pod", "chips", "devices"), [("v5e:16x16", 256, 256), ("v4:4x4x4", 64, 128)])
def test_the_programs_of_a_pod(tmp_path, pod, chips, devices):
    arguments = (f"--target=tpu:{pod}", "--batch=16", "--image_size=32")
    rows = compiled(tmp_path, *arguments, model="resnet18")
    assert [row["program"] for row in rows] == ["extractor", "process", "head", "pod head", "pod head"]
    assert all(row["failed"] is None and 0 < row["memory_bytes"] < row["capacity_bytes"] for row in rows)
    extractor, process, head, by_rows, by_classes = rows
    # no image waits for another one's device
    assert extractor["collectives"] == process["collectives"] == {}
    assert (extractor["devices_compiled_for"], extractor["batch"]) == (devices, 16 * chips)
    assert (process["devices_compiled_for"], process["batch"]) == (1, 16 * chips // devices)
    # gradients, loss and accuracy in one sum a step; with classes over four devices also a maximum and two sums there
    assert head["collectives_a_step"] == by_rows["collectives_a_step"] == {f"all-reduce over {devices}": 1}
    assert by_classes["collectives_a_step"].pop(f"all-reduce over {devices // 4}") == 1
    assert set(by_classes["collectives_a_step"]) == {"all-reduce over 4"}
    assert (by_classes["rows_over"], by_classes["classes_over"]) == (devices // 4, 4)


@pytest.mark.skipif(
    importlib.util.find_spec("jax_plugins") is None or importlib.util.find_spec("jax_plugins.xla_cuda12") is None,
    reason="the CUDA compiler is not installed (extra gpu-target)",
)
@pytest.mark.parametrize("kind", target.CHIPS["gpu"])
def test_a_convolution_is_one_kernel_on_a_gpu(tmp_path, kind):
    extractor, _ = compiled(tmp_path, f"--target=gpu:{kind}", "--batch=8")
    assert extractor["failed"] is None and extractor["kernels"]["__cudnn$convBiasActivationForward"] == 53
    assert sum(extractor["kernels"].values()) <= 53 + 5
    assert extractor["kernel_transposes"] == 0
