"""What can be known of the Triton backend without a GPU: right under the interpreter, compiles, gives way where it must."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from test_kernels import make_inputs
from test_kernels_level import make_case

from stereo import kernels
from stereo.kernels import matmul, triton_backend
from stereo.types import InputError

CASES = Path(__file__).with_name("test_kernels_triton.py")
COMPUTE_CAPABILITIES = (80, 90)
interpreted = os.environ.get("TRITON_INTERPRET") == "1"


@pytest.mark.skipif(interpreted, reason="this process interprets already")
def test_everything_under_the_interpreter():
    pytest.importorskip("triton", reason="triton cannot be imported")
    command = [sys.executable, "-m", "pytest", str(CASES), "-q", "-p", "no:cacheprovider"]
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=CASES.parents[1], check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
    assert " passed" in done.stdout and " skipped" not in done.stdout


def compile_for(capability: int, kernel: Any, arguments: tuple, meta: dict) -> Any:
    """As a launch would: the same types, ones and multiples of 16 made known to the compiler."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kinds = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16", torch.int32: "i32", torch.int64: "i64"}
    values = dict(zip(kernel.arg_names, arguments, strict=False)) | meta
    assert set(values) == set(kernel.arg_names) and len(arguments) + len(meta) == len(kernel.arg_names)
    signature, constants, attributes = {}, {}, {}
    for place, parameter in enumerate(kernel.params):
        value = values[parameter.name]
        if isinstance(value, torch.Tensor):
            signature[parameter.name] = "*" + kinds[value.dtype]
            attributes[place,] = [["tt.divisibility", 16]]
        elif parameter.is_constexpr or value == 1:
            signature[parameter.name], constants[parameter.name] = "constexpr", value
        else:
            signature[parameter.name] = "i32"
            if value % 16 == 0:
                attributes[place,] = [["tt.divisibility", 16]]
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attributes)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32))


@pytest.mark.skipif(interpreted, reason="this process interprets, it does not compile")
@pytest.mark.parametrize("capability", COMPUTE_CAPABILITIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_every_launch_compiles(dtype: torch.dtype, capability: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """To machine code for these devices: the operators are run with their launches replaced by a compilation."""
    pytest.importorskip("triton", reason="triton cannot be imported")
    assert triton_backend._load()[1] == ""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    compiled = []

    def launch(kernel, programs, like, *arguments, **meta):
        compiled.append((kernel.__name__, len(compile_for(capability, kernel, arguments, meta).asm["cubin"])))

    monkeypatch.setattr(triton_backend, "_launch", launch)
    for settings in ({"d": 32, "kept": 8, "topk": 8}, {"d": 7, "kept": None, "turning": False, "sided": False, "heads": 1}):
        c = make_case(20, **settings).to(dtype)
        turns = c.turns or (None, None)
        triton_backend._run_level(c.q, c.k, c.v, c.parent, c.coarse, c.share, c.side, c.topk, *turns)
        triton_backend._run_level_backward(c.grad, c.q, c.k, c.v, c.parent, c.share, c.side, *turns)
    q, k, v, weights, index = make_inputs(7, 7, dtype=dtype)
    triton_backend._run_scores(q, k, index)
    triton_backend._run_values(weights, v, index)
    triton_backend._run_scatter(weights, q, index, 7)
    for with_max in (False, True):
        triton_backend._run_pool(q, with_max)
        triton_backend._run_pool_backward(q[:, :1, :4], q, with_max)
    triton_backend._run_pool(q, False, total=True)
    names = {name for name, _ in compiled}
    expected = {"level_forward", "level_backward", "gather_scores", "gather_values", "scatter", "turn"}
    assert names == expected | {"pool_forward", "pool_backward"}
    assert all(size > 1000 for _, size in compiled)


def keys(device: str, dtype: torch.dtype = torch.float32) -> Any:
    """Something that stands for keys on a device that is not here."""

    class Keys:
        shape = (1, 1, 7, 1, 4)

    Keys.device, Keys.dtype = torch.device(device), dtype  # type: ignore[attr-defined]
    return Keys()


def test_auto_takes_triton_on_cuda_where_it_can(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(triton_backend, "available", lambda: "")
    for dtype in triton_backend.DTYPES:
        assert kernels.select("auto", keys("cuda", dtype)) is triton_backend
        assert kernels.fused("auto", keys("cuda", dtype)) is triton_backend
    assert kernels.fused("triton", keys("cuda")) is triton_backend
    for elsewhere in (keys("cuda", torch.float64), keys("cpu"), keys("meta")):
        assert kernels.select("auto", elsewhere) is not triton_backend


def test_auto_on_cuda_without_triton_takes_plain_pytorch_and_says_why_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(triton_backend, "available", lambda: "there is no triton")
    kernels._announce_once.cache_clear()  # another test may have made it speak already
    with caplog.at_level(logging.INFO, logger="stereo.kernels"):
        assert [kernels.select("auto", keys("cuda")) for _ in range(2)] == [matmul] * 2
        assert kernels.fused("auto", keys("cuda")) is None
    assert [record.getMessage() for record in caplog.records] == [
        f"kernel backend: matmul (auto: rows of <= {kernels.MATMUL_MAX_WIDTH} keys, and there is no triton)"
    ]


def test_without_triton_there_is_one_clear_line(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "triton", None)  # whatever is installed, an import of it fails now
    monkeypatch.delitem(sys.modules, "stereo.kernels.triton_kernels", raising=False)
    monkeypatch.setattr(triton_backend, "_load", triton_backend._load.__wrapped__)
    x = torch.zeros(1, 1, 1, 1, 1)
    with pytest.raises(InputError, match=r"not available: Triton cannot be imported \(.*\); install triton or"):
        triton_backend.pool(x, False)
    assert "\n" not in triton_backend.available()


@pytest.mark.skipif(interpreted or torch.cuda.is_available(), reason="kernels can run here")
def test_without_a_device_there_is_one_clear_line():
    pytest.importorskip("triton", reason="triton cannot be imported")
    with pytest.raises(InputError, match="kernel=triton is not available: there is no CUDA device; use kernel=auto"):
        triton_backend.pool(torch.zeros(1, 1, 1, 1, 1), False)


@pytest.mark.skipif(interpreted, reason="nothing is launched")
def test_a_device_that_triton_cannot_use_is_one_clear_line(monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("triton", reason="triton cannot be imported")

    def broken(*_: Any) -> None:
        raise RuntimeError("no compiler\nfor this device")

    zeros = torch.zeros
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "zeros", lambda *shape, device: zeros(*shape))
    monkeypatch.setattr(triton_backend, "_run_pool", broken)
    reason = triton_backend._try.__wrapped__()
    assert reason == "Triton cannot run a kernel here (no compiler for this device); use kernel=reference"


def test_importing_the_kernels_does_not_import_triton():
    code = "import sys, stereo.kernels; sys.exit('triton' in sys.modules or 'stereo.kernels.triton_kernels' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=CASES.parents[1], check=False)
    assert done.returncode == 0, done.stderr
