"""Compares a layer with one of the reference's layer cases: its outputs and all its gradients."""

import jax
import jax.numpy as jnp
import numpy as np
from conftest import golden_dir
from golden import Case

from tsjax import trees

PATH = golden_dir() / "layers.json"
CASE = Case(PATH)
REASON = f"no layers.json in {golden_dir()}: set TSJAX_GOLDEN_DIR"


def names(prefix: str) -> list[str]:
    """Cases of a layer, e.g. ``full_attention/``."""
    cases = CASE.meta["cases"] if PATH.is_file() else []
    return [name for name in cases if name.startswith(prefix)]


def ctor(name: str) -> dict:
    """How the reference's layer was made."""
    return CASE.meta["cases"][name]["ctor"]


def assert_close(got, want, what, relative=1e-10):
    """Relative to the largest value; a gradient that is zero but for rounding has no scale."""
    error = np.max(np.abs(np.asarray(got) - want), initial=0.0)
    assert error <= relative * np.max(np.abs(want), initial=0.0) + 1e-14, f"{what}: {error:.2e}"


def assert_layer(name, run, entries=(), like=None, buffers=None):
    """Compares ``run(params, **inputs)``, which returns outputs by name, in float64.

    ``entries`` map paths of ``params`` to PyTorch's keys and layouts, as in
    ``tsjax.models.torch_names``; ``like`` is a tree with the shapes of ``params``. ``buffers`` is
    called with the stored arrays for what ``run`` is to get besides, as a last argument.
    """
    entries = dict(entries)
    stored, inputs = CASE.group(f"{name}/param"), CASE.group(f"{name}/in")
    with jax.enable_x64(True):
        shapes = trees.by_path(like) if like is not None else {}
        params = {
            path: jnp.asarray(layout.to_jax(stored[key], shapes[path].shape))
            for path, (key, layout) in entries.items()
        }
        inputs = {key: jnp.asarray(x) for key, x in inputs.items()}
        extra = () if buffers is None else (buffers(stored, CASE.group(f"{name}/rand")),)
        floats = {k: x for k, x in inputs.items() if jnp.issubdtype(x.dtype, jnp.floating)}
        rest = {k: x for k, x in inputs.items() if k not in floats}

        @jax.jit
        def outputs(params, floats):
            tree = trees.map_with_path(lambda path, _: params[path], like) if params else {}
            return run(tree, *extra, **floats, **rest)

        got, pull = jax.vjp(outputs, params, floats)
        want = CASE.group(f"{name}/out")
        for key, y in got.items():
            assert_close(y, want[key], f"{name} {key}")
        ct = CASE.group(f"{name}/ct")
        assert set(ct) <= set(got)
        of_params, of_inputs = pull(
            {key: jnp.asarray(ct.get(key, np.zeros(y.shape))) for key, y in got.items()}
        )
        gradients = CASE.group(f"{name}/grad")
        for path, (key, layout) in entries.items():
            assert_close(layout.to_torch(np.asarray(of_params[path])), gradients[key], key)
        for key, gradient in CASE.group(f"{name}/grad_in").items():
            assert_close(of_inputs[key], gradient, f"{name} gradient of {key}")


def params_like(layer, *args, **kwargs):
    """Shapes of a linen layer's params."""
    return jax.eval_shape(lambda: layer.init(jax.random.key(0), *args, **kwargs))["params"]
