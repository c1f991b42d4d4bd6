"""What every forecaster's configuration states: lengths, channels, and how time is embedded."""

import dataclasses

from tsjax.models.layers import EMBEDS, MARKS, mark_dim


@dataclasses.dataclass(frozen=True)
class ForecastConfig:
    """Lengths and channels of a forecasting task.

    Attributes:
      enc_in: channels of the encoder's input.
      dec_in: channels of the decoder's input.
      c_out: channels of the forecast.
      seq_len: steps of the look-back window.
      label_len: observed steps that the decoder's input begins with.
      pred_len: steps to forecast, the horizon.
      embed: time embedding: ``timeF`` (a projection), ``fixed`` or ``learned`` (look-ups).
      freq: sampling frequency of the marks: s, t, h, d, b, w, m or a.

    Raises:
      ValueError: if a field is out of range; all such fields are listed.
    """

    enc_in: int
    dec_in: int
    c_out: int
    seq_len: int = 96
    label_len: int = 48
    pred_len: int = 96
    embed: str = "timeF"
    freq: str = "h"

    def __post_init__(self) -> None:
        if found := self.problems():
            raise ValueError(f"{type(self).__name__}: " + "; ".join(found))

    def problems(self) -> list[str]:
        """Says what is wrong with the fields, one sentence each."""
        found = self.below(1, "enc_in", "dec_in", "c_out", "seq_len", "pred_len")
        found += self.below(0, "label_len")
        if self.embed not in EMBEDS:
            found.append(f"embed must be one of {', '.join(EMBEDS)}, got {self.embed!r}")
        if self.freq not in MARKS:
            found.append(f"freq must be one of {', '.join(MARKS)}, got {self.freq!r}")
        return found

    def below(self, least: int, *names: str) -> list[str]:
        """A sentence for each of the fields ``names`` that is smaller than ``least``."""
        values = {name: getattr(self, name) for name in names}
        return [f"{n} must be at least {least}, got {v}" for n, v in values.items() if v < least]

    @property
    def dec_len(self) -> int:
        """Length of the decoder's input, ``label_len + pred_len``."""
        return self.label_len + self.pred_len

    @property
    def mark_dim(self) -> int:
        """F, the number of time-mark columns."""
        return mark_dim(self.embed, self.freq)
