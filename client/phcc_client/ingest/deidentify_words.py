"""Words that may stand in a report because they describe scanners, sequences, bodies and contrast agents.

No list of names could tell who is named in a free text; a list of words that name nobody can. From common usage
in liver MRI, DICOM's own terms (PS3.3, C.8.3 and C.8.13) and the products' names.
"""

from __future__ import annotations

import re

AGENTS: dict[str, re.Pattern[str]] = {
    "gadoxetate": re.compile(r"gadoxet|primovist|eovist|\beob\b|gd.?eob|普美显|プリモビスト"),
    "gadobenate": re.compile(r"gadoben|multihance|bopta"),
    "gadobutrol": re.compile(r"gadobutrol|gadovist|gadavist|gadograf"),
    "gadoterate": re.compile(r"gadoter(?:at|ic|s)|dotarem|clariscan|dotagraf|cyclolux|artirem|gd.?dota"),
    "gadoteridol": re.compile(r"gadoterid|prohance"),
    "gadopentetate": re.compile(r"gadopent|magnevist|magnograf|magnegita|gd.?dtpa"),
    "gadodiamide": re.compile(r"gadodiamid|omniscan"),
    "gadoversetamide": re.compile(r"gadoverset|optimark"),
    "gadopiclenol": re.compile(r"gadopiclenol|elucirem|vueway"),
    "gadofosveset": re.compile(r"gadofos|vasovist|ablavar"),
    "ferumoxytol": re.compile(r"ferumox|feraheme|rienso"),
    "mangafodipir": re.compile(r"mangafod|teslascan"),
    "gadolinium": re.compile(r"gadolin|\bgado?\b|\bgd\b"),
}
"""A contrast agent's generic name, and how people write it (folded text)."""

MANUFACTURERS: dict[str, re.Pattern[str]] = {
    "Siemens": re.compile(r"siemens"),
    "GE": re.compile(r"\bge\b|general electric"),
    "Philips": re.compile(r"philips"),
    "Canon": re.compile(r"canon|toshiba"),
    "Fujifilm": re.compile(r"fuji|hitachi"),
    "United Imaging": re.compile(r"united imaging|\buih\b"),
    "Esaote": re.compile(r"esaote"),
    "Bruker": re.compile(r"bruker"),
    "Neusoft": re.compile(r"neusoft"),
    "Alltech": re.compile(r"alltech"),
    "Mindray": re.compile(r"mindray"),
    "Samsung": re.compile(r"samsung"),
    "Hyperfine": re.compile(r"hyperfine"),
    "Time Medical": re.compile(r"time medical"),
}


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


TECHNICAL = _words(
    """
    abdomen abdominal upper lower liver leber foie higado fegato fegado lever watroba hepatic hepar kidney
    spleen pancreas pelvis chest thorax head brain neck spine knee hip shoulder breast heart cardiac
    prostate wrist ankle whole body organ tumor tumour lesion left right axial coronal sagittal transverse
    transversal tra cor sag oblique plane localizer localiser scout survey siemens healthineers healthcare
    medical systems system general electric philips canon toshiba fujifilm fuji hitachi united imaging
    esaote bruker neusoft alltech mindray samsung hyperfine magnetom avanto aera skyra verio vida sola
    espree symphony sonata prisma trio altea lumina biograph terra essenza harmony concerto free signa
    excite hdx hdxt discovery optima architect premier artist voyager pioneer explorer creator horizon
    ingenia achieva intera panorama ambition elition gyroscan ingenuity evolution prodiva vantage titan
    galan orian elan aperto airis echelon oasis aris altaire centurian velocity vibe lava thrive ethrive
    tigre fame quick dixon mdixon flex ideal fspgr spgr flash turboflash ffe tfe gre grase haste ssfse
    frfse tse fse epi diffusion adc trace calculated perfusion dwi dti mrcp mra mre trufi fiesta ssfp bffe
    balanced propeller blade multivane space cube vista stir flair spair spectral fatsat fat water sat
    suppressed suppression saturation mag magnitude phase real imaginary norm normalized original primary
    derived secondary mixed mosaic map mapping relaxometry spectroscopy navigator triggered trigger
    respiratory breath hold breathhold free gated gating isotropic dynamic static series protocol sequence
    scan image images volume slab recon reconstruction filtered unfiltered distortion corrected correction
    dis2d dis3d pre post contrast native arterial portal venous delayed late early equilibrium
    transitional hepatobiliary enhanced unenhanced injection bolus subtraction subtracted sub mip mpr min
    max average mean std oral intravenous with without and the for from axial test
    """
)
"""Folded. Names of scanners stand here too: that they are also people's names is known, and helped by
removing the patient's own."""


def known_agent(text: str) -> str:
    """A contrast agent's generic name; empty where the text names none that is known.

    Args:
        text: folded (`audit_values.fold`).
    """
    return next((name for name, pattern in AGENTS.items() if pattern.search(text)), "")


def known_manufacturer(text: str) -> str:
    """A manufacturer's usual name; empty where the text names none that is known.

    Args:
        text: folded (`audit_values.fold`).
    """
    return next((name for name, pattern in MANUFACTURERS.items() if pattern.search(text)), "")
