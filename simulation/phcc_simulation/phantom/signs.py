"""What a patient carries: the label, three planted signs, mimics, AFP and size.

The signs are drawn independently of one another given the label, so that the likelihood ratio of everything
that was planted is known in closed form.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from phcc_model.config import PhantomSettings

SIGNS = ("rim", "core", "washout")
"""Rim arterial enhancement, hypovascular core, wash-out of the whole lesion, which is kinetics alone."""

_AFP_MEDIAN_NG_ML = 20.0  # of a patient whose AFP score is 0 [R]
_AFP_LOG_SD = 1.9  # natural log; gives the decades that AFP spans in cohorts [R]
_NEVER, _ALWAYS = 1e-6, 1.0 - 1e-6  # keeps a likelihood ratio finite where a sign is certain


@dataclass(frozen=True)
class PatientSigns:
    """Everything about a patient that has to do with the label.

    Attributes:
        proliferative: the label, 0 or 1.
        rim: rim arterial enhancement, in the arterial phase alone.
        core: hypovascular core, fibrous or necrotic, in every phase after contrast.
        washout: bright early and dark late over the whole lesion: kinetics alone.
        rim_mimic: a rim that is bright in every phase, before contrast too (never with ``rim``).
        core_mimic: a core that is dark in every phase, before contrast too (never with ``core``).
        afp_score: standard normal, shifted by ``afp_effect`` in a proliferative lesion.
        size_score: standard normal, shifted by ``size_effect`` in a proliferative lesion.
    """

    proliferative: int
    rim: int
    core: int
    washout: int
    rim_mimic: int
    core_mimic: int
    afp_score: float
    size_score: float

    @property
    def kinetics_only(self) -> bool:
        """Wash-out and nothing else: this patient's lesion differs from a plain one in its curve alone."""
        return bool(self.washout and not (self.rim or self.core))

    @property
    def afp_ng_ml(self) -> float:
        """Alpha-fetoprotein in ng/mL, log-normal."""
        return round(float(_AFP_MEDIAN_NG_ML * np.exp(_AFP_LOG_SD * self.afp_score)), 2)

    def as_row(self) -> dict[str, int | float]:
        """The fields by name."""
        return asdict(self)


def draw_signs(
    settings: PhantomSettings, rng: np.random.Generator, log_odds_shift: float = 0.0
) -> PatientSigns:
    """Draw a label and, given it, the signs; a centre shifts the prevalence by ``log_odds_shift``."""
    label = int(rng.random() < shifted_prevalence(settings.prevalence, log_odds_shift))
    chance = settings.sign_given_positive if label else settings.sign_given_negative
    rim, core, washout = (int(rng.random() < chance) for _ in SIGNS)
    mimic = [int(rng.random() < settings.mimic_probability) for _ in range(2)]
    return PatientSigns(
        proliferative=label,
        rim=rim,
        core=core,
        washout=washout,
        rim_mimic=mimic[0] * (1 - rim),
        core_mimic=mimic[1] * (1 - core),
        afp_score=float(rng.normal() + settings.afp_effect * label),
        size_score=float(rng.normal() + settings.size_effect * label),
    )


def shifted_prevalence(prevalence: float, log_odds_shift: float) -> float:
    """A prevalence moved on the scale of log odds; 0 and 1 stay where they are."""
    if prevalence in (0.0, 1.0):
        return prevalence
    return float(1.0 / (1.0 + (1.0 - prevalence) / prevalence * np.exp(-log_odds_shift)))


def sign_log_ratios(settings: PhantomSettings) -> tuple[float, float]:
    """Log likelihood ratio of one sign, (where it is absent, where it is present)."""
    p0 = min(max(settings.sign_given_negative, _NEVER), _ALWAYS)
    p1 = min(max(settings.sign_given_positive, _NEVER), _ALWAYS)
    return float(np.log((1 - p1) / (1 - p0))), float(np.log(p1 / p0))


def log_likelihood_ratio(settings: PhantomSettings, signs: PatientSigns) -> float:
    """Log of P(signs, AFP, size | proliferative) / P(... | not), the score that no score can beat."""
    absent, present = sign_log_ratios(settings)
    ratio = sum(present if value else absent for value in (signs.rim, signs.core, signs.washout))
    for score, effect in ((signs.afp_score, settings.afp_effect), (signs.size_score, settings.size_effect)):
        ratio += effect * score - effect**2 / 2
    return float(ratio)
