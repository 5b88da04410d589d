"""TRIPOD+AI and CLAIM as Markdown, filled in as far as the run knows; the rest is left to the authors, and said.

TRIPOD+AI: Collins et al., BMJ 2024;385:e078378. CLAIM, 2024 update: Tejani et al., Radiology: Artificial
Intelligence 2024;6:e240300. Items are named in short words of our own; the published wording is what counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from phcc_server.report import wording
from phcc_server.report.schema import TEST_SPLITS, Summary
from phcc_server.report.table import line, plain

AUTHORS = "To be filled in by the authors"
"""What stands where no run can know."""

Items = Sequence[tuple[str, str, str | None]]
"""Number, topic, and the key of the answer in `known`."""

TRIPOD: Items = (
    ("1", "Title: development or evaluation, population, outcome", None),
    ("2", "Abstract (TRIPOD+AI for abstracts)", None),
    ("3a-c", "Background, purpose, known inequalities", None),
    ("4", "Objectives", "objective"),
    ("5a-b", "Data: sources and dates", "source"),
    ("6a-c", "Participants: setting, eligibility, treatments", None),
    ("7", "Data preparation", "preparation"),
    ("8a-c", "Outcome: definition, assessors, blinding", "outcome"),
    ("9a-c", "Predictors", "predictors"),
    ("10", "Sample size", "size"),
    ("11", "Missing data", "missing"),
    ("12a", "How data were split and used", "split"),
    ("12b", "Handling of predictors", "preparation"),
    ("12c", "Type of model, building steps, internal validation", "model"),
    ("12d", "Heterogeneity between clusters (centres)", "heterogeneity"),
    ("12e", "Measures of performance", "measures"),
    ("12f", "Model updating", "updating"),
    ("12g", "How predictions are calculated", "code"),
    ("13", "Class imbalance", "imbalance"),
    ("14", "Fairness", "subgroups"),
    ("15", "Model output and thresholds", "threshold"),
    ("16", "Differences between training and evaluation data", "shift"),
    ("17", "Ethical approval", None),
    ("18a-b", "Funding, conflicts of interest", None),
    ("18c-d", "Protocol, registration", None),
    ("18e", "Data sharing", "sharing"),
    ("18f", "Code sharing", "code"),
    ("19", "Patient and public involvement", None),
    ("20a", "Flow of participants", "flow"),
    ("20b-c", "Characteristics of participants, comparison with development data", "counts"),
    ("21", "Participants and events in each analysis", "events"),
    ("22", "Full model specification", "digests"),
    ("23a", "Performance with intervals, subgroups included", "performance"),
    ("23b", "Heterogeneity of performance between centres", "heterogeneity"),
    ("24", "Results of updating", "updating"),
    ("25", "Interpretation", None),
    ("26", "Limitations", "limits"),
    ("27a-c", "Usability: poor or missing input, interaction, next steps", None),
)

CLAIM: Items = (
    ("1-2", "Title, abstract", None),
    ("3", "Background", None),
    ("4", "Aims", "objective"),
    ("5", "Prospective or retrospective", None),
    ("6", "Goal of the study", "objective"),
    ("7", "Data sources", "source"),
    ("8", "Inclusion and exclusion criteria", None),
    ("9", "Preprocessing", "preparation"),
    ("10", "Selection of data subsets (crops)", "preparation"),
    ("11", "De-identification", "identity"),
    ("12", "Missing data", "missing"),
    ("13", "Image acquisition protocol", "predictors"),
    ("14-15", "Reference standard and why it was chosen", "outcome"),
    ("16-18", "Annotators, annotation of the test set, variability between raters", None),
    ("19", "How data were assigned to partitions", "split"),
    ("20", "Level at which partitions are disjoint", "disjoint"),
    ("21", "Sample size", "size"),
    ("22", "Model", "model"),
    ("23", "Software", "software"),
    ("24", "Initial parameters", "model"),
    ("25", "Training", "training"),
    ("26", "Selection of the final model", "selection"),
    ("27", "Ensembles", "ensembles"),
    ("28", "Metrics", "measures"),
    ("29", "Uncertainty and significance", "measures"),
    ("30", "Robustness, sensitivity analysis", "arms"),
    ("31", "Explainability", "explain"),
    ("32", "Internal testing", "internal"),
    ("33", "External testing", "external"),
    ("34", "Registration of the trial", None),
    ("35", "Patients included and left out", "flow"),
    ("36", "Characteristics of each partition", "counts"),
    ("37", "Performance on all partitions", "performance"),
    ("38", "Accuracy with intervals", "performance"),
    ("39", "Failure analysis", "failures"),
    ("40", "Limitations", "limits"),
    ("41", "Implications for practice", None),
    ("42", "Full protocol", None),
    ("43", "Where software, model and data are found", "digests"),
    ("44", "Funding", None),
)


def checklists(summary: Summary) -> str:
    """Both checklists as one Markdown file."""
    answers = known(summary)
    lines = [f"# Reporting checklists: {plain(summary.study)}", ""]
    if summary.data.synthetic:
        lines += ["**SYNTHETIC DATA.** No patient stands behind any answer below.", ""]
    lines += [
        "What a run knows of itself is filled in; everything else is the authors' to say. Topics are in short "
        "words, the published checklists count."
    ]
    for title, items in (("TRIPOD+AI (BMJ 2024;385:e078378)", TRIPOD), ("CLAIM, 2024 update", CLAIM)):
        filled = sum(bool(answers.get(key or "")) for _, _, key in items)
        lines += ["", f"## {title}", "", f"{filled} of {len(items)} lines are filled in by this run.", ""]
        lines += [line(["item", "topic", "in this study"]), line(["---"] * 3)]
        lines += [line([item, topic, plain(answer)]) for item, topic, answer in rows(items, answers)]
    return "\n".join(lines) + "\n"


def rows(items: Items, answers: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """Number, topic and answer of each item."""
    return [(item, topic, answers.get(key or "") or AUTHORS) for item, topic, key in items]


def known(summary: Summary) -> dict[str, str]:
    """What the run can say; a key that is missing or empty is left to the authors."""
    return {**_of_the_method(summary), **_of_the_data(summary), **_of_the_results(summary)}


def _of_the_method(summary: Summary) -> dict[str, str]:
    about = summary.data.about
    arms = ", ".join(summary.arms)
    pairs = "no paired test, as scores stay at the sites" if summary.binned else "paired DeLong between arms"
    return {
        "objective": f"Predict whether {about.event}, from {about.images}, with training over centres that keep "
        "their images",
        "preparation": "Crop around the lesion on one grid, normalised; see the configuration: data",
        "model": "Masked autoencoder with sample weights, then a classifier that joins the phases, from random "
        "weights; see the configuration: model",
        "training": "Rounds over the centres; see the configuration (pretrain, finetune, federation) and the "
        f"table of rounds: {len(summary.rounds)} of them, {len(summary.incomplete)} incomplete",
        "selection": "The round with the lowest loss on pooled validation patients",
        "ensembles": "One model, no ensemble",
        "measures": "AUC with DeLong's interval, bootstrap of patients, exact intervals at the frozen threshold, "
        f"Brier, calibration intercept and slope, average precision, decision curve; {pairs}; p-values are not "
        "corrected",
        "threshold": "A probability; Youden's threshold of pooled validation patients, frozen before the test",
        "imbalance": "Weights of the classes in the loss; see the configuration: finetune.positive_weight",
        "updating": "Not done",
        "code": "Open source; versions of the libraries stand in the record of each round",
        "software": _versions(summary),
        "arms": f"Arms that differ in one thing each: {arms}" if arms else "",
        "explain": "Class activation maps per phase (HiResCAM; Grad-CAM where pooling is the plain mean) and "
        "attention over phases where the model has it, offered with a prediction",
        "digests": "; ".join(f"{name} {digest}" for name, digest in summary.digests.items()),
        "limits": " ".join(wording.limitations(summary)),
    }


def _of_the_data(summary: Summary) -> dict[str, str]:
    data = summary.data
    phases = (data.__pydantic_extra__ or {}).get("phases")
    aside = sum(sum(funnel.set_aside.values()) for funnel in data.funnel.values())
    found = sum(funnel.found for funnel in data.funnel.values())
    made = "Computed from a model of contrast enhancement. " if data.synthetic else ""
    return {
        "source": f"{made}{data.source}, {data.patients} patients of {len({c.centre for c in data.split})} "
        "centres" + ("" if data.synthetic else f". Dates: {AUTHORS.lower()}"),
        "outcome": "Planted by the model that made the lesions" if data.synthetic else "",
        "predictors": f"Images of the phases {', '.join(map(str, phases))}"
        if isinstance(phases, list)
        else "",
        "size": f"{data.patients} patients; not planned by a calculation" if data.synthetic else "",
        "missing": "A phase that is missing is hidden from the network; a patient without a required one is set "
        "aside; unknown labels take part in the pre-training only",
        "split": "By patient, stratified by label, drawn by seed; external centres are never trained on",
        "disjoint": "Patients (several lesions of one patient stay together)",
        "identity": "" if data.synthetic else "At the centres, by PS3.15 and an audit of what was written",
        "sharing": "Synthetic data can be made again from the configuration" if data.synthetic else "",
        "flow": f"{found} found, {aside} set aside; reasons by centre in the report" if data.funnel else "",
        "counts": "Labels by centre and split in the report; further characteristics: " + AUTHORS.lower()
        if data.split
        else "",
    }


def _of_the_results(summary: Summary) -> dict[str, str]:
    if not summary.arms:
        return {}
    arm, results = next(iter(summary.arms.items()))
    said = {
        split: f"{arm}: AUC {wording.estimate(results[split].auc, results[split].ci)}, "
        f"{results[split].n_pos} positive of {results[split].n}"
        for split in TEST_SPLITS
        if results[split].n
    }
    pooled = next((one for one in summary.pooled if one.arm == arm and one.auc is not None), None)
    small = sum(one.too_small is not None for one in summary.subgroups)
    return {
        "internal": said.get("internal", ""),
        "external": said.get("external", ""),
        "events": "; ".join(said.values()),
        "performance": "; ".join(said.values()) + "; every arm, split and centre in the report",
        "shift": "Held-back patients of the training centres, and other centres: compared in the report",
        "heterogeneity": f"{arm}: mean over {pooled.centres} centres {wording.estimate(pooled.auc, pooled.ci)}, "
        f"I² {100 * (pooled.i2 or 0.0):.0f} %"
        if pooled
        else "",
        "subgroups": f"{len(summary.subgroups)} groups, {small} of them too small to say anything; sex, age and "
        "origin are not known to the software"
        if summary.subgroups
        else "",
        "failures": "The surest mistakes by pseudonym, in the report" if summary.failures else "",
    }


def _versions(summary: Summary) -> str:
    for record in reversed(summary.rounds):
        versions = (record.__pydantic_extra__ or {}).get("versions")
        if isinstance(versions, dict):
            return ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
    return ""
