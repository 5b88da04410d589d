"""What a study's score is the probability of, in words: for model cards, checklists, reports and packages."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from phcc_model.config import DataSettings


class Outcome(BaseModel):
    """A study's question.

    Attributes:
        event: what the probability is of, as a clause: "a hepatocellular carcinoma is proliferative".
        subject: what is looked at: "hepatocellular carcinoma".
        images: on what: "multi-phase MRI".
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    event: str
    subject: str
    images: str


_KNOWN = {
    ("phantom", "proliferative"): Outcome(
        event="a hepatocellular carcinoma is proliferative",
        subject="hepatocellular carcinoma",
        images="multi-phase MRI",
    ),
    ("medmnist", "adrenal"): Outcome(
        event="an adrenal gland holds a mass",
        subject="adrenal glands",
        images="the gland's shape on CT (AdrenalMNIST3D)",
    ),
}
_READERS_OF_MRI = ("phantom", "lld-raw", "lld-crops", "nifti-csv")


def outcome_of(data: DataSettings) -> Outcome:
    """A study's question: as the study words it, or else as its label and source are known."""
    source = "phantom" if data.source in _READERS_OF_MRI else data.source
    known = _KNOWN.get((source, data.label))
    images = "a MedMNIST file" if data.source == "medmnist" else "multi-phase MRI"
    if data.source == "nifti-csv" and data.phases == ("image",):
        images = "one image of each case"
    if known is None:
        known = Outcome(event=f"{data.label} is 1", subject="what this study labels", images=images)
    if data.outcome:
        subject = known.subject if (source, data.label) in _KNOWN else "what this study is about"
        return Outcome(event=data.outcome, subject=subject, images=known.images)
    return known
