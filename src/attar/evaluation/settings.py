"""Settings of an evaluation."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator

from attar.marks import Mark
from attar.options import AtATime, Judging, LabelKind
from attar.results.records import Split


class EvaluateSettings(AtATime, Judging):
    """How the distilled set is judged."""

    full_epochs: int = Field(default=50, ge=1)
    """Epochs on the whole training split; all other train settings are the same."""
    labels: tuple[LabelKind, ...] = Field(default=("stored",), min_length=1)
    """Which labels the distilled images are trained with: those stored with them (soft, if there are any) or their
    classes. The verdict covers each."""
    use_learned_rate: bool = True
    """If the distilled dataset carries a learning rate that was learnt with its images, as those of trajectory matching
    do, train on it at that rate, as MTT and TESLA judge; false: at train.learning_rate, like everything else."""
    best_over_run: bool = False
    """Also train on the intermediate images that recover kept (recover.num_states), with as many seeds as on the last
    ones, and record the best mean over the run as a row of its own: what the tables of MTT and TESLA report. The
    headline stays that of the last images."""
    test_every: int = Field(default=0, ge=0)
    """Also test the students of small sets every so many epochs, and record each one's best epoch as a row of its own:
    what RDED prints (every 10 epochs) and many tables report. The headline stays the last epoch. 0: tested once."""
    split: Split = "test"
    """Which real images judge. Choose settings on the validation split and leave the test split to the end."""
    test_resize_px: int | None = Field(default=None, ge=1)
    """Enlarge the test images so that their shorter side has this many pixels, and crop the centre at the size that
    networks take; none: as they are. Published along with crops in training: 256 at 224 px, and 72 at 64 px by RDED."""

    curve_points: Annotated[int, Mark.HOW] = Field(default=12, ge=0)
    """How often each student is tested on a few validation images during training, for the curves in the report;
    nothing is chosen by them. 0: never."""

    @field_validator("models", "baselines", "labels")
    @classmethod
    def _once(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(names))

    def complete(self) -> EvaluateSettings:
        """The same with all trainings that the scores are made of, where scores are wanted."""
        if not self.scores:
            return self
        baselines = tuple(dict.fromkeys((*self.baselines, "random", "full")))
        return self.model_copy(update={"baselines": baselines, "labels": ("stored", "hard")})
