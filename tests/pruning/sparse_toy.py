"""A regression with a complex weight, its training with any algorithm, and the same in numpy.

B examples, I inputs, H hidden, O outputs.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tsjax import pruning, trees

B, I, H, O = 16, 6, 8, 3  # noqa: E741
RATE, MOMENTUM = 0.1, 0.8

BOTH = (pruning.kernels, pruning.complex_pairs)
# Made once: another partial would be another program.
SELECT = functools.partial(pruning.select, where=BOTH)
PRUNED = ("first/kernel", "mixing/imag", "mixing/real", "second/kernel")
HELD = ("first/bias", "offset")

_RNG = np.random.default_rng(0)
X = _RNG.normal(size=(B, I))
Y = _RNG.normal(size=(B, O))


def make_params(seed=0):
    """In numpy's float64, which JAX takes as it is set to."""
    rng = np.random.default_rng(100 + seed)

    def draw(*shape):
        return np.asarray(0.5 * rng.normal(size=shape))

    return {
        "first": {"kernel": draw(I, H), "bias": draw(H)},
        "mixing": {"imag": draw(2, O), "real": draw(2, O)},
        "offset": draw(),
        "second": {"kernel": draw(H, O)},
    }


def loss(params):
    """Mean squared error; the imaginary part of the mixed inputs is not used."""
    dtype = params["offset"].dtype
    x, y = X.astype(dtype), Y.astype(dtype)
    hidden = jnp.tanh(x @ params["first"]["kernel"] + params["first"]["bias"][None])
    mixed = x[:, :2] @ params["mixing"]["real"] - x[:, 2:4] @ params["mixing"]["imag"]
    return jnp.mean((hidden @ params["second"]["kernel"] + mixed + params["offset"] - y) ** 2)


def train(algorithm, key, losses, params, *, loss=loss, validate=None, on_trace=lambda: None):
    """One step for each of the validation losses, which ``validate(params)`` replaces if given.

    Returns:
      The first mask, and for each step: the weights before the algorithm saw them, those after it,
      loss, gradients, mask and memory.
    """
    tx = pruning.keep_pruned(optax.sgd(RATE, MOMENTUM))

    def step(carry, validation):
        on_trace()
        params, opt_state, sparse = carry
        masked = pruning.apply(params, sparse.mask)
        value, grads = jax.value_and_grad(loss)(masked)
        updates, opt_state = tx.update(grads, opt_state, params, mask=algorithm.held(sparse.mask))
        moved = optax.apply_updates(params, updates)
        validation = validate(masked) if validate else validation
        params, sparse = algorithm.update(moved, sparse, grads, validation, before=params)
        seen = {
            "moved": moved,
            "params": params,
            "loss": value,
            "grads": grads,
            "mask": sparse.mask,
            "memory": sparse.memory,
        }
        return (params, opt_state, sparse), seen

    sparse = algorithm.init(params, key)
    _, history = jax.lax.scan(step, (params, tx.init(params), sparse), losses)
    return sparse.mask, history


def flat(tree):
    """Leaves by path, in numpy."""
    return {path: np.asarray(leaf) for path, leaf in trees.by_path(tree).items()}


def steps_of(history):
    """The history as one flat dict per step: ``{"mask": {path: array}, ...}``."""
    fields = {name: flat(tree) for name, tree in history.items()}
    n = len(next(iter(fields["mask"].values())))
    return [
        {name: {path: leaf[i] for path, leaf in leaves.items()} for name, leaves in fields.items()}
        for i in range(n)
    ]


# -- a problem whose solution is sparse ------------------------------------------------------------


def linear_problem(needed):
    """A linear model's loss and validation loss; noise is 0.09 of each.

    Args:
      needed: how many of the 160 weights are not zero, but 1 or -1, in the solution.
    """
    rng = np.random.default_rng(5)
    solution = np.zeros(160)
    solution[rng.permutation(160)[:needed]] = rng.choice([-1, 1], needed)
    inputs = rng.normal(size=(2, 64, 20))
    targets = inputs @ solution.reshape(20, 8) + 0.3 * rng.normal(size=(2, 64, 8))

    def loss(part, params):
        kernel = params["kernel"]
        x, y = (numbers[part].astype(kernel.dtype) for numbers in (inputs, targets))
        return jnp.mean((x @ kernel - y) ** 2)

    return functools.partial(loss, 0), functools.partial(loss, 1)


def linear_params():
    return {"kernel": 0.1 * np.random.default_rng(1).normal(size=(20, 8))}


# -- the same in numpy, on flat dicts --------------------------------------------------------------


def np_gradients(w):
    hidden = np.tanh(X @ w["first/kernel"] + w["first/bias"])
    mixed = X[:, :2] @ w["mixing/real"] - X[:, 2:4] @ w["mixing/imag"]
    error = 2 * (hidden @ w["second/kernel"] + mixed + w["offset"] - Y) / Y.size
    before = error @ w["second/kernel"].T * (1 - hidden**2)
    return {
        "first/kernel": X.T @ before,
        "first/bias": before.sum(0),
        "mixing/real": X[:, :2].T @ error,
        "mixing/imag": -X[:, 2:4].T @ error,
        "offset": error.sum(),
        "second/kernel": hidden.T @ error,
    }


def np_train(rule, params, mask, steps, held=True):
    """Trains with ``rule(step, moved, before, mask, grads) -> mask``; yields as `steps_of` does."""
    w, trace = flat(params), {path: np.zeros(leaf.shape) for path, leaf in flat(params).items()}
    for t in range(1, steps + 1):
        grads = np_gradients({p: np.where(mask[p], w[p], 0) for p in w})
        alive = mask if held else {p: np.ones(w[p].shape, bool) for p in w}
        trace = {p: np.where(alive[p], grads[p] + MOMENTUM * trace[p], 0) for p in w}
        moved = {p: np.where(alive[p], w[p] - RATE * trace[p], 0) for p in w}
        mask = rule(t, moved, w, mask, grads)
        w = {p: np.where(mask[p], moved[p], 0) for p in w} if held else moved
        yield {"moved": moved, "params": w, "mask": mask, "grads": grads}


def modulus(w):
    """Absolute values, the two parts of the complex weight together."""
    pair = np.hypot(w["mixing/real"], w["mixing/imag"])
    return {p: pair if p.startswith("mixing") else np.abs(w[p]) for p in w}


def largest(scores, k):
    """The mask of the ``k`` largest, ties by position."""
    keep = np.zeros(scores.size, bool)
    keep[np.argsort(-scores.ravel(), kind="stable")[:k]] = True
    return keep.reshape(scores.shape)


def exchange(mask, low, high, drop, grow):
    """Drops the lowest of what is kept, then grows the highest of all that is not."""
    kept = int(mask.sum())
    stay = largest(np.where(mask, low, -np.inf), kept - drop)
    return largest(np.where(stay, np.inf, high), min(kept - drop + grow, mask.size))
