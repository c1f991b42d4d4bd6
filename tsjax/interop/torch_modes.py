"""FEDformer's frequencies, which PyTorch draws at construction and does not store."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tsjax.models import FEDformerConfig, ForecastConfig

Modes = Mapping[str, Sequence[int]] | Sequence[Sequence[int]]

PATHS = {
    "encoder": "state/buffers/encoder_mixing/modes",
    "decoder": "state/buffers/decoder_mixing/modes",
    "cross_q": "state/buffers/cross_mixing/query_modes",
    "cross_kv": "state/buffers/cross_mixing/key_modes",
}
MODES = tuple(PATHS)


def drawn_modes(config: FEDformerConfig, seed: int = 2021) -> dict[str, list[int]]:
    """The frequencies that the reference draws for a new model right after it is seeded.

    Args:
      config: a Fourier version, with one number of ``modes``: for a checkpoint, the number that its
        model was made with.
      seed: what ``numpy.random`` was seeded with; the published scripts' is 2021. A second model of
        the same process goes on with the same stream, and so has other frequencies.

    Returns:
      Ascending lists named ``encoder``, ``decoder``, ``cross_q`` and ``cross_kv``.

    Raises:
      ValueError: for a wavelet version, which draws none, and for counts of a pruned model, whose
        frequencies are a choice among the drawn ones.
    """
    if config.version != "fourier":
        raise ValueError(f"the {config.version} version draws no frequencies")
    if isinstance(config.modes, tuple):
        raise ValueError(
            f"modes {config.modes} are counts of a pruned model, whose frequencies are a choice "
            "among those drawn, and saved with it: pass the one number that it was made with"
        )
    # The reference's own generator: its stream is what is wanted.
    random = np.random.RandomState(seed)
    modes = {}
    for name, kept in config.kept.items():
        order = list(range(kept.spectrum))
        if kept.select == "random":
            random.shuffle(order)
        modes[name] = sorted(order[: kept.n_modes])
    return modes


def given_modes(
    config: ForecastConfig, shapes: Mapping[str, Any], modes: Modes | None
) -> tuple[dict[str, np.ndarray], list[str]]:
    """A model's frequencies by path, and what is wrong with those that are given.

    Args:
      config: the model's configuration.
      shapes: the shapes of its variables by path.
      modes: lists by name (also with the suffix ``_modes``), or in the order of ``MODES``.
    """
    if not isinstance(config, FEDformerConfig) or PATHS["encoder"] not in shapes:
        return {}, [] if modes is None else ["modes: this model has none, leave them out"]
    if modes is None:
        return {}, [_MISSING] if config.mode_select == "random" else []
    if isinstance(modes, Mapping):
        lists = {str(name).removesuffix("_modes"): values for name, values in modes.items()}
    elif len(modes) == len(MODES):
        lists = dict(zip(MODES, modes, strict=True))
    else:
        return {}, [f"modes: {len(modes)} lists, expected {len(MODES)}: {', '.join(MODES)}"]
    problems = [f"modes {name}: missing" for name in MODES if name not in lists]
    problems += [f"modes {name}: not one of {', '.join(MODES)}" for name in lists.keys() - PATHS]
    values = {}
    for name, spectrum in zip(MODES, config.spectra, strict=True):
        if name in lists:
            try:
                array = np.asarray(lists[name])
            except ValueError as error:
                problems.append(f"modes {name}: not a list of numbers ({error})")
                continue
            if wrong := _wrong(name, array, shapes[PATHS[name]].shape, spectrum):
                problems += wrong
            else:
                values[PATHS[name]] = array.astype(np.int32)
    return values, problems


_MISSING = (
    "modes: missing; a state_dict does not have the frequencies that FEDformer drew when it was "
    "made: pass modes={'encoder': [...], 'decoder': [...], 'cross_q': [...], 'cross_kv': [...]}, "
    "or modes=interop.drawn_modes(config, seed) with the seed it was made with"
)


def _wrong(name: str, modes: np.ndarray, shape: tuple[int, ...], spectrum: int) -> list[str]:
    if modes.shape != shape:
        return [f"modes {name}: shape {modes.shape}, expected {shape}"]
    if modes.size and not np.issubdtype(modes.dtype, np.integer):
        return [f"modes {name}: {modes.dtype}, expected integers"]
    outside = sorted(set(modes[(modes < 0) | (modes >= spectrum)].tolist()))
    problems = [f"modes {name}: {outside} not in 0 ... {spectrum - 1}"] if outside else []
    if twice := sorted({m for m in modes.tolist() if np.sum(modes == m) > 1}):
        problems.append(f"modes {name}: {twice} more than once")
    return problems
