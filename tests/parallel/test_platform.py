"""Programs are made for the device at hand, or for one that is named."""

import jax
import jax.numpy as jnp
import pytest

from coopgen_jax.errors import UserError
from coopgen_jax.parallel import platform as module
from coopgen_jax.parallel.mesh import top_k
from coopgen_jax.parallel.platform import fastest_dtype, made_for, on_accelerator, platform


def test_programs_are_made_for_the_named_kind_of_device():
    assert (platform(), on_accelerator()) == ("cpu", False)
    with made_for("tpu"):
        assert (platform(), on_accelerator()) == ("tpu", True)
        with made_for("cpu"):
            assert not on_accelerator()
        assert platform() == "tpu"
    assert platform() == "cpu"
    with pytest.raises(UserError, match="no platform 'npu': choose one of cpu, gpu, tpu"):
        made_for("npu").__enter__()


@pytest.mark.parametrize(
    ("flags", "xla", "expected"),
    [
        ("fma avx2 avx512_bf16 amx_bf16", "", "bfloat16"),
        ("fma avx2 avx512f avx512_bf16", "", "bfloat16"),
        ("fma avx2 avx512f amx_bf16", "--xla_cpu_max_isa=AMX", "bfloat16"),
        ("fma avx2 avx512f amx_bf16", "--xla_cpu_max_isa=avx2 --other=AMX", "float32"),
        ("fma avx2 amx_bf16", "--xla_cpu_max_isa=AMX --xla_cpu_max_isa=AVX512", "float32"),
        ("fma avx2 avx512f avx512_vnni", "", "float32"),
        ("fma avx2 avx512_bf16x", "", "float32"),
        (None, "", "float32"),
    ],
)
def test_a_processor_says_what_it_multiplies(flags, xla, expected, tmp_path, monkeypatch):
    path = tmp_path / "cpuinfo"
    if flags is not None:
        path.write_text(f"model name\t: any\nflags\t\t: {flags}\nbugs\t: amx_bf16\n")
    monkeypatch.setattr(module, "CPUINFO", path)
    monkeypatch.setenv("XLA_FLAGS", xla)
    assert fastest_dtype() == expected
    with made_for("gpu"):
        assert fastest_dtype() == "bfloat16"


@pytest.mark.parametrize("shape", [(7,), (3, 7), (2, 3, 7), (2, 1, 3, 7), (0, 7)])
def test_the_likeliest_are_found_over_rows_that_a_tpu_need_not_sort(shape: tuple[int, ...]):
    values = jax.random.randint(jax.random.key(0), shape, 0, 4).astype(jnp.float32)
    found, expected = top_k(values, 5), jax.lax.top_k(values, 5)
    assert all((a == b).all() and a.shape == b.shape for a, b in zip(found, expected, strict=True))
    calls = jax.make_jaxpr(lambda x: top_k(x, 5))(values).eqns
    (ranked,) = [call.invars[0].aval.shape for call in calls if call.primitive.name == "top_k"]
    assert len(ranked) == 2
