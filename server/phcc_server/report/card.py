"""The model card of a study as Markdown (Mitchell et al., FAT* 2019), filled in as far as the run knows."""

from __future__ import annotations

from collections.abc import Iterator

from phcc_server.report import wording
from phcc_server.report.schema import TEST_SPLITS, TRAIN, VALIDATION, ArmResult, Summary
from phcc_server.report.table import line, markdown_table, plain
from phcc_server.seen import in_words

OPEN = "*To be filled in by the authors.*"

_WHAT = """\
- What it does: a probability that {event}, from {images}.
- How: a masked autoencoder with sample weights (SW-FCMAE), then a classifier that joins the phases (the
  configuration says how: `model.phases`, `model.classifier.fusion`), trained by the centres together without an
  image leaving one. Re-implemented from an abstract (Qu et al., Insights into
  Imaging 2025, doi 10.1186/s13244-025-01968-w); not a reproduction."""
_USE = """\
- For research on whether {event}, by people who read the limits below.
- Not for diagnosis, treatment or screening; not for anything but {subject}; not for other images than these:
  {images}."""


def model_card(summary: Summary) -> str:
    """The card: what the model is, for whom, on whom it was tried, what it does there, and its limits."""
    return "\n".join(_lines(summary)).rstrip() + "\n"


def _lines(summary: Summary) -> Iterator[str]:
    yield f"# Model card: {plain(summary.study)}"
    yield ""
    yield "**Research use only.** Not a medical device; no decision about a patient may rest on it."
    if summary.data.synthetic:
        yield ""
        yield "**SYNTHETIC DATA.** Trained and tested on computed lesions; no figure is about patients."
    yield from _section("Model")
    about = summary.data.about
    yield _WHAT.format(event=plain(about.event), images=plain(about.images))
    phases = (summary.data.__pydantic_extra__ or {}).get("phases")
    if isinstance(phases, list):
        yield f"- Phases: {plain(', '.join(map(str, phases)))}."
    for name, digest in summary.digests.items():
        yield f"- Digest, {plain(name)}: `{plain(digest)}`"
    yield "- Licence, version, contact: " + OPEN
    yield from _section("Intended use")
    yield _USE.format(event=plain(about.event), subject=plain(about.subject), images=plain(about.images))
    yield from _section("Data")
    yield f"- Source: {plain(summary.data.source)}; {summary.data.patients} patients."
    if summary.data.split:
        yield ""
        yield line(["centre", "split", "positive", "negative", "unknown"])
        yield line(["---"] * 5)
        for count in summary.data.split:
            numbers = (str(count.positives), str(count.negatives), str(count.unknown))
            yield line([plain(count.centre), plain(count.split), *numbers])
    yield ""
    if summary.data.seen:
        yield "- Training images, where nine in ten of each site's lie:"
        yield from (f"  - {plain(text)}" for text in in_words(summary.data.seen))
    yield "- How patients were found, reference standard, dates, ethics: " + OPEN
    yield from _section("Performance")
    yield markdown_table(summary).rstrip() if summary.arms else "No arm has been scored."
    if summary.arms:
        yield ""
        yield from _operating(summary)
    yield from _groups(summary)
    yield from _section("Limits")
    yield from (f"- {plain(text)}" for text in wording.limitations(summary))
    yield from (f"- {plain(text)}" for text in (*summary.notes, *wording.warnings(summary)))


def _section(title: str) -> Iterator[str]:
    yield ""
    yield f"## {title}"
    yield ""


def _operating(summary: Summary) -> Iterator[str]:
    yield line(["arm", "split", "threshold", "sensitivity", "specificity", "F1", "Brier", "slope"])
    yield line(["---"] * 8)
    for arm, results in summary.arms.items():
        for split in TEST_SPLITS:
            one: ArmResult = results[split]
            yield line(
                [
                    plain(arm),
                    wording.split_title(split),
                    wording.figure(one.threshold, 3),
                    wording.estimate(one.sensitivity, one.sensitivity_ci),
                    wording.estimate(one.specificity, one.specificity_ci),
                    wording.estimate(one.f1, one.f1_ci),
                    wording.figure(one.brier, 3),
                    wording.estimate(one.calibration_slope, one.calibration_slope_ci),
                ]
            )


def _groups(summary: Summary) -> Iterator[str]:
    splits = [split for split in summary.splits if split not in (TRAIN, VALIDATION)]
    if not summary.subgroups or not splits:
        return
    yield from _section("Subgroups")
    yield line(["trait", "group", "AUC", "cases"])
    yield line(["---"] * 4)
    for one in summary.subgroups:
        said = one.too_small or wording.estimate(one.auc, one.ci)
        yield line(
            [plain(one.trait), plain(wording.group(one.group)), plain(said), f"{one.n}, {one.n_pos} positive"]
        )
